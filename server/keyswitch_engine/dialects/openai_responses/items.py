"""The items of a response as blocks.

An item is told apart by its place in the output, since some re-implementers send another id with every event. What
came as deltas is not told again when the item is complete; what did not, is told then.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from keyswitch_engine.dialects.openai_responses.wire import (
    ANNOTATION,
    LOGPROBS,
    Content,
    Event,
    Item,
)
from keyswitch_engine.dialects.reading import decode, token_bytes
from keyswitch_engine.errors import ProtocolError
from keyswitch_engine.events import (
    ArgumentsDelta,
    Block,
    BlockEvent,
    BlockStart,
    BlockStop,
    Citation,
    CitationDelta,
    ImageBlock,
    LogprobsDelta,
    MediaDelta,
    OpaqueBlock,
    ProviderState,
    ReasoningBlock,
    ReasoningDelta,
    RefusalBlock,
    RefusalDelta,
    TextBlock,
    TextDelta,
    TokenLogprob,
    ToolCallBlock,
    TopLogprob,
)

__all__ = ["Items"]

_EMPTY = (b"", b"[]", b"null")


class _Open:
    """A block of an item, and whether anything was said in it."""

    __slots__ = ("cited", "index", "kind", "said")

    def __init__(self, index: int, kind: type[Block]) -> None:
        self.index = index
        self.kind = kind
        self.said = False
        self.cited = False


class Items:
    """Turns items, and what is added to them, into block events."""

    def __init__(self, provider: str) -> None:
        """Start before the first item; states are marked as *provider*'s."""
        self._provider = provider
        self._events: list[BlockEvent] = []
        self._next = 0
        self._blocks: dict[int | str, dict[int, _Open]] = {}  # by item, then by part
        self._complete: set[int | str] = set()
        self.called = False
        """Whether there is a tool call for the client."""

    @property
    def any(self) -> bool:
        """Whether an item has come."""
        return bool(self._blocks or self._complete)

    def take(self) -> list[BlockEvent]:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return events

    def text(self, event: Event) -> None:
        """Add to a text."""
        block = self._block(event, TextBlock)
        if isinstance(event.delta, str) and event.delta:
            block.said = True
            self._events.append(TextDelta(block.index, event.delta))
        if len(event.logprobs) and bytes(event.logprobs) not in _EMPTY:
            self._logprobs(block, event.logprobs)

    def refusal(self, event: Event, delta: Any) -> None:
        """Add to a refusal."""
        block = self._block(event, RefusalBlock)
        if isinstance(delta, str) and delta:
            block.said = True
            self._events.append(RefusalDelta(block.index, delta))

    def reasoning(self, event: Event, delta: Any) -> None:
        """Add to an item's reasoning, of which summaries and texts are parts."""
        key, item = self._item(event)
        block = _of_kind(item.get(0), ReasoningBlock) or self._open(key, 0, ReasoningBlock())
        if isinstance(delta, str) and delta:
            block.said = True
            self._events.append(ReasoningDelta(block.index, delta))

    def arguments(self, event: Event, delta: Any) -> None:
        """Add to a tool call's arguments. Those of calls that the provider runs itself are not told in pieces."""
        _, item = self._item(event)
        block = item.get(0)
        if block is not None and block.kind is ToolCallBlock and isinstance(delta, str) and delta:
            block.said = True
            self._events.append(ArgumentsDelta(block.index, delta))

    def annotation(self, event: Event) -> None:
        """Add a source to a text."""
        block = self._block(event, TextBlock)
        self._cite(block, event.annotation)

    def begin(self, output_index: int | None, item: Item) -> None:
        """Begin an item. Texts begin with their first piece, opaque items when they are whole."""
        key = self._key(output_index, item.id)
        if key in self._blocks:
            return
        self._blocks[key] = {}
        match item.type:
            case "function_call" | "custom_tool_call":
                self._open_call(key, item)
            case "reasoning":
                self._open(key, 0, ReasoningBlock())
            case _:
                pass

    def whole(self, output_index: int | None, item: Item, raw: bytes) -> None:
        """Complete an item, telling what was not told before."""
        key = self._key(output_index, item.id)
        if key in self._complete:
            return
        self._complete.add(key)
        blocks = self._blocks.setdefault(key, {})
        match item.type:
            case "message":
                told = [blocks[number] for number in sorted(blocks)]
                for number, part in enumerate(part for part in item.content or () if part.text or part.refusal):
                    # by order: some re-implementers count parts in another way in deltas than in items
                    self._part(key, told[number] if number < len(told) else None, part)
                state = msgspec.json.encode({"phase": item.phase}) if item.phase else None
            case "reasoning":
                block = _of_kind(blocks.get(0), ReasoningBlock) or self._open(key, 0, ReasoningBlock())
                if not block.said:
                    for part in (*(item.summary or ()), *(item.content or ())):
                        if part.text:
                            self._events.append(ReasoningDelta(block.index, part.text))
                state = raw if item.encrypted_content else None
            case "function_call" | "custom_tool_call":
                block = _of_kind(blocks.get(0), ToolCallBlock) or self._open_call(key, item)
                arguments = item.arguments if item.type == "function_call" else item.input
                if not block.said and arguments:
                    text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
                    self._events.append(ArgumentsDelta(block.index, text))
                state = b'{"type":"custom_tool_call"}' if item.type == "custom_tool_call" else None
            case "image_generation_call" if not blocks and (image := _image(item.result)):
                block = self._open(key, 0, ImageBlock(f"image/{item.output_format or 'png'}"))
                self._events.append(MediaDelta(block.index, image))
                state = msgspec.json.encode({"id": item.id or ""})
            case _ if blocks:
                raise ProtocolError("the provider completed an item of another type than it had begun")
            case _:
                self._open(key, 0, OpaqueBlock(item.type))
                state = raw
        self._stop(key, state)

    def close(self) -> None:
        """Complete what was begun and never completed."""
        for key in tuple(self._blocks):
            self._stop(key, None)

    def _stop(self, key: int | str, state: bytes | None) -> None:
        """Stop every block of an item."""
        kept = ProviderState(self._provider, "openai-responses", state) if state is not None else None
        for block in self._blocks.pop(key, {}).values():
            self._events.append(BlockStop(block.index, kept))

    def _key(self, output_index: int | None, item_id: str | None) -> int | str:
        return output_index if output_index is not None else (item_id or "")

    def _item(self, event: Event) -> tuple[int | str, dict[int, _Open]]:
        """Return the blocks of the item that an event belongs to."""
        key = self._key(event.output_index, event.item_id)
        if key in self._complete:
            raise ProtocolError("the provider added to an item that was complete")
        return key, self._blocks.setdefault(key, {})

    def _block(self, event: Event, kind: type[TextBlock | RefusalBlock]) -> _Open:
        """Return the block of the part that an event belongs to, begun if it has to be."""
        key, item = self._item(event)
        return _of_kind(item.get(event.content_index), kind) or self._open(key, event.content_index, kind())

    def _open(self, key: int | str, part: int, block: Block) -> _Open:
        """Begin a block."""
        opened = self._blocks[key][part] = _Open(self._next, type(block))
        self._next += 1
        self._events.append(BlockStart(opened.index, block))
        return opened

    def _open_call(self, key: int | str, item: Item) -> _Open:
        """Begin a tool call."""
        self.called = True
        return self._open(key, 0, ToolCallBlock(item.call_id or item.id or f"call_{self._next}", item.name or ""))

    def _part(self, key: int | str, block: _Open | None, part: Content) -> None:
        """Tell what was not told before of a message's part, whose block is *block* if it was begun."""
        is_refusal = part.type == "refusal"
        block = _of_kind(block, RefusalBlock if is_refusal else TextBlock)
        text = (part.refusal if is_refusal else part.text) or ""
        if block is None:
            block = self._open(key, len(self._blocks[key]), RefusalBlock() if is_refusal else TextBlock())
        if not block.said:
            block.said = True
            self._events.append(RefusalDelta(block.index, text) if is_refusal else TextDelta(block.index, text))
            if len(part.logprobs) and bytes(part.logprobs) not in _EMPTY:
                self._logprobs(block, part.logprobs)
        if not block.cited and not is_refusal:
            for annotation in part.annotations or ():
                self._cite(block, annotation)

    def _cite(self, block: _Open, raw: msgspec.Raw) -> None:
        """Add a source to a text."""
        found = decode(ANNOTATION, raw)
        block.cited = True
        title = found.title or found.filename or ""
        citation = Citation(found.url or "", title, "", found.start_index, found.end_index)
        self._events.append(CitationDelta(block.index, citation))

    def _logprobs(self, block: _Open, raw: msgspec.Raw) -> None:
        """Add log probabilities to a text."""
        converted = tuple(
            TokenLogprob(
                token.token, token.logprob, token_bytes(token.bytes),
                tuple(TopLogprob(top.token, top.logprob, token_bytes(top.bytes)) for top in token.top_logprobs or ()),
            )
            for token in decode(LOGPROBS, raw)
        )  # fmt: skip
        self._events.append(LogprobsDelta(block.index, converted))


def _of_kind(block: _Open | None, kind: type[Block]) -> _Open | None:
    """Return a block, if there is one, after making sure of its kind."""
    if block is not None and block.kind is not kind:
        raise ProtocolError("the provider added to a block of another kind")
    return block


def _image(result: Any) -> bytes:
    """Return an image's bytes; nothing if it is none, or has been cut."""
    try:
        return base64.b64decode(result, validate=True) if isinstance(result, str) else b""
    except (binascii.Error, ValueError):
        return b""
