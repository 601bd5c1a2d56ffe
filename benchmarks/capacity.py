"""`python -m benchmarks.capacity`: what a load needs, by what was measured: `footprint.json` and `results.json`."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path

from tests.scale.capacity import Costs, Machines, Needs, first, limits, needs, read_costs, tables

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "scaling.md"
_BEGIN, _END = "<!-- figures: written by `python -m benchmarks.capacity --write` -->", "<!-- end of figures -->"


def measured() -> Costs:
    """Take the costs from the files beside this one."""
    footprint = json.loads((HERE / "footprint.json").read_text())
    return read_costs(footprint, json.loads((HERE / "results.json").read_text()))


def main() -> None:
    """Print what a load needs, or write the tables of docs/scaling.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=main.__doc__)
    parser.add_argument("--sagas", type=float, metavar="N", help="each second: what that needs")
    parser.add_argument("--stored", type=float, default=1e7, metavar="N", help="sagas in the store (1e7)")
    parser.add_argument("--cores", type=int, default=Machines().cores, help="of one database (16)")
    parser.add_argument("--memory", type=float, default=Machines().memory_gb, help="of one database, GB (64)")
    parser.add_argument("--write", action="store_true", help="the tables into docs/scaling.md")
    given = parser.parse_args()
    costs, machines = measured(), Machines(cores=given.cores, memory_gb=given.memory)
    if given.sagas is not None:
        found = needs(costs, machines, given.sagas, given.stored)
        for name in (each.name for each in fields(Needs)):
            print(f"{name.replace('_', ' '):20} {getattr(found, name):>14,.1f}")
        name, most = first(limits(costs, machines, given.stored / found.databases))
        print(f"full first: {name}, at {most * found.databases:,.0f} sagas/s")
        return
    drawn = tables(costs, machines)
    print(drawn)
    if given.write:
        before, _, rest = PAGE.read_text().partition(_BEGIN)
        PAGE.write_text(f"{before}{_BEGIN}\n\n{drawn}\n\n{_END}{rest.partition(_END)[2]}")


if __name__ == "__main__":
    main()
