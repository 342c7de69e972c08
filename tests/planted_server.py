"""`keyswitch serve`, in which the models `plant-…` make handlers fail, or leak, in a way of their own."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import pathlib
import sys
import threading
import warnings
from typing import Any
from urllib.parse import quote

import grpc
from keyswitch.v1 import dispatch_service_pb2, event_pb2
from keyswitch_cli.__main__ import main
from keyswitch_engine.errors import ProviderError, Reason
from keyswitch_server.dispatch_service import DispatchService


class _Bad:
    """Fails when it goes."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __del__(self) -> None:
        raise RuntimeError(self.key)


def _fail(key: str) -> None:
    raise RuntimeError(f"the key is {key}")


async def _fail_later(key: str) -> None:
    _fail(key)


async def plant(way: str, key: str, service: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
    """Fail, as nothing in the product should; or leak, as nothing in it does."""
    match way:
        case "plant-exception":
            _fail(key)
        case "plant-exit":
            raise SystemExit(key)
        case "plant-group":
            raise BaseExceptionGroup(key, [KeyboardInterrupt(key), ValueError(key)])
        case "plant-cancel":
            raise asyncio.CancelledError(key)
        case "plant-task":
            task = asyncio.ensure_future(_fail_later(key))
            await asyncio.wait((task,))
            del task
        case "plant-loop":
            asyncio.get_running_loop().call_soon(_fail, key)
            asyncio.get_running_loop().call_exception_handler({"message": key, "exception": ValueError(key)})
        case "plant-thread":
            await asyncio.to_thread(lambda: threading.Thread(target=_fail, args=(key,), name=key).start())
        case "plant-finalizer":
            _Bad(key)
        case "plant-warning":
            warnings.warn(key, RuntimeWarning, stacklevel=1)
        case "plant-log":
            logging.getLogger("grpc._cython.cygrpc").error("%s", key, exc_info=ValueError(key), stack_info=True)
            service._log.error("call", request=key)
        case "leak-log":
            service._log.error("call", problem=key)
        case "leak-stderr":
            sys.stderr.write(f"{key}\n")
            sys.stderr.flush()
        case "leak-base64":
            service._log.error("call", problem=base64.b64encode(b"u:" + key.encode()).decode())
        case "leak-url":
            service._log.error("call", problem=quote(key, safe=""))
        case "leak-file":
            pathlib.Path(os.environ["TMPDIR"], "leak.txt").write_text(key)
        case "leak-status":
            await context.abort(grpc.StatusCode.INTERNAL, key)
        case "leak-detail":
            error = ProviderError(Reason.PROVIDER_UNAVAILABLE, "unreachable")
            error.upstream_request_id = key
            raise error
        case "leak-trailer":
            trailer = base64.b64encode(key.encode()).decode()
            await context.abort(grpc.StatusCode.INTERNAL, "failed", (("x-leak", trailer),))
    return dispatch_service_pb2.GenerateResponse(started=event_pb2.Started(response_id=key if "answer" in way else "1"))


_genuine = DispatchService.Generate


async def generate(service: Any, request: Any, context: Any) -> Any:
    """Answer as ever, unless the model is a plant."""
    if request.target.model.startswith(("plant-", "leak-")):
        key = request.credentials[0].credential.api_key.key
        with service._admitted("Generate", context):
            return await plant(request.target.model, key, service, context)
    return await _genuine(service, request, context)


if __name__ == "__main__":
    DispatchService.Generate = generate  # type: ignore[method-assign] # what a test plants
    main()
