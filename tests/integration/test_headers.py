"""What becomes a header, at a real listener: refused before anything is sent, or exactly what it says."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from keyswitch.v1 import credential_pb2 as pb
from keyswitch.v1 import dispatch_service_pb2
from keyswitch.v1.dispatch_service_pb2_grpc import DispatchServiceStub
from keyswitch_client import AsyncClient, InvalidRequestError
from keyswitch_client.errors import from_status
from keyswitch_engine.auth import Authenticator
from keyswitch_engine.credential import (
    ApiKey,
    AwsAccessKey,
    AwsBearerToken,
    AzureAccessToken,
    AzureApiKey,
    BearerToken,
    CloudflareToken,
    Credential,
    GoogleAccessToken,
)
from keyswitch_engine.egress import Egress, EgressPolicy, Timing
from keyswitch_engine.errors import InvalidRequest
from keyswitch_engine.provider import Auth
from keyswitch_engine.secret import Secret

BAD = {
    "cr-lf": "c4n4ry\r\nX-Injected: 1", "lf": "c4n4ry\nX-Injected: 1", "cr": "c4n4ry\rX-Injected: 1", "nul": "c4n4ry\0",
    "tab": "c4n4ry\tx", "space": "c4n4ry x", "folded": "c4n4ry\r\n x", "non-ascii": "c4n4ry-é", "wide": "c4n4ry-Ā\u010a",
    "delete": "c4n4ry\x7f", "separator": "c4n4ry\u2028X-Injected: 1", "long": "c4n4ry" * 700,
}  # fmt: skip


def kinds(value: str) -> dict[str, pb.Credential]:
    """Return a credential for every field that becomes a header or a part of a URL, with *value* in that one."""
    token, key = pb.BearerToken(token=value), pb.ApiKey(key=value)
    fine, aws = pb.BearerToken(token="t"), {"access_key_id": "a", "secret_access_key": "s"}
    return {
        "api_key.key": pb.Credential(api_key=key),
        "api_key.organization": pb.Credential(api_key=pb.ApiKey(key="k", organization=value)),
        "api_key.project": pb.Credential(api_key=pb.ApiKey(key="k", project=value)),
        "bearer_token.token": pb.Credential(bearer_token=token),
        **{
            f"aws.access_key.{name}": pb.Credential(
                aws=pb.AwsCredential(access_key=pb.AwsAccessKey(**aws | {name: value}))
            )
            for name in ("access_key_id", "secret_access_key", "session_token")
        },
        "aws.bearer_token.token": pb.Credential(aws=pb.AwsCredential(bearer_token=token)),
        "google.access_token.token": pb.Credential(google=pb.GoogleCredential(access_token=token)),
        "google.project": pb.Credential(google=pb.GoogleCredential(access_token=fine, project=value)),
        "azure.api_key.key": pb.Credential(azure=pb.AzureCredential(api_key=key, resource="r")),
        "azure.access_token.token": pb.Credential(azure=pb.AzureCredential(access_token=token, resource="r")),
        "azure.resource": pb.Credential(azure=pb.AzureCredential(access_token=fine, resource=value)),
        "azure.api_version": pb.Credential(
            azure=pb.AzureCredential(access_token=fine, resource="r", api_version=value)
        ),
        "cloudflare.token": pb.Credential(cloudflare=pb.CloudflareCredential(token=value, account_id="a")),
        "cloudflare.account_id": pb.Credential(cloudflare=pb.CloudflareCredential(token="t", account_id=value)),
        "cloudflare.gateway_id": pb.Credential(
            cloudflare=pb.CloudflareCredential(token="t", account_id="a", gateway_id=value)
        ),
    }


OPTIONAL = {
    "api_key.organization", "api_key.project", "aws.access_key.session_token", "google.project", "azure.api_version",
    "cloudflare.gateway_id",
}  # fmt: skip


@pytest.mark.parametrize("field", kinds(""))
async def test_what_no_header_can_be_is_refused_by_its_field(channel: grpc.aio.Channel, field: str) -> None:
    """Line ends, NUL, tabs, spaces, other alphabets, nothing and too much are refused by name, without being repeated."""
    stub = DispatchServiceStub(channel)
    for value in (*BAD.values(), *([] if field in OPTIONAL else [""])):
        request = dispatch_service_pb2.GenerateRequest()
        request.target.model = "sandbox/echo"
        request.messages.add(role="ROLE_USER").parts.add().text.text = "hi"
        request.credentials.add(provider="sandbox").credential.CopyFrom(kinds(value)[field])
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Generate(request)
        error = from_status(raised.value.code(), raised.value.details(), raised.value.trailing_metadata())
        assert isinstance(error, InvalidRequestError)
        assert {name for name, _ in error.violations} == {f"credentials[0].credential.{field}"}
        assert "c4n4ry" not in f"{raised.value!r} {vars(error)}"


@contextlib.asynccontextmanager
async def listener() -> AsyncIterator[tuple[str, list[bytes]]]:
    """Yield the URL of a listener that answers `{}`, and the requests that it got, as they came."""
    got: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", got
    server.close()


def credentials(value: str) -> dict[str, tuple[Auth, Credential]]:
    """Return a credential of every kind that becomes headers, with *value* in each of its places."""
    secret, organized = Secret(value), Auth(organization_header="x-org", project_header="x-project")
    return {
        "bearer": (Auth(), ApiKey(secret)),
        "header": (Auth(style="header", header="x-api-key"), ApiKey(secret)),
        "organization": (organized, ApiKey(Secret("k"), organization=value)),
        "project": (organized, ApiKey(Secret("k"), project=value)),
        "token": (Auth(), BearerToken(secret)),
        "aws-token": (Auth(), AwsBearerToken(secret)),
        "aws-id": (Auth(aws_service="bedrock"), AwsAccessKey(secret, Secret("s"))),
        "aws-session": (Auth(aws_service="bedrock"), AwsAccessKey(Secret("a"), Secret("s"), secret)),
        "google": (Auth(), GoogleAccessToken(secret, "p")),
        "azure-key": (Auth(style="header", header="api-key"), AzureApiKey(secret, "r")),
        "azure-token": (Auth(), AzureAccessToken(secret, "r")),
        "cloudflare": (Auth(), CloudflareToken(secret, "a")),
    }


async def send(auth: Auth, credential: Credential) -> list[bytes]:
    """Authenticate a request and send it; return what a listener got."""

    async def no_tokens(*arguments: Any) -> tuple[int, bytes]:
        raise AssertionError("nothing is bought")

    policy = EgressPolicy((ipaddress.ip_network("127.0.0.0/8"),), frozenset({"127.0.0.1"}))
    async with listener() as (url, got), Egress(policy) as egress:
        try:
            made = await Authenticator(no_tokens).authenticate(
                auth, credential, method="POST", url=url, headers={}, body=b"{}", region="us-east-1"
            )
            async with egress.request("POST", url, made.headers, b"{}", connect_limit=5, timing=Timing(0)) as answer:
                await answer.read()
        except InvalidRequest as error:
            assert "c4n4ry" not in f"{error} {error!r} {vars(error)}"
        return got


@pytest.mark.parametrize("kind", credentials(""))
async def test_no_header_is_injected_whoever_makes_the_credential(kind: str) -> None:
    """Behind the contract too nothing is sent for a credential that no header can be; a good one is sent as it is."""
    for name, value in BAD.items():
        if name in ("space", "long"):
            continue  # a header may hold inner spaces, and be long; the contract refuses both
        assert await send(*credentials(value)[kind]) == [], name
    (got,) = await send(*credentials("c4n4ry-good")[kind])
    assert got.count(b"c4n4ry-good") == 1
    assert b"x-injected" not in got.lower()


async def test_custom_endpoints_take_no_header_of_a_key(client: AsyncClient) -> None:
    """A key of a custom endpoint is held to the same."""
    request = dispatch_service_pb2.GenerateRequest()
    endpoint = request.target.custom_endpoint
    endpoint.base_url, endpoint.model = "https://models.example/v1", "m"
    endpoint.credential.api_key.key = BAD["cr-lf"]
    with pytest.raises(InvalidRequestError) as raised:
        await client.generate(messages="hi", request=request)
    assert [field for field, _ in raised.value.violations] == ["target.custom_endpoint.credential.api_key.key"]
    assert "c4n4ry" not in repr(vars(raised.value))
