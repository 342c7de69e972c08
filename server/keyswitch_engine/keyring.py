"""What a request brings to pay with: credentials, each for one provider, and consent to the operator's keys."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from keyswitch_engine.claims import folded
from keyswitch_engine.credential import (
    ApiKey,
    Credential,
    NoCredential,
    PlatformConsent,
    ProviderCredential,
    in_words,
    kind_of,
)
from keyswitch_engine.errors import InvalidRequest, Reason, RequestError, Violation
from keyswitch_engine.provider import Provider
from keyswitch_engine.registry import Registry
from keyswitch_engine.secret import Secret

__all__ = ["Keyring", "OwnCredential", "check_kind", "find_provider", "needs_no_key"]

_EVERY = ""
"""Stands for every provider, in a consent that names none."""


class OwnCredential(NamedTuple):
    """A credential that can authenticate a call, with its label; empty if it has none."""

    credential: Credential
    label: str = ""


def find_provider(registry: Registry, name: str, *, field: str = "target.provider") -> Provider:
    """Return the provider of that name.

    Raises:
        RequestError: there is none; the message lists all, sorted, and suggests the nearest.
    """
    provider = registry.find(name)
    if provider is not None:
        return provider
    near = difflib.get_close_matches(folded(name), registry.names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise RequestError(
        Reason.UNKNOWN_PROVIDER, f"unknown provider; known are {', '.join(registry.providers)}{hint}", field=field
    )


class Keyring:
    """Credentials and consents, by the id of the provider that they are for; their order never matters."""

    __slots__ = ("_consents", "label", "own")

    def __init__(
        self, own: Mapping[str, tuple[OwnCredential, ...]], consents: Mapping[str, frozenset[str]], label: str = ""
    ) -> None:
        """Hold the caller's own credentials, and labels of consents; a consent to every provider is under `""`.

        *label* is that of the credential to use; empty if any may be.
        """
        self.own = own
        self.label = label
        self._consents = consents

    @classmethod
    def of(cls, registry: Registry, credentials: Iterable[ProviderCredential], label: str = "") -> Keyring:
        """Sort credentials by provider; a provider may come twice only with distinct labels, of which *label* is used.

        Raises:
            RequestError: a provider is not known, or came twice.
        """
        own: dict[str, tuple[OwnCredential, ...]] = {}
        consents: dict[str, frozenset[str]] = {}
        for number, entry in enumerate(credentials):
            credential, name = entry.credential, entry.label
            owner = _EVERY
            if entry.provider or not isinstance(credential, PlatformConsent):
                owner = find_provider(registry, entry.provider, field=f"credentials[{number}].provider").id
            others, labels = own.get(owner, ()), consents.get(owner, frozenset())
            if name in labels or any(other.label == name for other in others):
                what = "label" if name else "provider, without a label,"
                message = f"a credential for {owner or 'every provider'} with this {what} came already"
                raise InvalidRequest([Violation(f"credentials[{number}]", message)])
            if isinstance(credential, PlatformConsent):
                consents[owner] = labels | {name}
            else:
                own[owner] = (*others, OwnCredential(credential, name))
        return cls(own, consents, label)

    @classmethod
    def naming(cls, registry: Registry, providers: Iterable[str], *, consent: bool) -> Keyring:
        """Return a keyring that has a stand-in for each of *providers*: that a key came is all that decides.

        Raises:
            RequestError: a provider is not known.
        """
        names = {find_provider(registry, name, field=f"keyed_providers[{n}]").id for n, name in enumerate(providers)}
        stand_in = (OwnCredential(ApiKey(Secret(""))),)
        return cls(dict.fromkeys(sorted(names), stand_in), {_EVERY: frozenset({""})} if consent else {})

    @property
    def named(self) -> list[str]:
        """The providers that something came for, sorted."""
        return sorted(self.own.keys() | (self._consents.keys() - {_EVERY}))

    def brings(self, provider: Provider) -> bool:
        """Tell whether the caller brought a credential for a provider."""
        return provider.id in self.own

    def consents(self, provider: Provider) -> bool:
        """Tell whether the caller consents to the operator's key for a provider."""
        return provider.id in self._consents or _EVERY in self._consents

    def chosen(self, provider: Provider) -> tuple[OwnCredential, ...]:
        """Return the caller's credentials for a provider that may be used: by their label, if one is asked for."""
        brought = self.own.get(provider.id, ())
        return tuple(own for own in brought if own.label == self.label) if self.label else brought

    def pays(self, provider: Provider) -> bool:
        """Tell whether the caller's own key would be used at a provider; a credential that says `none` is no key."""
        return any(not isinstance(own.credential, NoCredential) for own in self.chosen(provider))

    def chose_consent(self, provider: Provider) -> bool:
        """Tell whether a consent may be used for a provider: by its label, if one is asked for."""
        if not self.label:
            return self.consents(provider)
        return any(self.label in self._consents.get(name, ()) for name in (provider.id, _EVERY))


def needs_no_key(provider: Provider) -> bool:
    """Tell whether a provider can be called without a credential."""
    return provider.auth.style == "none" or "none" in provider.auth.accepts


def check_kind(provider: Provider, credential: Credential, field: str) -> None:
    """Refuse a credential in *field* of a kind that a provider does not take, or that bills whom it cannot be told of.

    Raises:
        InvalidRequest: it is such a one.
    """
    kind = kind_of(credential)
    accepts = ("none",) if provider.auth.style == "none" else provider.auth.accepts
    if kind not in accepts:
        raise _not_taken(provider, field, f"{' or '.join(map(in_words, accepts))}, not {in_words(kind)}")
    if isinstance(credential, ApiKey):
        for name, header in (
            ("organization", provider.auth.organization_header),
            ("project", provider.auth.project_header),
        ):
            if getattr(credential, name) and not header and name not in provider.parameters:
                raise _not_taken(provider, field, f"no {name}")


def _not_taken(provider: Provider, field: str, what: str) -> InvalidRequest:
    """Return the refusal of a credential in *field*; *what* the provider takes instead."""
    error = InvalidRequest([Violation(field, f"{provider.id} takes {what}")])
    error.provider = provider.id
    return error
