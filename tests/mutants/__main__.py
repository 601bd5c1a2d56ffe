"""`python -m tests.mutants bugs|score`: what the tests find when the code is wrong."""

from __future__ import annotations

import argparse
import sys


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    bugs = commands.add_parser("bugs", help="seed bugs, and have explore find them")
    bugs.add_argument("--only", default="", help="those whose name or module has this text")
    bugs.add_argument("--quickest", action="store_true", help="only the few that are found at once")
    score = commands.add_parser("score", help="change the pure core in every small way, and run the pure tests")
    score.add_argument("--modules", nargs="*", default=(), help="of the pure core, e.g. answers forward")
    score.add_argument("--processes", type=int, default=2)
    score.add_argument("--share", type=float, default=1.0, help="of the changes; the same ones each time")
    score.add_argument(
        "--after", type=float, default=0.0, help="leave out so large a share before, e.g. one seen before"
    )
    options = parser.parse_args()
    # Neither may import the other's: what is preloaded must not hold our code.
    if options.command == "bugs":
        from tests.mutants.bugs import BUGS, QUICKEST
        from tests.mutants.hunt import table

        chosen = QUICKEST if options.quickest else BUGS
        named = [bug for bug in chosen if options.only in f"{bug.module} {bug.name}"]
        return 0 if table(named, sober=not options.quickest) else 1
    from tests.mutants.score import score as judge

    return 0 if judge(options.modules, options.processes, options.share, options.after) else 1


if __name__ == "__main__":
    sys.exit(main())
