from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
from callers import KEYS, Secured, secured
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from issuer import Issuer
from keyswitch_client import AsyncClient, CallerError, KeyswitchError, RateLimitedError, TextDelta
from keyswitch_sandbox import Sandbox
from keyswitch_server.policies import POLICIES, Policy
from keyswitch_server.tokens import new_token

MENUS = {
    "blue": {"applies_to": ["blue"], "models": ["sandbox/echo"]},
    "red": {"applies_to": ["red/north"], "models": ["sandbox/tools"]},
}
LIMITS = {"limited": {"calls_per_minute": 3}, "narrow": {"concurrent_calls": 1}}


@pytest.fixture(scope="module")
async def known(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    env = {
        "PLATFORM_KEY": "the-operators-key",
        "KEYSWITCH_PLATFORM_KEYS": '{"sandbox": {"env": "PLATFORM_KEY"}}',
        "KEYSWITCH_MENUS": json.dumps(MENUS),
        "KEYSWITCH_CALLER_LIMITS": json.dumps(LIMITS),
    }
    async with secured(tmp_path_factory.mktemp("known"), sandbox, env) as running:
        yield running


async def refusal(client: AsyncClient) -> KeyswitchError:
    """Return what a client is told that may not call."""
    async with client:
        with pytest.raises(KeyswitchError) as raised:
            await client.registry_info()
    return raised.value


async def accepted(client: AsyncClient) -> bool:
    """Tell whether a client may call; any other failure is one of the test."""
    async with client:
        try:
            await client.registry_info()
        except CallerError as error:
            assert error.reason == "CALLER_UNAUTHENTICATED"
            return False
        return True


async def test_a_caller_is_known_by_token_and_by_jwt(known: Secured) -> None:
    """Both are let in, and the log says who it was; no token is in it."""
    signed = known.issuer.token("signed")
    for token in (known.tokens["blue"], signed):
        async with known.client(token) as client:
            answer = await client.generate(model="sandbox/echo", credentials=KEYS, messages="hello there")
        assert answer.text == "hello there"
    assert [line["caller"] for line in known.lines("call") if line["method"] == "Generate"][-2:] == ["blue", "signed"]
    assert not any(token in known.log() for token in (*known.tokens.values(), signed, signed.split(".")[2]))


async def test_every_call_of_a_caller_is_one_log_line(known: Secured) -> None:
    """Methods that dispatch nothing are logged too, with code, caller and milliseconds, whether they fail or not."""
    count = len(known.lines("call"))
    async with known.client(known.tokens["red"]) as client:
        await client.registry_info()
        await client.providers()
        await client.models(provider="sandbox")
        await client.explain(model="sandbox/echo", credentials=KEYS)
        await client.generate(model="sandbox/echo", credentials=KEYS, messages="x")
        with pytest.raises(KeyswitchError):
            await client.explain(model="sandbox/echo", credentials={"no-provider": "k"})
        with pytest.raises(KeyswitchError):
            await client.models(provider="nobody")
        metadata = (("authorization", f"Bearer {known.tokens['red']}"),)
        for method in ("Generate", "ExplainRoute"):
            with pytest.raises(grpc.aio.AioRpcError):
                await client._channel.unary_unary(f"/keyswitch.v1.DispatchService/{method}")(b"\xff", metadata=metadata)
    lines = known.lines("call")[count:]
    assert [(line["method"], line["code"]) for line in lines] == [
        ("GetRegistryInfo", "OK"), ("ListProviders", "OK"), ("ListModels", "OK"), ("ExplainRoute", "OK"), ("Generate", "OK"),
        ("ExplainRoute", "INVALID_ARGUMENT"), ("ListModels", "INVALID_ARGUMENT"),
        ("Generate", "INVALID_ARGUMENT"), ("ExplainRoute", "INVALID_ARGUMENT"),
    ]  # fmt: skip
    assert {line["caller"] for line in lines} == {"red"}
    assert all(line["duration_ms"] >= 0 for line in lines)


async def test_probes_are_logged_only_when_they_fail(known: Secured) -> None:
    """Health and reflection leave a line for a failure, and none for what they answer or whoever leaves."""
    count = len(known.lines("call"))
    metadata = (("authorization", f"Bearer {known.tokens['blue']}"),)
    async with known.client() as client:
        health = health_pb2_grpc.HealthStub(client._channel)
        await health.Check(health_pb2.HealthCheckRequest())
        watch = health.Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        watch.cancel()
        reflection = client._channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        assert await reflection(iter([b"\x3a\x00"]), metadata=metadata).read()
        with pytest.raises(grpc.aio.AioRpcError):
            await health.Check(health_pb2.HealthCheckRequest(service="nobody"))
        with pytest.raises(grpc.aio.AioRpcError):
            await reflection(iter([b"\xff"]), metadata=metadata).read()
    ends = [(line["method"], line["code"], line.get("caller")) for line in known.lines("call")[count:]]
    assert ends == [("Check", "NOT_FOUND", None), ("ServerReflectionInfo", "INVALID_ARGUMENT", "blue")]
    (listening,) = known.lines("listening")
    assert (listening["tls"], listening["authentication"]) == (True, ["tokens", "jwt"])


BAD: dict[str, Callable[[Issuer], str]] = {
    "unknown": lambda _: new_token(),
    "expired": lambda issuer: issuer.token(exp=int(time.time()) - 600),
    "wrong audience": lambda issuer: issuer.token(aud="other"),
    "wrong issuer": lambda issuer: issuer.token(iss="other"),
    "no signature": lambda issuer: issuer.unsigned(),
    "public key as secret": lambda issuer: issuer.confused(),
    "wrong kind of key": lambda issuer: issuer.token(algorithm="RS256", kid="ec-one"),
    "unknown key": lambda issuer: issuer.token(kid="none"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_token_is_unauthenticated_and_not_told_why(known: Secured, name: str) -> None:
    """All are refused alike, for good and with details; the reason is the operator's to read."""
    token = BAD[name](known.issuer)
    error = await refusal(known.client(token))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CALLER_UNAUTHENTICATED")
    assert (error.message, error.retryable, error.origin) == ("the token is unknown or expired", False, "CALLER")
    line = known.lines("call")[-1]
    assert (line["code"], line["method"]) == ("UNAUTHENTICATED", "GetRegistryInfo")
    assert line["problem"]
    assert "caller" not in line
    assert token not in known.log()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], "send a token"),
        (["Bearer TOKEN", "Bearer TOKEN"], "not several"),
        (["Bearer TOKEN,Bearer TOKEN"], "has to be 'Bearer' and one token"),
        (["Bearer TOKEN extra"], "has to be 'Bearer' and one token"),
        (["Bearer"], "has to be 'Bearer' and one token"),
        (["Basic TOKEN"], "has to be 'Bearer' and one token"),
        (["TOKEN"], "has to be 'Bearer' and one token"),
    ],
)
async def test_an_authorization_is_one_bearer_token(known: Secured, values: list[str], words: str) -> None:
    """None, two, and other kinds are refused with what to send; a good token among them does not help."""
    metadata = tuple(("authorization", value.replace("TOKEN", known.tokens["blue"])) for value in values)
    async with known.client() as client:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await client._channel.unary_unary("/keyswitch.v1.RegistryService/GetRegistryInfo")(b"", metadata=metadata)
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert words in (raised.value.details() or "")


async def test_tokens_are_exchanged_without_a_restart(known: Secured) -> None:
    """A second token of a caller is taken up, then the first is refused, while the server runs."""
    first, second = known.tokens["red"], new_token()
    others = {"blue": [known.tokens["blue"]]}
    known.put_tokens(others | {"red": [first, second]})
    async with asyncio.timeout(10):
        while not await accepted(known.client(second)):
            await asyncio.sleep(0.05)
    assert await accepted(known.client(first))
    known.put_tokens(others | {"red": [second]})
    async with asyncio.timeout(10):
        while await accepted(known.client(first)):
            await asyncio.sleep(0.05)
    assert await accepted(known.client(second))
    known.tokens["red"] = second


async def served_methods(known: Secured) -> list[str]:
    """Return the full name of every method that the server describes."""
    async with known.client(known.tokens["blue"]) as client:
        call = client._channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )(metadata=client._metadata)
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = (await call.read()).list_services_response.service
        methods = []
        for service in listed:
            await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=service.name))
            files = (await call.read()).file_descriptor_response.file_descriptor_proto  # with what they import
            methods += [
                f"/{service.name}/{method.name}"
                for described in map(descriptor_pb2.FileDescriptorProto.FromString, files)
                for row in described.service
                for method in row.method
                if f"{described.package}.{row.name}" == service.name
            ]
        call.cancel()
    return [*methods, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"]


async def test_every_method_has_a_policy_and_nobody_else_gets_in(known: Secured) -> None:
    """What is served and what has a policy are the same; without a token only health answers."""
    methods = await served_methods(known)
    assert sorted(methods) == sorted(POLICIES)
    assert {name for name, policy in POLICIES.items() if policy is Policy.OPEN} == {
        "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/List", "/grpc.health.v1.Health/Watch",
    }  # fmt: skip
    async with known.client() as client:
        for method in methods:
            call = client._channel.unary_stream(method)(
                b"", timeout=5
            )  # several would be one too many for gRPC's client
            answer: object
            try:
                answer = "answered" if await call.read() is not grpc.aio.EOF else await call.code()
            except grpc.aio.AioRpcError as error:
                answer = error.code()
            call.cancel()
            expected = "answered" if POLICIES[method] is Policy.OPEN else grpc.StatusCode.UNAUTHENTICATED
            assert answer == expected, method


async def test_callers_have_the_menus_that_apply_to_them(known: Secured) -> None:
    """The operator's key serves each caller its own menu, in answers, explanations and lists; tenants are its own."""
    async with known.client(known.tokens["blue"]) as blue, known.client(known.tokens["red"]) as red:
        answer = await blue.generate(model="sandbox/echo", allow_platform=True, messages="on the house")
        assert answer.text == "on the house"
        for other, tenant in ((red, ""), (red, "north"), (red, "blue")):
            with pytest.raises(KeyswitchError) as raised:
                await other.generate(model="sandbox/echo", allow_platform=True, tenant=tenant, messages="x")
            assert raised.value.reason == "PLATFORM_NOT_ALLOWED"
            with pytest.raises(KeyswitchError) as raised:
                await other.explain(model="sandbox/echo", allow_platform=True, tenant=tenant)
            assert raised.value.reason == "PLATFORM_NOT_ALLOWED"
        assert (await blue.explain(model="sandbox/echo", allow_platform=True)).routes[0].provider == "sandbox"
        assert (await red.explain(model="sandbox/tools", allow_platform=True, tenant="north")).routes
        menus = [
            [model.id for model in await client.models(allow_platform=True, tenant=tenant)]
            for client, tenant in ((blue, ""), (red, ""), (red, "north"))
        ]
    assert menus[0] == ["sandbox/echo"]
    assert menus[1] == []
    assert menus[2] == ["sandbox/tools"]


async def test_one_callers_flood_is_refused_and_touches_nobody_else(known: Secured) -> None:
    """Over its rate a caller is CALLER_LIMITED with a time to wait; another one, and health, answer all the while."""
    flood = known.issuer.token("limited")
    async with (
        known.client(flood, retries=False) as flooding,
        known.client(known.tokens["blue"]) as other,
        known.client() as nobody,
    ):
        results = await asyncio.gather(*(flooding.registry_info() for _ in range(40)), return_exceptions=True)
        refused = [result for result in results if isinstance(result, RateLimitedError)]
        assert len(refused) == 37
        assert {(error.reason, error.retryable, error.code) for error in refused} == {
            ("CALLER_LIMITED", True, grpc.StatusCode.RESOURCE_EXHAUSTED)
        }
        assert all(error.retry_after is not None and 15 < error.retry_after <= 20 for error in refused)
        for _ in range(20):
            await other.registry_info()
            assert await nobody.health() == "SERVING"
        assert await flooding.health() == "SERVING"


async def test_calls_at_once_are_limited_by_caller(known: Secured) -> None:
    """A caller that may make one call at a time is refused a second one, until the first is over; others are not."""
    async with (
        known.client(known.issuer.token("narrow"), retries=False) as narrow,
        known.client(known.tokens["blue"]) as other,
    ):
        async with narrow.stream(model="sandbox/stall-mid-stream", credentials=KEYS, messages="a b c d") as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    break
            with pytest.raises(RateLimitedError) as raised:
                await narrow.registry_info()
            assert (raised.value.reason, raised.value.retry_after) == ("CALLER_LIMITED", 1.0)
            await other.registry_info()
            assert await narrow.health() == "SERVING"
        async with asyncio.timeout(5):
            while True:
                try:
                    await narrow.registry_info()
                    break
                except RateLimitedError:
                    await asyncio.sleep(0.02)


async def test_health_is_open(known: Secured) -> None:
    """Probes check, list and watch without a token."""
    async with known.client() as client:
        stub = health_pb2_grpc.HealthStub(client._channel)
        serving = health_pb2.HealthCheckResponse.SERVING
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == serving
        assert (await stub.List(health_pb2.HealthListRequest())).statuses[""].status == serving
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == serving
        watch.cancel()


async def test_keys_of_an_issuer_rotate_under_load(sandbox: Sandbox, known: Secured) -> None:
    """Calls go on while the issuer's keys are exchanged, with old tokens and at once with new ones; none fails."""
    renewed = Issuer("two")
    stop = asyncio.Event()
    current: list[Issuer] = [known.issuer]
    made = 0

    async def load() -> None:
        nonlocal made
        async with known.client(retries=False) as client:
            while not stop.is_set():
                client._metadata = (("authorization", f"Bearer {current[-1].token('loader')}"),)
                await client.registry_info()
                made += 1

    async def so_many(more: int) -> None:
        target = made + more
        async with asyncio.timeout(30):
            while made < target:
                await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(load())
        await so_many(50)
        known.put_keys(known.issuer, renewed)
        current.append(renewed)  # the first token by the new key comes before anybody could have looked at the file
        await so_many(100)
        known.put_keys(renewed)
        await so_many(100)
        stop.set()
    error = await refusal(known.client(known.issuer.token(kid="ec-none")))  # which looks at the file
    assert error.reason == "CALLER_UNAUTHENTICATED"
    error = await refusal(known.client(known.issuer.token()))
    assert error.message == "the token is unknown or expired"
    known.issuer = renewed


async def test_what_does_not_load_changes_nothing(known: Secured) -> None:
    """A file of tokens that becomes nonsense is logged by its reason, and the tokens in force stay."""
    good = (known.folder / "tokens.toml").read_text()
    (known.folder / "tokens.toml").write_text('blue = ["nonsense"]')
    async with asyncio.timeout(10):
        while not (bad := known.lines("file not reloaded")):
            await asyncio.sleep(0.02)
    assert (bad[0]["setting"], "nonsense" in known.log()) == ("tokens", False)
    assert "expected 'sha256:'" in bad[0]["problem"]
    assert await accepted(known.client(known.tokens["blue"]))
    (known.folder / "tokens.toml").write_text(good)
