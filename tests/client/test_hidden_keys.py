from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from canaries import canary, found, shown_error
from keyswitch_client import ApiKey, AsyncClient, BearerToken, Client

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
