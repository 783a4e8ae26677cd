"""The isolation of a runner: its levels, the policy, and the enforcement of a policy.

    inline    no isolation: the runner is the referee's own process, for debugging
    process   a process tree of its own, limits, and a check in Python that native code can bypass
    strict    the kernel refuses as well: Landlock, namespaces, a filter of system calls

The referee makes the policy. The runner enforces it on itself before it loads a submission, and
reports which layers are active. The record has both. `strict` needs Landlock (Linux 5.13); the
other layers are used if the machine has them. A runner that trains on a GPU can reach its devices.
"""

import os
import re
import resource
import socket
import sys
from contextlib import suppress
from pathlib import Path

from harness.errors import UserError
from harness.system import landlock, seccomp
from harness.system.procfs import LINUX

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


def require(level: str, processes: int = 1) -> None:
    """Raise UserError if the level is strict and this machine does not support it.

    Args:
        processes: of a trial; several need a network of their own, which only they can reach.
    """
    if level != "strict":
        return
    if offered():
        needed = ("namespaces", "seccomp") if processes > 1 else ()
        layers = available() if needed else {}
        if missing := [name for name in needed if not layers[name]]:
            raise UserError(
                f"isolation=strict with engine.processes={processes} needs {missing[0]}, which "
                "this machine refuses",
                do="isolation=process, or engine.processes=1",
            )
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


def confine(policy: dict) -> list[str]:
    """Enforce a policy in this process, for good. Return the active layers.

    This must be called first: threads that exist already would not be confined.

    Raises:
        RuntimeError: the level is strict, and there are other threads.
    """
    layers = _limit(policy)
    if policy["level"] == "strict":
        layers += leave_network()
        layers += _lock(policy)
        if seccomp.supported():
            layers += seccomp.forbid()
    return [*layers, watch(policy)]


def leave_network(loopback: bool = False) -> list[str]:
    """Leave the machine's network and lose all capabilities. Return the layers; none if refused.

    Args:
        loopback: several processes will share the new network, and talk through its loopback.

    Raises:
        RuntimeError: there are other threads.
    """
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("strict isolation must come before the first thread")
    layers = landlock.leave_namespaces(loopback)
    if "namespace ipc" in layers:
        resource.setrlimit(resource.RLIMIT_NPROC, (TASKS, TASKS))
    return layers


def confine_files(policy: dict) -> list[str]:
    """Enforce the part of a policy that leaves sockets open. Return the active layers.

    One of several processes of a trial calls this first. Once it has its connections to the others,
    it calls `close_sockets` and `watch`.
    """
    layers = _limit(policy)
    return layers + _lock(policy, tcp=False) if policy["level"] == "strict" else layers


def close_sockets(policy: dict) -> list[str]:
    """Refuse new sockets and processes, in all threads of this process. Return the layers."""
    return seccomp.forbid(every_thread=True) if policy["level"] == "strict" else []


def watch(policy: dict) -> str:
    """Let Python report and refuse accesses outside the policy. Return the layer."""
    sys.addaudithook(_tripwire(policy))
    return "tripwire"


def _lock(policy: dict, tcp: bool = True) -> list[str]:
    return landlock.lock(policy["readable"], policy["listable"], policy["writable"], tcp)


def _limit(policy: dict) -> list[str]:
    """Set the limits of a policy. Return the layer."""
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
    return ["limits"]


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
