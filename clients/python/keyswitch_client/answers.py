"""Whole answers, and streams folded into them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from keyswitch.v1 import conversation_pb2, dispatch_service_pb2, event_pb2, usage_pb2

from keyswitch_client.events import (
    ArgumentsDelta,
    BlockStart,
    BlockStop,
    Citation,
    Event,
    Finished,
    Logprobs,
    MediaDelta,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallStart,
    stop_reason_name,
)

__all__ = ["Answer", "Fold", "FoldedStream", "ToolCall"]


@dataclasses.dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model wants to be made."""

    id: str
    name: str
    arguments_json: str
    """As the model wrote it; mostly, but not always, a JSON object."""


class Answer:
    """A whole answer, around the contract's message."""

    __slots__ = ("response",)

    def __init__(self, response: dispatch_service_pb2.GenerateResponse) -> None:
        """Wrap *response*."""
        self.response = response

    def __repr__(self) -> str:
        return f"<Answer {self.stop_reason} of {self.response.finished.answering_model!r}>"

    @property
    def text(self) -> str:
        """The visible text."""
        return "".join(part.text.text for part in self.message.parts if part.HasField("text"))

    @property
    def reasoning(self) -> str:
        """The reasoning text, as far as the provider shows it."""
        return "".join(part.reasoning.text for part in self.message.parts if part.HasField("reasoning"))

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls that the model wants to be made."""
        return tuple(
            ToolCall(part.tool_call.id, part.tool_call.name, part.tool_call.arguments_json)
            for part in self.message.parts
            if part.HasField("tool_call")
        )

    @property
    def message(self) -> conversation_pb2.Message:
        """The answer as a message, to be appended to the conversation as it is."""
        return self.response.message

    @property
    def stop_reason(self) -> str:
        """Why the model stopped, for example `STOP`."""
        return stop_reason_name(self.response.finished)

    @property
    def usage(self) -> usage_pb2.Usage | None:
        """Token counts; None if the provider reported none."""
        finished = self.response.finished
        return finished.usage if finished.HasField("usage") else None

    @property
    def receipt(self) -> usage_pb2.Receipt:
        """What was done for the call."""
        return self.response.finished.receipt


class Fold:
    """Gathers the events of a stream into an answer."""

    __slots__ = ("_parts", "_text", "finished", "started")

    def __init__(self) -> None:
        """Start before the first event."""
        self._parts: dict[int, _Part] = {}
        self._text: list[str] = []
        self.started = event_pb2.Started()
        self.finished: event_pb2.Finished | None = None

    @property
    def text(self) -> str:
        """The visible text so far."""
        if len(self._text) > 1:
            self._text = ["".join(self._text)]
        return self._text[0] if self._text else ""

    def knows(self, event: Event) -> bool:
        """Tell whether the event's block was begun; one of a newer server's kind was not, and is ignored."""
        return isinstance(event, Started | Finished) or event.index in self._parts

    def add(self, event: Event) -> None:
        """Add one event."""
        match event:
            case BlockStart(index=index, kind=kind, message=start):
                self._parts[index] = _Part(kind, start)
            case ToolCallStart(index=index, id=call_id, name=name):
                block = event_pb2.ToolCallBlock(id=call_id, name=name)
                self._parts[index] = _Part("tool_call", event_pb2.BlockStart(index=index, tool_call=block))
            case _ if not self.knows(event):
                pass
            case TextDelta(index=index, text=text):
                self._text.append(text)
                self._parts[index].pieces.append(text)
            case ReasoningDelta(index=index, text=text) | RefusalDelta(index=index, text=text):
                self._parts[index].pieces.append(text)
            case ArgumentsDelta(index=index, fragment=fragment):
                self._parts[index].pieces.append(fragment)
            case MediaDelta(index=index, data=data):
                self._parts[index].data.append(data)
            case Citation(index=index, message=message):
                self._parts[index].details.citations.append(message)
            case Logprobs(index=index, message=message):
                self._parts[index].details.logprobs.extend(message.tokens)
            case BlockStop(index=index, provider_state=state):
                self._parts[index].state = state
            case Started(message=started):
                self.started = started
            case Finished(message=finished):
                self.finished = finished

    def answer(self) -> Answer:
        """Return the whole answer. Raises `ValueError` before the stream has finished."""
        if self.finished is None:
            raise ValueError("the stream has not finished; read it to its end first")
        response = dispatch_service_pb2.GenerateResponse(started=self.started, finished=self.finished)
        response.message.role = conversation_pb2.ROLE_ASSISTANT
        for _, part in sorted(self._parts.items()):
            message = part.message()
            if message is not None:
                response.message.parts.append(message)
                if part.details.citations or part.details.logprobs:
                    part.details.part_index = len(response.message.parts) - 1
                    response.details.append(part.details)
        return Answer(response)


class FoldedStream:
    """What a stream knows of its answer; all but the text only once it has finished, `ValueError` before."""

    def __init__(self) -> None:
        """Start before the first event."""
        self._fold = Fold()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'finished' if self._fold.finished is not None else 'open'}>"

    @property
    def text(self) -> str:
        """The visible text so far."""
        return self._fold.text

    @property
    def answer(self) -> Answer:
        """The whole answer."""
        return self._fold.answer()

    @property
    def usage(self) -> usage_pb2.Usage | None:
        """Token counts; None if the provider reported none."""
        return self.answer.usage

    @property
    def receipt(self) -> usage_pb2.Receipt:
        """What was done for the call."""
        return self.answer.receipt

    @property
    def stop_reason(self) -> str:
        """Why the model stopped, for example `STOP`."""
        return self.answer.stop_reason


class _Part:
    """A block with everything that came for it."""

    __slots__ = ("data", "details", "kind", "pieces", "start", "state")

    def __init__(self, kind: str, start: event_pb2.BlockStart) -> None:
        self.kind = kind
        self.start = start
        self.pieces: list[str] = []
        self.data: list[bytes] = []
        self.details = dispatch_service_pb2.PartDetails()
        self.state: conversation_pb2.ProviderState | None = None

    def message(self) -> conversation_pb2.Part | None:
        """Return the part; None if it would say nothing."""
        text = "".join(self.pieces)
        part = conversation_pb2.Part(provider_state=self.state)
        match self.kind:
            case "text":
                part.text.text = text
            case "reasoning":
                part.reasoning.text = text
            case "refusal":
                part.refusal.text = text
            case "tool_call":
                block = self.start.tool_call
                part.tool_call.id, part.tool_call.name, part.tool_call.arguments_json = block.id, block.name, text
                return part
            case "image":
                part.image.source.data, part.image.source.media_type = _join(self.data), self.start.image.media_type
                return part
            case "audio":
                part.audio.source.data, part.audio.source.media_type = _join(self.data), self.start.audio.media_type
                return part
            case _:
                part.opaque.type = self.start.opaque.type
                return part
        return part if text or self.state is not None else None


def _join(pieces: Iterable[bytes]) -> bytes:
    return b"".join(pieces)
