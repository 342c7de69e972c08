"""The gate: who calls, whether they may, and whether they may now, before anything of a call is read or done."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import grpc
from keyswitch_engine.errors import DispatchError, Reason

from keyswitch_server.authentication import Authenticator
from keyswitch_server.caller import set_caller
from keyswitch_server.caller_limits import CallerLimits
from keyswitch_server.policies import POLICIES, Policy

__all__ = ["Gate"]

Context = grpc.aio.ServicerContext[Any, Any]


class Gate:
    """Lets calls in by the method that gRPC dispatches, and by nothing else that a request says of its destination."""

    def __init__(
        self,
        authenticator: Authenticator,
        limits: CallerLimits,
        policies: Mapping[str, Policy] = POLICIES,
    ) -> None:
        """Let in whom *policies* allow, as *authenticator* knows them, within *limits*."""
        self._authenticator = authenticator
        self._limits = limits
        self._policies = policies

    def is_open(self, method: str) -> bool:
        """Tell whether everybody may call a method."""
        return self._policies.get(method) is Policy.OPEN

    async def enter(self, method: str, context: Context) -> contextlib.AbstractContextManager[None]:
        """Find out who calls, and let the call in for as long as what is returned is not left.

        Raises:
            DispatchError: the caller is not known, not allowed, or over a limit.
        """
        policy = self._policies.get(method)
        if policy is None:
            raise DispatchError(Reason.CALLER_NOT_PERMITTED, "nobody may call this method: it has no policy")
        if policy is Policy.OPEN:
            return contextlib.nullcontext()
        caller = await self._authenticator.caller(context)
        set_caller(caller)
        return await self._limits.hold(caller)
