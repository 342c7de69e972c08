"""The engine's events and decisions as messages of the contract."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import assert_never

import msgspec
from google.protobuf.duration_pb2 import Duration
from keyswitch.v1 import conversation_pb2, dispatch_service_pb2, event_pb2, registry_service_pb2, usage_pb2
from keyswitch_engine import events as model
from keyswitch_engine.registry import Provider
from keyswitch_engine.route import Route

__all__ = [
    "MAX_BATCH_BYTES",
    "attempt_message",
    "batches",
    "event_message",
    "generate_response",
    "provider_message",
    "route_message",
    "seconds",
    "usage_message",
]

MAX_BATCH_BYTES = 1024 * 1024
"""Largest serialised batch."""

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
_BILLINGS = {
    model.Billing.BYOK: usage_pb2.BILLING_BYOK,
    model.Billing.PLATFORM: usage_pb2.BILLING_PLATFORM,
}
_SOURCES = {
    model.CredentialSource.CALLER: usage_pb2.CREDENTIAL_SOURCE_CALLER,
    model.CredentialSource.STORED: usage_pb2.CREDENTIAL_SOURCE_STORED,
    model.CredentialSource.PLATFORM: usage_pb2.CREDENTIAL_SOURCE_PLATFORM,
    model.CredentialSource.NONE: usage_pb2.CREDENTIAL_SOURCE_NONE,
}
_OUTCOMES = {
    model.AttemptOutcome.SUCCEEDED: usage_pb2.ATTEMPT_OUTCOME_SUCCEEDED,
    model.AttemptOutcome.FAILED: usage_pb2.ATTEMPT_OUTCOME_FAILED,
    model.AttemptOutcome.CANCELLED: usage_pb2.ATTEMPT_OUTCOME_CANCELLED,
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
            delta.citation.CopyFrom(_citation(citation))
        case model.LogprobsDelta(index=index, tokens=tokens):
            delta = message.block_delta
            delta.index = index
            delta.logprobs.tokens.extend(_logprob(token) for token in tokens)
        case model.BlockStart(index=index, block=block):
            _fill_start(message.block_start, index, block)
        case model.BlockStop(index=index, state=state):
            message.block_stop.index = index
            if state is not None:
                message.block_stop.provider_state.CopyFrom(_state(state))
        case model.Started():
            message.started.CopyFrom(_started(event))
        case model.Finished():
            message.finished.CopyFrom(_finished(event))
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


def _started(event: model.Started) -> event_pb2.Started:
    return event_pb2.Started(
        response_id=event.response_id,
        provider=event.provider,
        requested_model=event.requested_model,
        resolved_model=event.resolved_model,
        billing=_BILLINGS[event.billing],
        attempt=event.attempt,
    )


def _finished(event: model.Finished) -> event_pb2.Finished:
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


def usage_message(usage: model.Usage) -> usage_pb2.Usage:
    """Turn token counts into their message; a count that is None stays absent."""
    message = usage_pb2.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
    )
    if usage.reported is not None:
        message.reported.CopyFrom(usage_pb2.ReportedUsage(**msgspec.structs.asdict(usage.reported)))
    return message


def seconds(value: float) -> Duration:
    """Turn seconds into a duration, to the microsecond."""
    microseconds = round(value * 1e6)
    return Duration(seconds=microseconds // 1_000_000, nanos=microseconds % 1_000_000 * 1000)


def attempt_message(attempt: model.Attempt) -> usage_pb2.Attempt:
    """Turn a line of the receipt into its message."""
    return usage_pb2.Attempt(
        number=attempt.number,
        provider=attempt.provider,
        model=attempt.model,
        origin_host=attempt.origin_host,
        credential_source=_SOURCES[attempt.credential_source],
        billing=_BILLINGS[attempt.billing],
        outcome=_OUTCOMES[attempt.outcome],
        failure_reason=attempt.failure_reason,
        upstream_status=attempt.upstream_status,
        upstream_request_id=attempt.upstream_request_id,
        queue_time=seconds(attempt.queue_time),
        connect_time=None if attempt.connect_time is None else seconds(attempt.connect_time),
        first_token_time=None if attempt.first_token_time is None else seconds(attempt.first_token_time),
        total_time=seconds(attempt.total_time),
        key_fingerprint=attempt.key_fingerprint,
    )


def _citation(citation: model.Citation) -> event_pb2.Citation:
    return event_pb2.Citation(**msgspec.structs.asdict(citation))


def _logprob(token: model.TokenLogprob) -> event_pb2.TokenLogprob:
    return event_pb2.TokenLogprob(
        token=token.token,
        logprob=token.logprob,
        token_bytes=token.token_bytes,
        top=[event_pb2.TopLogprob(**msgspec.structs.asdict(top)) for top in token.top],
    )


def _state(state: model.ProviderState) -> conversation_pb2.ProviderState:
    return conversation_pb2.ProviderState(provider=state.provider, dialect=state.dialect, data=state.data)


def generate_response(events: Iterable[model.Event]) -> dispatch_service_pb2.GenerateResponse:
    """Fold the events of a whole answer into one response, a part for each block in the order of their indices."""
    response = dispatch_service_pb2.GenerateResponse()
    blocks: dict[int, _Folded] = {}
    for event in events:
        match event:
            case model.Started():
                response.started.CopyFrom(_started(event))
            case model.BlockStart(index=index, block=block):
                blocks[index] = _Folded(block)
            case model.BlockStop(index=index, state=state):
                blocks[index].state = state
            case model.Finished():
                response.finished.CopyFrom(_finished(event))
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
            part.provider_state.CopyFrom(_state(self.state))
        elif not text and isinstance(self.block, model.TextBlock | model.ReasoningBlock | model.RefusalBlock):
            return
        response.message.parts.append(part)
        details = dispatch_service_pb2.PartDetails(part_index=len(response.message.parts) - 1)
        for delta in self.deltas:
            match delta:
                case model.CitationDelta(citation=citation):
                    details.citations.append(_citation(citation))
                case model.LogprobsDelta(tokens=tokens):
                    details.logprobs.extend(_logprob(token) for token in tokens)
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


def route_message(route: Route) -> dispatch_service_pb2.Route:
    """Turn a decision into its message."""
    return dispatch_service_pb2.Route(
        provider=route.provider.id,
        requested_model=route.requested_model,
        resolved_model=route.model,
        dialect=route.dialect.dialect.name,
        origin_host=route.provider.origin_host,
        credential_source=_SOURCES[route.credential_source],
        credential_label=route.credential_label,
        billing=_BILLINGS[route.billing],
        reasons=route.reasons,
        excluded=[
            dispatch_service_pb2.ExcludedCandidate(provider=candidate.provider, reason=candidate.reason)
            for candidate in route.excluded
        ],
        warnings=route.warnings,
        compatibility=_flags(route.dialect.profile.flags),
    )


def provider_message(provider: Provider) -> registry_service_pb2.Provider:
    """Turn a row of the registry into its message."""
    return registry_service_pb2.Provider(
        id=provider.id,
        display_name=provider.name,
        aliases=provider.aliases,
        dialects=[row.dialect.name for row in provider.dialects],
        origin_host=provider.origin_host,
        default_model=provider.default_model,
        small_model=provider.small_model,
        models=provider.models,
        vendor_token=provider.vendor_token,
        router=provider.router,
        hosts_foreign_models=provider.foreign_id_form is not None and not provider.router,
        credential_kinds=provider.auth.accepts,
        key_variables=provider.key_variables,
        key_pattern=provider.key_pattern.pattern if provider.key_pattern else "",
        compatibility=_flags(provider.dialects[0].profile.flags),
    )


def _flags(flags: msgspec.Struct) -> dict[str, str]:
    """Show compatibility flags as words."""
    return {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for name, value in msgspec.to_builtins(flags).items()
    }
