"""bash, zsh and fish with a completion script loaded, asked what they complete; zsh and fish are Debian's.

Each completes as for somebody who types and presses Tab: bash and fish are asked for their candidates, zsh has a
terminal, types, and tells the line that came of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from .debian import libraries, unpacked
from .parts import Missing
from .terminal import in_terminal

_ASK_BASH = r"""
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; COMPREPLY=()
_saga "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"""

_ASK_FISH = r"""
set -g fish_function_path $argv[1]
source $argv[2]
complete -C $argv[3]
"""

# Where it is unpacked zsh finds neither its modules nor its functions. The script is loaded as a file of fpath. As soon
# as the line can be edited, it is as if somebody had typed it and pressed Tab.
_ASK_ZSH = r"""
module_path=($CHOREO_ZSH/usr/lib/*/zsh/*(/))
fpath=($CHOREO_SCRIPTS $CHOREO_ZSH/usr/share/zsh/functions/**/*(/N))
autoload -U compinit && compinit -u -D
setopt no_list_beep
PS1='ready> '
zle-line-init() {
  LBUFFER=$CHOREO_TYPED
  zle complete-word
  print -r -- "$BUFFER" > $CHOREO_TOLD
  exit
}
zle -N zle-line-init
"""


def zsh_home() -> Path:
    """Give the folder of the unpacked zsh.

    Raises:
        Missing: this is no Debian, or apt cannot give the package.
    """
    return unpacked("zsh", "zsh", "bin/zsh")


def fish_home() -> Path:
    """Give the folder of the unpacked fish.

    Raises:
        Missing: this is no Debian, or apt cannot give the package.
    """
    return unpacked("fish", "fish", "usr/bin/fish")


def ask_bash(script: Path, typed: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """Give what bash would offer for the last word.

    Raises:
        Missing: there is no bash.
    """
    bash = shutil.which("bash")
    if bash is None:
        raise Missing("there is no bash")
    return _lines([bash, "--norc", "-c", _ASK_BASH, "bash", str(script), *typed], env)


def ask_fish(home: Path, script: Path, typed: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """Give what fish would offer for the last word, without what it says of each."""
    functions = home / "usr/share/fish/functions"
    told = _lines(
        [str(home / "usr/bin/fish"), "--no-config", "-c", _ASK_FISH, str(functions), str(script), " ".join(typed)],
        {**env, "LD_LIBRARY_PATH": libraries(home)},
    )
    return [line.partition("\t")[0] for line in told]


def ask_zsh(home: Path, script: Path, typed: Sequence[str], env: Mapping[str, str], scratch: Path) -> str:
    """Type a line and Tab into zsh; give the line that it made of it.

    Args:
        home: what `zsh_home` gives.
        script: the completion script; loaded as `_saga`, as its first line wants it.
        typed: the words; Tab completes the last one.
        env: of the shell.
        scratch: an empty folder.
    """
    shutil.copy(script, scratch / "_saga")
    (scratch / ".zshrc").write_text(_ASK_ZSH)
    told = scratch / "told"
    seen = in_terminal(
        [home / "bin/zsh", "-d", "-i"],
        {
            **env,
            "ZDOTDIR": str(scratch),
            "CHOREO_ZSH": str(home),
            "CHOREO_SCRIPTS": str(scratch),
            "CHOREO_TYPED": " ".join(typed),
            "CHOREO_TOLD": str(told),
            "LD_LIBRARY_PATH": libraries(home),
            "TERM": "xterm",
        },
    )
    assert told.exists(), seen
    return told.read_text().rstrip("\n")


def _lines(command: Sequence[str], env: Mapping[str, str]) -> list[str]:
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, **env}, timeout=180)
    assert done.returncode == 0 or done.stdout, done
    assert not done.stderr, done.stderr
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]
