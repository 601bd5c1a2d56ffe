"""The mutation score of the pure core: each small change of its code must make a pure test fail.

cosmic-ray says what can be changed and how; its own runner starts a new Python for every change. Here one process has
imported everything that is not ours, and for each change a fork of it imports ours, with that one module changed, and
runs the pure tests until the first fails.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import multiprocessing
import os
import resource
import sys
import time
import unittest
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from tests.mutants.patching import install

ROOT = Path(__file__).parents[2]
ROOM = ROOT / "saga"

ENTRY = ("advance", "ordering", "barrier", "rate", "routing", "names")
"""The pure core: these modules, and every module of the room that `advance` is made of."""

APART = frozenset(("words",))
"""Nothing but a list of words."""

TESTS = (
    "tests.saga.test_semantics",
    "tests.saga.test_joins",
    "tests.saga.test_alternatives",
    "tests.saga.test_children",
    "tests.saga.test_core",
    "tests.saga.test_core_corners",
    "tests.saga.test_definition",
    "tests.saga.test_values",
    "tests.saga.test_locking",
    "tests.saga.test_routing",
    "tests.saga.test_whole",
    "tests.saga.test_holding",
    "tests.saga.test_mending",
    "tests.saga.test_pausing",
    "tests.saga.test_answering",
    "tests.saga.test_standing",
    "tests.saga.test_answers",
    "tests.saga.test_undoing",
    "tests.saga.test_timers",
    "tests.saga.test_reports",
    "tests.saga.test_due",
    "tests.saga.test_whole_properties",
    "tests.saga.test_histories",
    "tests.saga.test_fanout",
    "tests.saga.test_properties",
    "tests.saga.test_schedule",
    "tests.saga.test_machine",
    "tests.saga.test_stories",
)
"""The pure tests, the quickest first: of these modules, those that need no fixture and no loop."""

SAME = (
    *(f"ReplaceComparisonOperator_{one}_{other}" for one in ("Is", "IsNot") for other in ("Lt", "LtE", "Gt", "GtE")),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Is_Eq", "IsNot_NotEq", "Eq_Is", "NotEq_IsNot")),
)
"""Changes that change nothing but by accident: words of an enumeration are single objects, as None and short texts are,
and the order of what is compared by `is` is that of its spelling, if any."""

MOST_SECONDS = 15
"""Processor time after which a change that makes the tests run for ever counts as found; at least `MOST_TIMES` what the
tests take as they are, on a machine that has other things to do."""

MOST_TIMES = 5

MOST_BYTES = 3 << 30
"""Memory after which one that collects for ever does."""

LEAST = 0.85
"""The score that must be reached."""


class Mutant(NamedTuple):
    """One change: which module, by which operator, the how-manieth place, and the line of it."""

    module: str
    operator: str
    occurrence: int
    line: int

    @property
    def turn(self) -> bytes:
        """When it is judged: in any order that is always the same, so that a smaller share is part of a larger."""
        return blake2b(f"{self.module} {self.operator} {self.occurrence}".encode(), digest_size=8).digest()

    @property
    def chance(self) -> float:
        """The same as a number from 0 to 1, so that a share stays what it is when changes come and go."""
        return int.from_bytes(self.turn) / 2**64


def pure_modules() -> list[str]:
    """Give the pure core's modules: what `advance` imports from its own room, and so on, with the entries."""
    found: list[str] = []
    todo = list(ENTRY)
    while todo:
        name = todo.pop(0)
        if name in found or name in APART or not (ROOM / f"{name}.py").exists():
            continue
        found.append(name)
        if name in ENTRY and name != "advance":
            continue
        for node in ast.walk(ast.parse((ROOM / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module is not None:
                todo.append(node.module)
    return found


@lru_cache
def _source(module: str) -> str:
    return (ROOM / f"{module}.py").read_text()


def annotations(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Give where the type annotations stand: `from __future__ import annotations` never evaluates them."""
    spans = []
    for node in ast.walk(ast.parse(source)):
        parts: list[ast.expr | None] = []
        if isinstance(node, (ast.AnnAssign, ast.arg)):
            parts.append(node.annotation)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            parts.append(node.returns)
        for part in parts:
            if part is not None:
                spans.append(((part.lineno, part.col_offset), (part.end_lineno or 0, part.end_col_offset or 0)))
    return spans


def _is_marker(node: Any) -> bool:
    """Tell whether a `*` is no product but says in a signature that arguments are named: mypy judges who calls how."""
    return node.type == "operator" and node.parent.type == "parameters"


def mutants(module: str) -> Iterator[Mutant]:
    """Give every change of one module."""
    source = _source(module)
    tree = get_ast(source)
    unread = annotations(source)
    for name in sorted(operator_names()):
        operator_class = get_operator(name)
        if name.partition("/")[2] in SAME or operator_class.arguments():
            continue
        operator = operator_class()
        occurrence = 0
        for node in ast_nodes(tree):
            for start, _ in operator.mutation_positions(node):
                if not _is_marker(node) and not any(first <= start < last for first, last in unread):
                    yield Mutant(module, name, occurrence, start[0])
                occurrence += 1


def judged(mutant: Mutant, seconds: int = MOST_SECONDS) -> str:
    """Say what became of one change: killed, or survived; runs in a fork that may use so much processor time."""
    source = _source(mutant.module)
    changed = mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence) if mutant.operator else source
    if changed is None:
        raise AssertionError(f"{mutant} is no longer there")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _in_child(mutant.module, changed, writing, seconds)
    os.close(writing)
    told = os.read(reading, 10)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    return "survived" if status == 0 and told == b"passed" else "killed"


def _in_child(module: str, source: str, writing: int, seconds: int) -> None:
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        install({f"choreo.saga.{module}": source})
        if _tests_pass():
            os.write(writing, b"passed")
        code = 0
    except BaseException:
        code = 1
    finally:
        os._exit(code)


def _tests_pass() -> bool:
    """Run the pure tests, without pytest: they need nothing of it but `parametrize`, and its start takes a second."""
    for name in TESTS:
        tests = importlib.import_module(name)
        for test in [found for called, found in vars(tests).items() if called.lower().startswith("test")]:
            if isinstance(test, type):
                if (
                    not unittest.defaultTestLoader.loadTestsFromTestCase(test)
                    .run(unittest.TestResult())
                    .wasSuccessful()
                ):
                    return False
            elif not inspect.iscoroutinefunction(test):
                for given in _parameters(test):
                    if not inspect.signature(test).parameters.keys() - given.keys():
                        test(**given)
    return True


def _parameters(test: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{}]
    for mark in getattr(test, "pytestmark", ()):
        names, values = mark.args[0], mark.args[1]
        names = names.replace(" ", "").split(",") if isinstance(names, str) else names
        rows = [row if len(names) > 1 else (row,) for row in values]
        found = [{**one, **dict(zip(names, row, strict=True))} for one in found for row in rows]
    return found


def preload() -> None:
    """Import what is not ours and costs time, so that the forks need not."""
    os.environ["CHOREO_QUICK_SEARCH"] = "1"
    for name in ("pytest", "hypothesis.stateful", "pydantic", "fastavro", "sqlalchemy", "tests.support.profiles"):
        importlib.import_module(name)
    for name in [name for name in sys.modules if name == "choreo" or name.startswith("choreo.")]:
        raise AssertionError(f"{name} must not be imported before it is changed")


def score(modules: Sequence[str] = (), processes: int = 2, share: float = 1.0, after: float = 0.0) -> bool:
    """Judge every change of the pure core, print a line for each survivor and the table; True if the score is reached.

    Args:
        modules: only these; none: all of the pure core.
        processes: how many are judged at once.
        share: of the changes that are judged: the first ones, in an order of chance that is always the same.
        after: the share before them that is left out, because somebody has looked at those.
    """
    preload()
    every = [mutant for module in modules or pure_modules() for mutant in mutants(module)]
    every = [
        mutant for mutant in sorted(every, key=lambda mutant: mutant.turn) if after <= mutant.chance < after + share
    ]
    if judged(Mutant("advance", "", 0, 0), 10 * MOST_SECONDS) != "survived":
        raise AssertionError("the pure tests fail as it is")
    took = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    patient = partial(judged, seconds=max(MOST_SECONDS, round(MOST_TIMES * took)))
    began = time.monotonic()
    verdicts: dict[str, Counter[str]] = {}
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        for mutant, verdict in zip(every, pool.imap(patient, every, chunksize=4), strict=True):
            verdicts.setdefault(mutant.module, Counter())[verdict] += 1
            if verdict == "survived":
                print(
                    f"survived: saga/{mutant.module}.py:{mutant.line} {mutant.operator} #{mutant.occurrence}",
                    flush=True,
                )
    print(f"\n{'module':<14}{'changes':>8}{'killed':>8}{'survived':>10}{'score':>8}")
    for module, counted in sorted(verdicts.items()):
        _row(module, counted)
    total = sum(verdicts.values(), Counter())
    _row("all", total)
    print(f"{time.monotonic() - began:.0f} s; at least {LEAST:.0%} must be killed")
    return total["killed"] >= LEAST * total.total()


def _row(name: str, counted: Counter[str]) -> None:
    share = counted["killed"] / max(1, counted.total())
    print(f"{name:<14}{counted.total():>8}{counted['killed']:>8}{counted['survived']:>10}{share:>8.1%}")
