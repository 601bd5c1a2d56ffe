"""`saga new`: a small project that runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from . import exits
from .shell import Shell

new = App(
    name="new",
    help="Write a small project that runs.",
    help_format="plaintext",
    help_epilogue="""Examples:
  saga new my-shop
  mkdir my-shop && cd my-shop && saga new .""",
)


@new.default
def write_new_project(folder: Path, /, *, shell: Annotated[Shell, Parameter(parse=False)]) -> int:
    """Write a small project that runs: events, a service, a saga, tests.

    Nothing is overwritten.

    Args:
        folder: the project's folder, called like the project: letters, digits, - and _.
    """
    from ..project.project import make_project, write_project

    place = Path(os.path.abspath(folder))  # noqa: PTH100 - the name of `.` is wanted, not where links lead
    project = make_project(place.name)
    written = write_project(project, folder)
    if shell.machine:
        shell.json(
            {
                "schema": "saga.project/v1",
                "name": project.name,
                "package": project.package,
                "folder": str(place),
                "files": list(project.files),
            }
        )
        return exits.OK
    shell.lines(str(path) for path in written)
    enter = "" if place == Path.cwd() else f"cd {folder} && "
    shell.hint(
        f"next: {enter}saga run {project.package}, and in another terminal there: "
        f"saga publish {project.package}.events:OrderPlaced orders.csv && saga status 1001; README.md says more"
    )
    return exits.OK
