"""Builds the conversation of each recorded request through the contract and compares the body that is sent with it.

Bodies are read into a `GenerateRequest`, which goes through validator, routing and dialect like any other; what the
contract cannot say travels in `options_json`. Every leaf of the recorded body is compared. Differences that are
deliberate are normalised on both sides, by the functions in `spelling.py`, each of which says why. Prints agreement by
dialect and the differences that are left. Exits 1 below the agreement that `--least` asks for.
"""

from __future__ import annotations

import argparse
import collections
import copy
import json
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
from contract import Json
from google.protobuf import json_format
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch_bridge.requests import read_generate
from keyswitch_engine import registry
from keyswitch_engine.dialects import DIALECTS
from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.errors import DispatchError
from keyswitch_engine.routing_preferences import with_wishes
from readers import READERS, Unreadable
from spelling import normal

IMPLIED = ("model", "stream", "stream_options", "anthropic_version", "anthropic-version")
"""Fields that the target, the rpc and the dialect say, not the request."""


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf with its path."""
    match value:
        case dict() if value:
            for name, inner in value.items():
                yield from leaves(inner, f"{path}.{name}" if path else name)
        case list() if value:
            for number, inner in enumerate(value):
                yield from leaves(inner, f"{path}[{number}]")
        case _:
            yield path, value


def general(path: str) -> str:
    """Return a path without its numbers."""
    return "".join(piece.partition("]")[2] if number else piece for number, piece in enumerate(path.split("[")))


class Tally:
    """What was found for one dialect."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.compared = self.agreed = self.with_options = self.unreadable = self.refused = 0
        self.options: collections.Counter[str] = collections.Counter()
        self.differences: collections.Counter[str] = collections.Counter()
        self.refusals: collections.Counter[str] = collections.Counter()
        self.examples: dict[str, str] = {}


def profile_of(rows: registry.Registry, provider: str, dialect: str) -> Profile:
    """Return the provider's way of speaking a dialect, its defaults if it has no row."""
    row = rows.find(provider)
    for surface in row.dialects if row is not None else ():
        if surface.dialect.name == dialect and not surface.needs:
            return surface.profile
    return Profile(provider, "/", DIALECTS[dialect].flags())


def compare(rows: registry.Registry, entry: Json, recorded: Json, tally: Tally) -> None:
    """Compare one recorded body with what is made of it."""
    dialect, provider = entry["protocol"], entry["provider"]
    left = copy.deepcopy(recorded)
    streams = bool(left.get("stream")) or entry["kind"] == "stream"
    for name in IMPLIED:
        left.pop(name, None)
    try:
        fields = READERS[dialect](left, provider)
    except (Unreadable, KeyError, TypeError, AttributeError) as error:
        tally.unreadable += 1
        tally.refusals[f"not readable: {error}"] += 1
        return
    wishes = left.pop("provider") if provider == "openrouter" and isinstance(left.get("provider"), dict) else None
    options = {name: value for name, value in left.items() if value is not None and value not in ([], {})}
    target = {"provider": "sandbox", "model": "m"} | ({"optionsJson": json.dumps(options)} if options else {})
    if wishes is not None:
        target["routing"] = wishes
    profile = profile_of(rows, provider, dialect)
    try:
        message = json_format.ParseDict({"target": target, **fields}, pb.GenerateRequest())
        call = read_generate(message)
        made = DIALECTS[dialect].request(
            call.generation,
            recorded.get("model") or entry.get("model") or "m",
            profile,
            with_wishes(call.target.options_json, "openrouter", call.target.routing)
            if wishes is not None
            else call.target.options_json,
            stream=streams,
        )
    except (DispatchError, json_format.ParseError) as error:
        tally.refused += 1
        tally.refusals[f"refused, {provider}: {str(error)[:110]}"] += 1
        return
    tally.compared += 1
    tally.with_options += bool(options)
    tally.options.update(options.keys())
    want = dict(leaves(normal(dialect, copy.deepcopy(recorded))))
    got = dict(leaves(normal(dialect, msgspec.json.decode(made.body))))
    wrong = {path for path in want.keys() | got.keys() if want.get(path, ...) != got.get(path, ...)}
    tally.agreed += not wrong
    for path in {general(path) for path in wrong}:
        tally.differences[path] += 1
    for path in wrong:
        tally.examples.setdefault(
            general(path), f"{entry['id'][:70]}: {str(want.get(path, '-'))[:40]} / {str(got.get(path, '-'))[:40]}"
        )


def main() -> None:
    """Compare all, or those of the dialects that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dialects", nargs="*", default=list(DIALECTS))
    parser.add_argument("--show", type=int, default=8, help="differences to show for each dialect")
    parser.add_argument("--least", type=float, default=0.0, help="agreement below which the exit status is 1")
    chosen = parser.parse_args()
    folder = os.environ.get("RECORDINGS", "")
    if not folder:
        print("request conformance skipped: there is no folder of recordings; set RECORDINGS")
        return
    rows = registry.load()
    tallies: dict[str, Tally] = {name: Tally() for name in chosen.dialects}
    for entry in json.loads((pathlib.Path(folder) / "index.json").read_text(encoding="utf-8")):
        if entry["protocol"] not in tallies or not entry.get("request_recorded") or entry["kind"] == "err":
            continue
        meta = json.loads((pathlib.Path(folder) / entry["meta_file"]).read_text(encoding="utf-8"))
        body = (meta.get("request") or {}).get("body")
        if not isinstance(body, dict) or meta["request"].get("elided_strings") or "sha256" in json.dumps(body):
            continue
        if entry["protocol"] == "bedrock-invoke" and "anthropic_version" not in body:
            continue
        compare(rows, entry, body, tallies[entry["protocol"]])
    compared = sum(tally.compared for tally in tallies.values())
    agreed = sum(tally.agreed for tally in tallies.values())
    optional = sum(tally.with_options for tally in tallies.values())
    for name, tally in tallies.items():
        share = tally.agreed / tally.compared if tally.compared else 1.0
        print(
            f"{name:20} {tally.agreed} of {tally.compared} agree ({share:.1%}), {tally.with_options} with options_json,"
            f" {tally.refused} refused, {tally.unreadable} not readable"
        )
        for path, count in tally.differences.most_common(chosen.show):
            print(f"    {count:4} {path}   {tally.examples[path]}")
        for reason, count in tally.refusals.most_common(chosen.show):
            print(f"    {count:4} {reason}")
        if tally.options:
            print(f"    options: {', '.join(f'{key} {count}' for key, count in tally.options.most_common(12))}")
    share, optional_share = agreed / max(compared, 1), optional / max(compared, 1)
    print(f"all: {agreed} of {compared} agree ({share:.1%}); {optional} needed options_json ({optional_share:.1%})")
    sys.exit(agreed < chosen.least * compared)


if __name__ == "__main__":
    main()
