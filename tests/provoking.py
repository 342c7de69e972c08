"""Providers that fail as they are told, and calls of them, for tests of attempts within the engine."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web
from keyswitch_engine import registry
from keyswitch_engine.attempt import AttemptLog
from keyswitch_engine.attempts import Runner
from keyswitch_engine.credential import ApiKey, ProviderCredential
from keyswitch_engine.dispatch import Dispatcher, GenerationCall, TimeLimits, write_request
from keyswitch_engine.events import AttemptOutcome, Event, Finished
from keyswitch_engine.generation import Generation, Message, Part, Role, TextPart
from keyswitch_engine.plan import Plan
from keyswitch_engine.route import Target
from keyswitch_engine.routing import resolve
from keyswitch_engine.secret import Secret

__all__ = ["ANSWERS", "FAILS", "WHOLE", "Answer", "Provider", "attempts", "call", "refused", "says", "whole"]

GENERATION = Generation((Message(Role.USER, (Part(TextPart("hi")),)),))
WHOLE = {"id": "c", "choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]}
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def call(url: str, *, stream: bool = False, **fields: Any) -> GenerationCall:
    rows = registry.load(base_urls={"sandbox": url})
    route = resolve(rows, Target(provider="sandbox"), [ProviderCredential("sandbox", ApiKey(Secret("the-key")))])
    now = asyncio.get_running_loop().time()
    shared = {"limits": TimeLimits(5, 5, 5, 10), "received_at": now} | fields
    return GenerationCall(request=write_request(route, GENERATION, stream=stream), route=route, **shared)


def refused(status: int, message: str = "no", **headers: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status, headers=headers)


class Provider:
    """Answers its requests in order, each in the way that was told for it."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = answers
        self.times: list[float] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.times.append(asyncio.get_running_loop().time())
        return await self.answers[len(self.times) - 1](request)

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


def says(response: Callable[[], web.Response]) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return response()

    return answer


FAILS = says(lambda: refused(500))
ANSWERS = says(lambda: web.json_response(WHOLE))


async def whole(dispatcher: Dispatcher, runner: Runner, *calls: GenerationCall, **plan: Any) -> list[Event]:
    log = AttemptLog()
    first, *fallbacks = calls
    later = tuple(functools.partial(msgspec.structs.replace, fallback) for fallback in fallbacks)
    asked = Plan(call=first, fallbacks=later, **{"max_attempts": 2} | plan)
    return await runner.run(asked, log, lambda call: dispatcher.generate(call, log))


def attempts(events: list[Event]) -> list[AttemptOutcome]:
    assert isinstance(events[-1], Finished)
    return [attempt.outcome for attempt in events[-1].receipt.attempts]
