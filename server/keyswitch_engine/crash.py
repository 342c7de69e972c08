"""What a process says of failures that nobody handles: what kind, and where; never a text or the value of a variable.

Texts of exceptions hold what users sent, and so do warnings and what libraries log. Python shows them in half a dozen
ways; an entry point calls `report_by` first of all, and each of them goes there instead.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Protocol, TextIO

__all__ = ["Report", "places", "report_by", "summary"]

_DEEPEST: Final = 12
"""Places of an exception that are told, the innermost ones."""


class Report(Protocol):
    """Says that something failed."""

    def __call__(self, level: int, source: str, kind: str, where: Sequence[str]) -> None:
        """Say so, at a *level* of `logging`.

        *source* is a logger's name, or `main`, `thread`, `finalizer` or `warnings`; *kind* the type of the exception or
        warning, empty where there is none; *where* the places that it passed, innermost last.
        """


def places(error: BaseException) -> list[str]:
    """Return where an exception passed, innermost last: file, line and function, without any text of its own."""
    found = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        found.append(_place(code.co_filename, trace.tb_lineno, code.co_name))
        trace = trace.tb_next
    return found[-_DEEPEST:]


def summary(kind: str, where: Sequence[str]) -> str:
    """Return a failure as one line for people."""
    return f"{kind or 'failure'} at {where[-1] if where else 'an unknown place'}"


def report_by(report: Report) -> None:
    """Hand everything to *report* that this process would otherwise show with its text."""

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        report(logging.CRITICAL, "main", kind.__name__, places(error))

    def in_thread(failure: threading.ExceptHookArgs) -> None:
        if failure.exc_value is not None and not isinstance(failure.exc_value, SystemExit):
            report(logging.ERROR, "thread", failure.exc_type.__name__, places(failure.exc_value))

    def unraisable(failure: sys.UnraisableHookArgs) -> None:
        where = places(failure.exc_value) if failure.exc_value is not None else []
        report(logging.ERROR, "finalizer", failure.exc_type.__name__, where)

    def warned(  # noqa: PLR0917 - the signature of `warnings.showwarning`
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: TextIO | None = None, line: str | None = None,
    ) -> None:  # fmt: skip
        report(logging.WARNING, "warnings", category.__name__, [_place(filename, lineno)])

    sys.excepthook = uncaught
    threading.excepthook = in_thread
    sys.unraisablehook = unraisable
    warnings.showwarning = warned
    logging.captureWarnings(False)
    logging.basicConfig(level=logging.WARNING, handlers=[_Records(report)], force=True)


class _Records(logging.Handler):
    """Passes on what libraries log; asyncio and gRPC log the exceptions of their tasks and handlers."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        error: Any = record.exc_info[1] if record.exc_info else None
        if error is not None:
            self._report(record.levelno, record.name, type(error).__name__, places(error))
        else:
            where = [_place(record.pathname, record.lineno, record.funcName or "")]
            self._report(record.levelno, record.name, "", where)


def _place(file: str, line: int, function: str = "") -> str:
    """Return a place in the code."""
    return f"{os.path.basename(file)}:{line} {function}".rstrip()  # noqa: PTH119 - a name is all that is needed
