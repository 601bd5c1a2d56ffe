"""Which runs somebody asked for on a command line, in place of what the tests say. It imports nothing, on purpose."""

from __future__ import annotations

runs: int | None = None
"""How many runs each exploration makes (`pytest --choreo-seeds=1000`)."""

seed: str | None = None
"""The only run that is made (`pytest --choreo-seed=17:e0:f1`)."""
