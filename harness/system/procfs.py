"""Read what the kernel knows about processes: from /proc on Linux, elsewhere from `ps`."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

LINUX = sys.platform == "linux"
# Bytes to read at once. A stat file is shorter: 52 numbers and a name.
LONGEST = 4096
TELLS_CHILDREN = LINUX and os.path.exists(f"/proc/self/task/{os.getpid()}/children")
GONE = (FileNotFoundError, ProcessLookupError)


class Stat(NamedTuple):
    """The kernel's figures on one process.

    Attributes:
        parent: its parent's pid.
        state: its state letter, as in proc(5).
        ticks: its own CPU time, in ticks.
        reaped: CPU time of its children that have ended and were waited for, in ticks.
        start: when it started, in ticks since boot.
    """

    parent: int
    state: str
    ticks: int
    reaped: int
    start: int


def stat_of(pid: int) -> Stat:
    """Return the kernel's figures on a process. A zombie has them too.

    Raises:
        ProcessLookupError: the process does not exist.
    """
    stat = _parse(f"/proc/{pid}/stat") if LINUX else table().get(pid)
    if stat is None:
        raise ProcessLookupError(f"no process {pid}")
    return stat


def table() -> dict[int, Stat]:
    """Return the figures of every process on the machine."""
    if LINUX:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        stats = {pid: _parse(f"/proc/{pid}/stat") for pid in pids}
        return {pid: stat for pid, stat in stats.items() if stat}
    # `ps` does not show the CPU time of reaped children, and shows start times only in seconds.
    listed = subprocess.run(
        ["ps", "-axo", "pid=,ppid=,state=,time="], capture_output=True, text=True, check=True
    )
    stats = {}
    for line in listed.stdout.splitlines():
        pid, parent, state, time = line.split()
        seconds = 0.0
        for part in time.replace("-", ":").split(":"):
            seconds = seconds * 60 + float(part)
        stats[int(pid)] = Stat(int(parent), state[0], int(seconds * ticks_per_second()), 0, 0)
    return stats


def family() -> tuple[Callable[[int], list[int]], Callable[[int], Stat | None]]:
    """Return two functions of a pid: one for its children, one for its figures.

    If the kernel lists children (CONFIG_PROC_CHILDREN), both read the present state, and only of
    the processes asked for. Such a list may miss one child while another ends; it is complete once
    all of them are stopped. Otherwise both read one table of all processes, made by this call.
    """
    if TELLS_CHILDREN:
        return children, lambda pid: _parse(f"/proc/{pid}/stat")
    stats, children_of = table(), {}
    for pid, stat in stats.items():
        children_of.setdefault(stat.parent, []).append(pid)
    return lambda pid: children_of.get(pid, []), stats.get


def children(pid: int) -> list[int]:
    """Return the children of all threads of a process, from the kernel's lists."""
    pids: list[int] = []
    with suppress(*GONE):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(*GONE):
                pids += map(int, _content(f"/proc/{pid}/task/{thread}/children").split())
    return pids


def lives(pid: int, start: int) -> bool:
    """Return True if the process that began at `start` still runs.

    A later process with the same pid has another start.
    """
    with suppress(ProcessLookupError):
        stat = stat_of(pid)
        return stat.start == start and not is_over(pid, stat)
    return False


def is_over(pid: int, stat: Stat) -> bool:
    """Return True if the process has ended.

    A process looks like a zombie too if its first thread has ended and others still run.
    """
    return stat.state in "ZXx" and all(
        letter in "ZXx" for letter in _thread_states(pid, stat.state)
    )


def is_stopped(pid: int) -> bool:
    """Return True if every thread of the process is stopped, or the process is gone."""
    try:
        return all(state in "TtZXx" for state in _thread_states(pid, stat_of(pid).state))
    except ProcessLookupError:
        return True


def _thread_states(pid: int, whole: str) -> list[str]:
    """Return the state letter of every thread; without /proc, that of the process."""
    if not LINUX:
        return [whole]
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except GONE:
        return []
    stats = [_parse(f"/proc/{pid}/task/{thread}/stat") for thread in threads]
    return [stat.state for stat in stats if stat]


def peak_memory(pid: int) -> int | None:
    """Return the largest resident memory of a process so far, in bytes; None if unknown.

    Raises:
        ProcessLookupError: the process does not exist.
    """
    if not LINUX:
        return None
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        raise ProcessLookupError(f"no process {pid}") from None
    sizes = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    # A zombie has no memory.
    return int(sizes[0]) * 1024 if sizes else None


def ticks_per_second() -> int:
    """Return the number of clock ticks in a second."""
    return os.sysconf("SC_CLK_TCK")


def _content(path: str) -> bytes:
    """Return the content of a small file.

    This does not use open(), which doubles the cost: a stream is evaluated after every step.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(file, LONGEST)
        while len(text) % LONGEST == 0 and (more := os.read(file, LONGEST)):
            text += more
        return text
    finally:
        os.close(file)


def _parse(path: str) -> Stat | None:
    """Return the needed fields of a /proc stat file; None if it is gone.

    proc(5) numbers the fields.
    """
    try:
        text = _content(path)
    except GONE:
        return None
    # Start at field 3, after the name: the name may contain spaces and brackets.
    fields = text[text.rindex(b")") + 2 :].split(None, 20)
    return Stat(
        int(fields[1]),
        fields[0].decode(),
        int(fields[11]) + int(fields[12]),
        int(fields[13]) + int(fields[14]),
        int(fields[19]),
    )


def free_memory() -> int:
    """Return the bytes of memory that can be had without swapping."""
    if LINUX:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def resident_memory(pid: int) -> int:
    """Return the bytes that a process has resident, shared memory included; 0 where unknown."""
    try:
        pages = int(_content(f"/proc/{pid}/statm").split()[1])
    except (OSError, ValueError, IndexError, ProcessLookupError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
