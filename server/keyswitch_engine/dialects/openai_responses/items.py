"""The items of a response as blocks.

An item is told apart by its place in the output, since some re-implementers send another id with every event; without
a place by its id, and without either by its type and order. What came as deltas is not told again when the item is
complete; what did not, is told then, or at the latest when the response is complete.
"""

from __future__ import annotations

import base64
import binascii
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from keyswitch_engine.dialects.blocks import new_call_id
from keyswitch_engine.dialects.openai_responses.wire import (
    ANNOTATION,
    ITEM,
    LOGPROBS,
    Content,
    Event,
    Item,
)
from keyswitch_engine.dialects.reading import bound, decode, encode, place_in_text, token_bytes
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
_ROOM: Final = 4096
"""What an item or a block counts for, in bytes; so an answer has some thousands of them at most."""
_CALLS = ("function_call", "custom_tool_call")


class _Open:
    """A block of an item, and whether anything was said in it; of reasoning, in which of its parts."""

    __slots__ = ("cited", "index", "kind", "part", "said")

    def __init__(self, index: int, kind: type[Block]) -> None:
        self.index = index
        self.kind = kind
        self.said = False
        self.cited = False
        self.part: tuple[str, int] | None = None


class Items:
    """Turns items, and what is added to them, into block events."""

    def __init__(self, provider: str) -> None:
        """Start before the first item; states are marked as *provider*'s."""
        self._provider = provider
        self._events: list[BlockEvent] = []
        self._next = 0
        self._kept = 0
        self._nameless = 0
        self._types: dict[int | str, str] = {}  # of every item, in the order in which they came
        self._keys: dict[str, int | str] = {}  # by id, or by that of the call, of items that were begun or completed
        self._blocks: dict[int | str, dict[int, _Open]] = {}  # of items that are not complete, by part
        self.called = False
        """Whether there is a tool call for the client."""

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
        key, item = self._item(event, "reasoning")
        block = _of_kind(item.get(0), ReasoningBlock) or self._open(key, 0, ReasoningBlock())
        if isinstance(delta, str) and delta:
            summary = event.summary_index
            self._reason(block, delta, ("text", event.content_index) if summary is None else ("summary", summary))

    def arguments(self, event: Event, delta: Any) -> None:
        """Add to a tool call's arguments. Those of calls that the provider runs itself are not told in pieces."""
        _, item = self._item(event, *_CALLS)
        block = item.get(0)  # there is none of a call that has not begun: its item tells them when it is whole
        if block is not None and block.kind is ToolCallBlock and isinstance(delta, str) and delta:
            block.said = True
            self._events.append(ArgumentsDelta(block.index, delta))

    def annotation(self, event: Event) -> None:
        """Add a source to a text."""
        block = self._block(event, TextBlock)
        self._cite(block, event.annotation)

    def begin(self, output_index: int | None, item: Item) -> None:
        """Begin an item. Texts begin with their first piece, opaque items when they are whole."""
        key = self._known(output_index, item)
        if key is None:
            key = self._new_key()
        if key in self._types:
            return
        self._add(key, item.type, item.id, item.call_id)
        match item.type:
            case "function_call" | "custom_tool_call":
                self._open_call(key, item)
            case "reasoning":
                self._open(key, 0, ReasoningBlock())
            case _:
                pass

    def whole(self, output_index: int | None, item: Item, raw: bytes) -> None:
        """Complete an item, telling what was not told before."""
        key = self._known(output_index, item)
        if key is None:  # the first of its type that is not complete
            begun = (key for key in self._blocks if self._types[key] == item.type)
            key = next(begun, None)
        self._complete(self._new_key() if key is None else key, item, raw)

    def final(self, output: Iterable[msgspec.Raw]) -> None:
        """Complete the items of a response that is complete, telling what was not told before.

        What is known by its id is that item, and the rest in their order those of their type, since places in the final
        output need not be those of the events.
        """
        items = [(decode(ITEM, raw), bytes(raw)) for raw in output]
        known: dict[int | str, int] = {}
        for number, (item, _) in enumerate(items):
            key = self._known(None, item)
            if key is not None and self._types.get(key) == item.type:
                known.setdefault(key, number)  # some re-implementers give every item one id
        keys = {number: key for key, number in known.items()}
        others: dict[str, deque[int | str]] = {}
        for key, kind in self._types.items():
            if key not in known:
                others.setdefault(kind, deque()).append(key)
        for number, (item, raw) in enumerate(items):
            same = keys.get(number)
            if same is None and (queue := others.get(item.type)):
                same = queue.popleft()
            self._complete(self._new_key() if same is None else same, item, raw)

    def _complete(self, key: int | str, item: Item, raw: bytes) -> None:
        """Complete the item called *key*, unless it is complete."""
        if key not in self._types:
            self._add(key, item.type, item.id, item.call_id)
        elif key not in self._blocks:
            return
        self._keep(len(item.type))
        self._types[key] = item.type
        blocks = self._blocks[key]
        match item.type:
            case "message":
                parts = [(number, part) for number, part in enumerate(item.content or ()) if part.text or part.refusal]
                kinds = {number: _kind(part) for number, part in parts}
                if any(kinds.get(number) is not block.kind for number, block in blocks.items()):
                    # some re-implementers count parts in another way in deltas than in items: by order
                    after = max(blocks) + 1
                    places = (*sorted(blocks), *range(after, after + len(parts)))
                    parts = [(place, part) for place, (_, part) in zip(places, parts, strict=False)]
                for number, part in parts:
                    self._part(key, number, part)
                state = msgspec.json.encode({"phase": item.phase}) if item.phase else None
            case "reasoning":
                block = _of_kind(blocks.get(0), ReasoningBlock) or self._open(key, 0, ReasoningBlock())
                if not block.said:
                    for number, part in enumerate((*(item.summary or ()), *(item.content or ()))):
                        if part.text:
                            self._reason(block, part.text, ("", number))
                state = raw if item.encrypted_content else None
            case "function_call" | "custom_tool_call":
                block = _of_kind(blocks.get(0), ToolCallBlock) or self._open_call(key, item)
                arguments = item.arguments if item.type == "function_call" else item.input
                if not block.said and arguments:
                    text = arguments if isinstance(arguments, str) else encode(arguments).decode()
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

    def _known(self, output_index: int | None, item: Item) -> int | str | None:
        """Return what an item is called here, by its place, its id or its call's; None if it has none of them."""
        if output_index is not None:
            return output_index
        for name in (item.id, item.call_id):
            if name and name in self._keys:
                return self._keys[name]
        return item.id or None

    def _new_key(self) -> int:
        """Return what an item is called that has neither; no place is negative."""
        self._nameless -= 1
        return self._nameless

    def _add(self, key: int | str, kind: str, *names: str | None) -> None:
        """Note an item, which is not complete yet, with the ids that it has."""
        self._keep(_ROOM + len(kind))
        self._types[key] = kind
        self._blocks[key] = {}
        for name in names:
            if name:
                self._keep(len(name))
                self._keys[name] = key

    def _keep(self, size: int) -> None:
        """Count what is kept; raises `ProtocolError` where it becomes too much."""
        self._kept += size
        bound(self._kept)

    def _item(self, event: Event, *types: str) -> tuple[int | str, dict[int, _Open]]:
        """Return the blocks of the item that an event belongs to, which is of one of *types*."""
        name = event.item_id or ""
        key: int | str | None = event.output_index if event.output_index is not None else self._keys.get(name)
        if key is None:  # the last of its type that is not complete; with an id that is new, the last that has none
            begun = (key for key in reversed(self._blocks) if self._types[key] in types)
            key = next((key for key in begun if not name or (isinstance(key, int) and key < 0)), None)
            if key is not None and name:
                self._keep(len(name))
                self._keys[name] = key
        if key is None:
            key = name or self._new_key()
        if key not in self._types:
            self._add(key, types[0], event.item_id)
        elif key not in self._blocks:
            raise ProtocolError("the provider added to an item that was complete")
        return key, self._blocks[key]

    def _block(self, event: Event, kind: type[TextBlock | RefusalBlock]) -> _Open:
        """Return the block of the part that an event belongs to, begun if it has to be."""
        key, item = self._item(event, "message")
        return _of_kind(item.get(event.content_index), kind) or self._open(key, event.content_index, kind())

    def _open(self, key: int | str, part: int, block: Block) -> _Open:
        """Begin a block."""
        self._keep(_ROOM)
        opened = self._blocks[key][part] = _Open(self._next, type(block))
        self._next += 1
        self._events.append(BlockStart(opened.index, block))
        return opened

    def _open_call(self, key: int | str, item: Item) -> _Open:
        """Begin a tool call."""
        self.called = True
        return self._open(key, 0, ToolCallBlock(item.call_id or item.id or new_call_id(), item.name or ""))

    def _reason(self, block: _Open, text: str, part: tuple[str, int]) -> None:
        """Add to reasoning, whose parts are paragraphs."""
        apart = "\n\n" if block.said and part != block.part else ""
        block.said, block.part = True, part
        self._events.append(ReasoningDelta(block.index, apart + text))

    def _part(self, key: int | str, number: int, part: Content) -> None:
        """Tell what was not told before of a message's part."""
        kind = _kind(part)
        is_refusal = kind is RefusalBlock
        block = _of_kind(self._blocks[key].get(number), kind) or self._open(key, number, kind())
        text = (part.refusal if is_refusal else part.text) or ""
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
        citation = Citation(
            found.url or "", title, "", place_in_text(found.start_index), place_in_text(found.end_index)
        )
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


def _kind(part: Content) -> type[TextBlock | RefusalBlock]:
    """Return the kind of the block that a message's part is."""
    return RefusalBlock if part.type == "refusal" else TextBlock


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
