"""From a credential to the headers of one request, whatever that takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from keyswitch_engine.auth.aws import sign
from keyswitch_engine.auth.google import GoogleTokens, Post
from keyswitch_engine.auth.headers import auth_headers, bearer, check_values
from keyswitch_engine.credential import AwsAccessKey, Credential, GoogleServiceAccount, secrets_of
from keyswitch_engine.provider import Auth
from keyswitch_engine.secret import Secret

__all__ = ["Authenticated", "Authenticator"]


class Authenticated(NamedTuple):
    """Headers to add to a request, and every secret that an answer to it could quote."""

    headers: dict[str, str]
    secrets: tuple[Secret, ...]

    def __repr__(self) -> str:
        """Show the names of the headers alone."""
        return f"Authenticated({', '.join(self.headers)})"


class Authenticator:
    """Authenticates requests; keeps tokens that it bought until they expire."""

    def __init__(self, post: Post) -> None:
        """Buy tokens through *post*."""
        self._google = GoogleTokens(post)

    def forget(self, secrets: Sequence[Secret]) -> None:
        """Forget the bought tokens among the *secrets* of a call that the provider refused as unauthenticated."""
        self._google.forget(secrets)

    async def authenticate(
        self,
        auth: Auth,
        credential: Credential,
        *,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        region: str,
        key_header: str = "",
    ) -> Authenticated:
        """Return what authenticates a request that is otherwise complete.

        Raises:
            InvalidRequest: a value of the credential cannot stand in a header.
            DispatchError: a token could not be bought, or this installation lacks what signing needs.
        """
        secrets = secrets_of(credential)
        ready = auth_headers(auth, credential)
        check_values(ready or {})
        if ready is not None:
            if key_header and "Authorization" in ready:
                ready[key_header] = ready.pop("Authorization")
            return Authenticated(ready, secrets)
        match credential:
            case AwsAccessKey(access_key_id=key_id, secret_access_key=secret, session_token=session):
                signed = sign(
                    key_id.reveal(), secret.reveal(), session.reveal() if session is not None else "",
                    region=region, service=auth.aws_service, method=method, url=url, headers=headers, body=body,
                )  # fmt: skip
                check_values(signed)
                authorization = signed["Authorization"]
                made = (Secret(authorization), Secret(authorization.rpartition("Signature=")[2]))
                return Authenticated(signed, (*secrets, *made))
            case GoogleServiceAccount() as account:
                token = await self._google.token(account, auth.token_url)
                return Authenticated(bearer(token), (*secrets, token))
            case _:
                raise AssertionError("every other credential is a header by itself")
