"""Landlock and namespaces: a Linux process gives up files and the network for good, without root.

Landlock (kernel documentation, userspace-api/landlock.rst) takes all files but those named, all
TCP (its version 4), and signals and abstract sockets outside (version 6). New namespaces (user,
network, System V IPC) take every other network and the privileges of root, where they are allowed.
"""

import ctypes
import os
import struct
from contextlib import suppress
from pathlib import Path

CREATE_RULESET, ADD_RULE, RESTRICT_SELF, CAPSET = 444, 445, 446, {"x86_64": 126, "aarch64": 91}
WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE, IOCTL_DEV = 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
OF_FILES = 1 | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV  # rights that a file can have
HANDLED = {1: 13, 2: 14, 3: 15, 4: 15}  # Landlock's version: how many rights it knows; then 16
NEWUSER, NEWNET, NEWIPC = 0x10000000, 0x40000000, 0x08000000
NO_NEW_PRIVS = 38
_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """Landlock's version in this kernel; 0 where it has none, or has it switched off."""
    try:
        return max(0, _libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1))
    except (AttributeError, OSError):  # not Linux
        return 0


def lock(readable: list[str], listable: list[str], writable: list[str]) -> list[str]:
    """Confine this thread, and all it starts, to these files and folders; returns the layers.

    Programs cannot be executed at all. Paths that do not exist are passed over.

    Args:
        readable: with everything below.
        listable: folders of which names may be read, here and below, and nothing else.
        writable: may be read, too.

    Raises:
        OSError: the kernel refuses.
    """
    abi = version()
    if not abi:
        raise OSError("this kernel has no Landlock")
    every = (1 << HANDLED.get(abi, 16)) - 1
    attributes = struct.pack("QQQ", every, 0b11, 0b11)  # files; TCP bind, connect; sockets, signals
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _check(_libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(size), 0))
    for rights, paths in (
        (READ_FILE | READ_DIR, readable),
        (READ_DIR, listable),
        (every & ~1, writable),  # all but executing
    ):
        for path in paths:
            with suppress(FileNotFoundError, NotADirectoryError):
                _allow(ruleset, path, rights & every)
    no_new_privileges()
    _check(_libc.syscall(RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)
    layers = ["files"] + ["tcp"] * (abi >= 4) + ["signals"] * (abi >= 6)
    return [f"landlock {layer}" for layer in layers]


def _allow(ruleset: int, path: str, rights: int) -> None:
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rights &= -1 if os.path.isdir(path) else OF_FILES
        beneath = struct.pack("=Qi", rights, handle)
        _check(_libc.syscall(ADD_RULE, ruleset, 1, beneath, 0))
    finally:
        os.close(handle)


def no_new_privileges() -> None:
    """No program that is started from now on gains rights by its file's owner."""
    _check(_libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0))


def leave_namespaces() -> list[str]:
    """Move to a user, network and IPC namespace of our own; returns the layers (none if refused).

    The new network has no way out. Root is left with the rights of a plain user on files, and
    with no capability. A process with more than one thread is refused by the kernel.
    """
    user, group = os.geteuid(), os.getegid()
    if _libc.unshare(NEWUSER | NEWNET | NEWIPC) != 0:
        return []
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    with suppress(OSError):  # a kernel without it asks for nothing
        Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    header = struct.pack("Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, ourselves
    _check(_libc.syscall(CAPSET[os.uname().machine], header, bytes(24)))
    return ["namespace network", "namespace ipc", "no capabilities"]


def namespaces_allowed() -> bool:
    """Whether `leave_namespaces` works here, tried in a child process."""
    child = os.fork()
    if child == 0:
        os._exit(0 if _libc.unshare(NEWUSER | NEWNET | NEWIPC) == 0 else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
