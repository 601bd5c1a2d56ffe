"""The commands of `saga`: which there are, what is common to all, and how an error becomes one line.

Commands live in modules of their own and are imported when they are called, so that `saga --help` stays quick.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from typing import Annotated, NoReturn

from cyclopts import App, CycloptsError, Group, Parameter

from ...events.errors import ChoreoError
from . import exits
from .shell import Color, Output, Shell
from .times import TimeStyle

_EPILOGUE = (
    "Settings come from CHOREO_* variables and choreo.toml; options override both. Exit codes: saga help exit-codes"
)


def _version() -> str:
    try:
        return version("choreo")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


def _make() -> App:
    app = App(
        name="saga",
        help="Run services and sagas, and see where each saga is, why, and what happens next.",
        help_epilogue=_EPILOGUE,
        help_format="plaintext",
        version=_version,
        suppress_keyboard_interrupt=False,
        group_parameters=Group("Options", sort_key=1),
    )
    run, look, act, keep = (
        Group("Run", sort_key=1),
        Group("Look", sort_key=2),
        Group("Act", sort_key=3),
        Group("Keep", sort_key=4),
    )
    commands = (
        (run, "demo", "demo:demo", "A shop of five services, with orders that succeed, fail and are undone."),
        (run, "new", "new:new", "Write a small project that runs."),
        (run, "run", "run:run", "Run services and sagas."),
        (run, "serve", "serve:serve", "Serve events and sagas over HTTP; post the ends of sagas to a URL."),
        (run, "publish", "publish:publish", "Publish a file's rows, or one event."),
        (run, "relay", "relay:relay", "Publish what an existing system's outbox holds."),
        (run, "track", "track:track", "Feed past events through a saga that only watches."),
        (look, "list", "listing:list_", "List sagas: the open and the failed ones first."),
        (look, "status", "status:status", "Where a saga is, and why."),
        (look, "why", "why:why", "What a saga waits for, why it does not come, and what to do."),
        (look, "bottlenecks", "bottlenecks:bottlenecks", "Where the time of sagas goes, step by step."),
        (look, "watch", "watch:watch", "Follow a saga until it ends."),
        (look, "wait", "watch:wait", "Wait until a saga ends; the exit code is its outcome."),
        (look, "trace", "trace:trace", "Draw a saga's trace as a waterfall."),
        (look, "replay", "replay:replay", "Fold histories again and compare with what is stored."),
        (look, "versions", "versions:versions", "Versions of each saga: how many run, who has the code, what may go."),
        (look, "graph", "graph:graph", "A saga's steps as a picture."),
        (look, "catalog", "catalog:catalog", "Who publishes and reads which event, and who is there."),
        (look, "asyncapi", "asyncapi:asyncapi", "Services and sagas as an AsyncAPI 3.0 document."),
        (look, "ignored", "ignored:ignored", "What was read and changed no saga, counted by reason."),
        (look, "locks", "locks:locks", "Who holds which semantic lock, and who waits for it."),
        (look, "schedules", "schedules:schedules", "What starts by the clock: list, pause, resume."),
        (act, "start", "operate:start", "Start a saga by publishing its start event."),
        (act, "cancel", "undoing:cancel", "Undo a saga on request."),
        (act, "pause", "mending:pause", "Pause sagas: nothing is sent, and timers stand still."),
        (act, "retry", "mending:retry", "Try a failed step again."),
        (act, "skip", "mending:skip", "Go on without a step."),
        (act, "approve", "answering:approve", "Approve a step that waits for a person."),
        (act, "reject", "answering:reject", "Reject a step that waits for a person."),
        (act, "dismiss", "answering:dismiss", "Say that an event that came in vain is of no importance."),
        (act, "retry-undo", "undoing:retry_undo", "Try an undo again that failed for good."),
        (act, "mark-undone", "undoing:mark_undone", "Record that a person has undone a step."),
        (look, "audit", "auditing:audit", "Who changed what, when and why, and whether that record holds."),
        (act, "dlq", "dlq:dlq", "Dead letters: read, retry, mend, settle."),
        (act, "stop", "operate:stop", "Stop all compensation, everywhere."),
        (act, "resume", "mending:resume", "Let paused sagas go on; or stopped compensation and held timers."),
        (act, "batch", "batches:batch", "What was asked of many sagas at once: list, show, pause, resume, abort."),
        (keep, "retention", "keeping:retention", "What is kept of ended sagas, for how long, and what goes next."),
        (keep, "erase", "erasing:erase", "Erase for ever what was said in the sagas of a key."),
        (keep, "upgrade", "upgrading:upgrade", "Try a new version on live sagas, and move them to it."),
        (keep, "check", "check:check", "Check sagas and services at rest, and try every run in a small world."),
        (keep, "doctor", "doctor:doctor", "Can this installation work, and what mends it?"),
        (keep, "topics", "topics:topics", "List or create topics."),
        (keep, "schema", "schema:schema", "Schemas: what a registry holds, and whether code agrees with it."),
        (keep, "store", "upgrade:store", "Bring stores to this release."),
        (keep, "mcp", "mcp:mcp", "Let an assistant ask: this command line as an MCP server."),
        (keep, "help", "helping:help_", "Explain: exit-codes."),
    )
    for place, (group, name, path, help_) in enumerate(commands):
        app.command(f"{__package__}.{path}", name=name, help=help_, group=group, sort_key=place)
    app.meta.suppress_keyboard_interrupt = False  # `call` gives the exit code
    app.meta.group_parameters = Group("Everywhere", sort_key=9)
    app.meta.default(_launch)
    return app


def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    broker: Annotated[str, Parameter(name=["--broker", "--bootstrap"], show_default=False)] = "",
    store: Annotated[str, Parameter(show_default=False)] = "",
    home: Annotated[str, Parameter(show_default=False)] = "",
    prefix: Annotated[str, Parameter(show_default=False)] = "",
    output: Annotated[Output, Parameter(name=["--output", "-o"])] = "text",
    time: Annotated[TimeStyle | None, Parameter(show_default=False)] = None,
    color: Color = "auto",
    ascii: Annotated[bool, Parameter(negative="", show_default=False)] = False,  # noqa: A002 - the option's name
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="", show_default=False)] = False,
    verbose: Annotated[int, Parameter(name=["--verbose", "-v"], count=True, negative="", show_default=False)] = 0,
) -> int:
    """Read the global options, wherever they stand, and call the command.

    Args:
        broker: kafka://HOST:PORT (or HOST:PORT), local:PATH or memory:NAME.
        store: the coordinator's store, sqlite:PATH or postgresql://...
        home: folder of the embedded broker and the default stores.
        prefix: put before every topic and group name.
        output: form of the data on standard output.
        time: relative, local (CHOREO_TZ or TZ), utc, or raw microseconds.
        color: auto honours NO_COLOR, FORCE_COLOR and TERM.
        ascii: use no other characters.
        quiet: no hints, no footers, no progress.
        verbose: log what happens; -vv everything; with an unexpected error, its traceback.
    """
    shell = Shell(
        broker=broker,
        store=store,
        home=home,
        prefix=prefix,
        output=output,
        time=time,
        color=color,
        ascii=ascii,
        quiet=quiet,
        verbose=verbose,
    )
    command, bound, ignored = app.parse_args(tokens, exit_on_error=False, print_error=False)
    extra = {name: shell for name, kind in ignored.items() if kind is Shell}
    if extra:
        from .logs import configure

        configure(shell)
    result = command(*bound.args, **bound.kwargs, **extra)
    if inspect.iscoroutine(result):
        result = asyncio.run(result)
    return result if isinstance(result, int) else exits.OK


app = _make()


def call(arguments: Sequence[str]) -> int:
    """Run one command line; give its exit code. Every error becomes one line on standard error."""
    shell = Shell(output="json") if _wants_json(arguments) else Shell()
    try:
        found = app.meta(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        return found if isinstance(found, int) else exits.OK
    except CycloptsError as error:
        shell.complain(str(error), kind="Usage", code=exits.USAGE)
        return exits.USAGE
    except ChoreoError as error:
        _traceback(arguments)
        code = exits.code_of(error)
        shell.complain(error.message, kind=type(error).__name__, code=code)
        return code
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone: say nothing, and keep the interpreter from saying it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.ERROR
    except Exception as error:
        if not _traceback(arguments):
            error.add_note("-v shows where")
        lines = [*str(error).splitlines(), *getattr(error, "__notes__", ())]
        shell.complain(f"{type(error).__name__}: {'; '.join(lines)}", kind=type(error).__name__, code=exits.ERROR)
        return exits.ERROR


def main() -> NoReturn:
    """Run the command line of this process."""
    sys.exit(call(sys.argv[1:]))


def _traceback(arguments: Sequence[str]) -> bool:
    wanted = any(each == "--verbose" or (each.startswith("-v") and set(each[1:]) == {"v"}) for each in arguments)
    if wanted:
        traceback.print_exc()
    return wanted


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether errors are JSON: asked of the bare arguments, for they may be what is wrong."""
    after = pairwise(arguments)
    forms = ("json", "jsonl")
    return any(option in ("-o", "--output") and value in forms for option, value in after) or any(
        each in (f"--output={form}", f"-o={form}", f"-o{form}") for each in arguments for form in forms
    )
