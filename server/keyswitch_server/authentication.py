"""Who calls: proof by bearer token, JSON Web Token or client certificate, to one name.

A call has one caller. Whoever proves to be two is refused, and so is whoever tries to prove something and fails,
whatever else would have done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from keyswitch_engine.errors import DispatchError, Reason
from keyswitch_engine.operator import ANONYMOUS

from keyswitch_server.json_web_tokens import JwtVerifier, RefusedTokenError
from keyswitch_server.live_file import LiveFile
from keyswitch_server.tls import identities
from keyswitch_server.tokens import Tokens

__all__ = ["Authenticator", "UnauthenticatedError"]

Context = grpc.aio.ServicerContext[Any, Any]
_JWT_DOTS = 2
_TOKEN = "the token is unknown or expired"  # noqa: S105 - what is said of one


class UnauthenticatedError(DispatchError):
    """Nobody knows who calls. Callers are told what helps them; *problem* is for the operator's log."""

    def __init__(self, message: str, problem: str = "") -> None:
        """Refuse with a *message* that holds nothing of what was presented, as does *problem*."""
        super().__init__(Reason.CALLER_UNAUTHENTICATED, message)
        self.problem = problem or message


class Authenticator:
    """Knows callers by what the operator set up; without any of it everybody is anonymous."""

    def __init__(
        self,
        tokens: LiveFile[Tokens] | None = None,
        jwt: JwtVerifier | None = None,
        certificates: Mapping[str, str] | None = None,
    ) -> None:
        """Know *tokens*, those of an issuer, and callers by the identities in their *certificates*."""
        self._tokens = tokens
        self._jwt = jwt
        self._certificates = certificates or {}
        self.methods = tuple(
            name for name, way in (("tokens", tokens), ("jwt", jwt), ("certificates", certificates)) if way
        )
        """Ways to prove who calls; none if nobody has to."""

    async def caller(self, context: Context) -> str:
        """Return the name of the caller.

        Raises:
            UnauthenticatedError: they did not prove who they are, or proved too much.
        """
        if not self.methods:
            return ANONYMOUS
        names = self._of_certificate(context) if self._certificates else set()
        if (tokens := self._tokens or self._jwt) and (presented := _bearer(context)) is not None:
            names.add(await self._of_token(presented))
        elif not names and tokens:
            raise UnauthenticatedError("send a token in the metadata, as 'authorization: Bearer TOKEN'")
        if len(names) == 1:
            return names.pop()
        raise UnauthenticatedError(
            "token and certificate are of different callers" if names else "the certificate names no caller known here"
        )

    def _of_certificate(self, context: Context) -> set[str]:
        """Return the callers that the client's certificate stands for; several if it contradicts itself."""
        callers = self._certificates
        return {callers[identity] for identity in identities(context.auth_context()) if identity in callers}

    async def _of_token(self, token: str) -> str:
        """Return whose token it is.

        Raises:
            UnauthenticatedError: it is nobody's.
        """
        if self._jwt is not None and token.count(".") == _JWT_DOTS:
            try:
                return await self._jwt.caller(token)
            except RefusedTokenError as error:
                raise UnauthenticatedError(_TOKEN, f"JSON Web Token: {error}") from None
        caller = self._tokens().caller(token) if self._tokens is not None else None
        if caller is None:
            raise UnauthenticatedError(_TOKEN, "the token is unknown")
        return caller


def _bearer(context: Context) -> str | None:
    """Return the token that came with a call; None if none did.

    Raises:
        UnauthenticatedError: there are several, or it is something else.
    """
    given = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
    if not given:
        return None
    if len(given) > 1:
        raise UnauthenticatedError("send one authorization, not several")
    scheme, _, token = str(given[0]).partition(" ")
    if scheme.lower() != "bearer" or not token or " " in token or "," in token or not token.isascii():
        raise UnauthenticatedError("the authorization has to be 'Bearer' and one token")
    return token
