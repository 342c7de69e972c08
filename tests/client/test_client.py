from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from keyswitch.v1 import conversation_pb2, credential_pb2, error_pb2, event_pb2, usage_pb2
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch_client import (
    ApiKey,
    ArgumentsDelta,
    AsyncClient,
    BearerToken,
    Client,
    CredentialError,
    Finished,
    KeyswitchError,
    RateLimitedError,
    Started,
    TextDelta,
    ToolCallStart,
    TruncatedError,
    UnavailableError,
)
from keyswitch_client.errors import BY_REASON, from_status
from keyswitch_client.requests import GenerateArguments, build, credential_messages
from support import ServerProcess


@dataclasses.dataclass
class Script:
    """What the scripted server does, and what it saw."""

    responses: list[pb.StreamGenerateResponse] = dataclasses.field(default_factory=list)
    then: Callable[[Any], Any] | None = None
    calls: int = 0
    cancelled: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    requests: list[pb.StreamGenerateRequest] = dataclasses.field(default_factory=list)


@pytest.fixture
async def scripted() -> AsyncIterator[tuple[str, Script]]:
    script = Script()

    async def stream(request: pb.StreamGenerateRequest, context: Any) -> None:
        script.calls += 1
        script.requests.append(request)
        try:
            for response in script.responses:
                await context.write(response)
            if script.then is not None:
                await script.then(context)
        except asyncio.CancelledError:
            script.cancelled.set()
            raise

    async def generate(request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        script.calls += 1
        if script.then is not None:
            await script.then(context)
        return pb.GenerateResponse()

    handlers = {
        "StreamGenerate": grpc.unary_stream_rpc_method_handler(
            stream, pb.StreamGenerateRequest.FromString, pb.StreamGenerateResponse.SerializeToString
        ),
        "Generate": grpc.unary_unary_rpc_method_handler(
            generate, pb.GenerateRequest.FromString, pb.GenerateResponse.SerializeToString
        ),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("keyswitch.v1.DispatchService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}", script
    await server.stop(0)


def events(*items: event_pb2.Event) -> pb.StreamGenerateResponse:
    return pb.StreamGenerateResponse(events=items)


def event(**fields: Any) -> event_pb2.Event:
    return event_pb2.Event(**fields)


STARTED = event(started={"response_id": "r", "provider": "p"})
TEXT = event(block_start={"index": 0, "text": {}})
FINISHED = event(
    finished={
        "stop_reason": event_pb2.STOP_REASON_STOP,
        "usage": usage_pb2.Usage(output_tokens=2),
        "receipt": usage_pb2.Receipt(attempts=[{"number": 1, "provider": "p"}]),
    }
)


def delta(index: int = 0, **fields: Any) -> event_pb2.Event:
    return event(block_delta={"index": index, **fields})


WHOLE = [
    events(STARTED),
    pb.StreamGenerateResponse(),
    events(event_pb2.Event(), TEXT, delta(text="Hel"), delta(text="lo")),
    events(
        delta(citation={"url": "https://e.example"}), event(block_stop={"index": 0}),
        event(block_start={"index": 1, "tool_call": {"id": "c", "name": "f"}}), delta(1, arguments='{"a"'),
        delta(1, arguments=":1}"), event(block_stop={"index": 1}),
        event(block_start={"index": 2, "reasoning": {}}),
        event(block_stop={"index": 2, "provider_state": {"provider": "p", "dialect": "d", "data": b"s"}}),
        event(block_start={"index": 3, "image": {"media_type": "image/png"}}), delta(3, media=b"\x00"),
        event(block_stop={"index": 3}), FINISHED,
    ),
]  # fmt: skip


async def read_all(address: str, *, sync: bool) -> Any:
    """Read a whole stream with one of the two clients; return stream and events."""
    if sync:

        def read() -> Any:
            with Client(address) as client:
                stream = client.stream(messages="hi")
                return stream, list(stream)

        return await asyncio.to_thread(read)
    async with AsyncClient(address) as client:
        stream = client.stream(messages="hi")
        return stream, [item async for item in stream]


@pytest.mark.parametrize("sync", [False, True])
async def test_a_stream_is_typed_events_and_a_whole_answer(scripted: tuple[str, Script], sync: bool) -> None:
    """Events come as values to match on; empty and unknown ones are ignored; the fold has text, calls, state, media."""
    address, script = scripted
    script.responses = WHOLE
    stream, seen = await read_all(address, sync=sync)
    assert isinstance(seen[0], Started)
    assert [item.text for item in seen if isinstance(item, TextDelta)] == ["Hel", "lo"]
    assert [item for item in seen if isinstance(item, ToolCallStart)] == [ToolCallStart(1, "c", "f")]
    assert [item.fragment for item in seen if isinstance(item, ArgumentsDelta)] == ['{"a"', ":1}"]
    assert isinstance(seen[-1], Finished)
    assert (stream.text, stream.stop_reason, stream.usage.output_tokens) == ("Hello", "STOP", 2)
    assert stream.receipt.attempts[0].provider == "p"
    answer = stream.answer
    assert [part.WhichOneof("kind") for part in answer.message.parts] == ["text", "tool_call", "reasoning", "image"]
    assert answer.message.parts[2].provider_state.data == b"s"
    assert answer.response.details[0].citations[0].url == "https://e.example"
    assert [(call.id, call.arguments_json) for call in answer.tool_calls] == [("c", '{"a":1}')]


@pytest.mark.parametrize("sync", [False, True])
async def test_an_end_without_finished_is_no_end(scripted: tuple[str, Script], sync: bool) -> None:
    """OK without `Finished` raises: a stream's ending cannot lie."""
    address, script = scripted
    script.responses = [events(STARTED, TEXT, delta(text="half"))]
    with pytest.raises(TruncatedError) as raised:
        await read_all(address, sync=sync)
    assert (raised.value.reason, raised.value.retryable) == ("STREAM_TRUNCATED", False)


async def forever(context: Any) -> None:
    await asyncio.Event().wait()


async def test_leaving_a_stream_cancels_the_call(scripted: tuple[str, Script]) -> None:
    """Leaving the block in the middle ends the RPC, as the server sees."""
    address, script = scripted
    script.responses, script.then = [events(STARTED, TEXT, delta(text="a"))], forever
    async with AsyncClient(address) as client:
        async with client.stream(messages="hi") as stream:
            async for item in stream:
                if isinstance(item, TextDelta):
                    break
        await asyncio.wait_for(script.cancelled.wait(), 5)
        assert stream.text == "a"
        with pytest.raises(ValueError, match="has not finished"):
            _ = stream.answer


def fails(code: grpc.StatusCode, reason: str = "", pushback: str = "") -> Callable[[Any], Any]:
    """Return a behaviour that ends the call with a status."""

    async def fail(context: Any) -> None:
        metadata: list[tuple[str, str | bytes]] = []
        if reason:
            status = status_pb2.Status(code=code.value[0], message="why")
            failure = error_pb2.DispatchFailure(
                reason=error_pb2.ErrorReason.Value(f"ERROR_REASON_{reason}"), provider="p", model="m", retryable=True,
                origin=error_pb2.ERROR_ORIGIN_PROVIDER, upstream_status=429, upstream_request_id="req",
                attempts=[{"number": 1}], retry_after={"seconds": 2, "nanos": 500_000_000},
            )  # fmt: skip
            violation = error_details_pb2.BadRequest.FieldViolation(field="f", description="d")
            for detail in (
                error_details_pb2.ErrorInfo(reason=reason, domain="keyswitch.v1"),
                failure,
                error_details_pb2.BadRequest(field_violations=[violation]),
            ):
                status.details.add().Pack(detail)
            metadata.append(("grpc-status-details-bin", status.SerializeToString()))
        if pushback:
            metadata.append(("grpc-retry-pushback-ms", pushback))
        await context.abort(code, "why", tuple(metadata))

    return fail


@pytest.mark.parametrize("sync", [False, True])
async def test_a_failure_has_everything_that_was_told(scripted: tuple[str, Script], sync: bool) -> None:
    """Reason, retryability, delay, receipt, origin and violations are on the exception, which is of the reason's class."""
    address, script = scripted
    script.then = fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "PROVIDER_RATE_LIMITED")
    with pytest.raises(RateLimitedError) as raised:
        await read_all(address, sync=sync)
    error = raised.value
    assert (error.reason, error.code, error.message) == (
        "PROVIDER_RATE_LIMITED",
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "why",
    )
    assert (error.retryable, error.retry_after, error.origin, error.provider) == (True, 2.5, "PROVIDER", "p")
    assert (error.upstream_status, error.upstream_request_id, error.violations) == (429, "req", (("f", "d"),))
    assert error.receipt.attempts[0].number == 1


def test_every_reason_has_a_class() -> None:
    """The table of classes is complete over the contract's reasons."""
    assert set(BY_REASON) == {name.removeprefix("ERROR_REASON_") for name in error_pb2.ErrorReason.keys()} - {
        "UNSPECIFIED"
    }


def test_a_status_without_details_is_told_apart_by_its_code() -> None:
    """What does not come from the service, or cannot be read, still has a type."""
    error = from_status(grpc.StatusCode.UNAVAILABLE, None, None)
    assert (type(error), error.reason, error.retryable) == (UnavailableError, "", False)
    broken = from_status(grpc.StatusCode.DATA_LOSS, "x", [("grpc-status-details-bin", b"\xff\xff")])
    assert type(broken) is KeyswitchError


@pytest.mark.parametrize(
    ("retries", "pushback", "responses", "calls"),
    [
        (True, "", [], 3),
        (True, "-1", [], 1),
        (False, "", [], 1),
        (True, "", [events(STARTED)], 1),
    ],
)
async def test_retries_are_grpcs_and_never_after_the_first_event(
    scripted: tuple[str, Script], retries: bool, pushback: str, responses: list[pb.StreamGenerateResponse], calls: int
) -> None:
    """UNAVAILABLE is tried three times unless the server says not to, retries are off, or an event has come."""
    address, script = scripted
    script.then, script.responses = fails(grpc.StatusCode.UNAVAILABLE, "", pushback), responses
    async with AsyncClient(address, retries=retries) as client:
        with pytest.raises(KeyswitchError):
            await client.stream(messages="hi").final()
    assert script.calls == calls


@pytest.mark.parametrize("sync", [False, True])
async def test_a_server_that_is_not_there(sync: bool) -> None:
    """No server is UnavailableError without a reason."""
    with pytest.raises(UnavailableError) as raised:
        await read_all("127.0.0.1:9", sync=sync)
    assert raised.value.reason == ""


def test_keys_are_never_shown() -> None:
    """No repr or str of anything that holds a key shows it."""
    key, token = ApiKey("hidden", organization="o"), BearerToken("hidden")
    arguments = GenerateArguments(credentials={"p": key}, messages="hi")
    shown = f"{key} {key!r} {token} {token!r} {arguments!r} {[key]} {Client('127.0.0.1:9')!r}"
    assert "hidden" not in shown


def test_credentials_take_every_form() -> None:
    """A string, values with labels, and the contract's own message all become the contract's message."""
    own = credential_pb2.Credential(none=credential_pb2.NoCredential())
    messages = credential_messages(
        {"a": "k", "b": ApiKey("k", project="p"), "c": [ApiKey("1", label="x"), BearerToken("2", label="y")], "d": own}
    )
    assert [(message.provider, message.label, message.credential.WhichOneof("kind")) for message in messages] == [
        ("a", "", "api_key"), ("b", "", "api_key"), ("c", "x", "api_key"), ("c", "y", "bearer_token"), ("d", "", "none"),
    ]  # fmt: skip
    assert messages[1].credential.api_key.project == "p"


def test_arguments_become_the_request() -> None:
    """Plain values land in their fields, beside those of a ready message, and nothing is set unasked."""
    base = pb.GenerateRequest()
    base.sampling.top_k = 5
    request = build(
        pb.StreamGenerateRequest,
        GenerateArguments(
            messages="hi", system="s", provider="p", model="m", temperature=0.0, max_output_tokens=9,
            reasoning_effort="low", options={"a": 1}, coalesce_window=0.03, request=base,
        ),
    )  # fmt: skip
    assert (request.target.provider, request.target.model, request.target.options_json) == ("p", "m", '{"a": 1}')
    assert (request.sampling.temperature, request.sampling.max_output_tokens, request.sampling.top_k) == (0.0, 9, 5)
    assert request.reasoning.effort == conversation_pb2.REASONING_EFFORT_LOW
    assert request.limits.coalesce_window.nanos == 30_000_000
    assert (request.system[0].text.text, request.messages[0].role) == ("s", conversation_pb2.ROLE_USER)
    plain = build(pb.GenerateRequest, GenerateArguments(messages="hi"))
    assert [field.name for field, _ in plain.ListFields()] == ["messages"]


async def test_a_missing_key_is_a_credential_error(client: AsyncClient) -> None:
    """Against the real server, a call without a key says which one is missing."""
    with pytest.raises(CredentialError) as raised:
        await client.generate(model="gpt-4o", messages="hi")
    assert (raised.value.reason, raised.value.provider) == ("MISSING_CREDENTIAL", "openai")


async def test_embeddings_counts_and_models_through_the_client(server: ServerProcess) -> None:
    """Vectors come in order, and models as the provider lists them, from both clients; what is not offered says so."""
    keys = {"sandbox": "k"}
    async with AsyncClient(server.address) as client:
        response = await client.embed(["a b", "c"], model="sandbox/embed", credentials=keys, dimensions=8)
        assert [list(row.values)[:2] for row in response.embeddings] == [[2.0, 3.0], [1.0, 1.0]]
        assert (len(response.embeddings[0].values), response.finished.usage.input_tokens) == (8, 3)
        assert "sandbox/echo" in [model.id for model in await client.provider_models("sandbox", credentials=keys)]
        with pytest.raises(KeyswitchError) as raised:
            await client.count_tokens(model="sandbox/echo", credentials=keys, messages="hi")
        assert raised.value.reason == "UNSUPPORTED_FEATURE"
        answer = await client.generate(model="sandbox/echo", credentials=keys, messages="hi", dialect="gemini")
        assert answer.text == "hi"

    def synchronous() -> None:
        with Client(server.address) as client:
            assert len(client.embed(["x"], model="sandbox/embed", credentials=keys).embeddings) == 1
            assert client.provider_models("sandbox", credentials=keys)[0].id == "sandbox/echo"
            with pytest.raises(KeyswitchError):
                client.count_tokens(model="sandbox/echo", credentials=keys, messages="hi")

    await asyncio.to_thread(synchronous)
