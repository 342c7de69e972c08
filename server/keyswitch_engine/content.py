"""How an answer's content type decides the way it is read."""

from __future__ import annotations

from collections.abc import Mapping

from keyswitch_engine.errors import ProtocolError

__all__ = ["answer_mode"]


def answer_mode(headers: Mapping[str, str], *, streamed: bool) -> bool:
    """Tell whether an answer has to be read as a stream; *streamed* says what was asked for.

    Only a stream that announces itself overrides that: a dialect's stream decoder recognises a whole answer by itself.

    Raises:
        ProtocolError: the answer is a web page.
    """
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    match media_type:
        case "text/event-stream":
            return True
        case "text/html":
            raise ProtocolError("the provider answered with a web page")
        case _:
            return streamed
