"""Python client of keyswitch.

::

    from keyswitch_client import Client

    with Client("127.0.0.1:50551") as client:
        for text in client.stream(credentials={"openai": key}, messages="Say hello").text_deltas():
            print(text, end="", flush=True)

`AsyncClient` is the same with `await`. Messages of the contract (`keyswitch.v1`) are accepted and returned wherever
plain values would say less.
"""

from keyswitch_client.aio import AsyncClient, AsyncStream
from keyswitch_client.answers import Answer, ToolCall
from keyswitch_client.endpoints import Endpoint
from keyswitch_client.errors import (
    CallerError,
    ContentRefusedError,
    CredentialError,
    DeadlineError,
    InternalError,
    InvalidRequestError,
    KeyswitchError,
    ProviderError,
    RateLimitedError,
    TruncatedError,
    UnavailableError,
    UnsupportedError,
)
from keyswitch_client.events import (
    ArgumentsDelta,
    BlockStart,
    BlockStop,
    Citation,
    Event,
    Finished,
    Logprobs,
    MediaDelta,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallStart,
)
from keyswitch_client.locality import LocalOptions
from keyswitch_client.requests import ApiKey, BearerToken, user
from keyswitch_client.sync import Client, Stream

__all__ = [
    "Answer",
    "ApiKey",
    "ArgumentsDelta",
    "AsyncClient",
    "AsyncStream",
    "BearerToken",
    "BlockStart",
    "BlockStop",
    "CallerError",
    "Citation",
    "Client",
    "ContentRefusedError",
    "CredentialError",
    "DeadlineError",
    "Endpoint",
    "Event",
    "Finished",
    "InternalError",
    "InvalidRequestError",
    "KeyswitchError",
    "LocalOptions",
    "Logprobs",
    "MediaDelta",
    "ProviderError",
    "RateLimitedError",
    "ReasoningDelta",
    "RefusalDelta",
    "Started",
    "Stream",
    "TextDelta",
    "ToolCall",
    "ToolCallStart",
    "TruncatedError",
    "UnavailableError",
    "UnsupportedError",
    "user",
]
