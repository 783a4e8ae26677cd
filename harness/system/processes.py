"""Other processes: find, freeze, kill and time a whole tree of them, and start one cleanly.

Linux is the home of this module. On macOS a tree is found with `ps`, and `layers()` says what is
missing there. A tree is a process and its descendants; a descendant that escaped by a double fork
is found as long as this process is the subreaper it falls to (`become_subreaper`).
"""

import ctypes
import os
import signal
import site
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from harness.system.procfs import (
    LINUX,
    Stat,
    family,
    is_over,
    is_stopped,
    lives,
    stat_of,
    ticks_per_second,
)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 1, 4, 36, 37

# What a runner may inherit: where programs and libraries are, which devices, which language.
KEPT = (
    "PATH",
    "VIRTUAL_ENV",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "CUDA_HOME",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUBLAS_WORKSPACE_CONFIG",
    "LANG",
    "LC_ALL",
)
THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def layers() -> dict[str, bool]:
    """Which protections this machine offers; recorded with every result."""
    return {
        "freeze": hasattr(signal, "SIGSTOP"),
        "process_tree": True,
        "subreaper": LINUX,
        "parent_death_signal": LINUX,
        "precise_cpu_time": LINUX,
        "peak_memory": LINUX,
    }


def become_subreaper() -> bool:
    """Let orphaned descendants fall to this process, not to init. False where unsupported."""
    return LINUX and _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int | None = None) -> bool:
    """In a child, first thing: be killed when the parent ends. False where unsupported.

    The kernel means the *thread* that started the child: start it from one that lives on.

    Args:
        parent: the parent's pid; without it, what `clean_environment` has left in HARNESS_PARENT.
            If that one is no longer our parent, it has ended already, and so do we.
    """
    parent = parent or int(os.environ.get("HARNESS_PARENT", os.getppid()))
    done = LINUX and _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return done


def hide_memory() -> bool:
    """Let no process of the same user trace this one or read its memory. False where unsupported.

    Programs that this one starts are not hidden.
    """
    return LINUX and _prctl(PR_SET_DUMPABLE, 0)


def descendants(pid: int, *, keep: Collection[int] = (), since: int | None = None) -> list[int]:
    """Everything below `pid`, without it: children of children, and escapees that fell to us.

    An escapee is a child of this process that started after `pid` did and is not in `keep`. So
    start other helpers (a tracker's service) before `pid`, or name them in `keep`.

    Args:
        since: `stat_of(pid).start`, taken right after starting it: with it, escapees are found
            even when `pid` itself has ended and was waited for.
    """
    return sorted(p for p in tree(pid, keep, since) if p != pid)


def freeze(
    pid: int, *, keep: Collection[int] = (), since: int | None = None, patience: float = 5.0
) -> list[int]:
    """Stop every thread of `pid` and its descendants; returns the frozen pids.

    Done when two scans in a row find the same processes, all of them stopped: nothing is left
    that could fork or wake another.

    Raises:
        TimeoutError: something still runs after `patience` seconds (it waits for a device, say).
    """
    deadline, before = time.monotonic() + patience, None
    while True:
        alive = {p for p, stat in tree(pid, keep, since).items() if not is_over(p, stat)}
        running = {p for p in alive if not is_stopped(p)}
        if not running and alive == before:
            return sorted(alive)
        if time.monotonic() > deadline:
            raise TimeoutError(f"could not stop {sorted(running)} within {patience} s")
        _signal(running, signal.SIGSTOP)
        before = alive
        time.sleep(0.0005)


def thaw(frozen: Collection[int]) -> None:
    """Let what `freeze` stopped, and returned, go on."""
    _signal(frozen, signal.SIGCONT)


def spent(pids: Collection[int]) -> float:
    """CPU seconds of these processes together, as far as they are there."""
    total = 0.0
    for pid in pids:
        with suppress(ProcessLookupError):
            total += cpu_seconds(pid)
    return total


def kill_tree(
    pid: int, grace: float = 0.0, *, keep: Collection[int] = (), since: int | None = None
) -> list[int]:
    """End `pid` and everything below it, escapees included; returns the pids that were alive.

    Escapees are reaped here; `pid` itself is left for its starter to wait for.

    Args:
        grace: seconds between a polite SIGTERM and SIGKILL.

    Raises:
        TimeoutError: something cannot be killed (it hangs in the kernel).
    """
    assert pid != os.getpid(), "that would be suicide"
    if since is None:
        with suppress(ProcessLookupError):
            since = stat_of(pid).start
    first = seen = _living(pid, keep, since)
    if grace > 0:
        _signal(first, signal.SIGTERM)
        _signal(first, signal.SIGCONT)
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and _living(pid, keep, since):
            time.sleep(0.005)
    # Stopped first, so that nothing forks while we kill. What was seen once stays on the list:
    # without a subreaper, a child whose parent was killed is found no other way.
    with suppress(TimeoutError):
        freeze(pid, keep=keep, since=since, patience=1.0)
    deadline = time.monotonic() + 5.0
    while True:
        seen = seen | _living(pid, keep, since)
        seen = {p: start for p, start in seen.items() if lives(p, start)}
        if not seen:
            break
        if time.monotonic() > deadline:
            raise TimeoutError(f"could not kill {sorted(seen)}")
        _signal(seen, signal.SIGKILL)
        time.sleep(0.001)
    for escapee in tree(pid, keep, since):
        if escapee != pid:
            with suppress(ChildProcessError):
                os.waitpid(escapee, os.WNOHANG)
    return sorted(first)


def cpu_seconds(pid: int) -> float:
    """CPU seconds of all threads of a process: nanoseconds on Linux, else the kernel's ticks.

    Raises:
        ProcessLookupError: there is no such process.
    """
    if LINUX:
        with suppress(OSError):  # a zombie has no clock any more
            return time.clock_gettime((~pid << 3) | 2)  # MAKE_PROCESS_CPUCLOCK, CPUCLOCK_SCHED
    return stat_of(pid).ticks / ticks_per_second()


def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees, for its next step. False where unsupported.

    glibc gives large blocks back to the kernel when they are freed, and then every step faults its
    activations in again: 1,300 to 2,700 page faults and 2.5 to 6 ms of a 60 ms step of gpt2 mini,
    more or fewer by how the heap happens to lie.
    """
    if not LINUX:
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):  # another C library
        return False
    trim = library.mallopt(M_TRIM_THRESHOLD, 1 << 30)
    return bool(trim and library.mallopt(M_MMAP_THRESHOLD, 1 << 25))  # the most glibc takes


def clean_environment(private: Path, threads: int) -> dict[str, str]:
    """The environment of a runner: no secrets, every writable place inside `private`.

    Makes the folders. `threads` is the number of CPU threads of every numeric library.
    """
    private = Path(private).absolute()
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    places = {
        "HOME": private / "home",
        "TMPDIR": private / "tmp",
        "XDG_CACHE_HOME": private / "cache",
        "XDG_CONFIG_HOME": private / "config",
        "XDG_DATA_HOME": private / "data",
        "XDG_STATE_HOME": private / "state",
        "XDG_RUNTIME_DIR": private / "run",
    }
    for place in places.values():
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return {
        **kept,
        **{name: str(place) for name, place in places.items()},
        **dict.fromkeys(THREADS, str(threads)),
        "HARNESS_PARENT": str(os.getpid()),  # for `die_with_parent`
        "PYTHONHASHSEED": "0",
        # Packages installed with `pip install --user` are found through HOME otherwise.
        "PYTHONUSERBASE": site.getuserbase(),
    }


def load_average() -> float:
    """Processes that ran or waited for a core, averaged over the last minute."""
    return os.getloadavg()[0]


def _prctl(option: int, value: int) -> bool:
    return ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0


def tree(pid: int, keep: Collection[int], since: int | None) -> dict[int, Stat]:
    """`pid`, if it is there, and its descendants; escapees, which fall to us, are found last."""
    children, stat = family()
    found: dict[int, Stat] = {}

    def walk(todo: list[int]) -> None:
        while todo:
            member = todo.pop()
            if member not in found and (known := stat(member)):
                found[member] = known
                todo += children(member)

    walk([pid])
    if since is None and pid in found:
        since = found[pid].start
    if LINUX and since is not None:
        us = os.getpid()
        fallen = [p for p in children(us) if p not in {us, pid, *keep}]
        walk([p for p in fallen if (known := stat(p)) and known.start >= since])
    return found


def _living(pid: int, keep: Collection[int], since: int | None) -> dict[int, int]:
    """The members of the tree that are not over, with their start."""
    every = tree(pid, keep, since)
    return {p: stat.start for p, stat in every.items() if not is_over(p, stat)}


def _signal(pids: Collection[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
