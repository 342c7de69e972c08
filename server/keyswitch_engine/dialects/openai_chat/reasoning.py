"""Two habits of providers about reasoning: OpenRouter's details, and `<think>` tags inside the text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

__all__ = ["ReasoningDetails", "ThinkTagSplitter"]


class ReasoningDetails:
    """Collects `reasoning_details`, which have to be sent back unchanged for the model to go on reasoning.

    In streams each entry comes in fragments: those of one type and index belong together, their texts concatenated
    (openrouter.ai/docs, "Reasoning tokens").
    """

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        """Start with none."""
        self._entries: list[dict[str, Any]] = []

    def add(self, detail: dict[str, Any]) -> None:
        """Add a fragment."""
        last = self._entries[-1] if self._entries else {}
        if not last or (last.get("type"), last.get("index")) != (detail.get("type"), detail.get("index")):
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
        return msgspec.json.encode(entries) if entries else b""


class ThinkTagSplitter:
    """Splits text with one leading `<think>…</think>` into reasoning and text, however the fragments are cut."""

    __slots__ = ("_held", "_inside", "_over")

    def __init__(self) -> None:
        """Start before the first fragment."""
        self._held = ""
        self._inside = False
        self._over = False

    def feed(self, text: str) -> Iterator[tuple[bool, str]]:
        """Yield pieces as (is reasoning, text); what may be the beginning of a tag is held back."""
        if self._over:
            yield False, text
            return
        self._held += text
        if not self._inside:
            start = self._held.lstrip()
            if start.startswith("<think>"):
                self._inside = True
                self._held = start[len("<think>") :].lstrip("\n")
            elif "<think>".startswith(start):
                return
            else:
                self._over = True
                yield from self.end()
                return
        before, tag, after = self._held.partition("</think>")
        if tag:
            self._over = True
            self._inside = False
            self._held = ""
            if before:
                yield True, before
            if after.lstrip("\n"):
                yield False, after.lstrip("\n")
            return
        keep = next((n for n in range(min(7, len(before)), 0, -1) if "</think>".startswith(before[-n:])), 0)
        self._held = before[len(before) - keep :]
        if before[: len(before) - keep]:
            yield True, before[: len(before) - keep]

    def end(self) -> Iterator[tuple[bool, str]]:
        """Yield what was held back."""
        held, self._held = self._held, ""
        if held:
            yield self._inside, held
