"""`python -m choreo` is `saga`."""

from __future__ import annotations

from .saga.cli import main

if __name__ == "__main__":
    main()
