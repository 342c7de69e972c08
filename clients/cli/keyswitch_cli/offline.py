"""What a server would know and decide, from the same rows and by the same functions, in this process."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch.v1 import registry_service_pb2

from keyswitch_cli.completion import built_in_rows
from keyswitch_cli.credentials import advice

if TYPE_CHECKING:
    from keyswitch_engine.registry import Registry
    from keyswitch_engine.routability import Routability

__all__ = ["Refused", "checked_models", "decide", "known_providers", "note_difference"]


class Refused(Exception):
    """The request goes nowhere."""

    def __init__(self, code: str, number: int, reason: str, message: str, hint: str) -> None:
        """Say so by the name and the number of the status that a server would send, its reason and its message.

        *hint* is what to do on the command line; empty if the message says it.
        """
        super().__init__(message)
        self.code = code
        self.number = number
        self.reason = reason
        self.message = message
        self.hint = hint


def decide(request: pb.ExplainRouteRequest, config: pathlib.Path | None) -> Sequence[pb.Route]:
    """Return where a request and its fallbacks would go on a server with the settings of *config*; nothing is sent.

    Raises:
        Refused: it goes nowhere.
        click.ClickException: the settings or a provider file are invalid, or the server is not installed.
    """
    rows = _registry(config)
    from keyswitch_bridge.requests import read_explain  # noqa: PLC0415 - none of this is needed for help
    from keyswitch_bridge.routes import explain_message  # noqa: PLC0415
    from keyswitch_bridge.status import CODES  # noqa: PLC0415
    from keyswitch_engine.errors import DispatchError  # noqa: PLC0415

    try:
        return explain_message(rows, read_explain(request)).routes
    except DispatchError as error:
        code = CODES[error.reason]
        hint = advice(error.reason.value, error.field, error.provider)
        raise Refused(code.name, code.value[0], error.reason.value, error.message, hint) from None


def known_providers(config: pathlib.Path | None) -> tuple[str, Mapping[str, registry_service_pb2.Provider]]:
    """Return the fingerprint and the providers, by id, of a server with the settings of *config*.

    Raises:
        click.ClickException: the settings or a provider file are invalid, or the server is not installed.
    """
    rows = _registry(config)
    from keyswitch_bridge.routes import provider_message  # noqa: PLC0415 - none of this is needed for help

    return rows.fingerprint, {provider.id: provider_message(provider) for provider in rows.providers.values()}


def checked_models(
    entries: Sequence[Mapping[str, str]], keyed: Sequence[str], tenant: str, config: pathlib.Path | None
) -> list[Routability]:
    """Return where each entry of a list of models would lead on a server with the settings of *config*.

    Raises:
        click.UsageError: one of *keyed* is no provider.
        click.ClickException: the settings or a provider file are invalid, or the server is not installed.
    """
    rows = _registry(config)
    from keyswitch_engine.errors import RequestError  # noqa: PLC0415 - none of this is needed for help
    from keyswitch_engine.operator import Caller  # noqa: PLC0415
    from keyswitch_engine.routability import Listed, routability  # noqa: PLC0415

    caller = Caller(tenant=tenant)
    try:
        return [routability(rows, Listed(**entry), keyed, caller) for entry in entries]
    except RequestError as error:
        raise click.UsageError(f"--keyed: {error.message}") from None


def note_difference(fingerprint: str) -> None:
    """Say so on standard error if a server with this *fingerprint* knows other providers; it is the one to decide."""
    rows = built_in_rows()
    if rows is not None and rows.fingerprint != fingerprint:
        note = "the server's providers are not those of this installation, and it decides; `keyswitch doctor` compares"
        click.echo(f"note: {note}", err=True)


def _registry(config: pathlib.Path | None) -> Registry:
    """Load the rows as a server does."""
    try:
        import keyswitch_bridge.requests  # noqa: F401, PLC0415 - so that what is missing is told of here, for all
        from keyswitch_engine.registry import RegistryError  # noqa: PLC0415
        from keyswitch_server import registry_loading, settings  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"this needs the server's parts in this process ({error.name}): pip install 'keyswitch[server]'"
        ) from None
    try:
        loaded = settings.load(config)
    except settings.InvalidSettingsError as error:
        raise click.UsageError(str(error)) from None
    try:
        return registry_loading.load_registry(loaded, without_keys=_without_key)
    except RegistryError as error:
        raise click.ClickException(str(error)) from None


def _without_key(problem: str) -> None:
    """Tell of a key of the operator's that is not to be had here; what a server would decide does not depend on it."""
    click.echo(f"warning: {problem}; deciding as if it were there", err=True)
