"""A command on a pseudo-terminal, as a person sees it."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
from collections.abc import Mapping, Sequence


def in_terminal(command: Sequence[object], env: Mapping[str, str], *, columns: int = 100, rows: int = 40) -> str:
    """Run a command on a pseudo-terminal to its end; give all that it wrote."""
    words = [str(word) for word in command]
    seen_by_it = {name: value for name, value in env.items() if name not in ("COLUMNS", "LINES")}
    pid, master = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        os.execve(words[0], words, seen_by_it)
    seen = b""
    try:
        while chunk := os.read(master, 65_536):
            seen += chunk
    except OSError:
        pass  # the other end has closed
    finally:
        os.close(master)
        os.waitpid(pid, 0)
    return seen.decode()
