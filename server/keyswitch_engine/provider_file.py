"""Provider files: what they may say, and what is checked of one alone.

The registry checks files against each other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from keyswitch_engine.dialects import DIALECTS, TOKEN_COUNTERS
from keyswitch_engine.dialects.base import Flags, Profile
from keyswitch_engine.embeddings import EMBEDDINGS
from keyswitch_engine.error_rules import ErrorRule
from keyswitch_engine.errors import InvalidRequest, Reason
from keyswitch_engine.model_id import exact_model
from keyswitch_engine.model_listing import LISTINGS
from keyswitch_engine.provider import Auth, D, ModelOverride, Provider, Speaks, Surface
from keyswitch_engine.routing_preferences import Preferences, untold

__all__ = [
    "PARAMETERS",
    "SCHEMA_VERSION",
    "ModelTable",
    "ProviderFile",
    "RowError",
    "SurfaceTable",
    "build_provider",
    "check_parameters",
    "schema_error",
]

SCHEMA_VERSION = 1
"""Version of the form of provider files."""

PARAMETERS = frozenset({"region", "organization", "project", "resource", "api_version", "account_id", "gateway_id"})
"""What may stand in braces in a URL: the target's region, or the field of the credential with that name."""


class RowError(ValueError):
    """A provider file says something wrong; `key` tells where, for example `dialects[0].path`, and may be empty."""

    def __init__(self, key: str, problem: str) -> None:
        """Say what is wrong with the value of *key*."""
        super().__init__(f"{key}: {problem}" if key else problem)
        self.key = key


_UNKNOWN_FIELD = re.compile(r"unknown field `(.+)`")


def schema_error(error: msgspec.ValidationError, table: str = "") -> RowError:
    """Return what msgspec found wrong, by the key that it names, which is below *table*."""
    problem, _, path = str(error).partition(" - at `$")
    unknown = _UNKNOWN_FIELD.search(problem)
    keys = (table, path.rstrip("`").lstrip("."), unknown[1] if unknown else "")
    return RowError(".".join(key for key in keys if key), problem)


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Part of a provider file."""


class ModelTable(_Row, frozen=True):
    """A table of a provider file that says what is different for some models."""

    model: str
    """Pattern of the native ids."""
    compatibility: dict[str, Any] = {}
    routing: Preferences = Preferences()


class SurfaceTable(_Row, frozen=True):
    """A table of a provider file that says where and how something is spoken."""

    name: str
    path: str
    stream_path: str = ""
    base_url: str = ""
    """Where it is not the provider's."""
    needs: tuple[str, ...] = ()
    """Parameters without which this table does not apply; the first that applies is taken."""
    headers: dict[str, str] = {}
    key_header: str = ""
    """Header that takes the place of `Authorization` here."""
    routing_preferences: Literal["", "openrouter", "vercel"] = ""
    """Form in which wishes about the hosts behind a router are sent; empty where there are none."""
    routing: Preferences = Preferences()
    """Wishes that every call begins with."""
    compatibility: dict[str, Any] = {}
    model_overrides: tuple[ModelTable, ...] = ()
    """What is different for some models; where several fit, later ones win."""


class ProviderFile(_Row, frozen=True):
    """A provider file as it is written; CONTRIBUTING.md describes the fields."""

    schema: int
    id: str
    name: str
    base_url: str
    dialects: tuple[SurfaceTable, ...]
    model_listing: SurfaceTable | None = None
    embeddings: SurfaceTable | None = None
    token_counting: SurfaceTable | None = None
    auth: Auth = Auth()
    aliases: tuple[str, ...] = ()
    vendor_token: str = ""
    default_model: str = ""
    small_model: str = ""
    models: tuple[str, ...] = ()
    matchers: tuple[str, ...] = ()
    strip_own_prefix: bool = False
    router: bool = False
    hosts_foreign_models: bool = False
    foreign_id_form: str = ""
    key_variables: tuple[str, ...] = ()
    key_pattern: str = ""
    headers: dict[str, str] = {}
    parameters: dict[str, str] = {}
    regional_base_urls: dict[str, str] = {}
    prices: str = ""
    errors: tuple[ErrorRule, ...] = ()
    doubtful: tuple[str, ...] = ()


def _tables(file: ProviderFile) -> dict[str, SurfaceTable]:
    """Return every table of a file that has an address, by its key."""
    dialects = {f"dialects[{number}]": table for number, table in enumerate(file.dialects)}
    others = {name: getattr(file, name) for name in ("model_listing", "embeddings", "token_counting")}
    return dialects | {name: table for name, table in others.items() if table is not None}


_ID = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_RESERVED = frozenset({"platform", "custom"})
"""Names of what is no provider: the operator's bill, and endpoints of the caller's own."""
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_IN_PATH = r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]*"
_PATH = re.compile(rf"/(?!/){_IN_PATH}(\?{_IN_PATH})?")
_BASE_URL = re.compile(rf"(?i:https?)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]+)?(/{_IN_PATH})?")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")

_ANSWERABLE = frozenset(
    {
        Reason.INVALID_CREDENTIAL,
        Reason.CREDENTIAL_NOT_PERMITTED,
        Reason.INSUFFICIENT_CREDIT,
        Reason.PROVIDER_REJECTED_REQUEST,
        Reason.MODEL_NOT_FOUND,
        Reason.CONTEXT_OVERFLOW,
        Reason.CONTENT_REFUSED,
        Reason.PROVIDER_RATE_LIMITED,
        Reason.PROVIDER_OVERLOADED,
        Reason.PROVIDER_UNAVAILABLE,
    }
)
"""What an error that a provider answers with can mean; other reasons are the service's own to find."""


def build_provider(file: ProviderFile) -> Provider:
    """Check a file and build the provider.

    Raises:
        RowError: something in it is wrong.
    """
    if file.schema != SCHEMA_VERSION:
        raise RowError("schema", f"{file.schema} is not {SCHEMA_VERSION}, the only one known")
    tokens = (file.vendor_token,) if file.vendor_token else ()
    for key, names in (("id", (file.id,)), ("aliases", file.aliases), ("vendor_token", tokens)):
        for name in names:
            if name in _RESERVED:
                raise RowError(key, f"{name!r} cannot name a provider, it stands for something else")
            if not _ID.fullmatch(name):
                raise RowError(
                    key, f"{name!r} cannot name a provider: 1 to 64 lower-case letters, digits, '.' and '-' do"
                )
    if file.strip_own_prefix and not file.vendor_token:
        raise RowError("strip_own_prefix", "without a vendor_token there is no prefix to drop")
    if not file.dialects:
        raise RowError("dialects", "at least one [[dialects]] table is needed")
    if file.default_model and file.models and file.default_model not in file.models:
        raise RowError("default_model", f"the default model {file.default_model!r} is not among the models listed")
    if bool(file.foreign_id_form) != (file.router or file.hosts_foreign_models):
        raise RowError("foreign_id_form", "it belongs to routers and hosts of foreign models, and only to them")
    _check_models(file)
    _check_urls(file)
    _check_headers(file)
    _check_errors(file)
    return Provider(
        id=file.id,
        name=file.name,
        base_url=file.base_url.rstrip("/"),
        dialects=tuple(
            _surface(file, f"dialects[{number}]", table, DIALECTS) for number, table in enumerate(file.dialects)
        ),
        model_listing=_offer(file, "model_listing", LISTINGS),
        embeddings=_offer(file, "embeddings", EMBEDDINGS),
        token_counting=_offer(file, "token_counting", TOKEN_COUNTERS),
        auth=file.auth,
        aliases=file.aliases,
        vendor_token=file.vendor_token,
        default_model=file.default_model,
        small_model=file.small_model,
        models=file.models,
        matchers=tuple(_pattern("matchers", matcher) for matcher in file.matchers),
        strip_own_prefix=file.strip_own_prefix,
        router=file.router,
        foreign_id_form=_pattern("foreign_id_form", file.foreign_id_form) if file.foreign_id_form else None,
        key_variables=file.key_variables,
        key_pattern=_pattern("key_pattern", file.key_pattern) if file.key_pattern else None,
        parameters=file.parameters,
        regional_base_urls=file.regional_base_urls,
        prices=file.prices,
    )


def _check_models(file: ProviderFile) -> None:
    """Check the ids that are offered: a request could ask for each as it stands."""
    named = {f"models[{number}]": model for number, model in enumerate(file.models)}
    named |= {key: model for key in ("default_model", "small_model") if (model := getattr(file, key))}
    for key, model in named.items():
        try:
            exact_model(model, key)
        except InvalidRequest as error:
            raise RowError(key, error.violations[0].description) from error


def _check_urls(file: ProviderFile) -> None:
    """Check every base URL and path: together they may lead nowhere but to the host that the base URL shows."""
    urls = {"base_url": file.base_url}
    urls |= {f"regional_base_urls.{region}": url for region, url in file.regional_base_urls.items()}
    for key, table in _tables(file).items():
        if table.base_url:
            urls[f"{key}.base_url"] = table.base_url
        for name, path in (("path", table.path), ("stream_path", table.stream_path)):
            if (path or name == "path") and not _PATH.fullmatch(_PLACEHOLDER.sub("x", path)):
                raise RowError(f"{key}.{name}", f"{path!r} is no path that begins with a single '/'")
    for key, url in urls.items():
        if not _is_base_url(url):
            raise RowError(key, "it is no plain http or https URL: scheme, host, port and path alone")
    token_url = file.auth.token_url
    if not _is_base_url(token_url) or not token_url.startswith("https://") or "{" in token_url:
        raise RowError("auth.token_url", "it is no plain https URL: scheme, host, port and path alone")


def _is_base_url(url: str) -> bool:
    """Tell whether a URL is scheme, host, port and path alone; parameters may stand in it."""
    plain = _PLACEHOLDER.sub("x", url)
    if "{model}" in url or not _BASE_URL.fullmatch(plain):
        return False
    try:
        return urlsplit(plain).port != 0
    except ValueError:  # a port out of range, or brackets around no address
        return False


def _check_headers(file: ProviderFile) -> None:
    """Check that what becomes a header can be one."""
    auth = file.auth
    if auth.style == "header" and not auth.header:
        raise RowError("auth.header", "it is needed with style 'header'")
    for name in ("header", "scheme", "organization_header", "project_header"):
        text = getattr(auth, name)
        if text and not _HEADER_NAME.fullmatch(text):
            raise RowError(f"auth.{name}", f"{text!r} cannot stand in a header")
    headers = {"headers": file.headers} | {f"{key}.headers": table.headers for key, table in _tables(file).items()}
    for key, values in headers.items():
        for name, value in values.items():
            if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                raise RowError(key, f"{name!r} is no header whose name and value are printable ASCII")


def _check_errors(file: ProviderFile) -> None:
    """Check the rows of the table of errors."""
    for number, rule in enumerate(file.errors):
        _pattern(f"errors[{number}].code", rule.code)
        _pattern(f"errors[{number}].message", rule.message)
        if rule.reason not in _ANSWERABLE:
            raise RowError(f"errors[{number}].reason", f"no error of a provider's means {rule.reason.value}")


def check_parameters(file: ProviderFile) -> None:
    """Check that what stands in braces in URLs and what the file calls a parameter are the same.

    Raises:
        RowError: they are not.
    """
    unknown = sorted(file.parameters.keys() - PARAMETERS)
    if unknown:
        raise RowError(f"parameters.{unknown[0]}", f"it is not one of {', '.join(sorted(PARAMETERS))}")
    tables = _tables(file)
    texts = [
        file.base_url,
        *(table.base_url + table.path + table.stream_path for table in tables.values()),
        *file.regional_base_urls.values(),
    ]
    used = set(_PLACEHOLDER.findall(" ".join(texts))) - {"model"}
    for name in sorted(used ^ file.parameters.keys()):
        raise RowError(f"parameters.{name}", "a parameter has to be both in [parameters] and in a URL")
    for key, table in tables.items():
        if missing := sorted(set(table.needs) - file.parameters.keys()):
            raise RowError(f"{key}.needs", f"{missing[0]!r} is no parameter")
    if file.regional_base_urls and "region" not in file.parameters:
        raise RowError("regional_base_urls", "they need the parameter 'region'")


def _pattern(key: str, text: str) -> re.Pattern[str]:
    """Compile a pattern of a file."""
    try:
        return re.compile(text)
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        raise RowError(key, f"{text!r} is no regular expression: {error}") from error


def _surface(file: ProviderFile, key: str, table: SurfaceTable, known: Mapping[str, D]) -> Surface[D]:
    """Build the surface that the table *key* describes."""
    dialect = known.get(table.name)
    if dialect is None:
        raise RowError(f"{key}.name", f"{table.name!r} is not one of {', '.join(sorted(known))}")
    flags = _flags(f"{key}.compatibility", dialect, table.compatibility)
    _check_wishes(f"{key}.routing", table, table.routing)
    return Surface(
        dialect,
        Profile(file.id, table.path, flags, table.stream_path, file.errors),
        (table.base_url or file.base_url).rstrip("/"),
        file.headers | table.headers,
        needs=table.needs,
        key_header=table.key_header,
        routing_preferences=table.routing_preferences,
        routing=table.routing.wishes,
        model_overrides=tuple(
            _model_override(f"{key}.model_overrides[{number}]", dialect, table, override)
            for number, override in enumerate(table.model_overrides)
        ),
    )


def _model_override(key: str, dialect: Speaks, table: SurfaceTable, override: ModelTable) -> ModelOverride:
    """Build what is different for some models, and check it against the flags that it overrides."""
    _flags(f"{key}.compatibility", dialect, table.compatibility | override.compatibility)
    _check_wishes(f"{key}.routing", table, override.routing)
    return ModelOverride(_pattern(f"{key}.model", override.model), override.compatibility, override.routing.wishes)


def _flags(key: str, dialect: Speaks, compatibility: Mapping[str, Any]) -> Flags:
    """Build the flags of a dialect."""
    try:
        return msgspec.convert(compatibility, dialect.flags)
    except msgspec.ValidationError as error:
        raise schema_error(error, key) from error


def _check_wishes(key: str, table: SurfaceTable, preferences: Preferences) -> None:
    """Refuse wishes where nobody takes them."""
    router = table.routing_preferences
    for name in untold(router, preferences.wishes):
        problem = f"the router {router} takes no such wish" if router else "without routing_preferences nobody takes it"
        raise RowError(f"{key}.{name}", problem)


def _offer(file: ProviderFile, key: str, known: Mapping[str, D]) -> Surface[D] | None:
    """Build the surface of a table that not every file has."""
    table = _tables(file).get(key)
    return None if table is None else _surface(file, key, table, known)
