"""Settings of the server: one TOML file and the environment, each setting documented here.

An explicit argument beats the environment, which beats the file, which beats the default; tables whole, only the policy
key by key. Every setting `name` is the
environment variable `KEYSWITCH_NAME`, lists and tables as JSON. The environment is read nowhere else.
"""

from __future__ import annotations

import ipaddress
import json
import pathlib
from typing import Annotated, Any, Literal

import msgspec
import pydantic
from keyswitch_bridge.bounds import Bounds
from keyswitch_engine.deadline import TimeLimits
from keyswitch_engine.egress_policy import EgressPolicy
from keyswitch_engine.operator import ANONYMOUS
from keyswitch_engine.operator_tables import MenuTable, OperatorTables, PolicyTable, VirtualModelTable
from keyswitch_engine.provider_file import schema_error
from keyswitch_engine.secret import without_keys
from pydantic import Field
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from keyswitch_server.caller import is_name
from keyswitch_server.caller_tables import CallerLimit, JwtTable
from keyswitch_server.peer import Patience

__all__ = ["InvalidSettingsError", "PlatformKey", "Settings", "load"]


class InvalidSettingsError(Exception):
    """A setting is not valid; the message names it and says what it should have been."""

    def __init__(self, message: str) -> None:
        """Say so in *message*, which may name what was given: without what looks like a key."""
        super().__init__(without_keys(message))


class PlatformKey(pydantic.BaseModel):
    """Where a key of the operator's is, and what its provider needs to know beside it."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    env: str = ""
    """Environment variable that holds it."""
    file: pathlib.Path | None = None
    """File that holds it and nothing else."""
    organization: str = ""
    project: str = ""
    resource: str = ""
    api_version: str = ""
    account_id: str = ""
    gateway_id: str = ""

    @pydantic.model_validator(mode="after")
    def _one_place(self) -> PlatformKey:
        if bool(self.env) == (self.file is not None):
            raise ValueError("say either env or file, which is where the key is")
        return self


_Seconds = Annotated[float, Field(gt=0, le=86_400)]
_MEBIBYTE = 1024 * 1024
_SLOW_BYTES = 1024 * _MEBIBYTE
"""What may be kept of requests that are slow to arrive."""
_MAX_PORT = 65_535
_NAMES_OF_MANY = (("caller_limits", "*"), ("caller_limits", ANONYMOUS))


def _as(kind: Any) -> pydantic.PlainValidator:
    """Let msgspec read a table: it knows which fields there are, and says where something is wrong."""

    def read(value: Any) -> Any:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise ValueError(str(schema_error(error))) from None

    return pydantic.PlainValidator(read)


class _Environment(EnvSettingsSource):
    """The environment, in which the policy is JSON like every other table."""

    def field_is_complex(self, field: FieldInfo) -> bool:
        """Tell whether a variable is JSON."""
        return field.annotation in (PolicyTable, JwtTable | None) or super().field_is_complex(field)

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Read JSON; what is none is not shown, since it may hold a key.

        Raises:
            InvalidSettingsError: it is none.
        """
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError as error:
            where = f" (column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
            raise InvalidSettingsError(f"KEYSWITCH_{field_name.upper()}: must be JSON, and is none{where}") from None


class _File(TomlConfigSettingsSource):
    """The file. What the environment has takes its place whole, lest menus or keys add up that were meant to be less.

    The policy is merged key by key, since each key of it is a setting of its own.
    """

    def __init__(self, settings_cls: type[BaseSettings], environment: EnvSettingsSource) -> None:
        """Give way to *environment*."""
        super().__init__(settings_cls)
        self._environment = environment

    def __call__(self) -> dict[str, Any]:
        """Return what the file sets, and the environment does not."""
        taken = self._environment().keys() - {"policy"}
        return {name: value for name, value in super().__call__().items() if name not in taken}


class Settings(BaseSettings):
    """The server's settings; immutable."""

    model_config = SettingsConfigDict(env_prefix="KEYSWITCH_", extra="forbid", frozen=True)

    listen: str = Field(
        "127.0.0.1:50551",
        pattern=r"^(\[[0-9a-fA-F:.]+\]|[^:\s]+):\d{1,5}$",
        description="Address to listen on, HOST:PORT; port 0 takes a free one. A loopback address, unless there are "
        "both TLS and authentication.",
    )
    insecure_listen: bool = Field(
        default=False,
        description="Allows an address that is not loopback without TLS, where keys travel unencrypted, or without "
        "authentication, where everybody may call.",
    )
    tls_certificate: pathlib.Path | None = Field(
        None,
        description="PEM file of the server's certificate and those between it and its authority. This file, the key "
        "and the client authorities are taken up within a second when they change; what does not fit together is "
        "logged and changes nothing.",
    )
    tls_key: pathlib.Path | None = Field(None, description="PEM file of the certificate's key, without a password.")
    tls_client_ca: pathlib.Path | None = Field(
        None,
        description="PEM file of the authorities that sign clients' certificates. Every connection then needs one, "
        "health probes too.",
    )
    tls_callers: dict[str, str] = Field(
        {},
        description="Names of callers by what their certificates say: a SPIFFE id, or else a subject alternative name "
        "or the common name. A certificate that is not here opens a connection, but names no caller.",
    )
    tokens: pathlib.Path | None = Field(
        None,
        description="TOML file of bearer tokens by caller, as hashes: lines of `keyswitch token NAME`, each with one "
        "or more. Changes are taken up within a second.",
    )
    jwt: Annotated[JwtTable | None, _as(JwtTable | None)] = Field(
        None,
        description="JSON Web Tokens that prove who calls: `issuer`, `audience` and `keys`, a JWK Set file, which is "
        "read again when it changes; also `algorithms` (RS256, ES256, EdDSA), `caller_claim` (`sub`), `caller_prefix` "
        "and `leeway_seconds` (30).",
    )
    caller_limits: dict[str, Annotated[CallerLimit, _as(CallerLimit)]] = Field(
        {},
        description="What one caller may have, by name, `*` for those without an entry: `concurrent_calls` and "
        "`calls_per_minute`. Further calls are refused as CALLER_LIMITED; health is never limited.",
    )
    providers: tuple[pathlib.Path, ...] = Field(
        (), description="Directories of provider files that add to the built-in ones or replace those of the same id."
    )
    providers_reload_seconds: float = Field(
        1.0,
        ge=0,
        le=86_400,
        description="Seconds between looks for changes in these directories, which are taken up without a restart; "
        "0 for only on SIGHUP. A file that is invalid is logged and changes nothing.",
    )
    sandbox_url: str = Field(
        "", description="Base URL of a running sandbox, for example `http://127.0.0.1:50552`; empty for its default."
    )
    egress_private_networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = Field(
        (), description="Networks in CIDR form that providers may be reached in although they are not public."
    )
    egress_plain_http_hosts: frozenset[str] = Field(
        frozenset(),
        description="Hosts that may be called by plain http, or although their names are local, such as `localhost` or "
        "one below `.internal`: `HOST` at any port, `HOST:PORT` at that one.",
    )
    egress_ports: frozenset[Annotated[int, Field(ge=1, le=_MAX_PORT)]] = Field(
        frozenset(), description="Ports beside 443 at which providers and custom endpoints may be called over https."
    )
    platform_keys: dict[str, PlatformKey] = Field(
        {},
        description="The operator's own keys, by provider, which serve what is on a menu: each with `env` or `file`, "
        "which say where the key is, never the key itself; and `organization`, `project`, `resource`, `api_version`, "
        "`account_id` or `gateway_id` where the provider takes it.",
    )
    menus: dict[str, Annotated[MenuTable, _as(MenuTable)]] = Field(
        {},
        description="Which models the operator's keys serve if a request consents, by the menu's name: `models` as "
        "`provider/model`, with `*` and `?` in the model, or names of virtual models; `applies_to` lists callers, "
        "`caller/tenant`, or `*`.",
    )
    virtual_models: dict[str, Annotated[VirtualModelTable, _as(VirtualModelTable)]] = Field(
        {},
        description="Names of the operator's for models: each with `provider`, `model`, `routing` with wishes "
        "about a router's hosts (docs/routing.md lists them), and `compatibility` as in a request.",
    )
    policy: Annotated[PolicyTable, _as(PolicyTable)] = Field(
        PolicyTable(),
        description="What is switched off: `byok` or `custom_endpoints` if false, and the `disabled_providers`.",
    )
    connect_timeout: _Seconds = Field(10.0, description="Seconds until a connection to a provider is usable.")
    first_token_timeout: _Seconds = Field(
        120.0,
        description="Seconds until a provider begins to answer a stream; a whole answer has all of the time. With "
        "fallbacks left a target has its share of the time at most.",
    )
    idle_timeout: _Seconds = Field(60.0, description="Seconds of silence in the middle of an answer.")
    total_timeout: _Seconds = Field(600.0, description="Seconds for a whole call that has no deadline of its own.")
    max_total_timeout: _Seconds = Field(3600.0, description="Seconds that no call exceeds, whatever it asks for.")
    request_timeout: _Seconds = Field(
        60.0, description="Seconds for a request to arrive, from its headers to its last byte."
    )
    write_timeout: _Seconds = Field(
        30.0, description="Seconds for which a caller may leave a message of a stream unread before its call ends."
    )
    max_attempts: int = Field(
        2, ge=1, le=10, description="Tries at one target, the first included, of a call that does not say how many."
    )
    max_calls: int = Field(
        1000, ge=1, description="Calls in flight at once; further ones are refused as OVERLOADED and may be retried."
    )
    max_message_bytes: int = Field(
        32 * _MEBIBYTE,
        ge=_MEBIBYTE,
        le=256 * _MEBIBYTE,
        description="Largest request, and largest whole answer, in bytes.",
    )
    max_concurrent_streams: int = Field(1000, ge=1, description="RPCs at once on one connection.")
    max_connection_age: _Seconds = Field(
        1800.0, description="Seconds after which a client is asked to reconnect, so that load spreads over replicas."
    )
    drain_seconds: float = Field(
        0.2,
        ge=0,
        le=600,
        description="Seconds between reporting NOT_SERVING and refusing calls: what clients and load balancers need to "
        "hear it. Balancers that poll need their interval.",
    )
    grace_seconds: float = Field(30.0, ge=0, le=3600, description="Seconds that calls in flight get to finish on stop.")
    reflection: bool = Field(default=True, description="Whether the server describes its services by reflection.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources; `.env` files and secret directories are none of them."""
        environment = _Environment(settings_cls)
        return (init_settings, environment, _File(settings_cls, environment))

    @pydantic.field_validator("listen")
    @classmethod
    def _port_exists(cls, listen: str) -> str:
        port = listen.rpartition(":")[2]
        if int(port) > _MAX_PORT:
            raise ValueError(f"there is no port {port}; the highest is {_MAX_PORT}")
        return listen

    @pydantic.field_validator("egress_plain_http_hosts")
    @classmethod
    def _are_hosts(cls, hosts: frozenset[str]) -> frozenset[str]:
        try:
            return EgressPolicy(plain_http_hosts=hosts).plain_http_hosts
        except ValueError:
            raise ValueError("each is HOST or HOST:PORT, without a scheme or a path") from None

    @pydantic.model_validator(mode="after")
    def _callers_fit_together(self) -> Settings:
        """Refuse what would be half of a way to know callers."""
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key are needed together")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        if self.tls_callers and self.tls_client_ca is None:
            raise ValueError("tls_callers needs tls_client_ca")
        if self.jwt is not None and self.jwt.caller_prefix and not is_name(self.jwt.caller_prefix):
            raise ValueError("jwt.caller_prefix: a caller's name is visible ASCII without '*' and '/'")
        if self.tls_client_ca is not None and not self.authenticates:
            raise ValueError("tls_client_ca: say with tls_callers whom certificates name, or set tokens or jwt")
        for setting, names in (("tls_callers", self.tls_callers.values()), ("caller_limits", self.caller_limits)):
            if not all(is_name(name) or (setting, name) in _NAMES_OF_MANY for name in names):
                raise ValueError(f"{setting}: a caller's name is visible ASCII without '*' and '/', not 'anonymous'")
        return self

    @property
    def authenticates(self) -> bool:
        """Whether callers have to prove who they are."""
        return bool(self.tokens or self.jwt or self.tls_callers)

    @property
    def lacks(self) -> str:
        """What the server has to have where it listens, and has not, in words; empty on a loopback address."""
        host = self.listen.rpartition(":")[0].strip("[]")
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = host == "localhost"
        lacking = [] if self.tls_certificate else ["TLS (tls_certificate, tls_key), so that keys travel unencrypted"]
        lacking += (
            [] if self.authenticates else ["authentication (tokens, jwt or tls_callers), so that everybody may call"]
        )
        return "" if loopback or not lacking else f"listening on {host} lacks {'; and '.join(lacking)}"

    @pydantic.model_validator(mode="after")
    def _loopback_unless_told(self) -> Settings:
        if self.lacks and not self.insecure_listen:
            raise ValueError(f"{self.lacks}. Set that up, listen on a loopback address, or set insecure_listen to true")
        return self

    def bounds(self) -> Bounds:
        """Return what calls may take."""
        return Bounds(
            TimeLimits(
                self.connect_timeout,
                self.first_token_timeout,
                self.idle_timeout,
                self.total_timeout,
                self.write_timeout,
            ),
            max_total=self.max_total_timeout,
            max_attempts=self.max_attempts,
            max_calls=self.max_calls,
            max_message_bytes=self.max_message_bytes,
        )

    def patience(self) -> Patience:
        """Return how long callers may take."""
        return Patience(self.request_timeout, self.write_timeout, max(4, _SLOW_BYTES // self.max_message_bytes))

    def opened(self) -> dict[str, list[str] | list[int]]:
        """Return what is allowed beside public addresses over TLS at port 443, by setting; nothing if nothing is."""
        allowed: dict[str, list[str] | list[int]] = {
            "egress_private_networks": [str(network) for network in self.egress_private_networks],
            "egress_plain_http_hosts": sorted(self.egress_plain_http_hosts),
            "egress_ports": sorted(self.egress_ports),
        }
        return {setting: values for setting, values in allowed.items() if values}

    def egress_policy(self) -> EgressPolicy:
        """Return where calls may go."""
        return EgressPolicy(self.egress_private_networks, self.egress_plain_http_hosts, self.egress_ports)

    def operator_tables(self) -> OperatorTables:
        """Return what the operator lays down of routing, apart from keys."""
        return OperatorTables(self.menus, self.virtual_models, self.policy)

    def base_urls(self) -> dict[str, str]:
        """Return the providers that are moved elsewhere."""
        return {"sandbox": self.sandbox_url.rstrip("/")} if self.sandbox_url else {}


def load(config: pathlib.Path | None = None, **arguments: Any) -> Settings:
    """Read the settings from the file *config*, the environment, and *arguments*.

    Raises:
        InvalidSettingsError: a setting is unknown or invalid, or the file cannot be read.
    """
    if config is not None and not config.is_file():
        raise InvalidSettingsError(f"{config}: no such file")

    class Configured(Settings):
        model_config = SettingsConfigDict(toml_file=config)

    try:
        return Configured(**arguments)
    except pydantic.ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False, include_input=False, include_context=False):
            name = ".".join(str(part) for part in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{name}: {message}" if name else message)
        raise InvalidSettingsError("; ".join(lines)) from None  # it holds what was given, which may be a key
    except (OSError, ValueError) as error:  # of the file: what is wrong with the environment was told above
        raise InvalidSettingsError(f"{config}: {error}") from None  # likewise
