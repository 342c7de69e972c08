"""Two habits of providers about reasoning: OpenRouter's details, and `<think>` tags inside the text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from keyswitch_engine.dialects.reading import bound, encode

__all__ = ["ReasoningDetails", "ThinkTagSplitter"]


class ReasoningDetails:
    """Collects `reasoning_details`, which have to be sent back unchanged for the model to go on reasoning.

    In streams each entry comes in fragments: those of one type and index belong together, their texts concatenated
    (openrouter.ai/docs, "Reasoning tokens"), unless their ids differ.
    """

    __slots__ = ("_entries", "_kept")

    def __init__(self) -> None:
        """Start with none."""
        self._entries: list[dict[str, Any]] = []
        self._kept = 0

    def add(self, detail: dict[str, Any]) -> None:
        """Add a fragment.

        Raises:
            ProtocolError: there are too many of them.
        """
        self._kept += 100 + sum(len(value) for value in detail.values() if isinstance(value, str))
        bound(self._kept)
        last = self._entries[-1] if self._entries else {}
        if not last or any(last.get(name) != detail.get(name) for name in ("type", "index")) or _other(last, detail):
            self._entries.append(dict(detail))
            return
        for name, value in detail.items():
            if name in ("text", "summary", "data") and isinstance(value, str) and isinstance(last.get(name), str):
                last[name] += value
            elif value is not None:
                last[name] = value

    def take(self) -> bytes:
        """Return what was collected as a JSON array, empty if nothing was; start anew."""
        entries, self._entries = self._entries, []
        return encode(entries) if entries else b""


def _other(last: dict[str, Any], detail: dict[str, Any]) -> bool:
    """Tell whether a fragment has an id that is not the one of the entry before it."""
    return detail.get("id") is not None and last.get("id") is not None and detail["id"] != last["id"]


class ThinkTagSplitter:
    """Splits text with one leading `<think>…</think>` into reasoning and text, however the fragments are cut.

    Line feeds beside the tags belong to them.
    """

    __slots__ = ("_held", "_inside", "_tag", "_trim")

    def __init__(self) -> None:
        """Start before the first fragment."""
        self._held = ""
        self._tag = "<think>"  # the one that is looked for; empty once both were seen, or the first did not come
        self._inside = False
        self._trim = False  # whether line feeds at the beginning of what follows are dropped

    def feed(self, text: str) -> Iterator[tuple[bool, str]]:
        """Yield pieces as (is reasoning, text); what may become a tag is held back."""
        self._held += text
        if self._tag == "<think>":
            start = self._held.lstrip()
            if self._tag.startswith(start):
                return
            if start.startswith(self._tag):
                self._held = start[len(self._tag) :]
                self._tag, self._inside, self._trim = "</think>", True, True
            else:
                self._tag = ""
        if self._tag:
            before, found, after = self._held.partition(self._tag)
            if found:
                yield from self._piece(before)
                self._held = after
                self._tag, self._inside, self._trim = "", False, True
            else:
                sizes = range(min(len(self._tag) - 1, len(before)), 0, -1)
                keep = next((size for size in sizes if self._tag.startswith(before[-size:])), 0)
                self._held = before[len(before) - keep :]
                yield from self._piece(before[: len(before) - keep])
                return
        yield from self.end()

    def end(self) -> Iterator[tuple[bool, str]]:
        """Yield what was held back."""
        held, self._held = self._held, ""
        yield from self._piece(held)

    def _piece(self, text: str) -> Iterator[tuple[bool, str]]:
        """Yield a piece, without the line feeds that belong to a tag."""
        if self._trim:
            text = text.lstrip("\n")
        if text:
            self._trim = False
            yield self._inside, text
