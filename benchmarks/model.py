"""`python -m benchmarks.model`: how long the model check takes for the demo saga, and for a sixth step beside it."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

from choreo.saga.checking.scope import Scope
from choreo.saga.checking.search import model_check
from choreo.saga.definition import Definition
from choreo.saga.demo.saga import Fulfilment

SCOPES = (
    Scope(sagas=2, duplicates=2, crashes=2, commands=0, attempts=1, seconds=0),
    Scope(sagas=2, duplicates=1, crashes=1, commands=1, attempts=1, seconds=0),
)


def wider(definition: Definition) -> Definition:
    """Give the demo an invoice, written beside the receipt."""
    receipt = definition.by_name["notify"]
    retry = replace(receipt.retry, attempts=2)
    invoice = replace(receipt, name="invoice", index=5, done=("Invoiced",), failed=(), send="Invoice", retry=retry)
    topics = {**definition.topics, "Invoiced": "billing", "Invoice": "billing"}
    return replace(definition, steps=(*definition.steps, invoice), topics=topics)


def main() -> int:
    """Measure; 1 when something was found."""
    demo = Fulfilment.definition()
    found = False
    print("steps duplicates crashes commands     states transitions  CPU s")
    for definition, scope in ((demo, SCOPES[0]), (wider(demo), SCOPES[0]), (demo, SCOPES[1])):
        began = time.process_time()
        report = model_check(definition, scope)
        faults = f"{scope.duplicates:>10} {scope.crashes:>7} {scope.commands:>8}"
        seen = f"{report.states:>10,} {report.transitions:>11,} {time.process_time() - began:>6.1f}"
        print(f"{len(definition.steps):>5} {faults} {seen}", flush=True)
        found = found or bool(report.bad)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
