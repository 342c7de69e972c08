from __future__ import annotations

import pytest
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch_client import Client, Endpoint
from keyswitch_client.locality import LocalMode, Place, are_private, is_local, place
from keyswitch_engine.egress_policy import EgressPolicy
from keyswitch_engine.errors import DispatchError, Reason

LOCAL = [
    "http://localhost:11434", "https://localhost/v1", "https://LOCALHOST./v1", "https://127.0.0.1:8443/v1",
    "https://127.9.9.9/v1", "https://[::1]:8000/v1", "https://[::ffff:127.0.0.1]/v1", "https://10.0.0.7/v1",
    "https://172.16.3.4", "https://192.168.1.20:1234/v1", "https://100.64.0.9/v1", "https://169.254.10.1/v1",
    "https://[fe80::1]/v1", "https://[fd00::17]/v1", "https://0.0.0.0/v1", "https://desk/v1", "https://desk.local/v1",
    "https://model.localhost/v1", "https://llm.corp.internal/v1", "https://nas.home.arpa", "http://desk:1234/v1",
    "  https://desk.local/v1 ",
]  # fmt: skip
REMOTE = [
    "https://models.example/v1", "https://8.8.8.8/v1", "https://[2606:4700::1111]/v1", "https://localhost.example/v1",
    "https://internal.example", "https://openrouter.ai:443/api/v1", "http://models.example/v1", "http://8.8.8.8/v1",
]  # fmt: skip
NO_URL = ["", "localhost:11434", "ftp://localhost", "file:///etc/passwd", "https://", "https://[::1", "not a url"]


@pytest.mark.parametrize("url", LOCAL)
def test_a_local_url_is_one_that_no_server_calls_by_default(url: str) -> None:
    """What is told to be local from its text is refused by the policy of a server that allows nothing beside."""
    assert is_local(url)
    policy, host = EgressPolicy(), url.strip()
    with pytest.raises(DispatchError) as raised:
        policy.admit(host)
        address = host.partition("://")[2].partition("/")[0]
        if not policy.allows_address(address.strip("[]") if address.startswith("[") else address.partition(":")[0]):
            raise DispatchError(Reason.BLOCKED_ENDPOINT, "by its address")
    assert raised.value.reason is Reason.BLOCKED_ENDPOINT


@pytest.mark.parametrize("url", [*REMOTE, *NO_URL])
def test_everything_else_is_the_servers(url: str) -> None:
    """A public host is not local, with TLS or without, and what is no URL the server refuses in its own words."""
    assert not is_local(url)


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["127.0.0.1", "::1"], True),
        (["10.1.2.3"], True),
        (["100.127.255.254"], True),
        (["100.128.0.1"], False),
        (["127.0.0.1", "8.8.8.8"], False),
        (["::ffff:8.8.8.8"], False),
        ([], False),
    ],
)
def test_a_name_is_private_if_all_its_addresses_are(addresses: list[str], expected: bool) -> None:
    """One public address makes a name public, and a name without addresses is none of ours."""
    assert are_private(addresses) is expected


def request(*urls: str) -> pb.GenerateRequest:
    """Return a request with a target, and fallbacks, at *urls*; an empty one is a provider's model."""
    asked = pb.GenerateRequest()
    for number, url in enumerate(urls):
        target = asked.fallbacks.add() if number else asked.target
        if url:
            target.custom_endpoint.CopyFrom(Endpoint(url, "m").message())
        else:
            target.model = "ollama/llama3"
    return asked


HERE_URL, FAR_URL = "http://127.0.0.1:8080", "https://models.example/v1"


@pytest.mark.parametrize(
    ("asked", "mode", "expected"),
    [
        (request(HERE_URL), "auto", Place.HERE),
        (request(HERE_URL, "http://desk:1234/v1"), "auto", Place.HERE),
        (request(FAR_URL), "auto", Place.SERVER),
        (request(""), "auto", Place.SERVER),
        (request("", ""), "auto", Place.SERVER),
        (request(HERE_URL, ""), "auto", Place.NOWHERE),
        (request("", HERE_URL), "auto", Place.NOWHERE),
        (request(HERE_URL, FAR_URL), "auto", Place.NOWHERE),
        (request(HERE_URL), "never", Place.SERVER),
        (request(HERE_URL, ""), "never", Place.SERVER),
        (request(FAR_URL), "always", Place.HERE),
        (request(""), "always", Place.HERE),
        (pb.ListProviderModelsRequest(provider="ollama"), "auto", Place.SERVER),
        (pb.ValidateCredentialRequest(), "auto", Place.SERVER),
        (pb.ListProviderModelsRequest(provider="ollama"), "always", Place.HERE),
    ],
)
def test_where_a_call_is_made(asked: object, mode: LocalMode, expected: Place) -> None:
    """Only local endpoints alone are called from here at once, a model of a provider is the server's to refuse first."""
    assert place(asked, mode) is expected


def test_a_mode_is_one_of_three() -> None:
    """A word that is none is refused when the client is made, not when a call is."""
    with pytest.raises(ValueError, match="local is one of auto, never, always"):
        Client(local="sometimes")  # type: ignore[arg-type] # which is the point


def test_an_endpoint_shows_no_key() -> None:
    """Neither the key nor the URL is in what an endpoint is shown as; the message has both."""
    endpoint = Endpoint("https://models.example/v1", "m", "canary-key", label="Desk")
    assert repr(endpoint) == "Endpoint(label='Desk', model='m')"
    message = endpoint.message()
    assert (message.base_url, message.credential.api_key.key) == (endpoint.base_url, "canary-key")
    assert Endpoint("https://models.example/v1", "m").message().credential.WhichOneof("kind") == "none"
