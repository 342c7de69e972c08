"""Where a request goes, as the command line says it: a provider, or an endpoint of the user's own."""

from __future__ import annotations

from typing import TypedDict, Unpack

import click
from keyswitch_client import Endpoint, LocalOptions
from keyswitch_client.arguments import Arguments
from keyswitch_client.locality import LocalMode

from keyswitch_cli.credentials import read_value
from keyswitch_cli.home import provider_directories
from keyswitch_cli.options import read_credentials, warn_where_seen
from keyswitch_cli.output import print_line

__all__ = ["Chosen", "chosen_target", "local_options"]


class Chosen(TypedDict):
    """What `selection_options` and `--fallback` gave."""

    endpoint: str | None
    base_url: str | None
    endpoint_key: str | None
    provider: str
    model: str
    dialect: str
    region: str
    api_keys: tuple[str, ...]
    credential_fields: tuple[str, ...]
    allow_platform: bool
    tenant: str
    fallbacks: tuple[str, ...]


def chosen_target(**chosen: Unpack[Chosen]) -> Arguments:
    """Return where a request goes and with which keys.

    Raises:
        click.UsageError: what was given contradicts itself, or a key cannot be read.
        click.ClickException: the key of a named endpoint cannot be had.
    """
    if chosen["endpoint"] is None and chosen["base_url"] is None:
        if chosen["endpoint_key"] is not None:
            raise click.UsageError("--endpoint-key belongs to --base-url")
        return Arguments(
            provider=chosen["provider"],
            model=chosen["model"],
            dialect=chosen["dialect"],
            region=chosen["region"],
            credentials=read_credentials(chosen["api_keys"], chosen["credential_fields"]),
            allow_platform=chosen["allow_platform"],
            tenant=chosen["tenant"],
            fallbacks=chosen["fallbacks"],
        )
    _refuse_registry(chosen)
    return Arguments(endpoint=_endpoint(chosen), tenant=chosen["tenant"])


def _refuse_registry(chosen: Chosen) -> None:
    """Refuse what belongs to providers: an endpoint never gives way to one, nor to anybody else's bill."""
    given = {
        "--provider": chosen["provider"],
        "--region": chosen["region"],
        "--api-key": chosen["api_keys"],
        "--credential": chosen["credential_fields"],
        "--allow-platform": chosen["allow_platform"],
        "--fallback": chosen["fallbacks"],
    }
    if wrong := [option for option, value in given.items() if value]:
        raise click.UsageError(
            f"{', '.join(wrong)} cannot go with an endpoint of your own, which is all that is called"
        )


def _endpoint(chosen: Chosen) -> Endpoint:
    """Return the endpoint, by its name or by its URL."""
    name, base_url, key = chosen["endpoint"], chosen["base_url"], chosen["endpoint_key"]
    if base_url is None:
        if key is not None:
            raise click.UsageError("--endpoint-key belongs to --base-url; the key of a named endpoint is stored")
        from keyswitch_cli.endpoints import selected  # noqa: PLC0415 - reads TOML, which few requests need

        named = selected(name or "")
        return Endpoint(
            named.base_url, chosen["model"] or named.model, named.key, chosen["dialect"] or named.dialect, named.label
        )
    if name is not None:
        raise click.UsageError("give --endpoint or --base-url, not both")
    if not chosen["model"].strip():
        raise click.UsageError("--base-url needs the --model to ask there")
    read = "" if key is None else read_value("key", key.strip(), "--endpoint-key", warn_where_seen())
    return Endpoint(base_url, chosen["model"], read, chosen["dialect"])


def local_options(mode: LocalMode, told: list[str] | None = None) -> LocalOptions:
    """Return how calls are made from this process: with the user's own rows, and a note on standard error.

    *told* gets the notes too.
    """

    def note(why: str) -> None:
        print_line(f"note: {why}", err=True)
        if told is not None:
            told.append(why)

    return LocalOptions(mode=mode, providers=provider_directories(), notify=note)
