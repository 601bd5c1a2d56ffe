"""`saga demo`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from .shell import Shell


async def demo(
    *,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Run a shop of five services on the embedded broker: orders succeed, fail, are undone, and the sums must agree."""
    from ..demo.main import run_demo

    return await run_demo()
