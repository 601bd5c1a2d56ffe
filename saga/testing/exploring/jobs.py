"""Sharing work among processes that begin as copies of this one."""

from __future__ import annotations

import multiprocessing
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import TypeVar

from ....events.errors import ConfigurationError

S = TypeVar("S")
R = TypeVar("R")


def in_jobs(work: Callable[[S], R], shares: Sequence[S]) -> list[R]:
    """Do each share of a work in a process of its own, which begins with everything that this one has.

    Args:
        work: what to do; its result must be picklable, the shares need not be.
        shares: one for each process.

    Raises:
        ConfigurationError: this system cannot copy processes.
        RuntimeError: a process has failed, or died.
    """
    if not hasattr(multiprocessing, "get_context") or sys.platform == "win32":
        raise ConfigurationError("jobs= needs a system that can fork processes; leave it out")
    fork = multiprocessing.get_context("fork")
    begun = []
    for share in shares:
        here, there = fork.Pipe(duplex=False)
        process = fork.Process(target=_child, args=(work, share, there), daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: the child needs none
            process.start()
        there.close()
        begun.append((process, here))
    results = []
    try:
        for process, here in begun:
            try:
                ended, told = here.recv()
            except EOFError:
                process.join()
                raise RuntimeError(f"a job died with exit code {process.exitcode}") from None
            if not ended:
                raise RuntimeError(f"a job failed: {told}")
            results.append(told)
    finally:
        for process, here in begun:
            process.terminate()
            process.join()
            here.close()
    return results


def _child(work: Callable[[S], R], share: S, there: Connection) -> None:
    try:
        told = True, work(share)
    except BaseException:
        there.send((False, traceback.format_exc()))
    else:
        there.send(told)
