from __future__ import annotations

import json
import pathlib
from collections.abc import AsyncIterator

import grpc
import pytest
from cli.running import run
from keyswitch.v1 import registry_service_pb2 as pb
from keyswitch.v1.registry_service_pb2_grpc import (
    RegistryServiceServicer,
    RegistryServiceStub,
    add_RegistryServiceServicer_to_server,
)
from support import ServerProcess, server_process

OWN = (
    'schema = 1\nid = "own"\nname = "Own"\nbase_url = "https://own.example.com/v1"\ndefault_model = "big"\n'
    '[[dialects]]\nname = "openai-chat"\npath = "/chat/completions"\n'
)


@pytest.fixture
async def plain(tmp_path: pathlib.Path) -> AsyncIterator[ServerProcess]:
    """A server with default settings."""
    async with server_process(tmp_path, {}) as server:
        yield server


async def test_the_same_data_is_found_to_be_the_same(plain: ServerProcess) -> None:
    """A server of this installation with default settings differs in nothing."""
    code, out, _ = await run("doctor", server=plain)
    assert (code, out.splitlines()[-1]) == (0, "nothing differs")
    code, out, _ = await run("doctor", "--json", server=plain)
    report = json.loads(out)
    assert (code, report["same"], report["findings"], report["here"]) == (0, True, {}, report["server"])


async def test_each_difference_is_named(plain: ServerProcess, tmp_path: pathlib.Path) -> None:
    """A provider that only one side knows, and one that both know differently, are told by id."""
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "own.toml").write_text(OWN)
    config = tmp_path / "keyswitch.toml"
    config.write_text(f'providers = ["{tmp_path / "rows"}"]\n')
    code, out, _ = await run("doctor", "--json", "--config", str(config), server=plain)
    assert (code, json.loads(out)["findings"]) == (1, {"own": "known here only"})
    kept = {"KEYSWITCH_PROVIDERS_RELOAD_SECONDS": "0"}
    async with server_process(tmp_path, kept, "--config", str(config)) as server:
        code, out, _ = await run("doctor", server=server)
        assert (code, out.splitlines()[3:]) == (
            1,
            ["own: known to the server only", "the server decides where they differ"],
        )
        (tmp_path / "rows" / "own.toml").write_text(OWN.replace("big", "small").replace("own.example", "new.example"))
        code, out, _ = await run("doctor", "--json", "--config", str(config), server=server)
        assert (code, json.loads(out)["findings"]) == (1, {"own": "differs in origin_host, default_model"})
        (tmp_path / "rows" / "own.toml").write_text(OWN.replace("/chat/completions", "/other"))
        code, out, _ = await run("doctor", "--json", "--config", str(config), server=server)
        assert (code, json.loads(out)["findings"]) == (1, {"registry": "differs in what is not shown of a provider"})


async def test_a_server_that_wants_newer_clients_is_named(plain: ServerProcess) -> None:
    """Versions are compared by their numbers, not as text; such a server is asked for nothing more."""

    class Newer(RegistryServiceServicer):
        async def GetRegistryInfo(self, request: object, context: object) -> pb.GetRegistryInfoResponse:
            async with grpc.aio.insecure_channel(plain.address) as channel:
                info = await RegistryServiceStub(channel).GetRegistryInfo(pb.GetRegistryInfoRequest())
            info.min_client_version = "0.10.0"
            return info

    newer = grpc.aio.server()
    add_RegistryServiceServicer_to_server(Newer(), newer)
    port = newer.add_insecure_port("127.0.0.1:0")
    await newer.start()
    try:
        code, out, _ = await run("doctor", "--json", "--server", f"127.0.0.1:{port}")
    finally:
        await newer.stop(None)
    assert code == 1
    assert json.loads(out)["findings"] == {"client": "0.1.0 is too old for the server, which wants 0.10.0"}


async def test_no_server_is_a_failed_call() -> None:
    """Without a server nothing is compared."""
    code, out, err = await run("doctor", "--server", "127.0.0.1:9")
    assert (code, out) == (78, "")
    assert "UNAVAILABLE" in err
