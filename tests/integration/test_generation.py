from __future__ import annotations

import asyncio
import json
import pathlib

import grpc
import psutil
from google.protobuf import json_format
from keyswitch.v1 import conversation_pb2, dispatch_service_pb2
from keyswitch_client import AsyncClient, Client, Finished, KeyswitchError, Started, TextDelta
from keyswitch_engine import registry
from keyswitch_engine.decode import ERROR_CLASSES, decode_answer
from keyswitch_engine.errors import Reason
from keyswitch_sandbox import Sandbox
from support import ServerProcess

KEYS = {"sandbox": "test-key"}
WEATHER = conversation_pb2.Tool(
    function=conversation_pb2.FunctionTool(
        name="get_weather",
        description="Tells the weather",
        parameters_json_schema='{"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer"}}}',
    )
)


async def test_the_normative_request_is_answered(channel: grpc.aio.Channel) -> None:
    """The JSON that the contract calls normative is a complete request."""
    text = """{"target": {"provider": "sandbox", "model": "sandbox/echo"},
     "credentials": [{"provider": "sandbox", "credential": {"apiKey": {"key": "k"}}}],
     "messages": [{"role": "ROLE_USER", "parts": [{"text": {"text": "hi"}}]}]}"""
    request = json_format.Parse(text, dispatch_service_pb2.GenerateRequest())
    generate = channel.unary_unary(
        "/keyswitch.v1.DispatchService/Generate",
        request_serializer=dispatch_service_pb2.GenerateRequest.SerializeToString,
        response_deserializer=dispatch_service_pb2.GenerateResponse.FromString,
    )
    response = await generate(request, timeout=10)
    assert response.message.parts[0].text.text == "hi"
    assert response.started.billing == response.finished.receipt.attempts[0].billing == 1


async def test_a_stream_and_a_whole_answer_say_the_same(client: AsyncClient) -> None:
    """Text, message, stop reason and usage of a stream, folded, are those of the whole answer."""
    text = "Grüße — 你好 👋,\n  with  spaces "
    whole = await client.generate(model="sandbox/echo", credentials=KEYS, messages=text)
    streamed = await client.stream(model="sandbox/echo", credentials=KEYS, messages=text).final()
    assert whole.text == streamed.text == text
    assert (whole.message, whole.stop_reason, whole.usage) == (streamed.message, streamed.stop_reason, streamed.usage)


async def test_events_follow_the_grammar(client: AsyncClient) -> None:
    """A stream is Started, then blocks, then exactly one Finished."""
    events = [event async for event in client.stream(model="sandbox/reasoning", credentials=KEYS, messages="hi there")]
    kinds = [type(event).__name__ for event in events]
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert (kinds.count("Started"), kinds.count("Finished")) == (1, 1)
    assert [getattr(event, "kind", "") for event in events if type(event).__name__ == "BlockStart"] == [
        "reasoning",
        "text",
    ]


async def test_tokens_arrive_as_the_provider_sends_them(client: AsyncClient) -> None:
    """With a provider that pauses between words each comes as a delta of its own, long before the last."""
    stream = client.stream(
        model="sandbox/echo", credentials=KEYS, messages="a b c d e f", options={"sandbox": {"interval_ms": 40}}
    )
    deltas = [event.text async for event in stream if isinstance(event, TextDelta)]
    assert deltas == ["a", " b", " c", " d", " e", " f"]


async def test_a_coalescing_window_gathers_events(client: AsyncClient) -> None:
    """With a window of a second, words that come every few milliseconds share few deltas; none is lost."""
    stream = client.stream(
        model="sandbox/echo", credentials=KEYS, messages="x", coalesce_window=1.0,
        options={"sandbox": {"tokens": 60, "interval_ms": 5}},
    )  # fmt: skip
    deltas = [event.text async for event in stream if isinstance(event, TextDelta)]
    assert "".join(deltas) == "".join(f" tok{number}" for number in range(60))
    assert len(deltas) <= 4


async def test_a_tool_conversation_goes_round(client: AsyncClient) -> None:
    """A tool call's answer appended as it is, with the tool's result, is accepted and answered."""
    asked = [conversation_pb2.Message(role=conversation_pb2.ROLE_USER, parts=[{"text": {"text": "Weather?"}}])]
    first = await client.stream(model="sandbox/tools", credentials=KEYS, messages=asked, tools=[WEATHER]).final()
    assert first.stop_reason == "TOOL_CALLS"
    assert [(call.name, json.loads(call.arguments_json)) for call in first.tool_calls] == [
        ("get_weather", {"city": "text", "days": 1})
    ]
    result = conversation_pb2.Message(
        role=conversation_pb2.ROLE_TOOL,
        parts=[{"tool_result": {"tool_call_id": first.tool_calls[0].id, "parts": [{"text": {"text": "sunny"}}]}}],
    )
    second = await client.generate(
        model="sandbox/tools", credentials=KEYS, messages=[*asked, first.message, result], tools=[WEATHER]
    )
    assert second.text == "The tool said: sunny"


async def test_what_is_asked_for_reaches_the_provider_verbatim(client: AsyncClient) -> None:
    """Schemas and options go upstream byte for byte: key order, large integers and all."""
    request = dispatch_service_pb2.GenerateRequest()
    schema = '{"type":"object","z":12345678901234567890,"a":{"b":1.0}}'
    request.response_format.json_schema.json_schema = schema
    answer = await client.generate(
        model="sandbox/echo-request", credentials=KEYS, messages="hi", request=request, temperature=0.5,
        options='{"provider": {"zdr": true, "a": 1024}}',
    )  # fmt: skip
    assert f'"schema":{schema}' in answer.text
    assert '"provider":{"zdr": true, "a": 1024}' in answer.text
    assert '"temperature":0.5' in answer.text


async def test_the_synchronous_client_streams(server: ServerProcess, sandbox: Sandbox) -> None:
    """The client without await gives the same events and answer."""

    def both() -> tuple[str, conversation_pb2.Message, conversation_pb2.Message]:
        with Client(server.address) as client:
            stream = client.stream(model="sandbox/echo", credentials=KEYS, messages="hi there")
            text = "".join(stream.text_deltas())
            whole = client.generate(model="sandbox/echo", credentials=KEYS, messages="hi there")
            return text, stream.answer.message, whole.message

    text, streamed, whole = await asyncio.to_thread(both)
    assert text == "hi there"
    assert streamed == whole


async def test_two_hundred_paced_streams_are_exact_and_small(
    client: AsyncClient, server: ServerProcess, sandbox: Sandbox
) -> None:
    """200 streams at once all complete with their own words in order, and the server stays below 150 MB."""

    async def one(number: int) -> str:
        stream = client.stream(
            model="sandbox/echo", credentials=KEYS, messages=" ".join(f"s{number}w{word}" for word in range(30)),
            options={"sandbox": {"interval_ms": 20}}, timeout=60,
        )  # fmt: skip
        return (await stream.final()).text

    texts = await asyncio.gather(*(one(number) for number in range(200)))
    assert texts == [" ".join(f"s{number}w{word}" for word in range(30)) for number in range(200)]
    resident = psutil.Process(server.process.pid).memory_info().rss
    assert resident < 150e6


async def test_recorded_streams_over_real_sockets_are_what_decode_makes_of_them(
    client: AsyncClient, recordings_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """200 recordings replayed sandbox, server, client give the text, calls, usage and failures that `decode` prints."""
    index = json.loads((recordings_folder / "index.json").read_text())
    chat = [entry for entry in index if entry["protocol"] == "openai-chat" and entry["kind"] in ("stream", "err")][:200]
    assert len(chat) == 200
    rows = registry.load()
    for entry in chat:
        meta = json.loads((recordings_folder / entry["meta_file"]).read_text())["response"]
        headers = {
            name: value if isinstance(value, str) else ", ".join(value)
            for name, value in (meta.get("headers") or {}).items()
        }
        body = (recordings_folder / entry["body_file"]).read_bytes()
        want = decode_answer(
            rows, provider="sandbox", protocol="openai-chat", status=meta["status"], headers=headers, stream=True,
            chunks=[body],
        )  # fmt: skip
        stream = client.stream(provider="sandbox", model=f"replay/{entry['id']}", credentials=KEYS, messages="hi")
        try:
            answer = await stream.final()
        except KeyswitchError as error:
            outcome = "truncated" if error.reason == "STREAM_TRUNCATED" else "error"
            assert (entry["id"], outcome) == (entry["id"], want["outcome"])
            if outcome == "error":
                assert ERROR_CLASSES[Reason(error.reason)] == want["error"]["class"]  # type: ignore[index] # JSON
            continue
        assert (entry["id"], "ok") == (entry["id"], want["outcome"])
        assert answer.text == want["text"]
        assert answer.reasoning == want["reasoning"]
        calls = [call.name for call in answer.tool_calls]
        assert calls == [call["name"] for call in want["tool_calls"]]  # type: ignore[attr-defined] # JSON
        if want["usage"] is not None:
            assert answer.usage is not None
            reported = answer.usage.reported
            assert (reported.input_tokens if reported.HasField("input_tokens") else None) == want["usage"]["input"]  # type: ignore[index] # JSON
