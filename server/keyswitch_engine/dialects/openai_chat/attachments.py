"""What comes beside the text: sources, of a piece of it or of the answer as a whole, and sound."""

from __future__ import annotations

from keyswitch_engine.dialects.openai_chat.chunks import UrlCitation
from keyswitch_engine.dialects.reading import place_in_text
from keyswitch_engine.events import Citation

__all__ = ["audio_type", "read_citation", "read_sources"]

_MAGIC = {
    b"RIFF": "audio/wav",
    b"ID3": "audio/mpeg",
    b"\xff\xfb": "audio/mpeg",
    b"fLaC": "audio/flac",
    b"OggS": "audio/ogg",
}


def read_citation(found: UrlCitation) -> Citation:
    """Return a source that stands beside the text."""
    return Citation(
        found.url,
        found.title or "",
        found.content or "",
        place_in_text(found.start_index),
        place_in_text(found.end_index),
    )


def read_sources(found: object) -> list[Citation]:
    """Return the sources of the whole answer, which come as results of a search or as bare URLs."""
    citations = []
    for source in found if isinstance(found, list) else ():
        match source:
            case str(url):
                citations.append(Citation(url))
            case {"url": str(url), **more}:
                title, quote = more.get("title"), more.get("snippet")
                citations.append(
                    Citation(url, title if isinstance(title, str) else "", quote if isinstance(quote, str) else "")
                )
            case _:
                pass
    return citations


def audio_type(data: bytes) -> str:
    """Return the media type of a sound by its first bytes: only the request says it, and streams are always PCM."""
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), "audio/pcm")
