from __future__ import annotations

import contextlib
import io
import json
import logging as stdlib
import os
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest
from keyswitch_server import logging


@pytest.fixture(autouse=True)
def hooks() -> Iterator[None]:
    """Give the process its own hooks and handlers back."""
    kept = sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning, stdlib.root.handlers[:]
    yield
    sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning, stdlib.root.handlers[:] = kept


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_only_listed_keys_are_logged() -> None:
    """A key that is not on the list is dropped, and counted."""
    out = io.StringIO()
    logging.configure("info", out).info("call", method="Generate", api_key="hidden", request="hidden")
    (line,) = lines(out)
    assert (line["event"], line["method"], line["fields_dropped"]) == ("call", "Generate", 2)
    assert "hidden" not in out.getvalue()


def test_the_level_is_the_least_that_is_logged() -> None:
    """Lines below the level are not written."""
    out = io.StringIO()
    log = logging.configure("warning", out)
    log.info("call")
    log.warning("call")
    assert len(lines(out)) == 1


def test_tracebacks_of_libraries_lose_their_texts() -> None:
    """What a library logs keeps logger, type and places, no message: texts hold what users sent."""
    out = io.StringIO()
    logging.configure("info", out)
    try:
        raise ValueError("hidden")
    except ValueError:
        stdlib.getLogger("some.library").exception("hidden %s", "hidden")
    (line,) = lines(out)
    assert (line["logger"], line["exception_type"]) == ("some.library", "ValueError")
    assert "test_logging.py" in str(line["exception_places"])
    assert "hidden" not in out.getvalue()


def test_a_log_that_cannot_be_written_costs_lines_and_nothing_else() -> None:
    """A reader that left, a full disk or a closed stream never fails what is logged about."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as left:
        log = logging.configure("info", left)
        log.info("listening", version="x" * 100_000)
        with contextlib.suppress(OSError):
            left.close()
        log.info("stopped")
