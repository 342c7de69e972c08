from __future__ import annotations

from collections.abc import Sequence

import grpc
import pytest
from cli.running import run
from keyswitch.v1 import error_pb2
from keyswitch_cli import credentials
from keyswitch_cli.failures import RpcFailed
from keyswitch_client import KeyswitchError
from support import ServerProcess

GIVE = {
    "azure": "give --credential azure.key=… --credential azure.resource=…, "
    "or --credential azure.token=… --credential azure.resource=…",
    "bedrock": "give --credential bedrock.access_key_id=… --credential bedrock.secret_access_key=…, "
    "or --credential bedrock.aws_bearer_token=…",
    "cloudflare": "give --credential cloudflare.token=… --credential cloudflare.account_id=…",
    "copilot": "give --credential copilot.token=…",
    "vertex": "give --credential vertex.service_account=…, or --credential vertex.token=… --credential vertex.project=…",
}


def shown(message: str, violations: Sequence[tuple[str, str]]) -> list[str]:
    """Return the lines that a refusal is shown by."""
    error = KeyswitchError(
        grpc.StatusCode.INVALID_ARGUMENT, message, error_pb2.DispatchFailure(), "INVALID_REQUEST", hint="a hint"
    )
    error.violations = tuple(violations)
    return RpcFailed(error).format_message().split("\n")


@pytest.mark.parametrize(
    ("message", "violations", "more"),
    [
        ("no such model", [("target.model", "no such model")], []),
        ("no such model" + "!" * 900, [("target.model", ("no such model" + "!" * 900)[:256])], []),
        ("target.model: too long", [("target.model", "too long")], []),
        ("tools: wrong (and 1 more)", [("tools", "wrong"), ("seed", "wrong")], ["  seed: wrong"]),
        ("not good", [("tools", "wrong"), ("seed", "odd")], ["  tools: wrong", "  seed: odd"]),
        ("not good", [], []),
    ],
)
def test_what_is_wrong_is_said_once(message: str, violations: list[tuple[str, str]], more: list[str]) -> None:
    """A violation that the message is made of is not repeated below it; all others are."""
    assert shown(message, violations) == [f"INVALID_REQUEST: {message}", *more, "  a hint"]


@pytest.mark.parametrize("provider", GIVE)
async def test_a_key_of_the_wrong_kind_says_which_options_give_the_right_one(provider: str) -> None:
    """A plain key for a provider that takes none is refused in words, with the options to give instead."""
    code, out, err = await run("explain", "--offline", "-p", provider, "-m", "m", "--api-key", f"{provider}=k")
    first, second = err.splitlines()
    assert (code, out, second) == (67, "", f"  {GIVE[provider]}")
    assert first.startswith(f"error: INVALID_REQUEST: credentials: {provider} takes a")
    assert first.endswith(", not an API key (api_key)")


@pytest.mark.parametrize(
    ("arguments", "err"),
    [
        (("-m", "no-such-model"), "error: UNROUTABLE_MODEL: no provider owns this model; name the provider too\n"),
        (
            ("-p", "azure", "-m", "m", "--api-key", "azure=k"),
            (
                "error: INVALID_REQUEST: credentials: azure takes an Azure API key or access token with its resource "
                f"(azure), not an API key (api_key)\n  {GIVE['azure']}\n"
            ),
        ),
    ],
)
async def test_a_refusal_of_a_server_reads_like_one_made_here(
    server: ServerProcess, arguments: tuple[str, ...], err: str
) -> None:
    """What is refused by a server is shown as what is refused offline: once, and with the same advice."""
    assert await run("explain", *arguments, server=server) == (67, "", err)
    assert await run("explain", "--offline", *arguments) == (67, "", err)


def test_advice_is_about_credentials_alone() -> None:
    """Another field, another reason and a provider that is not built in have none; what a credential lacks has."""
    assert credentials.advice("INVALID_REQUEST", "target.model", "azure") == ""
    assert credentials.advice("MISSING_CREDENTIAL", "credentials", "azure") == ""
    assert credentials.advice("INVALID_REQUEST", "credentials", "nobody") == ""
    assert credentials.advice("INVALID_REQUEST", "credentials", "") == ""
    assert credentials.advice("INVALID_REQUEST", "credentials", "groq") == (
        "give --api-key groq=…, or --credential groq.token=…"
    )


def test_what_a_kind_needs_makes_a_credential_of_that_kind() -> None:
    """The options that advice gives are understood as what it gives them for."""
    for kind in credentials.KINDS:
        parsed = credentials.parse((), [f"p.{field}=value" for field in kind.needed])["p"]
        for path in kind.needed.values():
            value: object = parsed
            for name in path.split("."):
                value = getattr(value, name)
            assert value == "value", path
