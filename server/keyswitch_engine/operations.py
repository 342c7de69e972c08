"""What can be asked of a provider beside generations; every one is an exchange of small bodies."""

from __future__ import annotations

import secrets

import msgspec

from keyswitch_engine.dialects.base import TokenCounter
from keyswitch_engine.dispatch import Call, Dispatcher
from keyswitch_engine.embeddings import EmbeddingDialect, EmbeddingInput
from keyswitch_engine.errors import DispatchError, ProtocolError
from keyswitch_engine.events import Attempt, Ending, Finished, Receipt, ReportedUsage, Started, StopReason, Usage
from keyswitch_engine.generation import Generation
from keyswitch_engine.model_listing import ModelListing, ProviderModel
from keyswitch_engine.provider import D
from keyswitch_engine.route import Route

__all__ = ["MAX_MODELS", "MAX_PAGES", "Embedded", "count_tokens", "embed", "list_models"]

MAX_PAGES, MAX_MODELS = 50, 50_000
"""How many pages and rows of a list of models are read at most."""


class Embedded(msgspec.Struct, frozen=True):
    """Vectors, and how they came about."""

    started: Started
    vectors: tuple[tuple[float, ...], ...]
    finished: Finished


async def embed(dispatcher: Dispatcher, call: Call[EmbeddingDialect], given: EmbeddingInput) -> Embedded:
    """Embed texts. Where the protocol takes one text each, the requests follow each other, each with its attempt.

    Raises:
        DispatchError: one of them failed.
    """
    route = call.route
    dialect = route.surface.dialect
    vectors: list[tuple[float, ...]] = []
    usages: list[Usage | None] = []
    attempts: list[Attempt] = []
    model = ""
    for request in dialect.requests(given, route.model, route.surface.profile, route.options_json):
        try:
            answer, attempt = await dispatcher.exchange(call, request, dialect.read)
        except DispatchError as error:
            error.attempts = (*attempts, *(_numbered(failed, attempts) for failed in error.attempts))
            error.retryable = error.retryable and not attempts  # those before it are billed
            raise
        vectors += answer.vectors
        usages.append(answer.usage)
        attempts.append(_numbered(attempt, attempts))
        model = answer.answering_model or model
    if len(vectors) != len(given.texts):
        raise _wrong(route, attempts, f"the provider sent {len(vectors)} vectors for {len(given.texts)} texts")
    started = Started(
        f"ks_{secrets.token_hex(12)}", route.provider.id, route.requested_model, route.model, route.billing, 1
    )
    ending = Ending(StopReason.STOP, "", _total(usages), model or route.model)
    return Embedded(started, tuple(vectors), Finished(ending, Receipt(tuple(attempts))))


def _numbered(attempt: Attempt, before: list[Attempt]) -> Attempt:
    """Return an attempt as the one after those before it."""
    return msgspec.structs.replace(attempt, number=len(before) + 1)


def _wrong(route: Route[D], attempts: list[Attempt], message: str) -> ProtocolError:
    """Return the error for answers each of which was well-formed, and which do not make sense together."""
    error = ProtocolError(f"{route.provider.name}: {message}")
    error.provider, error.model, error.attempts = route.provider.id, route.model, tuple(attempts)
    return error


def _total(usages: list[Usage | None]) -> Usage | None:
    """Add the counts of several requests up; unknown if one of them is."""
    counts = [usage.input_tokens for usage in usages if usage is not None and usage.input_tokens is not None]
    if not counts or len(counts) != len(usages):
        return None
    return Usage(sum(counts), reported=ReportedUsage(sum(counts)))


async def count_tokens(dispatcher: Dispatcher, call: Call[TokenCounter], generation: Generation) -> int:
    """Ask a provider for the size of a conversation.

    Raises:
        DispatchError: it failed.
    """
    route = call.route
    counter = route.surface.dialect
    request = counter.count_request(generation, route.model, route.surface.profile)
    count, _ = await dispatcher.exchange(call, request, counter.read_count)
    return count


async def list_models(dispatcher: Dispatcher, call: Call[ModelListing]) -> list[ProviderModel]:
    """Ask a provider for its models, page by page.

    Raises:
        DispatchError: it failed.
    """
    surface = call.route.surface
    models: list[ProviderModel] = []
    attempts: list[Attempt] = []
    token = ""
    while len(attempts) < MAX_PAGES and len(models) <= MAX_MODELS:
        request = surface.dialect.request(surface.profile, token)
        page, attempt = await dispatcher.exchange(call, request, surface.dialect.read)
        attempts.append(_numbered(attempt, attempts))
        models += page.models
        if not page.next_token:
            return models
        if page.next_token == token:
            raise _wrong(call.route, attempts, "its list of models leads from a page to the same one")
        token = page.next_token
    raise _wrong(call.route, attempts, f"its list of models has more than {MAX_PAGES} pages or {MAX_MODELS} rows")
