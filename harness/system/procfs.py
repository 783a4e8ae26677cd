"""What the kernel says about processes: /proc on Linux, and as much as `ps` knows elsewhere."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

LINUX = sys.platform == "linux"
LONGEST = 4096  # bytes of a stat file: 52 numbers and a name
TELLS_CHILDREN = LINUX and os.path.exists(f"/proc/self/task/{os.getpid()}/children")
GONE = (FileNotFoundError, ProcessLookupError)


class Stat(NamedTuple):
    """One process: its parent, state letter, CPU ticks (own, reaped children's), start in ticks."""

    parent: int
    state: str
    ticks: int
    reaped: int
    start: int


def stat_of(pid: int) -> Stat:
    """The kernel's figures on a process; a zombie has them too.

    Raises:
        ProcessLookupError: there is no such process.
    """
    found = _parse(f"/proc/{pid}/stat") if LINUX else table().get(pid)
    if found is None:
        raise ProcessLookupError(f"no process {pid}")
    return found


def table() -> dict[int, Stat]:
    """Every process there is."""
    if LINUX:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        found = {pid: _parse(f"/proc/{pid}/stat") for pid in pids}
        return {pid: stat for pid, stat in found.items() if stat}
    # `ps` knows neither the time of reaped children nor the start finer than a second.
    listed = subprocess.run(
        ["ps", "-axo", "pid=,ppid=,state=,time="], capture_output=True, text=True, check=True
    )
    found = {}
    for line in listed.stdout.splitlines():
        pid, parent, state, spent = line.split()
        seconds = 0.0
        for part in spent.replace("-", ":").split(":"):
            seconds = seconds * 60 + float(part)
        found[int(pid)] = Stat(int(parent), state[0], int(seconds * ticks_per_second()), 0, 0)
    return found


def family() -> tuple[Callable[[int], list[int]], Callable[[int], Stat | None]]:
    """What tells the children of a process, and its figures: now, or all as of this moment.

    Where the kernel lists children (CONFIG_PROC_CHILDREN), nobody else's processes are read; the
    list may lack one while another child ends, and is whole once all of them are stopped.
    """
    if TELLS_CHILDREN:
        return children, lambda pid: _parse(f"/proc/{pid}/stat")
    every, below = table(), {}
    for pid, stat in every.items():
        below.setdefault(stat.parent, []).append(pid)
    return lambda pid: below.get(pid, []), every.get


def children(pid: int) -> list[int]:
    """The children that the threads of a process have, by the kernel's own lists."""
    found: list[int] = []
    with suppress(*GONE):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(*GONE):
                found += map(int, _content(f"/proc/{pid}/task/{thread}/children").split())
    return found


def lives(pid: int, start: int) -> bool:
    """Whether this very process still runs, and not a later one with its number."""
    with suppress(ProcessLookupError):
        stat = stat_of(pid)
        return stat.start == start and not is_over(pid, stat)
    return False


def is_over(pid: int, stat: Stat) -> bool:
    """A zombie, but not one whose first thread ended while others go on."""
    return stat.state in "ZXx" and all(state in "ZXx" for state in _thread_states(pid, stat.state))


def is_stopped(pid: int) -> bool:
    try:
        return all(state in "TtZXx" for state in _thread_states(pid, stat_of(pid).state))
    except ProcessLookupError:
        return True


def _thread_states(pid: int, whole: str) -> list[str]:
    """The state letter of every thread (where there is no /proc, of the process)."""
    if not LINUX:
        return [whole]
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except GONE:
        return []
    stats = [_parse(f"/proc/{pid}/task/{thread}/stat") for thread in threads]
    return [stat.state for stat in stats if stat]


def peak_memory(pid: int) -> int | None:
    """The most memory a process has had resident so far, in bytes; None where unknown.

    Raises:
        ProcessLookupError: there is no such process.
    """
    if not LINUX:
        return None
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        raise ProcessLookupError(f"no process {pid}") from None
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else None  # a zombie has no memory


def ticks_per_second() -> int:
    return os.sysconf("SC_CLK_TCK")


def _content(path: str) -> bytes:
    """A small file; not by open(), which costs as much again: a stream is judged often."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(file, LONGEST)
        while len(text) % LONGEST == 0 and (more := os.read(file, LONGEST)):
            text += more
        return text
    finally:
        os.close(file)


def _parse(path: str) -> Stat | None:
    """The fields we need of a /proc stat file, numbered as in proc(5); None if it is gone."""
    try:
        text = _content(path)
    except GONE:
        return None
    fields = text[text.rindex(b")") + 2 :].split(None, 20)  # from field 3: a name may hold anything
    return Stat(
        int(fields[1]),
        fields[0].decode(),
        int(fields[11]) + int(fields[12]),
        int(fields[13]) + int(fields[14]),
        int(fields[19]),
    )
