"""The isolation of a runner: its levels, the policy, and the enforcement of a policy.

    inline    no isolation: the runner is the referee's own process, for debugging
    process   a process tree of its own, limits, and a check in Python that native code can bypass
    strict    the kernel refuses as well: Landlock, namespaces, a filter of system calls

The referee makes the policy. The runner enforces it on itself before it loads a submission, and
reports which layers are active. The record has both. `strict` needs Landlock (Linux 5.13); the
other layers are used if the machine has them. A runner that trains on a GPU can reach its devices.
"""

import glob
import json
import os
import re
import resource
import shutil
import site
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from harness.errors import UserError
from harness.system import landlock, paths, seccomp
from harness.system.paths import ROOT
from harness.system.procfs import LINUX

# Rooms of the harness that a runner does not import: they hold the clock, the goal, the records.
ROOMS = ("race", "clock", "records", "report", "laws", "campaign", "cli")
LIBRARIES = ("/usr", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store", "/opt/cuda")
SYSTEM = (
    *(f"/etc/{name}" for name in ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives")),
    *(f"/etc/{name}" for name in ("localtime", "timezone", "passwd", "group", "os-release")),
    *(f"/proc/{name}" for name in ("self", "cpuinfo", "meminfo", "stat", "version", "loadavg")),
    *("/proc/filesystems", "/proc/sys/vm", "/proc/sys/kernel", "/sys/devices/system"),
    *("/sys/fs/cgroup", "/dev/random", "/dev/urandom"),
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/full")
GPU = ("/dev/nvidia*", "/dev/kfd", "/dev/dri", "/dev/shm")
# what a GPU's driver reads
GPU_READS = ("/proc", "/sys", "/etc/nvidia*", "/etc/OpenCL")
# Share of the free memory that a runner may use. Beyond it the trial ends as `oom`, and no other
# process is affected.
MEMORY_SHARE = 0.8
# Share of the free disk that one file may use.
FILE_SHARE = 0.25
FILES = 4096  # open files
# Limit on threads. It is set only in a user namespace, where other processes do not count.
TASKS = 512

# The level that this process has given itself, once it has.
_confined: list[str] = []
PROCESS = re.compile(r"/proc/(\d+)(?:/|$)")

# Python's audit events (docs.python.org/library/audit_events): name -> which arguments are paths.
READING = {"os.listdir": (0,), "os.scandir": (0,)}
WRITING = {
    "os.remove": (0,), "os.rename": (0, 1), "os.mkdir": (0,), "os.rmdir": (0,), "os.link": (1,),
    "os.symlink": (1,), "os.truncate": (0,), "os.chmod": (0,), "os.utime": (0,),
    "os.setxattr": (0,),
}  # fmt: skip


def available() -> dict[str, str | None]:
    """Return the layers of `strict`: by name a description, or None if the machine lacks it."""
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
    """Return True if this machine supports `isolation=strict`."""
    return landlock.version() > 0


def require(level: str) -> None:
    """Raise UserError if the level is strict and this machine does not support it."""
    if level != "strict" or offered():
        return
    layers = (
        ", ".join(name for name, description in available().items() if description)
        or "no layer at all"
    )
    raise UserError(
        f"isolation=strict needs Landlock, which is missing or switched off in this {sys.platform} "
        f"kernel (it offers {layers})",
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
    """Return the policy of a runner, as plain data for its start message.

    Args:
        level: the level of isolation.
        writable: its private folder, checkpoints and step count; they must exist.
        data: folders of prepared training data and pretrained weights.
        sources: the files of the submission and of the workload, all of them hashed.
        plugins: folders of the packages that submissions and workloads come from. Their names can
            be listed, for Python's import; of their files only `sources` can be read.
        device: where the runner trains.
        hidden: folders that a runner must not read; they are left out of every readable tree.
    """
    plugins = [folder.resolve() for folder in plugins]
    hidden = [*hidden, paths.cache_folder(), *(ROOT / name for name in ("conf", "results"))]
    hidden += [*plugins, *(ROOT / "harness" / room for room in ROOMS)]
    hidden = [path.resolve() for path in hidden]
    trees, listable = [], list(plugins)
    for tree in _libraries():
        parts = list(_without(tree, hidden))
        trees += parts
        listable += [tree] * (parts != [tree])
    data_paths = [path.resolve() for path in data if path]
    for folder in list(data_paths):
        names = json.loads((folder / "paths.json").read_text())
        data_paths += [Path(path).resolve() for path in names.values()]
    gpu = device.startswith("cuda")
    system_paths = [*SYSTEM, *(GPU_READS if gpu else ())]
    devices = [*DEVICES, *(GPU if gpu else ())]
    matches = lambda patterns: [p for pattern in patterns for p in glob.glob(pattern)]  # noqa: E731
    free = shutil.disk_usage(writable[0]).free
    limits = {"CORE": 0, "NOFILE": FILES, "FSIZE": int(free * FILE_SHARE)}
    # A GPU's driver reserves terabytes of addresses, so there is no limit with a GPU.
    if LINUX and not gpu:
        limits["DATA"] = int(_free_memory() * MEMORY_SHARE)
    return {
        "level": level,
        "readable": [*map(str, [*trees, *data_paths, *sources]), *matches(system_paths)],
        "listable": [str(path) for path in listable],
        "writable": [str(path.resolve()) for path in writable] + matches(devices),
        "limits": limits,
    }


def confine(policy: dict) -> list[str]:
    """Enforce a policy in this process, for good. Return the active layers.

    This must be called first: threads that exist already would not be confined.

    Raises:
        RuntimeError: the level is strict, and there are other threads.
    """
    layers = ["limits"]
    _confined.append(policy["level"])
    for name, value in policy["limits"].items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # macOS refuses some limits.
        with suppress(ValueError, OSError):
            resource.setrlimit(kind, (value, value))
    # If the machine runs out of memory, the kernel kills this process first.
    with suppress(OSError):
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


def confined() -> bool:
    """Return True if the kernel confines this process."""
    return "strict" in _confined


def _tripwire(policy: dict):
    """Return an audit hook that refuses accesses of Python code outside the policy.

    The hook reports violations by name, and blocks them on systems without Landlock. Native code
    can bypass it, because it raises no audit events.
    """
    writable = tuple(os.path.join(path, "") for path in policy["writable"])
    # The hook does not check reads of these folders; the kernel decides about them.
    system = ("/proc", "/sys", "/dev", "/etc")
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
            if arguments[0].family != socket.AF_UNIX or not _is_file(arguments[1]):
                raise PermissionError(f"isolation: a submission has no network ({event})")
            # Processes of a data loader talk to each other through such files.
            check(arguments[1], writable)
        elif event == "os.kill" and arguments[0] in (referee, -1, 0):
            raise PermissionError("isolation: signals to the referee are refused")

    def check(path, allowed: tuple[str, ...]) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            # It is a descriptor that is open already.
            return
        real = os.path.realpath(os.fsdecode(path))
        process = PROCESS.match(real)
        foreign = process is not None and int(process[1]) != os.getpid()
        if foreign or not os.path.join(real, "").startswith(allowed):
            access = "writing" if allowed is writable else "reading"
            raise PermissionError(f"isolation: {access} {real} is refused")

    return hook


def _is_file(address) -> bool:
    """Return True if the address of a Unix socket is a path, not an abstract name."""
    return isinstance(address, str | bytes) and not os.fsencode(address).startswith(b"\0")


def _libraries() -> list[Path]:
    """Return the folders of Python and its packages, and that of the harness."""
    folders = {Path(p) for p in (sys.prefix, sys.base_prefix, sys.exec_prefix, *LIBRARIES)}
    folders.add(ROOT / "harness")
    folders |= {Path(p) for p in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if p}
    folders |= {Path(p) for p in sys.path if p and p.startswith(site.getuserbase())}
    home, project = Path.home(), ROOT
    for entry in map(Path, filter(os.path.isabs, sys.path)):
        if not any(outer in (entry, *entry.parents) for outer in folders) and not any(
            inner.is_relative_to(entry) for inner in (home, project)
        ):
            folders.add(entry)
    return sorted({path.resolve() for path in folders if path.exists()})


def _without(tree: Path, hidden: list[Path]) -> Iterator[Path]:
    """Yield the tree, or, if it contains hidden folders, the parts of it without them."""
    if any(tree == path for path in hidden):
        return
    if not any(path.is_relative_to(tree) for path in hidden if path.exists()):
        yield tree
        return
    for child in sorted(tree.iterdir()):
        # The target of a symbolic link is in another readable tree, or hidden.
        if not child.is_symlink():
            yield from _without(child, hidden)


def _free_memory() -> int:
    """Return the bytes of memory that are available without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
