"""What the operator's settings may say of callers."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

__all__ = ["CallerLimit", "JwtTable"]

_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
_Count = Annotated[int, msgspec.Meta(ge=1)]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Part of the operator's settings."""


class JwtTable(_Table, frozen=True):
    """`[jwt]`: whose signed tokens prove who calls."""

    issuer: _Text
    """What `iss` has to be."""
    audience: _Text
    """What `aud` has to be, or to have among others: this service's name at the issuer."""
    keys: _Text
    """File of the issuer's public keys, a JWK Set."""
    algorithms: Annotated[tuple[_Algorithm, ...], msgspec.Meta(min_length=1)] = ("RS256", "ES256", "EdDSA")
    """Signatures that are accepted. All are asymmetric: who can check a token cannot make one."""
    caller_claim: _Text = "sub"
    """The claim that names the caller."""
    caller_prefix: str = ""
    """What is put before that name; users who may choose theirs at the issuer then take no name of somebody else."""
    leeway_seconds: Annotated[float, msgspec.Meta(ge=0, le=300)] = 30.0
    """By how much the issuer's clock may differ from ours."""


class CallerLimit(_Table, frozen=True):
    """`[caller_limits.NAME]`: what one caller may have; what is not said is not limited."""

    concurrent_calls: _Count | None = None
    """Calls in flight at once."""
    calls_per_minute: _Count | None = None
    """Calls a minute on average, and at most that many at once."""
