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

from ...events.errors import ChoreoError, ConfigurationError
from . import exits
from .examples import EXAMPLES
from .shell import Color, Output, Shell
from .shells import Shells, shell_for
from .suggesting import contexts
from .times import TimeStyle, local_zone

_EPILOGUE = (
    "Settings come from CHOREO_* variables and choreo.toml; options override both. Exit codes: saga help exit-codes"
)


_SPECIAL = {"mermaid": ("graph", "catalog", "trace"), "otlp-json": ("trace",)}
_HELP = frozenset(("--help", "-h"))


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
        (look, "history", "history:history", "Every input of a saga, and what each changed."),
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
        (look, "events", "tailing:events", "Follow the events on the broker as they come."),
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
        (keep, "archive", "archive:archive", "Move ended sagas with their history out of the store into an archive."),
        (keep, "erase", "erasing:erase", "Erase for ever what was said in the sagas of a key."),
        (keep, "upgrade", "upgrading:upgrade", "Try a new version on live sagas, and move them to it."),
        (keep, "check", "check:check", "Check sagas and services at rest, and try every run in a small world."),
        (keep, "doctor", "doctor:doctor", "Can this installation work, and what mends it?"),
        (keep, "topics", "topics:topics", "List or create topics."),
        (keep, "schema", "schema:schema", "Schemas: what a registry holds, and whether code agrees with it."),
        (keep, "store", "upgrade:store", "Stores: bring them to this release, back up or split the coordinator's."),
        (keep, "mcp", "mcp:mcp", "Let an assistant ask: this command line as an MCP server."),
        (keep, "context", "context:context", "Named sets of settings: list, show, use, add, remove."),
        (keep, "completion", "completing:completion", "Completion for bash, zsh and fish."),
        (keep, "help", "helping:help_", "Explain: exit-codes."),
    )
    for place, (group, name, path, help_) in enumerate(commands):
        app.command(f"{__package__}.{path}", name=name, help=help_, group=group, sort_key=place)
    app.meta.suppress_keyboard_interrupt = False  # `call` gives the exit code
    app.meta.default(_launch)
    return app


_EVERYWHERE = Group("Everywhere", sort_key=9)
_FLAG = Parameter(negative="", show_default=False)
_TEXT = Parameter(show_default=False)


def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    broker: Annotated[str, _TEXT, Parameter(name=["--broker", "--bootstrap"], group=_EVERYWHERE)] = "",
    store: Annotated[str, _TEXT, Parameter(group=_EVERYWHERE)] = "",
    home: Annotated[str, _TEXT, Parameter(group=_EVERYWHERE)] = "",
    prefix: Annotated[str, _TEXT, Parameter(group=_EVERYWHERE)] = "",
    context: Annotated[str, _TEXT, Parameter(group=_EVERYWHERE, completer=contexts)] = "",
    output: Annotated[Output, Parameter(name=["--output", "-o"], group=_EVERYWHERE)] = "text",
    time: Annotated[TimeStyle | None, _TEXT, Parameter(group=_EVERYWHERE)] = None,
    tz: Annotated[str, _TEXT, Parameter(group=_EVERYWHERE)] = "",
    color: Annotated[Color, Parameter(group=_EVERYWHERE)] = "auto",
    ascii: Annotated[bool, _FLAG, Parameter(group=_EVERYWHERE)] = False,  # noqa: A002 - the option's name
    no_pager: Annotated[bool, _FLAG, Parameter(group=_EVERYWHERE)] = False,
    quiet: Annotated[bool, _FLAG, Parameter(name=["--quiet", "-q"], group=_EVERYWHERE)] = False,
    verbose: Annotated[int, _FLAG, Parameter(name=["--verbose", "-v"], count=True, group=_EVERYWHERE)] = 0,
) -> int:
    """Read the global options, wherever they stand, and call the command.

    Args:
        broker: kafka://HOST:PORT (or HOST:PORT), local:PATH or memory:NAME.
        store: the coordinator's store, sqlite:PATH or postgresql://...
        home: folder of the embedded broker and the default stores.
        prefix: put before every topic and group name.
        context: of choreo.toml (saga context list), or all shards like 'shard-*'; what is given beside it counts more.
        output: form of the data on standard output; mermaid for what can be drawn.
        time: relative, local (CHOREO_TZ or TZ), utc, or raw microseconds.
        tz: zone of local times, e.g. Europe/Berlin; over CHOREO_TZ and TZ.
        color: auto honours NO_COLOR, FORCE_COLOR and TERM.
        ascii: use no other characters.
        no_pager: never show what is long in $SAGA_PAGER or $PAGER.
        quiet: no hints, no footers, no progress.
        verbose: log what happens; -vv everything; with an unexpected error, its traceback.
    """
    shell = Shell(
        broker=broker,
        store=store,
        home=home,
        prefix=prefix,
        context=context,
        output=output,
        time=time,
        color=color,
        ascii=ascii,
        pager=not no_pager,
        quiet=quiet,
        verbose=verbose,
    )
    if output in _SPECIAL and not any(each in tokens for each in _SPECIAL[output]):
        raise ConfigurationError(f"-o {output} is for {', '.join(f'saga {each}' for each in _SPECIAL[output])}")
    local_zone.set(tz)
    command, bound, ignored = app.parse_args(tokens, exit_on_error=False, print_error=False)
    extra: dict[str, Shell | Shells] = {}
    if ignored:  # not by `saga help` and its like, which ask for no shell
        shell = shell_for(shell, bound.arguments)
        extra = {name: Shells.of(shell) if kind is Shells else shell for name, kind in ignored.items()}
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
        if not _HELP.isdisjoint(arguments):
            _explain(arguments)
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


def _explain(arguments: Sequence[str]) -> None:
    """Let a command's own page say more than the list of commands does, with examples."""
    name = next((each for each in arguments if each in EXAMPLES), None)
    if name is not None:
        command = app[name]
        if command.default_command is not None:
            command.help = None  # what its docstring says
        command.help_epilogue = "\n".join(("Examples:", *(f"  {each}" for each in EXAMPLES[name]), "", _EPILOGUE))


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
