"""A whole answer: the engine's events folded into one response."""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from keyswitch.v1 import conversation_pb2, dispatch_service_pb2
from keyswitch_engine import events as model

from keyswitch_bridge.responses import (
    citation_message,
    finished_message,
    logprob_message,
    started_message,
    state_message,
)

__all__ = ["generate_response"]


def generate_response(events: Iterable[model.Event]) -> dispatch_service_pb2.GenerateResponse:
    """Fold the events of a whole answer into one response, a part for each block in the order of their indices."""
    response = dispatch_service_pb2.GenerateResponse()
    blocks: dict[int, _Folded] = {}
    for event in events:
        match event:
            case model.Started():
                response.started.CopyFrom(started_message(event))
            case model.BlockStart(index=index, block=block):
                blocks[index] = _Folded(block)
            case model.BlockStop(index=index, state=state):
                blocks[index].state = state
            case model.Finished():
                response.finished.CopyFrom(finished_message(event))
            case _:
                blocks[event.index].deltas.append(event)
    response.message.role = conversation_pb2.ROLE_ASSISTANT
    for _, folded in sorted(blocks.items()):
        folded.append_to(response)
    return response


class _Folded:
    """A block with everything that came for it."""

    def __init__(self, block: model.Block) -> None:
        self.block = block
        self.deltas: list[model.BlockEvent] = []
        self.state: model.ProviderState | None = None

    def append_to(self, response: dispatch_service_pb2.GenerateResponse) -> None:
        """Append the part, unless it would say nothing."""
        part = conversation_pb2.Part()
        text = self._text()
        match self.block:
            case model.TextBlock():
                part.text.text = text
            case model.ReasoningBlock():
                part.reasoning.text = text
            case model.RefusalBlock():
                part.refusal.text = text
            case model.ToolCallBlock(id=call_id, name=name):
                part.tool_call.id, part.tool_call.name, part.tool_call.arguments_json = call_id, name, text
            case model.ImageBlock(media_type=media_type):
                part.image.source.data, part.image.source.media_type = self._data(), media_type
            case model.AudioBlock(media_type=media_type):
                part.audio.source.data, part.audio.source.media_type = self._data(), media_type
            case model.OpaqueBlock(type=type_):
                part.opaque.type = type_
            case _:
                assert_never(self.block)
        if self.state is not None:
            part.provider_state.CopyFrom(state_message(self.state))
        elif not text and isinstance(self.block, model.TextBlock | model.ReasoningBlock | model.RefusalBlock):
            return
        response.message.parts.append(part)
        details = dispatch_service_pb2.PartDetails(part_index=len(response.message.parts) - 1)
        for delta in self.deltas:
            match delta:
                case model.CitationDelta(citation=citation):
                    details.citations.append(citation_message(citation))
                case model.LogprobsDelta(tokens=tokens):
                    details.logprobs.extend(logprob_message(token) for token in tokens)
                case _:
                    pass
        if details.citations or details.logprobs:
            response.details.append(details)

    def _text(self) -> str:
        """Return the text or the arguments."""
        pieces = []
        for delta in self.deltas:
            match delta:
                case model.TextDelta(text=text) | model.ReasoningDelta(text=text) | model.RefusalDelta(text=text):
                    pieces.append(text)
                case model.ArgumentsDelta(fragment=text):
                    pieces.append(text)
                case _:
                    pass
        return "".join(pieces)

    def _data(self) -> bytes:
        """Return the bytes of media."""
        return b"".join(delta.data for delta in self.deltas if isinstance(delta, model.MediaDelta))
