"""Breaks the rules of routing one at a time, in a copy, and tells which breakages the decision table does not notice.

Each condition is made always true and always false, each part of an `and` or `or` and each filter of a comprehension is
left out, comparisons are turned round, and neighbouring ranks swapped. What the table cannot say, such as how a message
reads or what embeddings need, the other tests of routing have to notice; `UNNOTICED` says why the rest is no rule.
"""

from __future__ import annotations

import ast
import itertools
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

HERE = pathlib.Path(__file__).resolve().parents[1]
ENGINE = "server/keyswitch_engine"
MODULES = ("claims.py", "decision.py", "keyring.py", "operator.py", "routing.py")
TABLE = ("tests/engine/test_routing_decisions.py",)
BESIDE = (
    "tests/bridge",
    *(f"tests/engine/test_{name}.py" for name in (
        "custom_endpoint", "every_provider", "model_listing", "offers", "operator_tables", "operators_bill", "outline",
        "overrides", "plan", "routing", "routing_preferences", "routing_properties",
    )),
)  # fmt: skip
COPIED = ("proto", "server", "clients", "tests")
IMPORTED = ("proto", "server", "clients/python", "clients/cli", "tests")
WORKERS = os.cpu_count() or 1
TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
}  # fmt: skip
_SHORTCUT = "a shortcut: what it spares would find the same"
UNNOTICED = {
    "decision.py: registry.operator.virtual_models and (virtual := _virtual(registry, provider, model)) is not None: "
    "without registry.operator.virtual_models": _SHORTCUT,
    "decision.py: provider.id not in registry.operator.platform_keys or not keyring.consents(provider): "
    "without provider.id not in registry.operator.platform_keys": _SHORTCUT,
    "decision.py: found or not operator.menus: without not operator.menus": _SHORTCUT,
    "decision.py: provider.router and provider is not winner and provider.foreign_id_form and "
    "provider.foreign_id_form: without provider.foreign_id_form": "every router has one; for the type checker",
}
"""Mutants that no test need notice, as they are printed but for the line, each with its reason."""


class Mutant(NamedTuple):
    """A module with one thing broken."""

    module: str
    line: int
    change: str
    source: str


def mutants(module: str) -> Iterator[Mutant]:
    """Yield every mutant of a module."""
    source = (HERE / ENGINE / module).read_text()
    for number in itertools.count():
        tree = ast.parse(source)
        site = next(itertools.islice(_sites(tree), number, None), None)
        if site is None:
            return
        node, change, make = site
        line, before = node.lineno, ast.unparse(node).partition("\n")[0]
        make()
        yield Mutant(module, line, f"{before[:100]}: {change}", ast.unparse(ast.fix_missing_locations(tree)))


def _sites(tree: ast.Module) -> Iterator[tuple[Any, str, Callable[[], object]]]:
    """Yield what can be broken: a node, in words how, and what does it, of which at most one may be called."""
    for node in ast.walk(tree):
        match node:
            case ast.If() | ast.IfExp():
                for value in (True, False):
                    yield node, f"always {value}", partial(setattr, node, "test", ast.Constant(value))
            case ast.BoolOp(values=parts):
                for number, part in enumerate(parts):
                    yield node, f"without {ast.unparse(part)}", partial(parts.pop, number)
            case ast.GeneratorExp() | ast.ListComp() | ast.SetComp() | ast.DictComp():
                for loop in node.generators:
                    for number, test in enumerate(loop.ifs):
                        yield node, f"without {ast.unparse(test)}", partial(loop.ifs.pop, number)
            case ast.Compare(ops=[operator]):
                other = TURNED[type(operator)]
                yield node, other.__name__, partial(setattr, node, "ops", [other()])
            case ast.ClassDef(bases=[ast.Attribute(attr="IntEnum")]):
                ranks = [member for member in node.body if isinstance(member, ast.Assign)]
                for one, two in itertools.pairwise(ranks):
                    yield one, f"swapped with {ast.unparse(two)}", partial(_swap, one, two)
            case _:
                pass


def _swap(one: ast.Assign, two: ast.Assign) -> None:
    """Swap the values of two members."""
    one.value, two.value = two.value, one.value


def survives(mutant: Mutant, tests: Sequence[str], copy: pathlib.Path) -> bool:
    """Tell whether *tests* hold in a *copy* with the mutant in it, which is taken out again."""
    path = copy / ENGINE / mutant.module
    whole = path.read_text()
    path.write_text(mutant.source)
    try:
        ran = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-x",
                "-p",
                "no:cacheprovider",
                *tests,
            ],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(str(copy / folder) for folder in IMPORTED)},
            capture_output=True,
            timeout=120,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    finally:
        path.write_text(whole)
    return ran.returncode == 0


def main() -> int:
    """Try every mutant, print those that the table does not notice, and exit 1 if nothing explains why no test does."""
    found = [mutant for module in MODULES for mutant in mutants(module)]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(WORKERS) as workers:
        copies: queue.SimpleQueue[pathlib.Path] = queue.SimpleQueue()
        for number in range(WORKERS):
            copy = pathlib.Path(scratch, str(number))
            for name in COPIED:
                shutil.copytree(HERE / name, copy / name)
            shutil.copy(HERE / "pyproject.toml", copy)
            copies.put(copy)

        def survivors(tried: Sequence[Mutant], tests: Sequence[str]) -> list[Mutant]:
            def is_one(mutant: Mutant) -> bool:
                copy = copies.get()
                try:
                    return survives(mutant, tests, copy)
                finally:
                    copies.put(copy)

            return [mutant for mutant, alive in zip(tried, workers.map(is_one, tried), strict=True) if alive]

        whole = Mutant(MODULES[0], 0, "", (HERE / ENGINE / MODULES[0]).read_text())
        if not survivors([whole], TABLE + BESIDE):
            print("the tests do not hold as they are")
            return 1
        missed = survivors(found, TABLE)
        left = survivors(missed, BESIDE)
    reasons = [UNNOTICED.get(f"{mutant.module}: {mutant.change}") for mutant in left]
    for mutant in missed:
        by = (reasons[left.index(mutant)] or "UNNOTICED") if mutant in left else "noticed by the tests beside the table"
        print(f"{ENGINE}/{mutant.module}:{mutant.line}: {mutant.change}\n    {by}")
    print(
        f"{len(found)} mutants: {len(found) - len(missed)} noticed by the table, "
        f"{len(missed) - len(left)} by other tests, {len(left)} by none"
    )
    return int(None in reasons)


if __name__ == "__main__":
    sys.exit(main())
