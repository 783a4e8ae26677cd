"""Landlock and namespaces: a Linux process gives up files and the network for good, without root.

Landlock (kernel documentation, userspace-api/landlock.rst) denies all files but those named. From
version 4 it also denies TCP; from version 6, signals and abstract sockets to other processes. New
namespaces (user, network, System V IPC), if the system allows them, remove all other networks and
the privileges of root.
"""

import ctypes
import fcntl
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path

CREATE_RULESET, ADD_RULE, RESTRICT_SELF, CAPSET = 444, 445, 446, {"x86_64": 126, "aarch64": 91}
WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE, IOCTL_DEV = 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
# Rights that apply to a file. The others apply to folders only.
OF_FILES = 1 | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
# Landlock's version: number of rights that it knows. Later versions know 16.
HANDLED = {1: 13, 2: 14, 3: 15, 4: 15}
NEWUSER, NEWNET, NEWIPC = 0x10000000, 0x40000000, 0x08000000
NO_NEW_PRIVS = 38
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """Return Landlock's version in this kernel; 0 if it is missing or switched off."""
    try:
        return max(0, _libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1))
    except (AttributeError, OSError):
        # This system is not Linux.
        return 0


def lock(
    readable: list[str], listable: list[str], writable: list[str], tcp: bool = True
) -> list[str]:
    """Confine this thread, and all it starts, to these files and folders. Return the layers.

    No program can be executed. Paths that do not exist are skipped.

    Args:
        readable: files and folders that may be read, with everything below them.
        listable: folders of which the names inside may be read, at any depth, and nothing else.
        writable: files and folders that may be read and written, with everything below them.
        tcp: refuse TCP as well, where the kernel can.

    Raises:
        OSError: the kernel refused.
    """
    abi = version()
    if not abi:
        raise OSError("this kernel has no Landlock")
    all_rights = (1 << HANDLED.get(abi, 16)) - 1
    # rights on files; TCP bind and connect; abstract sockets and signals
    attributes = struct.pack("QQQ", all_rights, 0b11 * tcp, 0b11)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _check(_libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(size), 0))
    for rights, paths in (
        (READ_FILE | READ_DIR, readable),
        (READ_DIR, listable),
        # Bit 0 is the right to execute.
        (all_rights & ~1, writable),
    ):
        for path in paths:
            with suppress(FileNotFoundError, NotADirectoryError):
                _allow(ruleset, path, rights & all_rights)
    no_new_privileges()
    _check(_libc.syscall(RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)
    layers = ["files"] + ["tcp"] * (tcp and abi >= 4) + ["signals"] * (abi >= 6)
    return [f"landlock {layer}" for layer in layers]


def _allow(ruleset: int, path: str, rights: int) -> None:
    """Add a rule that gives these rights on a path."""
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rights &= -1 if os.path.isdir(path) else OF_FILES
        beneath = struct.pack("=Qi", rights, handle)
        _check(_libc.syscall(ADD_RULE, ruleset, 1, beneath, 0))
    finally:
        os.close(handle)


def no_new_privileges() -> None:
    """Set no_new_privs: no program started from now on gains rights from its file's owner."""
    _check(_libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0))


def leave_namespaces(loopback: bool = False) -> list[str]:
    """Move to new user, network and IPC namespaces. Return the layers; none if refused.

    The new network has no connection to others. Root keeps the rights of a plain user on files and
    loses all capabilities. The kernel refuses this to a process with more than one thread.

    Args:
        loopback: switch the new network's loopback device on, for processes that share it.
    """
    user, group = os.geteuid(), os.getegid()
    if _libc.unshare(NEWUSER | NEWNET | NEWIPC) != 0:
        return []
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    # Old kernels do not have this file, and do not need it.
    with suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    if loopback:
        _start_loopback()
    # _LINUX_CAPABILITY_VERSION_3, and 0 for this process
    header = struct.pack("Ii", 0x20080522, 0)
    _check(_libc.syscall(CAPSET[os.uname().machine], header, bytes(24)))
    return ["namespace network", "namespace ipc", "no capabilities"]


def _start_loopback() -> None:
    """Switch the loopback device of this network on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        # struct ifreq: a name of 16 bytes, and flags
        fcntl.ioctl(end, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))


def namespaces_allowed() -> bool:
    """Return True if `leave_namespaces` works here. Try it in a child process."""
    child = os.fork()
    if child == 0:
        os._exit(0 if _libc.unshare(NEWUSER | NEWNET | NEWIPC) == 0 else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _check(result: int) -> int:
    """Return the result of a call to libc; raise OSError if the call failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
