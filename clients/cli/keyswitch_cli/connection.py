"""The server that a command talks to, and what proves to it who calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import click

from keyswitch_cli.inputs import read_value

if TYPE_CHECKING:
    from keyswitch_client import Client
    from keyswitch_client.locality import LocalMode, LocalOptions

__all__ = ["Connection", "connect", "in_options"]

_OPTIONS = {
    "tls=tls_credentials(...)": "--tls or --tls-ca",
    "insecure=True": "--insecure",
    "local='always'": "--local always",
}
"""What the library tells its callers to pass, and what is passed to the command."""


class Connection(NamedTuple):
    """What stands before the command, or in the environment."""

    server: str
    token: str | None
    """Where the token is: `@FILE`, `env:NAME`, `-`, or itself."""
    tls: bool
    tls_ca: str | None
    tls_cert: str | None
    tls_key: str | None
    insecure: bool

    def __repr__(self) -> str:
        """Show the server alone."""
        return f"Connection({self.server!r})"


def connect(server: str, *, timeout: float | None = 600.0, local: LocalMode | LocalOptions = "auto") -> Client:
    """Return a client of *server*, with the token and the certificates that stand before the command.

    *local* is as `keyswitch_client.Client` takes it.

    Raises:
        click.UsageError: they cannot be read, do not fit together, or would let keys travel unencrypted.
    """
    from keyswitch_client import Client, tls_credentials  # noqa: PLC0415 - costs more than all else here

    given = click.get_current_context().find_object(Connection)
    if given is None:
        return Client(server, timeout=timeout, local=local)
    token = read_value(given.token, "--token") if given.token else None
    try:
        tls = None
        if given.tls or given.tls_ca or given.tls_cert or given.tls_key:
            tls = tls_credentials(given.tls_ca, certificate=given.tls_cert, key=given.tls_key)
        return Client(server, tls=tls, token=token, insecure=given.insecure, timeout=timeout, local=local)
    except OSError as error:
        raise click.UsageError(f"--tls-ca, --tls-cert, --tls-key: {error.strerror}") from None
    except ValueError as error:
        raise click.UsageError(in_options(str(error))) from None


def in_options(told: str) -> str:
    """Return what the library tells with the command's options in the place of its arguments."""
    for argument, option in _OPTIONS.items():
        told = told.replace(argument, option)
    return told
