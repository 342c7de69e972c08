from __future__ import annotations

import asyncio
import io
import json
import os
import pathlib
import threading
from typing import Any

import pytest
from certificates import put
from keyswitch_server import logging
from keyswitch_server.live_file import LiveFile, UnusableFileError, read_bytes, watched


class Number:
    """A live file that holds a number."""

    def __init__(self, path: pathlib.Path) -> None:
        self.out = io.StringIO()
        self.path = path
        self.reads = 0
        self.live = LiveFile("number", [path], self._read, logging.configure("info", self.out))

    def _read(self) -> int:
        self.reads += 1
        text = read_bytes("number", self.path)
        if text == b"bug":
            raise ValueError("hidden")
        if not text.isdigit():
            raise UnusableFileError("number: it is none")
        return int(text)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.getvalue().splitlines()]


@pytest.fixture
def number(tmp_path: pathlib.Path) -> Number:
    return Number(put(tmp_path / "number", "1"))


async def test_a_change_is_taken_up_and_nothing_is_read_without_one(number: Number) -> None:
    """A look reads what changed, and only that; the log says so."""
    await number.live.look()
    assert (number.live(), number.reads) == (1, 1)
    put(number.path, "22")
    await number.live.look()
    await number.live.look()
    assert (number.live(), number.reads) == (22, 2)
    assert [(line["event"], line["setting"]) for line in number.lines()] == [("file reloaded", "number")]


@pytest.mark.parametrize(
    ("content", "event"), [("bad", "file not reloaded"), ("bug", "incident"), (None, "file not reloaded")]
)
async def test_what_does_not_hold_changes_nothing(number: Number, content: str | None, event: str) -> None:
    """The last good content stays, the reason is logged once, and what is good again is taken up."""
    number.path.unlink()
    if content is not None:
        put(number.path, content)
    await number.live.look()
    assert number.live() == 1
    assert [line["event"] for line in number.lines()] == [event]
    assert "hidden" not in number.out.getvalue()
    put(number.path, "3")
    await number.live.look()
    assert number.live() == 3


async def test_a_bad_file_is_told_of_once(number: Number) -> None:
    """Looking again at what was bad before logs nothing more."""
    put(number.path, "bad")
    for _ in range(3):
        await number.live.look()
    assert len(number.lines()) == 1


async def test_what_is_written_while_it_is_read_waits_for_the_next_look(tmp_path: pathlib.Path) -> None:
    """A half that was read before the file was complete is neither taken up nor complained of."""
    path = put(tmp_path / "number", "1")
    steps = iter((lambda: None, lambda: put(path, "33"), lambda: None))

    def read() -> int:
        text = read_bytes("number", path)
        next(steps)()
        return int(text)

    out = io.StringIO()
    live = LiveFile("number", [path], read, logging.configure("info", out))
    put(path, "2")
    await live.look()
    assert (live(), out.getvalue()) == (1, "")
    await live.look()
    assert live() == 33


async def test_a_link_that_leads_elsewhere_is_a_change(tmp_path: pathlib.Path) -> None:
    """Mounted secrets change by a link beside the file, with times that may be the same."""
    for name, content in (("one", "1"), ("two", "2")):
        (tmp_path / name).mkdir()
        os.utime(put(tmp_path / name / "number", content), (1, 1))
    link = tmp_path / "current"
    link.symlink_to("one")
    (tmp_path / "number").symlink_to("current/number")
    number = Number(tmp_path / "number")
    link.unlink()
    link.symlink_to("two")
    await number.live.look()
    assert number.live() == 2


async def test_a_file_system_that_hangs_stops_nobody(tmp_path: pathlib.Path) -> None:
    """What is in force is returned, other files are looked at, and leaving does not wait."""
    hung, other = put(tmp_path / "hung", "1"), Number(put(tmp_path / "number", "1"))
    release, entered = threading.Event(), threading.Event()

    def read() -> int:
        if read_bytes("hung", hung) != b"1":
            entered.set()
            release.wait(20)
        return 1

    live = LiveFile("hung", [hung], read, logging.configure("info", io.StringIO()))
    put(hung, "22")
    async with asyncio.timeout(10), watched((live, other.live)):
        while not entered.is_set():
            await asyncio.sleep(0.01)
        put(other.path, "2")
        while other.live() != 2:
            await asyncio.sleep(0.01)
        assert live() == 1
    release.set()
