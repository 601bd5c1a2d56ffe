"""`saga demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ...events.errors import ConfigurationError
from .shell import Shell


def demo(
    *,
    orders: int | None = None,
    seed: int | None = None,
    keep: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Run a shop of five services on the embedded broker: orders succeed, fail, are undone, and the sums must agree.

    It needs nothing and stays in its own folder (--home, default .choreo/demo). Killed and started again, it goes on.

    Args:
        orders: how many; default 200.
        seed: decides which order meets which trouble.
        keep: look again at a finished demo instead of beginning a new one.
    """
    from ..demo.main import run_demo

    if orders is not None and orders < 1:
        raise ConfigurationError(f"--orders {orders}: write 1 or more")
    return run_demo(orders=orders, seed=seed, home=Path(shell.home) if shell.home else None, keep=keep, shell=shell)
