"""Endpoints of one's own: a model server by its URL instead of a provider by its name."""

from __future__ import annotations

import dataclasses
import re

from keyswitch.v1 import credential_pb2, target_pb2

__all__ = ["Endpoint"]

_NO_TEXT = re.compile(r"[\ud800-\udfff]")
"""Half of a surrogate pair, which protobuf refuses with an error that holds the whole value."""


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Endpoint:
    """A model server of one's own; its key goes there and nowhere else, and no other key goes there."""

    base_url: str
    """Absolute URL up to the dialect's own path; that path may follow, and `/v1` may be missing."""
    model: str
    """Model id as that server knows it."""
    key: str = ""
    """API key; none if empty."""
    dialect: str = ""
    """`openai-chat`, `openai-responses` or `anthropic-messages`; the first one if empty."""
    label: str = ""
    """What errors and receipts call it."""

    def __repr__(self) -> str:
        """Show neither the key nor the URL, which may hold one by mistake."""
        return f"Endpoint(label={self.label!r}, model={self.model!r})"

    def message(self) -> target_pb2.CustomEndpoint:
        """Return the contract's message.

        Raises:
            ValueError: its URL or its key is no text in Unicode.
        """
        if _NO_TEXT.search(self.base_url) or _NO_TEXT.search(self.key):
            raise ValueError("the URL or the key of an endpoint holds something that is no text in Unicode")
        endpoint = target_pb2.CustomEndpoint(
            label=self.label, base_url=self.base_url, model=self.model, dialect=self.dialect
        )
        if self.key:
            endpoint.credential.api_key.key = self.key
        else:
            endpoint.credential.none.CopyFrom(credential_pb2.NoCredential())
        return endpoint
