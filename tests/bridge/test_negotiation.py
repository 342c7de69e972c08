from __future__ import annotations

import pytest
from keyswitch_bridge.negotiation import MIN_CLIENT_VERSION, is_older, refuse_old_client
from keyswitch_engine.errors import DispatchError, Reason


@pytest.mark.parametrize(
    ("version", "minimum", "older"),
    [
        ("0.1", "0.1.0", False),
        ("0.1.0", "0.1", False),
        ("0.1.0.0", "0.1.0", False),
        ("0", "0.0.0", False),
        ("0.0.9", "0.1.0", True),
        ("0.9.0", "0.10.0", True),
        ("0.10.0", "0.9.0", False),
        ("1", "0.9.9", False),
        ("0.1.0rc1", "0.1.0", False),
        ("0.1.0.dev3", "0.1.0", False),
        ("0.0.9.post1", "0.1.0", True),
        ("0.1.0+local.1", "0.1.0", False),
        ("", "0.1.0", False),
        ("unknown", "0.1.0", False),
        ("0.0.1", "", False),
        ("9" * 5000, "1.0", False),
    ],
)
def test_versions_are_compared_by_their_numbers(version: str, minimum: str, older: bool) -> None:
    """Zeros at the end count for nothing, nor does what follows the numbers; what has none is not older."""
    assert is_older(version, minimum) is older


@pytest.mark.parametrize("version", ["0.0.9", "0.0.99rc1", "0", "0.0.9+own.build"])
def test_an_old_client_is_told_both_versions(version: str) -> None:
    """The refusal names what came, what is needed, and what to do."""
    with pytest.raises(DispatchError) as raised:
        refuse_old_client(f"keyswitch-python/{version} grpc-python-asyncio/1.80.0 grpc-c/50.0.0 (linux; chttp2)")
    assert raised.value.reason is Reason.CLIENT_TOO_OLD
    assert str(raised.value) == (
        f"the client library is version {version}, this server needs {MIN_CLIENT_VERSION} or newer: "
        "upgrade the client's package keyswitch"
    )


@pytest.mark.parametrize(
    "agent",
    ["", "keyswitch-python", "keyswitch-python/unknown", "keyswitch-python/0.1", "keyswitch-python/0.1.0rc1",
     "keyswitch-python/12.0", "keyswitch-go/0.0.1", "grpcurl/v1.9.1", "grpc-go/0.0.1"],
)  # fmt: skip
def test_other_clients_pass(agent: str) -> None:
    """Only this project's library of a known and older version is refused."""
    refuse_old_client(agent)
