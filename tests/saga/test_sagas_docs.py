"""The example of docs/sagas.md is a saga that can be defined, and does what the page says."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from choreo.saga.declaration import Declaration

PAGE = Path(__file__).parents[2] / "docs" / "sagas.md"


def test_the_example_of_the_page_can_be_defined() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    names: dict[str, Any] = {"__name__": "sagas_page"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    payout = names["Payout"].definition()
    assert (payout.lock.name, payout.cancel, payout.schedule.zone) == ("account", ("PayoutStopped",), "Europe/Berlin")
    declaration: Declaration = names["Order"].declaration()
    plans = declaration.definition.by_name
    assert plans["hold"].only_undo
    assert plans["insure"].any_of == (("card", "transfer"),)
    assert plans["sea"].instead_of == "air"
    assert plans["summary"].final


def test_every_argument_of_a_step_is_on_the_page() -> None:
    from choreo import step

    told = PAGE.read_text()
    missing = [name for name in step.__kwdefaults__ if f"`{name}=" not in told]
    assert missing == []


def test_every_argument_of_the_class_line_is_on_the_page() -> None:
    from choreo import Saga

    told = PAGE.read_text()
    missing = [name for name in inspect.signature(Saga.__init_subclass__).parameters if f"`{name}=" not in told]
    assert missing == []
