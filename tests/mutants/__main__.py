"""`python -m tests.mutants`: what the tests find when the code is wrong."""

from __future__ import annotations

import argparse
import sys

from tests.mutants import score


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--modules", nargs="*", default=(), help="of the pure core, e.g. advance move")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    return 0 if score.score(options.modules, options.processes) else 1


if __name__ == "__main__":
    sys.exit(main())
