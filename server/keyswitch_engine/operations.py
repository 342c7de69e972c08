"""What can be asked of a provider beside generations; every one is an exchange of small bodies."""

from __future__ import annotations

import secrets
from typing import ClassVar

import msgspec

from keyswitch_engine.credential import secrets_of
from keyswitch_engine.dialects.base import TokenCounter, UpstreamRequest
from keyswitch_engine.dispatch import AttemptLog, Call, Dispatcher
from keyswitch_engine.embeddings import EmbeddingDialect
from keyswitch_engine.errors import DispatchError, ProtocolError
from keyswitch_engine.events import Ending, Finished, Receipt, ReportedUsage, Started, StopReason, Usage
from keyswitch_engine.model_listing import ModelListing, ProviderModel
from keyswitch_engine.provider import D
from keyswitch_engine.route import Route
from keyswitch_engine.secret import quotes

__all__ = [
    "MAX_MODELS",
    "MAX_PAGES",
    "CountCall",
    "Embedded",
    "EmbeddingCall",
    "count_tokens",
    "embed",
    "list_models",
]

MAX_PAGES, MAX_MODELS = 50, 50_000
"""How many pages and rows of a list of models are read at most."""


class EmbeddingCall(Call[EmbeddingDialect], frozen=True, kw_only=True):
    """Texts to embed."""

    operation: ClassVar[str] = "embedding"
    requests: tuple[UpstreamRequest, ...]
    """As the protocol writes them; more than one only where it takes one text each."""
    texts: int
    """How many texts they hold."""


class CountCall(Call[TokenCounter], frozen=True, kw_only=True):
    """A conversation whose tokens are counted."""

    operation: ClassVar[str] = "token counting"
    request: UpstreamRequest
    """As the counter writes it."""


class Embedded(msgspec.Struct, frozen=True):
    """Vectors, and how they came about."""

    started: Started
    vectors: tuple[tuple[float, ...], ...]
    finished: Finished


async def embed(dispatcher: Dispatcher, call: EmbeddingCall, log: AttemptLog | None = None) -> Embedded:
    """Embed texts. Where the protocol takes one text each, the requests follow each other, each with its attempt.

    Raises:
        DispatchError: one of them failed.
    """
    route = call.route
    log = AttemptLog() if log is None else log
    vectors: list[tuple[float, ...]] = []
    usages: list[Usage | None] = []
    model, first = "", 0
    for request in call.requests:
        try:
            answer, attempt = await dispatcher.exchange(call, request, route.surface.dialect.read, log)
        except DispatchError as error:
            if first:  # those before it are billed
                error.answering, error.retryable = True, False
            raise
        vectors += answer.vectors
        usages.append(answer.usage)
        first = first or attempt.number
        if not quotes(answer.answering_model, secrets_of(route.credential)):
            model = answer.answering_model or model
    if len(vectors) != call.texts:
        raise _wrong(route, log, f"the provider sent {len(vectors)} vectors for {call.texts} texts")
    started = Started(
        f"ks_{secrets.token_hex(12)}", route.provider.id, route.requested_model, route.model, route.billing, first
    )
    ending = Ending(StopReason.STOP, "", _total(usages), model or route.model)
    return Embedded(started, tuple(vectors), Finished(ending, Receipt(log.lines())))


def _wrong(route: Route[D], log: AttemptLog, message: str) -> ProtocolError:
    """Return the error for answers each of which was well-formed, and which do not make sense together."""
    error = ProtocolError(f"{route.provider.name}: {message}")
    error.provider, error.model, error.attempts = route.provider.id, route.model, log.lines()
    return error


def _total(usages: list[Usage | None]) -> Usage | None:
    """Add the counts of several requests up; unknown if one of them is."""
    counts = [usage.input_tokens for usage in usages if usage is not None and usage.input_tokens is not None]
    if not counts or len(counts) != len(usages):
        return None
    return Usage(sum(counts), reported=ReportedUsage(sum(counts)))


async def count_tokens(dispatcher: Dispatcher, call: CountCall, log: AttemptLog | None = None) -> int:
    """Ask a provider for the size of a conversation.

    Raises:
        DispatchError: it failed.
    """
    count, _ = await dispatcher.exchange(call, call.request, call.route.surface.dialect.read_count, log)
    return count


async def list_models(
    dispatcher: Dispatcher, call: Call[ModelListing], log: AttemptLog | None = None
) -> list[ProviderModel]:
    """Ask a provider for its models, page by page.

    Raises:
        DispatchError: it failed.
    """
    surface = call.route.surface
    log = AttemptLog() if log is None else log
    models: list[ProviderModel] = []
    token = ""
    while len(log) < MAX_PAGES and len(models) <= MAX_MODELS:
        request = surface.dialect.request(surface.profile, token)
        page, _ = await dispatcher.exchange(call, request, surface.dialect.read, log)
        models += page.models
        if not page.next_token:
            return models
        if page.next_token == token:
            raise _wrong(call.route, log, "its list of models leads from a page to the same one")
        token = page.next_token
    raise _wrong(call.route, log, f"its list of models has more than {MAX_PAGES} pages or {MAX_MODELS} rows")
