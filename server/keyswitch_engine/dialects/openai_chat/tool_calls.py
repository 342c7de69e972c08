"""Tool calls of chat completions, put together from their fragments."""

from __future__ import annotations

from collections.abc import Callable

from keyswitch_engine.dialects.blocks import BlockBuilder, new_call_id
from keyswitch_engine.dialects.openai_chat.chunks import Function, ToolCall
from keyswitch_engine.dialects.reading import encode

__all__ = ["ToolCalls"]


class ToolCalls:
    """Finds the call that a fragment belongs to.

    Fragments belong together by id, else by index, else to the call before. A fragment with a new id and a name, or
    with another name once arguments came, begins a call of its own even under an index that is in use: some providers
    number every call 0, and some of those give none an id.
    """

    __slots__ = ("_before", "_blocks", "_last", "_names", "_open", "_told", "whole")

    def __init__(self, blocks: BlockBuilder, before: Callable[[], None]) -> None:
        """Add to *blocks*; call *before* whenever a call begins."""
        self._blocks = blocks
        self._before = before
        self._open: dict[int | str, int] = {}  # blocks by id and by index
        self._names: dict[int, str] = {}
        self._told: set[int] = set()  # blocks that have arguments
        self._last = -1
        self.whole = False
        """Whether every call that comes is whole, and none a fragment."""

    def add(self, call: ToolCall) -> None:
        """Add a fragment."""
        name, arguments = _said(call)
        index = self._block(call)
        if index < 0:
            self._before()
            call_id = call.id if call.id and call.id not in self._open else new_call_id()
            index = self._blocks.tool_call(call_id, name)
            self._open[call_id] = index
            self._names[index] = name
            if call.index is not None:
                self._open[call.index] = index
        self._last = index
        if arguments:
            self._told.add(index)
            text = arguments if isinstance(arguments, str) else encode(arguments).decode()
            self._blocks.arguments(index, text)

    def _block(self, call: ToolCall) -> int:
        """Return the block that a fragment adds to, -1 if it begins one."""
        if self.whole:
            return -1
        name, _ = _said(call)
        index = self._open.get(call.id, -1) if call.id else -1
        if index < 0 and not (call.id and name):  # a new id with a name is a new call, whatever its number
            index = self._open.get(call.index, -1) if call.index is not None else (-1 if name else self._last)
        return -1 if name and index in self._told and name != self._names[index] else index


def _said(call: ToolCall) -> tuple[str, object]:
    """Return what a fragment says of name and arguments; a custom tool takes free text for them."""
    if call.custom is not None and (call.custom.name or call.custom.input):
        return call.custom.name or "", call.custom.input
    function = call.function or Function()
    return function.name or "", function.arguments
