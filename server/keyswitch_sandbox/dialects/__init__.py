"""How the sandbox speaks each wire protocol."""

from __future__ import annotations

import re

from keyswitch_sandbox.dialects import (
    anthropic_messages,
    bedrock_converse,
    cohere_v2,
    gemini,
    ollama,
    openai_chat,
    openai_responses,
)
from keyswitch_sandbox.dialects.base import Dialect

__all__ = ["find"]

_ALL: tuple[Dialect, ...] = (
    openai_chat,
    openai_responses,
    anthropic_messages,
    anthropic_messages.BedrockInvoke(),
    gemini,
    bedrock_converse,
    cohere_v2,
    ollama,
)


_ANYTHING = re.compile(r".*")


def find(path: str) -> tuple[Dialect, re.Match[str]]:
    """Return the dialect that is spoken at a path, which may have a query, and what the path says.

    Chat completions are spoken wherever nothing else is, as providers put them below any prefix.
    """
    for dialect in _ALL:
        if (found := dialect.PATH.search(path)) is not None:
            return dialect, found
    anything = _ANYTHING.match(path)
    assert anything is not None  # noqa: S101 - it matches everything
    return openai_chat, anything
