"""Failures as the command line shows them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click
from keyswitch_client import KeyswitchError
from keyswitch_client.security import UnencryptedError

from keyswitch_cli import exit_codes
from keyswitch_cli.connection import in_options
from keyswitch_cli.credentials import advice

__all__ = ["RpcFailed", "rpc_failures"]


class RpcFailed(click.ClickException):
    """A call failed."""

    def __init__(self, error: KeyswitchError) -> None:
        """Say in one line why, then what was wrong field by field, and when a retry makes sense."""
        first, *others = error.violations or [("", "")]
        violations = others if first[1] in error.message else [first, *others]  # the message is made of the first one
        lines = [f"{error.reason or error.code.name}: {error.message}"]
        lines += [f"  {field}: {description}" for field, description in violations]
        hints = (error.hint, advice(error.reason, error.field, error.provider))
        lines += [f"  {hint}" for hint in hints if hint]
        if error.retry_after is not None:
            lines.append(f"  retry after {error.retry_after:g} s")
        super().__init__(in_options("\n".join(lines)))
        self.exit_code = exit_codes.of_rpc(error.code.value[0], error.reason)  # type: ignore[misc] # click reads it so


@contextlib.contextmanager
def rpc_failures() -> Iterator[None]:
    """Turn failed calls, and those that may not be made, into what the command line shows."""
    try:
        yield
    except KeyswitchError as error:
        raise RpcFailed(error) from None
    except UnencryptedError as error:
        raise click.UsageError(in_options(str(error))) from None
