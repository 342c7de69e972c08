"""The engine's events as messages of the contract, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import assert_never

import msgspec
from keyswitch.v1 import conversation_pb2, dispatch_service_pb2, event_pb2, usage_pb2
from keyswitch_engine import events as model

from keyswitch_bridge.receipts import BILLINGS, attempt_message, usage_message

__all__ = [
    "MAX_BATCH_BYTES",
    "batches",
    "citation_message",
    "event_message",
    "finished_message",
    "logprob_message",
    "started_message",
    "state_message",
]

MAX_BATCH_BYTES = 1024 * 1024
"""Largest serialised batch, but for one that is a single event with a larger state."""

_MAX_DELTA = 128 * 1024  # characters or bytes of one delta: at most half of a batch in UTF-8
_FILL = MAX_BATCH_BYTES // 2  # a batch is sent once it is this full, so that one more delta always fits

_STOP_REASONS = {
    model.StopReason.STOP: event_pb2.STOP_REASON_STOP,
    model.StopReason.LENGTH: event_pb2.STOP_REASON_LENGTH,
    model.StopReason.TOOL_CALLS: event_pb2.STOP_REASON_TOOL_CALLS,
    model.StopReason.CONTENT_FILTER: event_pb2.STOP_REASON_CONTENT_FILTER,
    model.StopReason.REFUSAL: event_pb2.STOP_REASON_REFUSAL,
    model.StopReason.PAUSE: event_pb2.STOP_REASON_PAUSE,
    model.StopReason.OTHER: event_pb2.STOP_REASON_OTHER,
    model.StopReason.UNKNOWN: event_pb2.STOP_REASON_UNKNOWN,
}


def batches(events: Sequence[model.Event]) -> list[dispatch_service_pb2.StreamGenerateResponse]:
    """Turn one batch of events into as few responses as their bound allows.

    Neighbouring deltas of one block become one, since their borders carry no meaning: an upstream read that decoded to
    fifty tokens costs one event.
    """
    if len(events) == 1 and type(events[0]) is model.TextDelta and len(events[0].text) <= _MAX_DELTA:
        response = dispatch_service_pb2.StreamGenerateResponse()
        delta = response.events.add().block_delta
        delta.index = events[0].index
        delta.text = events[0].text
        return [response]
    responses = []
    response = dispatch_service_pb2.StreamGenerateResponse()
    size = 0
    for event in _split(_merged(events)):
        message = event_message(event)
        size += message.ByteSize() + 8
        if size > _FILL and response.events:
            responses.append(response)
            response = dispatch_service_pb2.StreamGenerateResponse()
            size = message.ByteSize()
        response.events.append(message)
    if response.events:
        responses.append(response)
    return responses


def _merged(events: Iterable[model.Event]) -> Iterable[model.Event]:
    """Join neighbouring deltas of one kind and block."""
    run: list[str] = []
    kind: type[model.TextDelta | model.ReasoningDelta | model.ArgumentsDelta] | None = None
    index = -1
    for event in events:
        match event:
            case model.TextDelta(index=at, text=text) | model.ReasoningDelta(index=at, text=text):
                pass
            case model.ArgumentsDelta(index=at, fragment=text):
                pass
            case _:
                if kind is not None:
                    yield kind(index, "".join(run))
                    kind = None
                yield event
                continue
        if kind is not type(event) or index != at:
            if kind is not None:
                yield kind(index, "".join(run))
            kind, index, run = type(event), at, []
        run.append(text)
    if kind is not None:
        yield kind(index, "".join(run))


def _split(events: Iterable[model.Event]) -> Iterable[model.Event]:
    """Split deltas that are too long for one response."""
    for event in events:
        match event:
            case model.TextDelta(index=index, text=text) if len(text) > _MAX_DELTA:
                yield from (model.TextDelta(index, piece) for piece in _pieces(text))
            case model.ReasoningDelta(index=index, text=text) if len(text) > _MAX_DELTA:
                yield from (model.ReasoningDelta(index, piece) for piece in _pieces(text))
            case model.ArgumentsDelta(index=index, fragment=text) if len(text) > _MAX_DELTA:
                yield from (model.ArgumentsDelta(index, piece) for piece in _pieces(text))
            case model.RefusalDelta(index=index, text=text) if len(text) > _MAX_DELTA:
                yield from (model.RefusalDelta(index, piece) for piece in _pieces(text))
            case model.MediaDelta(index=index, data=data) if len(data) > _MAX_DELTA:
                for start in range(0, len(data), _MAX_DELTA):
                    yield model.MediaDelta(index, data[start : start + _MAX_DELTA])
            case _:
                yield event


def _pieces(text: str) -> Iterable[str]:
    """Cut text at character boundaries."""
    return (text[start : start + _MAX_DELTA] for start in range(0, len(text), _MAX_DELTA))


def event_message(event: model.Event) -> event_pb2.Event:
    """Turn one event into its message."""
    message = event_pb2.Event()
    match event:
        case model.TextDelta(index=index, text=text):
            delta = message.block_delta
            delta.index, delta.text = index, text
        case model.ReasoningDelta(index=index, text=text):
            delta = message.block_delta
            delta.index, delta.reasoning = index, text
        case model.ArgumentsDelta(index=index, fragment=fragment):
            delta = message.block_delta
            delta.index, delta.arguments = index, fragment
        case model.RefusalDelta(index=index, text=text):
            delta = message.block_delta
            delta.index, delta.refusal = index, text
        case model.MediaDelta(index=index, data=data):
            delta = message.block_delta
            delta.index, delta.media = index, data
        case model.CitationDelta(index=index, citation=citation):
            delta = message.block_delta
            delta.index = index
            delta.citation.CopyFrom(citation_message(citation))
        case model.LogprobsDelta(index=index, tokens=tokens):
            delta = message.block_delta
            delta.index = index
            delta.logprobs.tokens.extend(logprob_message(token) for token in tokens)
        case model.BlockStart(index=index, block=block):
            _fill_start(message.block_start, index, block)
        case model.BlockStop(index=index, state=state):
            message.block_stop.index = index
            if state is not None:
                message.block_stop.provider_state.CopyFrom(state_message(state))
        case model.Started():
            message.started.CopyFrom(started_message(event))
        case model.Finished():
            message.finished.CopyFrom(finished_message(event))
        case _:
            assert_never(event)
    return message


def _fill_start(message: event_pb2.BlockStart, index: int, block: model.Block) -> None:
    """Describe a block that begins."""
    message.index = index
    match block:
        case model.TextBlock():
            message.text.SetInParent()
        case model.ReasoningBlock():
            message.reasoning.SetInParent()
        case model.ToolCallBlock(id=call_id, name=name):
            message.tool_call.id, message.tool_call.name = call_id, name
        case model.RefusalBlock():
            message.refusal.SetInParent()
        case model.ImageBlock(media_type=media_type):
            message.image.media_type = media_type
        case model.AudioBlock(media_type=media_type):
            message.audio.media_type = media_type
        case model.OpaqueBlock(type=type_):
            message.opaque.type = type_
        case _:
            assert_never(block)


def started_message(event: model.Started) -> event_pb2.Started:
    """Turn `Started` into its message."""
    return event_pb2.Started(
        response_id=event.response_id,
        provider=event.provider,
        requested_model=event.requested_model,
        resolved_model=event.resolved_model,
        billing=BILLINGS[event.billing],
        attempt=event.attempt,
    )


def finished_message(event: model.Finished) -> event_pb2.Finished:
    """Turn `Finished` into its message."""
    ending = event.ending
    return event_pb2.Finished(
        stop_reason=_STOP_REASONS[ending.stop_reason],
        raw_stop_reason=ending.raw_stop_reason,
        usage=usage_message(ending.usage) if ending.usage is not None else None,
        cost=(
            usage_pb2.Cost(nano_usd=event.cost.nano_usd, source=event.cost.source, source_date=event.cost.source_date)
            if event.cost is not None
            else None
        ),
        answering_model=ending.answering_model,
        receipt=usage_pb2.Receipt(attempts=[attempt_message(attempt) for attempt in event.receipt.attempts]),
    )


def citation_message(citation: model.Citation) -> event_pb2.Citation:
    """Turn a citation into its message."""
    return event_pb2.Citation(**msgspec.structs.asdict(citation))


def logprob_message(token: model.TokenLogprob) -> event_pb2.TokenLogprob:
    """Turn a token's log probability into its message."""
    return event_pb2.TokenLogprob(
        token=token.token,
        logprob=token.logprob,
        token_bytes=token.token_bytes,
        top=[event_pb2.TopLogprob(**msgspec.structs.asdict(top)) for top in token.top],
    )


def state_message(state: model.ProviderState) -> conversation_pb2.ProviderState:
    """Turn a provider's state into its message."""
    return conversation_pb2.ProviderState(provider=state.provider, dialect=state.dialect, data=state.data)
