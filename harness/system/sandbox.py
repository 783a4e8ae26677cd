"""What a runner may touch: the levels of isolation, one policy, and how it is put into force.

    inline    nothing: the runner is the referee's own process, for debugging
    process   a process tree of its own, limits, and a tripwire in Python (native code passes it)
    strict    the kernel refuses as well: Landlock, namespaces, a filter of system calls

The referee makes the policy, the runner puts it into force before it loads a submission, and says
which layers are active; both are in the record. `strict` needs Landlock (Linux 5.13); the other
layers are used where they are there. A GPU's devices stay open to a runner that trains on it.
"""

import glob
import json
import os
import re
import resource
import shutil
import site
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from harness.errors import UserError
from harness.system import landlock, paths, seccomp
from harness.system.paths import ROOT
from harness.system.procfs import LINUX

CODE = ("harness", "workloads", "submissions")  # of the project; conf and results hold the goals
LIBRARIES = ("/usr", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store", "/opt/cuda")
SYSTEM = (
    *(f"/etc/{name}" for name in ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives")),
    *(f"/etc/{name}" for name in ("localtime", "timezone", "passwd", "group", "os-release")),
    *(f"/proc/{name}" for name in ("self", "cpuinfo", "meminfo", "stat", "version", "loadavg")),
    *("/proc/filesystems", "/proc/sys/vm", "/proc/sys/kernel", "/sys/devices/system"),
    *("/sys/fs/cgroup", "/dev/random", "/dev/urandom"),
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/full")
GPU = ("/dev/nvidia*", "/dev/kfd", "/dev/dri", "/dev/shm")  # and what a driver reads:
GPU_READS = ("/proc", "/sys", "/etc/nvidia*", "/etc/OpenCL")
MEMORY_SHARE = 0.8  # of the memory that is free: a bomb ends as `oom`, and only its own runner
FILE_SHARE = 0.25  # of the free disk, for one file
FILES = 4096  # open at once
TASKS = 512  # threads, where they are counted apart from the user's other processes

PROCESS = re.compile(r"/proc/(\d+)(?:/|$)")

# Python's own events (docs.python.org/library/audit_events): name -> places of the paths in its
# arguments, and whether they are written.
READING = {"os.listdir": (0,), "os.scandir": (0,)}
WRITING = {
    "os.remove": (0,), "os.rename": (0, 1), "os.mkdir": (0,), "os.rmdir": (0,), "os.link": (1,),
    "os.symlink": (1,), "os.truncate": (0,), "os.chmod": (0,), "os.utime": (0,),
    "os.setxattr": (0,),
}  # fmt: skip


def available() -> dict[str, str | None]:
    """Layers of `strict` by name: what each is here, or None where the machine has it not."""
    version = landlock.version()
    refused = seccomp.supported()
    spaces = LINUX and landlock.namespaces_allowed()
    return {
        "landlock files": f"Landlock version {version}" if version else None,
        "landlock tcp": "connect and bind refused" if version >= 4 else None,
        "landlock signals": "none leaves the runner" if version >= 6 else None,
        "namespaces": "no network, no capabilities" if spaces else None,
        "seccomp": "no processes, no sockets" if refused else None,
    }


def offered() -> bool:
    """Whether `isolation=strict` can be had here."""
    return landlock.version() > 0


def require(level: str) -> None:
    """UserError where this machine cannot keep what `isolation=strict` promises."""
    if level != "strict" or offered():
        return
    others = ", ".join(name for name, found in available().items() if found) or "no layer at all"
    raise UserError(
        f"isolation=strict needs Landlock, which this {sys.platform} kernel has not or has "
        f"switched off (it offers {others})",
        "Linux 5.13 or newer with landlock in /sys/kernel/security/lsm; here: process, inline",
        "isolation=process",
    )


def policy(
    level: str,
    *,
    writable: list[Path],
    data: list[Path | None],
    sources: list[Path],
    plugins: Iterable[Path],
    device: str,
    hidden: list[Path],
) -> dict:
    """What the runner is confined to, as plain data for its start message.

    Args:
        writable: its private folder, checkpoints and step count; they must exist.
        data: folders of prepared training data and pretrained weights.
        sources: the submission's files.
        plugins: folders of the packages that submissions and workloads come from.
        hidden: folders that hold what a runner must not read; left out of every readable tree.
    """
    hidden = [*hidden, paths.cache_folder(), *(ROOT / name for name in ("conf", "results"))]
    hidden = [path.resolve() for path in hidden]
    trees, listable = [], []
    for tree in _libraries(plugins):
        parts = list(_without(tree, hidden))
        trees += parts
        listable += [tree] * (parts != [tree])
    given = [path.resolve() for path in data if path]
    for folder in list(given):
        told = json.loads((folder / "paths.json").read_text())
        given += [Path(path).resolve() for path in told.values()]
    gpu = device.startswith("cuda")
    reads = [*SYSTEM, *(GPU_READS if gpu else ())]
    devices = [*DEVICES, *(GPU if gpu else ())]
    found = lambda patterns: [p for pattern in patterns for p in glob.glob(pattern)]  # noqa: E731
    free = shutil.disk_usage(writable[0]).free
    limits = {"CORE": 0, "NOFILE": FILES, "FSIZE": int(free * FILE_SHARE)}
    if LINUX and not gpu:  # a GPU's driver reserves terabytes of addresses
        limits["DATA"] = int(_free_memory() * MEMORY_SHARE)
    return {
        "level": level,
        "readable": [str(path) for path in [*trees, *given, *sources]] + found(reads),
        "listable": [str(path) for path in listable],
        "writable": [str(path.resolve()) for path in writable] + found(devices),
        "limits": limits,
    }


def confine(policy: dict) -> list[str]:
    """Put a policy into force in this process, for good; returns the active layers.

    To be called first thing: what threads exist already are not confined.

    Raises:
        RuntimeError: `strict`, and there are other threads.
    """
    layers = ["limits"]
    for name, value in policy["limits"].items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with suppress(ValueError, OSError):  # macOS refuses some
            resource.setrlimit(kind, (value, value))
    with suppress(OSError):  # when memory runs out, the kernel takes this process first
        Path("/proc/self/oom_score_adj").write_text("1000")
    if policy["level"] == "strict":
        if len(os.listdir("/proc/self/task")) > 1:
            raise RuntimeError("strict isolation must come before the first thread")
        layers += landlock.leave_namespaces()
        if "namespace ipc" in layers:
            resource.setrlimit(resource.RLIMIT_NPROC, (TASKS, TASKS))
        names = ("readable", "listable", "writable")
        layers += landlock.lock(*(policy[name] for name in names))
        if seccomp.supported():
            layers += seccomp.forbid()
    sys.addaudithook(_tripwire(policy))
    return [*layers, "tripwire"]


def _tripwire(policy: dict):
    """An audit hook that refuses what Python code asks for outside of the policy.

    It names an attempt, and holds where the kernel has nothing better. It is no wall: native code
    raises no events.
    """
    writable = tuple(os.path.join(path, "") for path in policy["writable"])
    system = ("/proc", "/sys", "/dev", "/etc")  # the kernel's business; only writing is watched
    readable = tuple(
        os.path.join(path, "") for path in [*policy["readable"], *policy["listable"], *system]
    )
    readable += writable
    referee = os.getppid()

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            flags = arguments[2] or 0
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            check(arguments[0], writable if writes else readable)
        elif event in WRITING:
            for place in WRITING[event]:
                check(arguments[place], writable)
        elif event in READING:
            check(arguments[0], readable)
        elif event in ("socket.connect", "socket.bind", "socket.sendto"):
            raise PermissionError(f"isolation: a submission has no network ({event})")
        elif event == "os.kill" and arguments[0] in (referee, -1, 0):
            raise PermissionError("isolation: signals to the referee are refused")

    def check(path, allowed: tuple[str, ...]) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a descriptor that is open already
        real = os.path.realpath(os.fsdecode(path))
        process = PROCESS.match(real)
        others = process is not None and int(process[1]) != os.getpid()
        if others or not os.path.join(real, "").startswith(allowed):
            told = "writing" if allowed is writable else "reading"
            raise PermissionError(f"isolation: {told} {real} is refused")

    return hook


def _libraries(plugins: Iterable[Path]) -> list[Path]:
    """Folders that Python and its packages come from, and the project's code."""
    found = {Path(p) for p in (sys.prefix, sys.base_prefix, sys.exec_prefix, *LIBRARIES)}
    found |= {ROOT / name for name in CODE} | set(plugins)
    found |= {Path(p) for p in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if p}
    found |= {Path(p) for p in sys.path if p and p.startswith(site.getuserbase())}
    home, project = Path.home(), ROOT
    for entry in map(Path, filter(os.path.isabs, sys.path)):
        if not any(outer in (entry, *entry.parents) for outer in found) and not any(
            inner.is_relative_to(entry) for inner in (home, project)
        ):
            found.add(entry)
    return sorted({path.resolve() for path in found if path.exists()})


def _without(tree: Path, hidden: list[Path]) -> Iterator[Path]:
    """The tree, or what is in it apart from the hidden folders."""
    if any(tree == path for path in hidden):
        return
    if not any(path.is_relative_to(tree) for path in hidden if path.exists()):
        yield tree
        return
    for child in sorted(tree.iterdir()):
        if not child.is_symlink():  # what it points to is in a tree of its own, or hidden
            yield from _without(child, hidden)


def _free_memory() -> int:
    """Bytes that can be had without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
