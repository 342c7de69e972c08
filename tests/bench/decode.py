"""What decoding costs, dialect by dialect, beside msgspec's untyped decoding of the same JSON.

The streams are those of the sandbox: many small pieces of text, as models send them. Framing in AWS's event stream is
left out of its dialects' figures, since it is botocore's. Prints a ratio for each dialect, the median of several
rounds within one process.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import msgspec
from keyswitch_engine.dialects import DIALECTS
from keyswitch_engine.dialects.anthropic_messages.flags import MessagesFlags
from keyswitch_engine.dialects.anthropic_messages.frames import InvokeFrames
from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.wire.aws_event_stream import AwsEventStreamDecoder
from keyswitch_engine.wire.ndjson import NDJSONDecoder
from keyswitch_engine.wire.sse import SSEDecoder
from keyswitch_sandbox.dialects import find
from keyswitch_sandbox.dialects.base import Request
from keyswitch_sandbox.scenarios import Conversation, Tuning, script

__all__ = ["main"]

ROUNDS, STREAMS, TOKENS = 7, 10, 500
PATHS = {
    "openai-chat": "/v1/chat/completions",
    "openai-responses": "/v1/responses",
    "anthropic-messages": "/v1/messages",
    "vertex-rawpredict": "/publishers/anthropic/models/m:streamRawPredict",
    "bedrock-invoke": "/model/m/invoke-with-response-stream",
    "gemini": "/models/m:streamGenerateContent?alt=sse",
    "bedrock-converse": "/model/m/converse-stream",
    "cohere-v2": "/v2/chat",
    "ollama": "/api/chat",
}


def pieces(dialect: str) -> list[bytes]:
    """Return a stream, an event a piece."""
    speaker, _ = find(PATHS[dialect])
    said = Conversation("", (), None, None, b"", 3)
    made = script("echo", said, Tuning(tokens=TOKENS))
    if made is None:
        raise LookupError("the sandbox has no such scenario")
    return list(speaker.stream_events(Request("m", stream=True, conversation=said), made, "id"))


def payloads(dialect: str, chunks: list[bytes]) -> list[bytes]:
    """Return the JSON of a stream, out of its frames."""
    if dialect == "bedrock-invoke":  # what the frames hold in base64 is the payload
        frames = InvokeFrames(Profile("sandbox", "/", MessagesFlags()))
        return [event.data for chunk in chunks for event in frames.feed(chunk)]
    if dialect == "bedrock-converse":
        messages = AwsEventStreamDecoder()
        return [message.payload for chunk in chunks for message in messages.feed(chunk)]
    if dialect == "ollama":
        lines = NDJSONDecoder()
        return [line for chunk in chunks for line in lines.feed(chunk)]
    events = SSEDecoder()
    return [event.data for chunk in chunks for event in events.feed(chunk) if event.data != b"[DONE]"]


def seconds(work: Callable[[], Any]) -> float:
    """Return the CPU time of *work*."""
    begun = time.process_time()
    for _ in range(STREAMS):
        work()
    return time.process_time() - begun


def framing(dialect: str, chunks: list[bytes]) -> Callable[[], Any]:
    """Return the work of taking a stream out of AWS's binary frames, nothing for other dialects."""
    if not dialect.startswith("bedrock"):
        return lambda: None

    def unframed() -> None:
        messages = AwsEventStreamDecoder()
        for chunk in chunks:
            messages.feed(chunk)

    return unframed


def main() -> None:
    """Measure and print."""
    print("decode cost of a stream of 500 tokens, a read each, as a multiple of msgspec's untyped decoding")
    ratios = {}
    for name, dialect in DIALECTS.items():
        chunks = pieces(name)
        bodies = payloads(name, chunks)
        profile = Profile("sandbox", "/", dialect.flags())
        untyped = msgspec.json.Decoder()

        def ours(dialect: Any = dialect, profile: Profile = profile, chunks: list[bytes] = chunks) -> None:
            decoder = dialect.decoder(profile, stream=True)
            for chunk in chunks:
                decoder.feed(chunk)
            decoder.end()

        def plain(bodies: list[bytes] = bodies, untyped: msgspec.json.Decoder[Any] = untyped) -> None:
            for body in bodies:
                untyped.decode(body)

        found = [(seconds(ours) - seconds(framing(name, chunks))) / seconds(plain) for _ in range(ROUNDS)]
        ratios[name] = statistics.median(found)
        micros = seconds(ours) / STREAMS / len(chunks) * 1e6
        print(f"  {name:20} {ratios[name]:5.2f}   {micros:5.1f} microseconds an event, framing included")
    best = min(ratios.values())
    print(f"  the dearest is {max(ratios.values()) / best:.2f} times the cheapest ratio")


if __name__ == "__main__":
    main()
