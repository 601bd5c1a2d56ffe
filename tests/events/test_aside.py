"""Work that may wait for a disk: in a thread while it is slow, on the spot while it is not."""

from __future__ import annotations

import asyncio
import threading

import pytest

from choreo.events.aside import Aside


class Disk:
    """Work that takes as long as it is told, by a clock that nobody waits for."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.now = 0.0
        self.threads: list[threading.Thread] = []

    def timer(self) -> float:
        return self.now

    def write(self) -> int:
        self.now += self.seconds
        self.threads.append(threading.current_thread())
        return len(self.threads)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def aside(disk: Disk) -> Aside:
    return Aside("disk", disk.timer)


async def _run(aside: Aside, disk: Disk, times: int, seconds: float) -> list[bool]:
    """Do the work some times; tell for each whether it was done on the spot."""
    disk.seconds = seconds
    done = len(disk.threads)
    for number in range(times):
        assert await aside.run(disk.write) == done + number + 1
    return [thread is threading.current_thread() for thread in disk.threads[done:]]


async def test_what_is_slow_is_done_in_a_thread(aside: Aside, disk: Disk) -> None:
    assert await _run(aside, disk, 5, 0.01) == [False] * 5
    aside.close()


async def test_what_is_quick_is_done_on_the_spot_from_the_second_time_on(aside: Aside, disk: Disk) -> None:
    assert await _run(aside, disk, 5, 0.0001) == [False, True, True, True, True]
    aside.close()


async def test_one_that_was_slow_sends_those_after_it_to_the_thread_for_a_while(aside: Aside, disk: Disk) -> None:
    await _run(aside, disk, 5, 0.0001)
    assert await _run(aside, disk, 1, 0.05) == [True]  # nobody could know
    after = await _run(aside, disk, 50, 0.0001)
    assert after[0] is False
    assert after[-1] is True
    aside.close()


async def test_an_error_of_the_work_is_given_to_who_asked_for_it(aside: Aside, disk: Disk) -> None:
    def refuse() -> None:
        raise OSError("no space left on device")

    for _ in range(2):
        with pytest.raises(OSError, match="no space left"):
            await aside.run(refuse)
    assert await _run(aside, disk, 1, 0.0001) == [True]
    aside.close()


async def test_who_is_cancelled_stays_until_the_thread_has_done_its_work(aside: Aside, disk: Disk) -> None:
    began, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def write() -> None:
        began.set()
        go_on.wait()
        done.set()

    task = asyncio.create_task(aside.run(write))
    await asyncio.to_thread(began.wait)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # and once more
    await asyncio.sleep(0)
    assert not task.done()
    assert not aside.idle
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()
    assert aside.idle
    aside.close()


async def test_nothing_is_done_on_the_spot_while_something_is_under_way(aside: Aside, disk: Disk) -> None:
    await _run(aside, disk, 3, 0.0001)
    go_on = threading.Event()
    waiting = asyncio.create_task(aside.in_thread(go_on.wait))
    await asyncio.sleep(0)
    behind = asyncio.create_task(aside.run(disk.write))
    await asyncio.sleep(0)
    assert not behind.done()
    go_on.set()
    await waiting
    assert await behind == 4
    assert disk.threads[-1] is not threading.current_thread()
    aside.close()
