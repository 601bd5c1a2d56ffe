"""Record the histories of a release: `python -m tests.histories.record 0.2.0` (`make histories RELEASE=0.2.0`).

Every saga of the demo, a slice of the Olist orders and every story of the semantics tests, each input with what came of
it: verdict, decisions, outputs and the whole state. A recorded release is never recorded again: what it says must hold
for ever (`tests/saga/test_histories.py`).
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import choreo.saga.advance as pure
from choreo.saga.definition import Definition
from choreo.saga.inputs import Elapsed, Input, Observed, Transition
from choreo.saga.instance import Instance
from choreo.saga.outputs import write_output
from choreo.saga.past import history_row
from choreo.saga.replay import changes_text

ROOT = Path(__file__).parent.parent.parent
FOLDER = Path(__file__).parent
OLIST_ORDERS = 120


@dataclass
class Tape:
    """Listens to `begin` and `advance`, and keeps what each saga went through, by the name of its story."""

    story: str = ""
    sagas: dict[tuple[str, str], dict[int, dict[str, Any]]] = field(default_factory=dict)
    heads: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def listen(self) -> None:
        """Wrap both functions; whatever imports them later is recorded."""
        begin, advance = pure.begin, pure.advance

        def begun(definition: Definition, key: str, run: int, event: Observed, now: int, **options: Any) -> Transition:
            transition = begin(definition, key, run, event, now, **options)
            name = (self.story, transition.instance.id)
            if self.story != "demo":  # a test may play several sagas of one name
                while name in self.sagas:
                    name = (f"{name[0]}'", name[1])
                self.story = name[0]
            sampled = options.get("sampled", True)
            self.heads[name] = {"key": key, "run": run, "sampled": sampled, "definition": definition.to_json()}
            self.sagas[name] = {}
            self.keep(name, event, transition, now)
            return transition

        def advanced(definition: Definition, instance: Instance, input_: Input, now: int) -> Transition:
            transition = advance(definition, instance, input_, now)
            if not (isinstance(input_, Elapsed) and transition.verdict == "ignored"):
                self.keep((self.story, instance.id), input_, transition, now)
            return transition

        pure.begin, pure.advance = begun, advanced  # type: ignore[assignment]

    def keep(self, name: tuple[str, str], input_: Input, transition: Transition, now: int) -> None:
        instance = transition.instance
        row = history_row(instance, transition, input_, "", None, now)
        known = self.sagas.setdefault(name, {})
        for later in [seq for seq in known if seq > instance.seq]:
            del known[later]  # that transaction was rolled back, or the test went on from an earlier state
        known[instance.seq] = {
            "at": now,
            "kind": row.kind,
            "input": row.input,
            "verdict": row.verdict,
            "reason": row.reason,
            "changes": changes_text(row.changes),
            "outputs": [write_output(output) for output in transition.outputs],
            "state": instance.to_json(),
        }

    def lines(self) -> Iterator[str]:
        """Give one line of JSON for each saga whose every input is known."""
        for (story, id_), inputs in sorted(self.sagas.items()):
            if (story, id_) in self.heads and sorted(inputs) == list(range(1, len(inputs) + 1)):
                told = {"story": story, "id": id_, **self.heads[story, id_]}
                yield json.dumps({**told, "inputs": [inputs[seq] for seq in sorted(inputs)]}, sort_keys=True)


class _Names:
    """Tells the tape which test runs."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self.tape.story = item.name


def _stories(tape: Tape) -> None:
    code = pytest.main(["-q", "-p", "no:cacheprovider", str(ROOT / "tests/saga/test_semantics.py")], [_Names(tape)])
    if code:
        raise SystemExit("the semantics tests fail: a release that does not keep its word is not recorded")


async def _demo(tape: Tape) -> None:
    from choreo.saga.demo.saga import Fulfilment
    from choreo.saga.demo.shop import SERVICES
    from choreo.saga.demo.traffic import Mix, traffic
    from choreo.saga.testing import Harness

    tape.story = "demo"
    async with Harness(*SERVICES, Fulfilment) as harness:
        for placed in traffic(Mix.model_construct(orders=60)):
            for _ in range(placed.copies):
                await harness.publish(placed.event, id=placed.event_id)
            await harness.advance("50ms")
        await harness.run()


def _olist(tape: Tape) -> None:
    from choreo.events.clock import from_datetime
    from choreo.events.rows import Malformed, RowReader
    from choreo.saga.loading import load_object

    marketplace = load_object(f"{ROOT}/examples/olist/marketplace.py")
    definition = marketplace.Marketplace.definition()
    orders = Path(os.environ.get("CHOREO_OLIST") or ROOT.parent / "shared/data/olist/orders.csv.gz")
    for number, found in enumerate(RowReader(orders)):
        if number == OLIST_ORDERS:
            break
        assert not isinstance(found, Malformed)
        tape.story = f"order {number}"
        dated = sorted(marketplace.events(found[1]), key=lambda each: each.at)
        instance: Instance | None = None
        for place, each in enumerate(dated):
            now = from_datetime(each.at)
            event = Observed(f"{number}-{place}", each.event.spec().type, "olist", now)
            if instance is None:
                instance = pure.begin(definition, str(number), 1, event, now).instance
                continue
            while (due := instance.next_due) is not None and due <= now:
                instance = pure.advance(definition, instance, Elapsed(due), due).instance
            instance = pure.advance(definition, instance, event, now).instance


def _write(tape: Tape, path: Path) -> None:
    lines = list(tape.lines())
    with gzip.GzipFile(path, "wb", mtime=0) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())
    tape.sagas, tape.heads = {}, {}
    print(f"{path.relative_to(ROOT)}: {len(lines)} sagas, {path.stat().st_size:,} bytes")


def main(release: str) -> None:
    """Record everything into a folder of the release's name."""
    folder = FOLDER / release
    if folder.exists():
        raise SystemExit(f"{folder.relative_to(ROOT)} is there already; a recorded release stays as it is")
    tape = Tape()
    tape.listen()
    folder.mkdir(parents=True)
    for name, play in (("demo", lambda: asyncio.run(_demo(tape))), ("stories", lambda: _stories(tape))):
        play()
        _write(tape, folder / f"{name}.jsonl.gz")
    _olist(tape)
    _write(tape, folder / "olist.jsonl.gz")


if __name__ == "__main__":
    main(sys.argv[1])
