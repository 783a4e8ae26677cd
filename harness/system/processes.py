"""Find, freeze, kill and time a tree of processes, and prepare the environment of a new one.

This module is written for Linux. On macOS a tree is found with `ps`, and `layers()` says which
protections are missing. A tree is a process and its descendants. A descendant can escape by a
double fork: its parent ends, and the kernel gives it to another process. It is still found if it
comes to this process, which `become_subreaper` asks the kernel for.
"""

import ctypes
import os
import signal
import site
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from harness.system import procfs
from harness.system.procfs import LINUX, Stat, is_over, stat_of, ticks_per_second

# parameters of glibc's mallopt
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# options of prctl(2)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 1, 4, 36, 37

# Variables that a runner inherits: places of programs and libraries, devices, language.
INHERITED = (
    "PATH", "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "CUDA_HOME",
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUBLAS_WORKSPACE_CONFIG", "LANG", "LC_ALL",
    "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME",
)  # fmt: skip
# Each numeric library reads its number of CPU threads from one of these.
THREADS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip


def layers() -> dict[str, bool]:
    """Return which protections this machine offers, by name. Every result records them."""
    return {
        "freeze": hasattr(signal, "SIGSTOP"),
        "process_tree": True,
        "subreaper": LINUX,
        "parent_death_signal": LINUX,
        "precise_cpu_time": LINUX,
        "peak_memory": LINUX,
    }


def become_subreaper() -> bool:
    """Ask the kernel to give orphaned descendants to this process, instead of to init.

    Return False if that is not supported.
    """
    return LINUX and _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int | None = None) -> bool:
    """Ask the kernel to kill this process when its parent ends. Return False if unsupported.

    A child calls this first. The kernel watches the *thread* that started the child, so a parent
    must start it from a thread that stays alive.

    Args:
        parent: the parent's pid; without it, the value that `clean_environment` has stored in
            HARNESS_PARENT. If the parent has ended already, this process ends at once.
    """
    parent = parent or int(os.environ.get("HARNESS_PARENT", os.getppid()))
    enabled = LINUX and _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return enabled


def hide_memory() -> bool:
    """Forbid other processes of the user to trace this process or read its memory.

    Return False if that is not supported. Programs that this process starts are not protected.
    """
    return LINUX and _prctl(PR_SET_DUMPABLE, 0)


def descendants(pid: int, *, keep: Collection[int] = (), since: int | None = None) -> list[int]:
    """Return the pids of all descendants of `pid`, escapees included, without `pid` itself.

    A child of this process counts as an escapee if it started after `pid` and is not in `keep`. So
    start other helpers (a tracker's service) before `pid`, or name them in `keep`.

    Args:
        keep: pids of children of this process that do not belong to the tree.
        since: `stat_of(pid).start`, read right after `pid` was started. With it, escapees are
            found even after `pid` itself has ended and was waited for.
    """
    return sorted(p for p in tree(pid, keep, since) if p != pid)


def freeze(
    pid: int, *, keep: Collection[int] = (), since: int | None = None, patience: float = 5.0
) -> list[int]:
    """Stop every thread of `pid` and its descendants. Return the pids that were stopped.

    This repeats until two scans in a row find the same processes, all of them stopped. Then none is
    left that could fork or wake another one.

    Raises:
        TimeoutError: a process still runs after `patience` seconds; it may wait for a device.
    """
    deadline, before = time.monotonic() + patience, None
    while True:
        alive = {p for p, stat in tree(pid, keep, since).items() if not is_over(p, stat)}
        running = {p for p in alive if not procfs.is_stopped(p)}
        if not running and alive == before:
            return sorted(alive)
        if time.monotonic() > deadline:
            raise TimeoutError(f"could not stop {sorted(running)} within {patience} s")
        _signal(running, signal.SIGSTOP)
        before = alive
        time.sleep(0.0005)


def thaw(frozen: Collection[int]) -> None:
    """Continue the processes that `freeze` stopped and returned."""
    _signal(frozen, signal.SIGCONT)


def spent(pids: Collection[int]) -> float:
    """Return the CPU seconds of these processes together. Those that are gone count as 0."""
    total = 0.0
    for pid in pids:
        with suppress(ProcessLookupError):
            total += cpu_seconds(pid)
    return total


def kill_tree(
    pid: int, grace: float = 0.0, *, keep: Collection[int] = (), since: int | None = None
) -> list[int]:
    """Kill `pid` and all its descendants, escapees included. Return the pids that were alive.

    This waits for the escapees. The process that started `pid` has to wait for `pid` itself.

    Args:
        grace: seconds between SIGTERM and SIGKILL; with 0 there is no SIGTERM.
        keep, since: as for `descendants`.

    Raises:
        TimeoutError: a process cannot be killed, since it hangs in the kernel.
    """
    assert pid != os.getpid(), "a process must not kill itself"
    if since is None:
        with suppress(ProcessLookupError):
            since = stat_of(pid).start
    first = known = _living(pid, keep, since)
    if grace > 0:
        _signal(first, signal.SIGTERM)
        _signal(first, signal.SIGCONT)
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and _living(pid, keep, since):
            time.sleep(0.005)
    # Stop the tree first, so that no process forks while others are killed. A process that was
    # found once stays on the list: without a subreaper, a child of a killed parent is lost.
    with suppress(TimeoutError):
        freeze(pid, keep=keep, since=since, patience=1.0)
    deadline = time.monotonic() + 5.0
    while True:
        known = known | _living(pid, keep, since)
        known = {p: start for p, start in known.items() if procfs.lives(p, start)}
        if not known:
            break
        if time.monotonic() > deadline:
            raise TimeoutError(f"could not kill {sorted(known)}")
        _signal(known, signal.SIGKILL)
        time.sleep(0.001)
    for escapee in tree(pid, keep, since):
        if escapee != pid:
            with suppress(ChildProcessError):
                os.waitpid(escapee, os.WNOHANG)
    return sorted(first)


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of all threads of a process.

    They are exact to a nanosecond on Linux, elsewhere to a tick.

    Raises:
        ProcessLookupError: the process does not exist.
    """
    if LINUX:
        # A zombie has no clock any more.
        with suppress(OSError):
            # This is MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of the kernel's headers.
            return time.clock_gettime((~pid << 3) | 2)
    return stat_of(pid).ticks / ticks_per_second()


def keep_freed_memory() -> bool:
    """Make this process keep the memory that it frees. Return False if that is not supported.

    Otherwise glibc returns large freed blocks to the kernel, and every step causes page faults for
    its activations: 1,300 to 2,700 of them, and 2.5 to 6 ms of a 60 ms step of gpt2 mini, depending
    on the layout of the heap.
    """
    if not LINUX:
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        # The C library is not glibc.
        return False
    trim = library.mallopt(M_TRIM_THRESHOLD, 1 << 30)
    # 2^25 is the largest value that glibc accepts.
    return bool(trim and library.mallopt(M_MMAP_THRESHOLD, 1 << 25))


def clean_environment(private: Path, threads: int) -> dict[str, str]:
    """Return the environment of a runner: no secrets, all writable folders inside `private`.

    This also creates the folders.

    Args:
        threads: number of CPU threads of every numeric library.
    """
    private = Path(private).absolute()
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    folders = {
        "HOME": private / "home",
        "TMPDIR": private / "tmp",
        "XDG_CACHE_HOME": private / "cache",
        "XDG_CONFIG_HOME": private / "config",
        "XDG_DATA_HOME": private / "data",
        "XDG_STATE_HOME": private / "state",
        "XDG_RUNTIME_DIR": private / "run",
    }
    for folder in folders.values():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return {
        **inherited,
        **{name: str(folder) for name, folder in folders.items()},
        **dict.fromkeys(THREADS, str(threads)),
        # `die_with_parent` reads this.
        "HARNESS_PARENT": str(os.getpid()),
        "PYTHONHASHSEED": "0",
        # Python finds packages of `pip install --user` through HOME, which is another folder here.
        "PYTHONUSERBASE": site.getuserbase(),
    }


def load_average() -> float:
    """Return how many processes ran or waited for a core, as a mean over the last minute."""
    return os.getloadavg()[0]


def _prctl(option: int, value: int) -> bool:
    """Call prctl(2). Return True if it succeeded."""
    return ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0


def tree(pid: int, keep: Collection[int], since: int | None) -> dict[int, Stat]:
    """Return the figures of `pid`, if it exists, and of its descendants, escapees last.

    Args:
        keep, since: as for `descendants`.
    """
    children, stat = procfs.family()
    members: dict[int, Stat] = {}

    def walk(todo: list[int]) -> None:
        while todo:
            member = todo.pop()
            if member not in members and (figures := stat(member)):
                members[member] = figures
                todo += children(member)

    walk([pid])
    if since is None and pid in members:
        since = members[pid].start
    if LINUX and since is not None:
        own_pid = os.getpid()
        orphans = [p for p in children(own_pid) if p not in {own_pid, pid, *keep}]
        walk([p for p in orphans if (figures := stat(p)) and figures.start >= since])
    return members


def _living(pid: int, keep: Collection[int], since: int | None) -> dict[int, int]:
    """Return the members of the tree that have not ended, with their start."""
    members = tree(pid, keep, since)
    return {p: stat.start for p, stat in members.items() if not is_over(p, stat)}


def _signal(pids: Collection[int], number: int) -> None:
    """Send a signal to each process that still exists."""
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def resident_memory(pids: Collection[int]) -> int:
    """Return the bytes that these processes have resident together."""
    return sum(procfs.resident_memory(pid) for pid in pids)
