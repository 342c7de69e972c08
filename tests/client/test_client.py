from __future__ import annotations

import asyncio
import dataclasses
import json
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from keyswitch.v1 import conversation_pb2, credential_pb2, error_pb2, event_pb2, target_pb2, usage_pb2
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch_client import (
    ApiKey,
    ArgumentsDelta,
    AsyncClient,
    BearerToken,
    Client,
    CredentialError,
    DeadlineError,
    Finished,
    InvalidRequestError,
    KeyswitchError,
    RateLimitedError,
    Started,
    TextDelta,
    ToolCallStart,
    TruncatedError,
    UnavailableError,
)
from keyswitch_client.arguments import Arguments
from keyswitch_client.errors import BY_REASON, from_status
from keyswitch_client.requests import (
    Credentials,
    GenerateArguments,
    build,
    count_request,
    credential_messages,
    models_request,
)
from support import ServerProcess


@dataclasses.dataclass
class Script:
    """What the scripted server does, and what it saw."""

    responses: list[pb.StreamGenerateResponse] = dataclasses.field(default_factory=list)
    then: Callable[[Any], Any] | None = None
    calls: int = 0
    called: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    requests: list[pb.StreamGenerateRequest] = dataclasses.field(default_factory=list)


@pytest.fixture
async def scripted() -> AsyncIterator[tuple[str, Script]]:
    script = Script()

    async def stream(request: pb.StreamGenerateRequest, context: Any) -> None:
        script.calls += 1
        script.called.set()
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
        script.called.set()
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


@pytest.mark.parametrize("streamed", [False, True])
async def test_closing_the_client_fails_its_calls(scripted: tuple[str, Script], streamed: bool) -> None:
    """A call that its client's closing cancels raises CANCELLED: the task that waits for it is not cancelled."""
    address, script = scripted
    script.then = forever
    client = AsyncClient(address)
    task = asyncio.create_task(client.stream(messages="hi").final() if streamed else client.generate(messages="hi"))
    await script.called.wait()
    await client.close()
    with pytest.raises(KeyswitchError) as raised:
        await task
    assert raised.value.code is grpc.StatusCode.CANCELLED


@pytest.mark.parametrize("sync", [False, True])
async def test_a_stream_that_was_left_cannot_be_read(scripted: tuple[str, Script], sync: bool) -> None:
    """Reading on behind the block raises CANCELLED from both clients."""
    address, script = scripted
    script.responses, script.then = [events(STARTED)], forever

    def synchronous() -> None:
        with Client(address) as client:
            with client.stream(messages="hi") as stream:
                next(iter(stream))
            stream.final()

    async def asynchronous() -> None:
        async with AsyncClient(address) as client:
            async with client.stream(messages="hi") as stream:
                await anext(aiter(stream))
            await stream.final()

    with pytest.raises(KeyswitchError) as raised:
        await (asyncio.to_thread(synchronous) if sync else asynchronous())
    assert raised.value.code is grpc.StatusCode.CANCELLED


@pytest.mark.parametrize("streamed", [False, True])
async def test_cancelling_the_caller_is_no_failed_call(scripted: tuple[str, Script], streamed: bool) -> None:
    """A task that is cancelled while it waits for a call ends as asyncio wants it."""
    address, script = scripted
    script.then = forever
    async with AsyncClient(address) as client:
        task = asyncio.create_task(client.stream(messages="hi").final() if streamed else client.generate(messages="hi"))
        await script.called.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("sync", [False, True])
async def test_a_newer_servers_blocks_are_ignored(scripted: tuple[str, Script], sync: bool) -> None:
    """A block of an unknown kind leaves nothing in events and answer, whatever comes for it."""
    address, script = scripted
    unknown = event(block_start={"index": 1})
    script.responses = [
        events(STARTED, TEXT, unknown, delta(text="a"), delta(1, text="x"), delta(1, reasoning="x")),
        events(
            delta(1, media=b"x"), delta(1, citation={}), delta(1, logprobs={}), event(block_stop={"index": 1}), FINISHED
        ),
    ]
    stream, seen = await read_all(address, sync=sync)
    assert [getattr(item, "index", None) for item in seen] == [None, 0, 0, None]
    assert (stream.text, stream.answer.text, len(stream.answer.message.parts)) == ("a", "a", 1)


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
async def test_no_time_is_no_time(scripted: tuple[str, Script], sync: bool, streamed: bool) -> None:
    """A timeout of zero is not the default one: the call is over at once."""
    address, script = scripted
    script.then = forever

    def synchronous() -> None:
        with Client(address) as client:
            if streamed:
                client.stream(messages="hi", timeout=0).final()
            client.generate(messages="hi", timeout=0)

    async def asynchronous() -> None:
        async with AsyncClient(address) as client:
            if streamed:
                await client.stream(messages="hi", timeout=0).final()
            await client.generate(messages="hi", timeout=0)

    with pytest.raises(DeadlineError):
        await asyncio.wait_for(asyncio.to_thread(synchronous) if sync else asynchronous(), 10)


@pytest.mark.parametrize("seconds", [math.inf, 1e12])
async def test_endless_time_is_no_deadline(scripted: tuple[str, Script], seconds: float) -> None:
    """Seconds beyond what gRPC's clock can count do not end a call."""
    address, _ = scripted

    def synchronous() -> None:
        with Client(address) as client:
            client.generate(messages="hi", timeout=seconds)

    await asyncio.to_thread(synchronous)
    async with AsyncClient(address, timeout=seconds) as client:
        await client.generate(messages="hi")


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


def test_a_failure_of_a_newer_server_is_still_one() -> None:
    """An unknown origin is shown as its number, and a detail that cannot be read says nothing."""
    status = status_pb2.Status()
    status.details.add().Pack(error_pb2.DispatchFailure(origin=9, provider="p"))  # type: ignore[arg-type] # unknown
    status.details.add().Pack(error_details_pb2.ErrorInfo())
    status.details[1].value = b"\xff"
    error = from_status(grpc.StatusCode.UNAVAILABLE, "why", [("grpc-status-details-bin", status.SerializeToString())])
    assert (type(error), error.origin, error.provider, error.reason) == (UnavailableError, "9", "p", "")


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


def test_a_count_is_of_the_callers_request() -> None:
    """Everything of a ready message that a count has a field for is sent with it."""
    base = pb.GenerateRequest(tenant="t", fallbacks=[target_pb2.Target(model="m")], tools=[conversation_pb2.Tool()])
    base.system.add().text.text = "s"
    request = count_request(GenerateArguments(messages="hi", model="m", credentials={"p": "k"}, request=base))
    assert {field.name for field, _ in request.ListFields()} == set(pb.CountTokensRequest.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize(
    ("credentials", "sent"),
    [
        ({"openai": "1", "anthropic": "2"}, "1"),
        ({"anthropic": "2", "OpenAI": "1"}, "1"),
        ({"openai": [ApiKey("1", label="x"), ApiKey("2", label="y")]}, "1"),
        ({"an-alias": "1"}, "1"),
        ({}, ""),
    ],
)
def test_models_are_asked_for_with_their_providers_key(credentials: Credentials, sent: str) -> None:
    """Of several keys the named provider's first is sent; a single one is, whatever alias it is under."""
    request = models_request("openai", region="", credentials=credentials)
    assert request.credential.credential.api_key.key == sent


def test_no_other_providers_key_is_sent() -> None:
    """Several keys of which none is under the provider's name are refused, unseen."""
    with pytest.raises(ValueError, match="several providers, but none under 'openai'") as raised:
        models_request("openai", region="", credentials={"anthropic": "hidden", "groq": "hidden"})
    assert "hidden" not in str(raised.value)


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


async def test_a_services_name_has_a_limit(server: ServerProcess) -> None:
    """A name that no health request can hold is refused before anything is sent; the longest is asked for."""
    async with AsyncClient(server.address) as client:
        with pytest.raises(ValueError, match="at most 127 bytes"):
            await client.health("x" * 128)
        with pytest.raises(KeyswitchError) as raised:
            await client.health("x" * 127)
    assert raised.value.code is grpc.StatusCode.NOT_FOUND


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


def test_what_cannot_be_meant_as_attempts_is_refused() -> None:
    """A string is no sequence of fallbacks, and a count of tokens has no limits that could be kept."""
    with pytest.raises(TypeError, match="put a single one into a list"):
        build(pb.GenerateRequest, GenerateArguments(messages="hi", fallbacks="a/b"))
    for limits in (
        {"max_attempts": 2},
        {"hedge_after": 1.0},
        {"request": pb.GenerateRequest(limits={"max_attempts": 2})},
    ):
        arguments: dict[str, Any] = {"messages": "hi", **limits}
        with pytest.raises(TypeError, match="takes no limits"):
            count_request(GenerateArguments(**arguments))


async def test_embeddings_are_tried_as_often_and_elsewhere_as_asked(server: ServerProcess) -> None:
    """Fallbacks, tries and hedging of an embedding are those of any other call, from both clients."""
    keys = {"sandbox": "k", "groq": "k"}
    plan: dict[str, Any] = {"model": "sandbox/embed", "credentials": keys}
    elsewhere = target_pb2.Target(provider="groq", model="m")  # which embeds nothing
    async with AsyncClient(server.address) as client:
        with pytest.raises(KeyswitchError) as raised:
            await client.embed(["x"], fallbacks=[elsewhere], **plan)
        assert "fallbacks[0]" in raised.value.message
        with pytest.raises(KeyswitchError) as raised:
            await client.embed(["x"], max_attempts=1, hedge_after=1.0, **plan)
        assert raised.value.field == "limits.hedge_after"

    def synchronous() -> None:
        with Client(server.address) as client:
            with pytest.raises(KeyswitchError) as raised:
                client.embed(["x"], max_attempts=1, hedge_after=1.0, **plan)
            assert raised.value.field == "limits.hedge_after"
            assert client.embed(["x"], fallbacks=["sandbox/embed"], **plan).started.attempt == 1

    await asyncio.to_thread(synchronous)


async def test_routing_preferences_are_for_routers(client: AsyncClient) -> None:
    """The client passes them on; to a provider that is no router they are invalid, unless they wish nothing."""
    wishes = target_pb2.RoutingPreferences(only=["a"], sort_by=target_pb2.RoutingSort(by="latency"))
    with pytest.raises(InvalidRequestError) as raised:
        await client.generate(model="sandbox/echo", credentials={"sandbox": "k"}, messages="x", routing=wishes)
    assert (raised.value.reason, raised.value.field) == ("INVALID_REQUEST", "target.routing")
    nothing = target_pb2.RoutingPreferences()
    await client.generate(model="sandbox/echo", credentials={"sandbox": "k"}, messages="x", routing=nothing)
    explained = await client.explain(model="openrouter/auto", credentials={"openrouter": "k"}, routing=wishes)
    assert any("routing preferences" in reason for reason in explained.routes[0].reasons)


async def test_what_would_be_sent_is_explained_without_what_was_said(
    client: AsyncClient, server: ServerProcess
) -> None:
    """Both clients ask for the body; without asking there is none."""
    arguments: Arguments = {"model": "sandbox/echo", "credentials": {"sandbox": "k"}, "messages": "a secret"}
    body = (await client.explain(include_body=True, **arguments)).routes[0].body_json
    assert json.loads(body)["messages"] == [{"role": "user", "content": "…"}]
    assert not (await client.explain(**arguments)).routes[0].body_json
    with Client(server.address) as own:
        assert (await asyncio.to_thread(own.explain, include_body=True, **arguments)).routes[0].body_json == body


async def test_a_key_of_another_shape_is_a_warning(client: AsyncClient) -> None:
    """A key that looks like another provider's is pointed out, not refused, and not shown."""
    shaped = "gsk_" + "x" * 52
    response = await client.explain(provider="openai", credentials={"openai": shaped})
    assert list(response.routes[0].warnings) == ["the key for openai has the shape of a key for groq"]
    assert shaped not in str(response)


@pytest.mark.parametrize(("model", "verdict"), [("", 1), ("sandbox/echo", 1), ("sandbox/bad-key", 2),
                                                ("sandbox/payment-required", 3), ("sandbox/not-permitted", 4),
                                                ("sandbox/rate-limited", 5)])  # fmt: skip
async def test_a_credential_is_checked(client: AsyncClient, server: ServerProcess, model: str, verdict: int) -> None:
    """Both clients ask whether a key is good, by itself or for a model."""
    answer = await client.validate_credential("sandbox", model=model, credentials={"sandbox": "k"})
    assert answer.verdict == verdict
    with Client(server.address) as own:
        same = await asyncio.to_thread(own.validate_credential, "sandbox", model=model, credentials={"sandbox": "k"})
    assert same == answer
