from __future__ import annotations

import pytest
from keyswitch_engine.credential import ApiKey, AwsBearerToken, Credential, NoCredential
from keyswitch_engine.custom_endpoint import CustomEndpoint, endpoint_id, provider_at
from keyswitch_engine.errors import DispatchError, InvalidRequest, Reason
from keyswitch_engine.registry import Registry, load
from keyswitch_engine.route import Target
from keyswitch_engine.routing import resolve
from keyswitch_engine.secret import Secret


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load()


def at_endpoint(credential: Credential, dialect: str = "openai-chat") -> CustomEndpoint:
    return CustomEndpoint("https://gateway.example/v1", "m", credential, dialect=dialect)


def test_an_endpoint_is_authenticated_as_its_dialect_is(registry: Registry) -> None:
    """Anthropic's protocol takes the key in a header of its own, with the version; the others take a bearer token."""
    key = ApiKey(Secret("k"))
    shown = {}
    for dialect in ("openai-chat", "openai-responses", "anthropic-messages"):
        route = resolve(registry, Target(custom_endpoint=at_endpoint(key, dialect)), [])
        shown[dialect] = (route.provider.auth.style, route.provider.auth.header, route.surface.headers)
    assert shown == {
        "openai-chat": ("bearer", "", {}),
        "openai-responses": ("bearer", "", {}),
        "anthropic-messages": ("header", "x-api-key", {"anthropic-version": "2023-06-01"}),
    }


@pytest.mark.parametrize(
    ("target", "field"),
    [
        (Target(custom_endpoint=at_endpoint(AwsBearerToken(Secret("k")))), "target.custom_endpoint.credential"),
        (Target(custom_endpoint=at_endpoint(NoCredential()), routing={"order": ["a"]}), "target.routing"),
        (Target(custom_endpoint=at_endpoint(NoCredential(), "gemini")), "target.custom_endpoint.dialect"),
    ],
)
def test_what_no_endpoint_takes_is_refused(registry: Registry, target: Target, field: str) -> None:
    """A signing key belongs to its cloud, preferences to routers, and other dialects to providers that have a file."""
    with pytest.raises(DispatchError) as raised:
        resolve(registry, target, [])
    assert (raised.value.reason, raised.value.field) == (Reason.INVALID_REQUEST, field)


def test_an_endpoint_shares_nothing_with_another_but_its_url(registry: Registry) -> None:
    """Two callers of one URL keep their own labels and keys, although what is built of the URL is remembered."""
    routes = [
        resolve(
            registry, Target(custom_endpoint=CustomEndpoint("https://gw.example", "m", ApiKey(Secret(key)), key)), []
        )
        for key in ("one", "two")
    ]
    assert [route.provider.name for route in routes] == ["one", "two"]
    assert [route.credential for route in routes] == [ApiKey(Secret("one")), ApiKey(Secret("two"))]


def test_ids_of_endpoints_tell_apart_what_only_reads_alike() -> None:
    """Where the URL ends and the model begins is a part of the id, which is the same in every process and version."""
    assert endpoint_id("https://gw.example/v1", "m") == endpoint_id("https://gw.example/v1", "m")
    assert endpoint_id("https://gw.example/v1", "m") != endpoint_id("https://gw.example/v", "1m")
    assert endpoint_id("https://models.example/v1", "m") == "6aabf68f63c1e1be"


def test_an_id_does_not_depend_on_how_a_url_is_written() -> None:
    """Case, a final dot or slash, the port that goes without saying, and the dialect's own path make no other endpoint."""
    forms = (
        "https://h.example/v1",
        "https://H.example./v1/",
        "https://h.example:443",
        "https://h.example/v1/chat/completions",
    )
    ids = {endpoint_id(provider_at(CustomEndpoint(form, "m", NoCredential())).base_url, "m") for form in forms}
    assert len(ids) == 1


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses/", "/V1/Messages"])
def test_a_path_of_another_dialect_is_refused(path: str) -> None:
    """It is not taken for a folder below which chat completions are."""
    with pytest.raises(InvalidRequest) as raised:
        provider_at(CustomEndpoint(f"https://h.example{path}", "m", NoCredential()))
    assert "its path is that of the dialect" in raised.value.message


@pytest.mark.parametrize(
    ("dialect", "path", "own"),
    [
        ("openai-chat", "/V1/Chat/Completions", "/chat/completions"),
        ("openai-chat", "/v1/Chat/Completions/chat/completions", "/chat/completions"),
        ("openai-chat", "/v1/chat/completions/chat/completions", "/chat/completions"),
        ("openai-responses", "/v1/RESPONSES/", "/responses"),
        ("anthropic-messages", "/v1/Messages", "/messages"),
    ],
)
def test_a_path_that_would_be_there_twice_is_refused(dialect: str, path: str, own: str) -> None:
    """Paths have their case: the dialect's own in another one is neither dropped nor joined to, but told of."""
    with pytest.raises(InvalidRequest) as raised:
        provider_at(CustomEndpoint(f"https://h.example{path}", "m", NoCredential(), dialect=dialect))
    assert f"its path may end in {own}, once and written so" in raised.value.message


def test_a_version_is_one_in_either_case() -> None:
    """A version in capitals stays as it is written, and none is put behind it."""
    endpoint = CustomEndpoint("https://h.example/V1", "m", NoCredential(), dialect="anthropic-messages")
    assert provider_at(endpoint).base_url == "https://h.example/V1"
