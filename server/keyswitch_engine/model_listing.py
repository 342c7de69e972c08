"""Lists of models in the forms in which providers give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import msgspec

from keyswitch_engine.dialects.aws import read_aws_error
from keyswitch_engine.dialects.base import Flags, Profile, UpstreamRequest
from keyswitch_engine.dialects.errors import read_error
from keyswitch_engine.dialects.reading import decode
from keyswitch_engine.errors import ProtocolError, ProviderError

__all__ = ["LISTINGS", "ListingFlags", "ModelListing", "ModelPage", "ProviderModel"]


class ProviderModel(msgspec.Struct, frozen=True):
    """A model as its provider lists it; the name is empty and the context None where it says nothing."""

    id: str
    display_name: str = ""
    context_tokens: int | None = None


class ModelPage(msgspec.Struct, frozen=True):
    """A page of a list; the token leads to the next one and is empty on the last."""

    models: tuple[ProviderModel, ...]
    next_token: str = ""


_MOST: Final = 1 << 53
"""The largest number that every reader of JSON holds exactly; no context has as many tokens."""
_ANY = msgspec.json.Decoder(dict[str, Any] | list[Any])
_Row: TypeAlias = Mapping[str, Any]


class ListingFlags(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Compatibility flags of lists of models."""

    authenticates: bool = False
    """Whether the list is shown only to those who have a key, so that it tells whether one is good."""


class ModelListing:
    """One form of lists."""

    flags: type[Flags] = ListingFlags

    def __init__(
        self,
        name: str,
        rows: str,
        *,
        ids: tuple[str, ...] = ("id",),
        names: tuple[str, ...] = (),
        contexts: tuple[str, ...] = (),
        token_parameter: str = "",
        next_token: Callable[[_Row], Any] = lambda _: "",
    ) -> None:
        """Read the list at the key *rows*, or the answer itself if that is a list.

        Of *ids*, *names* and *contexts* the first that a row has counts. The page after the first is asked for by
        *token_parameter* with what *next_token* finds in the page before.
        """
        self.name = name
        self._rows = rows
        self._ids = ids
        self._names = names
        self._contexts = contexts
        self._token_parameter = token_parameter
        self._next_token = next_token

    def request(self, profile: Profile, token: str = "") -> UpstreamRequest:
        """Write the request for the page that *token* leads to."""
        path = profile.path
        if token:
            path += f"{'&' if '?' in path else '?'}{self._token_parameter}={quote(token, safe='')}"
        return UpstreamRequest(path, {"accept": "application/json"}, b"", "GET")

    def read(self, body: bytes) -> ModelPage:
        """Read a page.

        Raises:
            ProtocolError: it is none.
        """
        answer = decode(_ANY, body)
        rows = answer if isinstance(answer, list) else answer.get(self._rows)
        if not isinstance(rows, list):
            raise ProtocolError("the provider's list of models is not in its form")
        models = [self._model(row) for row in rows if isinstance(row, dict)]
        token = self._next_token(answer) if isinstance(answer, dict) and self._token_parameter else ""
        return ModelPage(tuple(model for model in models if model.id), str(token or ""))

    def _model(self, row: _Row) -> ProviderModel:
        """Read one row."""
        found = _first(row, self._ids).removeprefix("models/")
        return ProviderModel(found, _first(row, self._names), _first_count(row, self._contexts))

    def error(self, profile: Profile, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """Read an answer with a status of 300 or more. Header names are lower-case."""
        reader = read_aws_error if self.name == "bedrock" else read_error
        return reader(body, status, profile.error_rules, headers)


def _first(row: _Row, names: tuple[str, ...]) -> str:
    """Return the first of several fields that is a text; empty if none is."""
    return next((value for name in names if isinstance(value := row.get(name), str) and value), "")


def _first_count(row: _Row, names: tuple[str, ...]) -> int | None:
    """Return the first of several fields that can be a number of tokens; None if none can."""
    for name in names:
        value = row.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST:
            return value
    return None


_ALL = (
    ModelListing(
        "openai",
        "data",
        names=("display_name", "name"),
        contexts=("context_length", "context_window", "max_model_len", "max_context_length", "context_size"),
    ),
    ModelListing(
        "anthropic",
        "data",
        names=("display_name",),
        contexts=("max_input_tokens",),
        token_parameter="after_id",  # noqa: S106 - a name in a URL
        next_token=lambda page: page.get("last_id") if page.get("has_more") else "",
    ),
    ModelListing(
        "gemini",
        "models",
        ids=("name",),
        names=("displayName",),
        contexts=("inputTokenLimit",),
        token_parameter="pageToken",  # noqa: S106 - likewise
        next_token=lambda page: page.get("nextPageToken"),
    ),
    ModelListing(
        "cohere",
        "models",
        ids=("name",),
        contexts=("context_length",),
        token_parameter="page_token",  # noqa: S106 - likewise
        next_token=lambda page: page.get("next_page_token"),
    ),
    ModelListing("ollama", "models", ids=("model", "name")),
    ModelListing("bedrock", "modelSummaries", ids=("modelId",), names=("modelName",)),
    ModelListing("cloudflare", "result", ids=("name",)),
)

LISTINGS: Mapping[str, ModelListing] = MappingProxyType({listing.name: listing for listing in _ALL})
"""Every form by name."""
