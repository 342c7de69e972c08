from __future__ import annotations

import asyncio
import functools
import importlib.resources
import json
import pathlib
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from canaries import canary, found, shown_error
from keyswitch_client import ApiKey, AsyncClient, BearerToken, Client, Endpoint, KeyswitchError, LocalOptions
from keyswitch_client.locality import LocalMode
from keyswitch_sandbox import Sandbox
from support import ServerProcess, http_provider, server_process

NOBODY = "127.0.0.1:1"
WRONG: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "unreachable": ({}, Exception),
    "unknown-argument": ({"no_such": 1}, TypeError),
    "bad-effort": ({"reasoning_effort": "huge"}, ValueError),
    "fallbacks": ({"fallbacks": "one"}, TypeError),
}


def key_forms() -> dict[str, Any]:
    return {"text": canary(), "api_key": ApiKey(canary()), "list": [ApiKey(canary()), BearerToken(canary())]}


def raised_by(call: Callable[[Any], object], key: Any) -> Exception:
    """Return what a call raises, without the frame that made it: its variables are the test's."""
    with pytest.raises(Exception) as raised:  # noqa: PT011 - the caller looks at it
        call(key)
    return raised.value


@pytest.mark.parametrize("form", key_forms())
@pytest.mark.parametrize("wrong", WRONG)
def test_no_exception_of_the_client_shows_a_key(wrong: str, form: str) -> None:
    """Whatever a call raises, neither it nor what is behind it nor a variable of the library on its way has the key."""
    more, kind = WRONG[wrong]
    with Client(NOBODY, timeout=0.5) as client:
        for call in (
            lambda key: client.generate(model="m", messages="x", credentials={"p": key}, **more),
            lambda key: client.stream(model="m", messages="x", credentials={"p": key}, **more).final(),
            lambda key: client.explain(model="m", messages="x", credentials={"p": key}, **more),
            lambda key: client.count_tokens(model="m", messages="x", credentials={"p": key}, **more),
        ):
            error = raised_by(call, key_forms()[form])
            assert isinstance(error, kind)
            assert not [hit for text in shown_error(error) for hit in found("shown", text)]


@pytest.mark.parametrize("form", key_forms())
async def test_no_exception_of_the_asynchronous_client_shows_a_key(form: str) -> None:
    """Nor does the asynchronous client, for calls that take their keys as they are."""
    calls: tuple[Callable[[AsyncClient, Any], Awaitable[object]], ...] = (
        lambda client, key: client.embed(["x"], model="m", credentials={"p": key}),
        lambda client, key: client.embed(["x"], model="m", credentials={"p": key}, fallbacks="one"),
        lambda client, key: client.provider_models("p", credentials={"p": key}),
        lambda client, key: client.provider_models("p", credentials={"q": key, "r": key}),
        lambda client, key: client.validate_credential("p", credentials={"p": key}),
    )
    async with AsyncClient(NOBODY, timeout=0.5) as client:
        for call in calls:
            with pytest.raises(Exception) as raised:  # noqa: PT011 - it is looked at
                await call(client, key_forms()[form])
            assert not [hit for text in shown_error(raised.value) for hit in found("shown", text)]


@pytest.mark.parametrize("kind", [str, ApiKey, BearerToken])
def test_a_key_that_is_no_text_is_refused_without_being_shown(kind: Any) -> None:
    """Half a surrogate pair cannot be sent; protobuf's own error about it holds the whole key."""
    with Client(NOBODY) as client:
        error = raised_by(lambda key: client.generate(messages="x", credentials={"p": key}), kind(f"{canary()}\udc80"))
    assert "no text in Unicode" in str(error)
    assert error.__cause__ is error.__context__ is None
    shown = "".join(traceback.format_exception(error)) + "".join(shown_error(error))
    assert not found("shown", shown)


@pytest.mark.parametrize("make", [lambda key: Endpoint("http://a", "m", key), lambda key: Endpoint(key, "m")])
def test_an_endpoint_that_is_no_text_is_refused_without_being_shown(make: Callable[[str], Endpoint]) -> None:
    """The same goes for an endpoint's key, and for its URL, which may hold one by mistake."""
    with Client(NOBODY) as client:
        error = raised_by(lambda key: client.generate(endpoint=make(key), messages="x"), f"{canary()}\udc80")
    assert str(error) == "the URL or the key of an endpoint holds something that is no text in Unicode"
    assert shown(error) == []


def shown(error: BaseException) -> list[str]:
    """Return every key that an exception, or anything behind it, shows."""
    return [hit for text in shown_error(error) for hit in found("shown", text)]


async def rejects(request: web.Request) -> web.StreamResponse:
    """Answer as who does not know the key."""
    return web.json_response({"error": {"message": "no such key"}}, status=401)


async def stalls(request: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError


def calls_to(url: str) -> list[Callable[[Any, str], Any]]:
    """Return a call of every kind: to an endpoint, and to a provider."""

    def keyed(key: str) -> dict[str, Any]:
        return {"model": "sandbox/m", "credentials": {"sandbox": key}, "max_attempts": 1}

    return [
        lambda client, key: client.generate(endpoint=Endpoint(url, "m", key), messages="x", max_attempts=1),
        lambda client, key: client.stream(endpoint=Endpoint(url, "m", key), messages="x", max_attempts=1).final(),
        lambda client, key: client.generate(**keyed(key), messages="x"),
        lambda client, key: client.stream(**keyed(key), messages="x").final(),
        lambda client, key: client.embed(["x"], **keyed(key)),
    ]


def rows_at(url: str, folder: pathlib.Path) -> tuple[pathlib.Path]:
    """Lay down a row of the user's own for that provider, and return its folder."""
    row = importlib.resources.files("keyswitch_engine").joinpath("providers/sandbox.toml").read_text()
    (folder / "sandbox.toml").write_text(row.replace("http://127.0.0.1:50552", url))
    return (folder,)


@pytest.mark.parametrize("mode", ["auto", "always"])
@pytest.mark.parametrize(
    ("answer", "reason"),
    [(None, "PROVIDER_UNAVAILABLE"), (rejects, "INVALID_CREDENTIAL"), (stalls, "TOTAL_TIMEOUT")],
)
async def test_no_exception_of_a_call_made_here_shows_a_key(
    answer: Any, reason: str, mode: LocalMode, tmp_path: pathlib.Path
) -> None:
    """Unreachable, rejected or timed out, whole or streamed: nothing of the engine that holds the key is behind it."""

    def sync() -> list[BaseException]:
        with Client(NOBODY, timeout=0.5, retries=False, local=local) as client:
            return [raised_by(functools.partial(call, client), canary()) for call in calls]

    async with http_provider(answer or rejects) as running:
        url = running if answer else "http://127.0.0.1:9"
        calls, local = calls_to(url), LocalOptions(mode=mode, providers=rows_at(url, tmp_path))
        errors = await asyncio.to_thread(sync)
        async with AsyncClient(NOBODY, timeout=0.5, retries=False, local=local) as client:
            for call in calls:
                with pytest.raises(KeyswitchError) as raised:
                    await call(client, canary())
                errors.append(raised.value)
    assert [getattr(error, "reason", error) for error in errors] == [reason] * len(errors)
    assert [hit for error in errors for hit in shown(error)] == []
    behind = [error.__context__ for error in errors if error.__context__ is not None]
    assert [(each.__context__, each.__traceback__) for each in behind] == [(None, None)] * len(behind)


async def test_a_refusal_that_stands_shows_neither_key_nor_token(tmp_path: pathlib.Path) -> None:
    """Nothing of the comparison with this installation's rows, which had the request, is behind the server's refusal."""
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
    local = LocalOptions(providers=rows_at("http://127.0.0.1:9", tmp_path / "mine"))
    theirs = rows_at("http://127.0.0.1:8", tmp_path / "theirs")

    def sync(address: str) -> list[BaseException]:
        with Client(address, token=canary(), local=local) as client:
            return [raised_by(functools.partial(call, client), canary()) for call in calls]

    calls = calls_to("http://127.0.0.1:9")[2:]
    async with server_process(tmp_path, {"KEYSWITCH_PROVIDERS": json.dumps([str(theirs[0])])}) as server:
        errors = await asyncio.to_thread(sync, server.address)
        async with AsyncClient(server.address, token=canary(), local=local) as client:
            for call in calls:
                with pytest.raises(KeyswitchError) as raised:
                    await call(client, canary())
                errors.append(raised.value)
    said = "not dispatched from this machine: its rows lead to http://127.0.0.1:9"
    assert [getattr(error, "hint", error)[: len(said)] for error in errors] == [said] * 6
    assert [hit for error in errors for hit in shown(error)] == []
    behind = [error.__context__ for error in errors if error.__context__ is not None]
    assert [(each.__context__, each.__traceback__) for each in behind] == [(None, None)] * len(behind)


@pytest.mark.parametrize("closed", [False, True])
async def test_a_call_made_here_that_is_left_shows_no_key(closed: bool) -> None:
    """Neither its caller's cancellation nor that of a client that is closed has the engine behind it."""
    async with Sandbox(model_server=True) as running:
        endpoint = functools.partial(Endpoint, running.url, "sandbox/stall")
        for streamed in (False, True):
            client, begun = AsyncClient(NOBODY, local="auto"), len(list(running.journal))
            asked: dict[str, Any] = {"endpoint": endpoint(canary()), "messages": "x"}
            call = asyncio.ensure_future(client.stream(**asked).final() if streamed else client.generate(**asked))
            await running.journal.wait_for(lambda journal, begun=begun: len(list(journal)) > begun, 5)  # type: ignore[misc] # its default binds the loop's variable
            await client.close() if closed else call.cancel()
            with pytest.raises(KeyswitchError if closed else asyncio.CancelledError) as raised:
                await call
            assert shown(raised.value) == []
            await client.close()


async def test_no_exception_shows_the_callers_token(server: ServerProcess) -> None:
    """Refused by the server, unreachable, closed or never made: no variable on the way has the token."""
    errors: list[BaseException] = []

    def sync(address: str) -> None:
        client = Client(address, token=canary(), timeout=2, retries=False)
        calls: tuple[Callable[[], object], ...] = (
            lambda: client.generate(model="nope/x", messages="x"),
            lambda: client.stream(model="nope/x", messages="x").final(),
            lambda: client.explain(model="nope/x", messages="x"),
            lambda: client.health("nope"),
        )
        for close in (False, True):
            for call in calls:
                with pytest.raises(Exception) as raised:  # noqa: PT011 - it is looked at
                    call()
                errors.append(raised.value)
            if not close:
                client.close()

    for address in (server.address, NOBODY):
        await asyncio.to_thread(sync, address)
        async with AsyncClient(address, token=canary(), timeout=2, retries=False) as client:
            for call in (
                client.generate(model="nope/x", messages="x"),
                client.stream(model="nope/x", messages="x").final(),
                client.health("nope"),
            ):
                with pytest.raises(KeyswitchError) as raised:
                    await call
                errors.append(raised.value)
    assert [hit for error in errors for hit in shown(error)] == []


@pytest.mark.parametrize("kind", [AsyncClient, Client])
async def test_a_token_that_is_no_text_is_refused_without_being_shown(kind: Callable[..., Any]) -> None:
    """Bytes are a mistake that is easily made with a file; the frame that refuses them has none."""
    with pytest.raises(TypeError, match=r"^a token is text$") as raised:
        kind(NOBODY, token=canary().encode())
    assert shown(raised.value) == []


@pytest.mark.parametrize("kind", [AsyncClient, Client])
@pytest.mark.parametrize(
    ("target", "wrong"),
    [("10.9.9.9:1", {}), (NOBODY, {"token": f"{canary()} "}), (NOBODY, {"local": "sometimes"})],
)
async def test_a_client_that_is_not_made_shows_no_token(
    kind: Callable[..., Any], target: str, wrong: dict[str, Any]
) -> None:
    """Whatever is wrong with its arguments, the traceback has neither the token nor a client that cannot be shown."""
    with pytest.raises(ValueError, match=r"without TLS|a token has|local is one of") as raised:
        kind(target, **{"token": canary()} | wrong)
    assert shown(raised.value) == []
    frame = raised.tb.tb_next.tb_frame  # type: ignore[union-attr] # the client's own
    assert repr(frame.f_locals["self"]) == f"{kind.__name__}({target!r})"
    assert "[secret]" in f"{frame.f_locals['token']!r}{frame.f_locals['token'][:9]!r}"
