from __future__ import annotations

import base64
import itertools
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2
from keyswitch.v1 import conversation_pb2, event_pb2
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch.v1.dispatch_service_pb2_grpc import DispatchServiceStub
from keyswitch_engine.dialects import DIALECTS
from keyswitch_sandbox.scenarios import SIGNATURE

SCHEMA = '{"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer","minimum":3}}}'
TOOLS = [{"function": {"name": name, "parametersJsonSchema": SCHEMA}} for name in ("weather", "news")]
KEY = {"provider": "sandbox", "credential": {"apiKey": {"key": "test-key"}}}
NUMBERS = itertools.count()
REFUSALS_AS_TEXT = {"anthropic-messages", "vertex-rawpredict", "bedrock-invoke", "bedrock-converse", "gemini", "cohere-v2", "ollama"}  # fmt: skip
SIGNING = {
    "openai-responses",
    "anthropic-messages",
    "vertex-rawpredict",
    "bedrock-invoke",
    "gemini",
    "bedrock-converse",
}
AWS = {"bedrock-converse", "bedrock-invoke"}


def user(text: str) -> dict[str, Any]:
    return {"role": "ROLE_USER", "parts": [{"text": {"text": text}}]}


def request(dialect: str, scenario: str, *messages: dict[str, Any], **fields: Any) -> pb.GenerateRequest:
    target = {"provider": "sandbox", "model": f"sandbox/{scenario}", "dialect": dialect}
    said = list(messages) or [user("one two three four five")]
    key = KEY | {"credential": {"apiKey": {"key": f"test-key-{next(NUMBERS)}"}}}  # a rate limit makes a key wait
    once = {"maxAttempts": 1}
    body = {"target": target, "credentials": [key], "messages": said, "limits": once, **fields}
    return json_format.ParseDict(body, pb.GenerateRequest())


async def whole(channel: grpc.aio.Channel, asked: pb.GenerateRequest) -> pb.GenerateResponse:
    return await DispatchServiceStub(channel).Generate(asked, timeout=20)


async def streamed(channel: grpc.aio.Channel, asked: pb.GenerateRequest) -> list[event_pb2.Event]:
    same = pb.StreamGenerateRequest.FromString(asked.SerializeToString())
    call = DispatchServiceStub(channel).StreamGenerate(same, timeout=20)
    return [event async for response in call for event in response.events]


def text_of(events: list[event_pb2.Event]) -> str:
    return "".join(event.block_delta.text for event in events)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_answer_is_the_same_whole_and_streamed(channel: grpc.aio.Channel, dialect: str) -> None:
    """Text, stop reason and counts agree, whichever way a dialect frames them."""
    asked = request(dialect, "echo")
    response = await whole(channel, asked)
    assert response.message.parts[0].text.text == "one two three four five"
    events = await streamed(channel, asked)
    assert text_of(events) == "one two three four five"
    finished = events[-1].finished
    assert finished.stop_reason == event_pb2.STOP_REASON_STOP == response.finished.stop_reason
    for usage in (finished.usage, response.finished.usage):
        assert (usage.input_tokens, usage.output_tokens) == (5, 5)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_parallel_calls_and_their_results_go_round(channel: grpc.aio.Channel, dialect: str) -> None:
    """Two calls come back with fitting arguments; the assistant's own answer and the results are accepted after it."""
    asked = request(dialect, "tools", user("weather and news"), tools=TOOLS)
    response = await whole(channel, asked)
    calls = [part.tool_call for part in response.message.parts if part.HasField("tool_call")]
    assert [call.name for call in calls] == ["weather", "news"]
    assert [json_loads(call.arguments_json) for call in calls] == [{"city": "text", "days": 3}] * 2
    assert len({call.id for call in calls}) == 2
    assert response.finished.stop_reason == event_pb2.STOP_REASON_TOOL_CALLS
    events = await streamed(channel, asked)
    assert sum(event.block_start.HasField("tool_call") for event in events) == 2
    assert events[-1].finished.stop_reason == event_pb2.STOP_REASON_TOOL_CALLS
    asked.messages.append(response.message)
    results = [
        {"toolResult": {"toolCallId": call.id, "parts": [{"text": {"text": f"all of {call.name}"}}]}} for call in calls
    ]
    asked.messages.append(json_format.ParseDict({"role": "ROLE_TOOL", "parts": results}, conversation_pb2.Message()))
    answer = await whole(channel, asked)
    assert answer.message.parts[0].text.text == "The tool said: all of news"


def json_loads(text: str) -> Any:
    import json  # noqa: PLC0415 - here alone

    return json.loads(text)


@pytest.mark.parametrize("dialect", sorted(SIGNING))
@pytest.mark.parametrize("intact", [True, False])
async def test_signed_reasoning_has_to_come_back_intact(
    channel: grpc.aio.Channel, dialect: str, *, intact: bool
) -> None:
    """The provider refuses a conversation whose signature was lost, and accepts the one that it handed out."""
    asked = request(dialect, "signed", user("weather"), tools=TOOLS[:1])
    response = await whole(channel, asked)
    if not intact:
        for part in response.message.parts:
            part.ClearField("provider_state")
    (call,) = [part.tool_call for part in response.message.parts if part.HasField("tool_call")]
    asked.messages.append(response.message)
    result = {"toolResult": {"toolCallId": call.id, "parts": [{"text": {"text": "rain"}}]}}
    asked.messages.append(json_format.ParseDict({"role": "ROLE_TOOL", "parts": [result]}, conversation_pb2.Message()))
    if intact:
        assert (await whole(channel, asked)).message.parts[0].text.text == "The tool said: rain"
        return
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await whole(channel, asked)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("dialect", sorted(SIGNING))
async def test_a_stream_hands_out_the_same_state_as_a_whole_answer(channel: grpc.aio.Channel, dialect: str) -> None:
    """Each signature is on the stop of the very block that it belongs to."""
    asked = request(dialect, "signed", user("weather"), tools=TOOLS[:1])
    states = [
        event.block_stop.provider_state.data for event in await streamed(channel, asked) if event.HasField("block_stop")
    ]
    assert states == [part.provider_state.data for part in (await whole(channel, asked)).message.parts]
    assert any(SIGNATURE.encode() in state for state in states)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_conversation_moves_to_another_provider(channel: grpc.aio.Channel, dialect: str) -> None:
    """What another provider attached is left out, and the rest is understood."""
    foreign = {"provider": "elsewhere", "dialect": "other", "data": base64.b64encode(b"{}").decode()}
    assistant = {
        "role": "ROLE_ASSISTANT",
        "parts": [
            {"reasoning": {"text": "hm"}, "providerState": foreign},
            {"opaque": {"type": "search"}, "providerState": foreign},
            {"refusal": {"text": "no"}},
            {"toolCall": {"id": "id/with:odd characters", "name": "weather", "argumentsJson": "{}"}},
        ],
    }
    result = {"toolResult": {"toolCallId": "id/with:odd characters", "parts": [{"text": {"text": "rain"}}]}}
    asked = request(
        dialect, "tools", user("weather"), assistant, {"role": "ROLE_TOOL", "parts": [result]}, tools=TOOLS[:1]
    )
    assert (await whole(channel, asked)).message.parts[0].text.text == "The tool said: rain"


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_refusal_is_told_as_far_as_the_dialect_can(channel: grpc.aio.Channel, dialect: str) -> None:
    """Dialects with refusals say so; in the others a refusal is text."""
    events = await streamed(channel, request(dialect, "refusal"))
    refusal = "".join(event.block_delta.refusal for event in events)
    assert (text_of(events) if dialect in REFUSALS_AS_TEXT else refusal) == "I cannot help with that."


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_reasoning_is_told_apart_from_text(channel: grpc.aio.Channel, dialect: str) -> None:
    """Reasoning comes as reasoning, and before the text."""
    events = await streamed(channel, request(dialect, "reasoning"))
    kinds = [event.block_start.WhichOneof("kind") for event in events if event.HasField("block_start")]
    assert kinds == ["reasoning", "text"]
    assert "".join(event.block_delta.reasoning for event in events)


FAILURES = {
    "bad-key": "INVALID_CREDENTIAL",
    "not-permitted": "CREDENTIAL_NOT_PERMITTED",
    "out-of-credit": "INSUFFICIENT_CREDIT",
    "payment-required": "INSUFFICIENT_CREDIT",
    "bad-request": "PROVIDER_REJECTED_REQUEST",
    "model-not-found": "MODEL_NOT_FOUND",
    "context-overflow": "CONTEXT_OVERFLOW",
    "content-refused": "CONTENT_REFUSED",
    "rate-limited": "PROVIDER_RATE_LIMITED",
    "overloaded": "PROVIDER_OVERLOADED",
    "unavailable": "PROVIDER_UNAVAILABLE",
    "error-in-200": "PROVIDER_UNAVAILABLE",
    "bad-json": "PROVIDER_PROTOCOL_ERROR",
    "truncated": "STREAM_TRUNCATED",
}


def failure(error: grpc.aio.AioRpcError) -> tuple[str, float | None]:
    """Return the reason of an error, and the seconds after which a retry makes sense."""
    metadata = error.trailing_metadata() or ()
    (data,) = (value for key, value in metadata if key == "grpc-status-details-bin")
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    delay = None
    for detail in status_pb2.Status.FromString(bytes(data)).details:
        detail.Unpack(info)
        if detail.Unpack(retry):
            delay = retry.retry_delay.ToTimedelta().total_seconds()
    return info.reason, delay


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("scenario", FAILURES)
async def test_each_failure_has_its_reason_in_each_spelling(
    channel: grpc.aio.Channel, dialect: str, scenario: str
) -> None:
    """Status, code, type and wording of each dialect lead to one reason, streamed; a delay is told where there is one."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await streamed(channel, request(dialect, scenario))
    reason, delay = failure(raised.value)
    assert reason == FAILURES[scenario]
    assert "test-key" not in (raised.value.details() or "")
    if scenario == "rate-limited":
        assert delay == 2.0


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_failure_in_the_middle_of_a_stream_is_no_end(channel: grpc.aio.Channel, dialect: str) -> None:
    """What came before is delivered, then the failure has the code of its class, and nothing is retryable."""
    same = pb.StreamGenerateRequest.FromString(request(dialect, "error-mid-stream").SerializeToString())
    events: list[event_pb2.Event] = []
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async for response in DispatchServiceStub(channel).StreamGenerate(same, timeout=20):
            events += response.events
    assert text_of(events).startswith("one")
    assert not any(event.HasField("finished") for event in events)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
