"""What the settings say of callers, as the parts that serve it."""

from __future__ import annotations

import pathlib
from typing import Any

import grpc
import msgspec

from keyswitch_server.authentication import Authenticator
from keyswitch_server.caller_limits import CallerLimits
from keyswitch_server.gate import Gate
from keyswitch_server.json_web_tokens import JwtVerifier, read_key_set
from keyswitch_server.live_file import LiveFile
from keyswitch_server.logging import Logger
from keyswitch_server.settings import Settings
from keyswitch_server.tls import read_certificates, server_credentials
from keyswitch_server.tokens import read_tokens

__all__ = ["Callers", "read_callers"]


class Callers(msgspec.Struct, frozen=True):
    """How callers reach the server, and who of them may."""

    gate: Gate
    credentials: grpc.ServerCredentials | None
    """TLS; None for none."""
    methods: tuple[str, ...]
    """Ways to prove who calls."""
    files: tuple[LiveFile[Any], ...]
    """What has to be watched."""


def read_callers(settings: Settings, log: Logger) -> Callers:
    """Read every file that says who may call.

    Raises:
        UnusableFileError: one cannot be used.
    """
    files: list[LiveFile[Any]] = []
    credentials = tokens = verifier = None
    if settings.tls_certificate is not None and settings.tls_key is not None:
        certificate, key, client_ca = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
        paths = [path for path in (certificate, key, client_ca) if path is not None]
        pair = LiveFile("tls_certificate", paths, lambda: read_certificates(certificate, key, client_ca), log)
        credentials = server_credentials(pair, client_certificates=client_ca is not None)
        files.append(pair)
    if (path := settings.tokens) is not None:
        tokens = LiveFile("tokens", [path], lambda: read_tokens(path), log)
        files.append(tokens)
    if (table := settings.jwt) is not None:
        key_file = pathlib.Path(table.keys)
        keys = LiveFile("jwt.keys", [key_file], lambda: read_key_set(key_file, table.algorithms), log)
        verifier = JwtVerifier(table, keys)
        files.append(keys)
    authenticator = Authenticator(tokens, verifier, settings.tls_callers)
    gate = Gate(authenticator, CallerLimits(settings.caller_limits))
    return Callers(gate, credentials, authenticator.methods, tuple(files))
