"""Block bookkeeping for dialects whose wire format does not frame blocks itself."""

from __future__ import annotations

import secrets
from typing import Final

from keyswitch_engine.errors import ProtocolError
from keyswitch_engine.events import (
    ArgumentsDelta,
    AudioBlock,
    Block,
    BlockEvent,
    BlockStart,
    BlockStop,
    ImageBlock,
    MediaDelta,
    OpaqueBlock,
    ProviderState,
    ReasoningBlock,
    ReasoningDelta,
    RefusalBlock,
    RefusalDelta,
    TextBlock,
    TextDelta,
    ToolCallBlock,
)

__all__ = ["MAX_BLOCKS", "BlockBuilder", "new_call_id"]

MAX_BLOCKS: Final = 100_000
"""Most parts of one answer; each takes memory until the end."""


def new_call_id() -> str:
    """Return an id for a tool call that came without one.

    It is unlike any other: calls of several turns stand in one conversation, and providers refuse one with the same id
    twice.
    """
    return f"call_{secrets.token_hex(12)}"


class BlockBuilder:
    """Turns fragments into block events.

    Of text, reasoning and refusal at most one block is open: a fragment of another kind closes it, so that the order
    of blocks is the order in which the model spoke. Tool calls stay open until the end, since parallel ones interleave.
    """

    __slots__ = ("_events", "_next", "_open", "_open_type", "_tools")

    def __init__(self) -> None:
        """Start before the first block."""
        self._events: list[BlockEvent] = []
        self._next = 0
        self._open = -1
        self._open_type: type[Block] | None = None
        self._tools: list[int] = []

    def take(self) -> list[BlockEvent]:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return events

    def add(self, event: BlockEvent) -> None:
        """Append an event that needs no bookkeeping."""
        self._events.append(event)

    def text(self, text: str) -> int:
        """Add visible text; return the index of its block."""
        if self._open_type is not TextBlock:
            self._begin(TextBlock())
        self._events.append(TextDelta(self._open, text))
        return self._open

    def reasoning(self, text: str) -> None:
        """Add reasoning text; an empty one only opens the block, for a provider that hands out nothing but a state."""
        if self._open_type is not ReasoningBlock:
            self._begin(ReasoningBlock())
        if text:
            self._events.append(ReasoningDelta(self._open, text))

    def refusal(self, text: str) -> None:
        """Add to a refusal."""
        if self._open_type is not RefusalBlock:
            self._begin(RefusalBlock())
        self._events.append(RefusalDelta(self._open, text))

    def tool_call(self, call_id: str, name: str) -> int:
        """Begin a tool call; return its index."""
        index = self.next_index()
        self._tools.append(index)
        self._events.append(BlockStart(index, ToolCallBlock(call_id, name)))
        return index

    def arguments(self, index: int, fragment: str) -> None:
        """Add to the arguments of the tool call at *index*."""
        self._events.append(ArgumentsDelta(index, fragment))

    def close_tool_call(self, index: int, state: ProviderState | None = None) -> None:
        """Close the tool call at *index*; one that is never closed by this is closed by `close_all`."""
        self._tools.remove(index)
        self._events.append(BlockStop(index, state))

    def opaque(self, item_type: str, state: ProviderState) -> None:
        """Add an item that only its provider understands."""
        index = self.next_index()
        self._events += (BlockStart(index, OpaqueBlock(item_type)), BlockStop(index, state))

    def media(self, block: ImageBlock | AudioBlock, data: bytes, state: ProviderState | None = None) -> None:
        """Add an image or a sound that comes all at once."""
        index = self.next_index()
        self._events += (BlockStart(index, block), MediaDelta(index, data), BlockStop(index, state))

    def sound(self, media_type: str, data: bytes) -> None:
        """Add to a sound that comes in pieces; the type of the first one counts."""
        if self._open_type is not AudioBlock:
            self._begin(AudioBlock(media_type))
        self._events.append(MediaDelta(self._open, data))

    def next_index(self) -> int:
        """Close what is open of text, reasoning or refusal, and take the next index.

        Raises:
            ProtocolError: the answer has more blocks than any makes sense with.
        """
        self.close_open()
        if self._next >= MAX_BLOCKS:
            raise ProtocolError(f"the provider's answer has more than {MAX_BLOCKS} parts")
        self._next += 1
        return self._next - 1

    def open_text(self) -> int | None:
        """Return the index of the text block that is open, None if none is."""
        return self._open if self._open_type is TextBlock else None

    @property
    def in_reasoning(self) -> bool:
        """Whether a reasoning block is open."""
        return self._open_type is ReasoningBlock

    @property
    def in_sound(self) -> bool:
        """Whether a sound is open."""
        return self._open_type is AudioBlock

    def close_open(self, state: ProviderState | None = None) -> None:
        """Close the text, reasoning or refusal block that is open, if one is."""
        if self._open_type is not None:
            self._events.append(BlockStop(self._open, state))
            self._open_type = None

    def close_all(self) -> None:
        """Close every block that is open, in the order of their indices."""
        if self._open_type is None or not self._tools or self._open < self._tools[0]:
            self.close_open()
        for index in self._tools:
            self._events.append(BlockStop(index))
        self._tools.clear()
        self.close_open()

    def _begin(self, block: Block) -> None:
        """Open a block in place of the one that is open."""
        self._open = self.next_index()
        self._open_type = type(block)
        self._events.append(BlockStart(self._open, block))
