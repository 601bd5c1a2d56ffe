"""`saga completion`: let the shell complete commands, options, names of sagas and their types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from ...events.errors import ConfigurationError
from .shell import Shell

Kind = Literal["bash", "zsh", "fish", "powershell"]

_ZSH_TAIL = """
# Loaded from fpath under whatever name, it completes at once; sourced, it says that it is for saga.
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _cyclopts_saga "$@"
else
  compdef _cyclopts_saga saga
fi
"""

completion = App(name="completion", help="Completion for bash, zsh and fish.", help_format="plaintext")


@completion.command
def install(
    *,
    shell_: Annotated[Kind | None, Parameter(name="--shell", show_default=False)] = None,
    out: Annotated[Path | None, Parameter(show_default=False)] = None,
    startup: bool = True,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> None:
    """Write the script to where the shell looks for it; a new shell completes.

    Run it again after an upgrade. Names and types are asked of the store when they are completed; a store that does not
    answer at once suggests nothing.

    Args:
        shell_: which; default: the one that this is called from.
        out: another file.
        startup: also add a line to the shell's own startup file, where it needs one.
    """
    from .app import app

    kind = shell_ or _present()
    try:
        path = app.install_completion(shell=kind, output=out, add_to_startup=startup)
        if kind == "zsh":
            path.write_text(_script(kind), encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot write {error.filename or out}: {error.strerror or error}") from None
    shell.json({"schema": "saga.completion/v1", "shell": kind, "path": str(path)}) if shell.machine else shell.lines(
        [str(path)]
    )
    shell.hint(f"written for {kind}; it completes in the next shell that you open")


@completion.command
def show(
    *,
    shell_: Annotated[Kind | None, Parameter(name="--shell", show_default=False)] = None,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> None:
    """Print the script, for a place of your own: `source <(saga completion show --shell bash)`.

    In zsh likewise, after `compinit`, or as a file of `fpath`; in fish `saga completion show --shell fish | source`.

    Args:
        shell_: which; default: the one that this is called from.
    """
    shell.lines(_script(shell_ or _present()).splitlines())


def _script(kind: Kind) -> str:
    from .app import app

    script = app.generate_completion(shell=kind)
    # cyclopts's own works under one file name alone, and does nothing where it is sourced.
    return script.rstrip("\n") + "\n" + _ZSH_TAIL if kind == "zsh" else script


def _present() -> Kind:
    from cyclopts.completion import detect_shell
    from cyclopts.completion.detect import ShellDetectionError

    try:
        return detect_shell()
    except ShellDetectionError:
        raise ConfigurationError("which shell is this? name it with --shell bash, zsh or fish") from None
