"""Servers that want to know who calls, and what callers need for them."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import AsyncIterator
from typing import Any

from certificates import Authority, put
from issuer import AUDIENCE, ISSUER, Issuer
from keyswitch_client import AsyncClient, tls_credentials
from keyswitch_sandbox import Sandbox
from keyswitch_server.tokens import hashed, new_token
from support import EGRESS, ServerProcess, server_process

__all__ = ["KEYS", "Secured", "secured"]

KEYS = {"sandbox": "the-callers-key"}


class Secured:
    """A server with TLS, tokens and an issuer, beside the files that it reads."""

    server: ServerProcess

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.authority = Authority()
        self.issuer = Issuer()
        self.tokens = {"blue": new_token(), "red": new_token()}
        put(folder / "ca.pem", self.authority.pem)
        self.put_pair(self.authority)
        self.put_tokens({name: [token] for name, token in self.tokens.items()})
        self.put_keys(self.issuer)

    def put_pair(self, authority: Authority) -> None:
        """Give the server a new certificate with its key, one after the other as it happens."""
        certificate, key = authority.issue()
        put(self.folder / "key.pem", key)
        put(self.folder / "cert.pem", certificate)

    def put_tokens(self, tokens: dict[str, list[str]]) -> None:
        lines = [f"{name} = {json.dumps([hashed(token) for token in given])}" for name, given in tokens.items()]
        put(self.folder / "tokens.toml", "\n".join(lines))

    def put_keys(self, *issuers: Issuer) -> None:
        put(self.folder / "jwks.json", json.dumps({"keys": [row for issuer in issuers for row in issuer.keys()]}))

    def settings(self) -> dict[str, str]:
        """Return what the environment says to the server."""
        return {
            "KEYSWITCH_TLS_CERTIFICATE": str(self.folder / "cert.pem"),
            "KEYSWITCH_TLS_KEY": str(self.folder / "key.pem"),
            "KEYSWITCH_TOKENS": str(self.folder / "tokens.toml"),
            "KEYSWITCH_JWT": json.dumps(
                {"issuer": ISSUER, "audience": AUDIENCE, "keys": str(self.folder / "jwks.json")}
            ),
        }

    def client(self, token: str | None = None, *, ca: pathlib.Path | None = None, **options: Any) -> AsyncClient:
        """Return a client with a token."""
        tls = tls_credentials(ca or self.folder / "ca.pem")
        return AsyncClient(self.server.address, tls=tls, token=token, **{"timeout": 20.0, **options})

    def log(self) -> str:
        return self.server.log.read_text()

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return what was logged of an event."""
        return [line for line in map(json.loads, self.log().splitlines()) if line["event"] == event]


@contextlib.asynccontextmanager
async def secured(folder: pathlib.Path, sandbox: Sandbox, env: dict[str, str] | None = None) -> AsyncIterator[Secured]:
    """Start a server that wants to know who calls."""
    made = Secured(folder)
    settings = {**EGRESS, "KEYSWITCH_SANDBOX_URL": sandbox.url, **made.settings(), **(env or {})}
    async with server_process(folder, settings) as made.server:
        yield made
