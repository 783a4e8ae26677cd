"""A filter of system calls: no new processes, no sockets, no channels to other processes (Linux).

The filter is a classic BPF program, loaded with prctl(2). The numbers of the calls are from the
kernel's headers for x86_64 and aarch64. A refused call fails with EPERM. Python and torch need none
of these calls once they have started.
"""

import ctypes
import errno
import os
import struct

# name: number on x86_64, number on aarch64; None if the call does not exist there
PROGRAMS = {
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
}  # fmt: skip
SOCKETS = {
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242),
}  # fmt: skip
# Calls that read, control or slow down other processes.
OTHERS = {
    "tkill": (200, 130), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "kcmp": (312, 272), "setpriority": (141, 140),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    "ioprio_set": (251, 30), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "perf_event_open": (298, 241),
}  # fmt: skip
# Calls that store data in the kernel, where it outlives the process.
CHANNELS = {
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "shmget": (29, 194),
    "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "semop": (65, 193),
    "semctl": (66, 191), "semtimedop": (220, 192), "msgget": (68, 186), "msgsnd": (69, 189),
    "msgrcv": (70, 188), "msgctl": (71, 187), "flock": (73, 32), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "mq_open": (240, 180), "mq_unlink": (241, 181),
}  # fmt: skip
# Calls that change a file's mode, owner, times, attributes or length. Landlock does not cover them.
MARKS = {
    "truncate": (76, 45), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53),
    "fchmodat2": (452, 452), "chown": (92, None), "fchown": (93, 55), "lchown": (94, None),
    "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None), "futimesat": (261, None),
    "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "mknod": (133, None), "mknodat": (259, 33),
}  # fmt: skip
# Calls that change the machine itself, and calls that could bypass this filter.
SYSTEM = {
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "bpf": (321, 280), "userfaultfd": (323, 282), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97), "setns": (308, 268),
    "move_mount": (429, 429), "open_tree": (428, 428), "fsopen": (430, 430), "fsmount": (432, 432),
    "fsconfig": (431, 431), "fspick": (433, 433), "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "clock_settime": (227, 112),
    "settimeofday": (164, 170), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "sethostname": (170, 161), "setdomainname": (171, 162), "reboot": (169, 142),
    "kexec_load": (246, 104), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89),
    "syslog": (103, 116), "quotactl": (179, 60),
}  # fmt: skip
FCNTL = (72, 25)
# F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW, F_SETLEASE, F_NOTIFY
LOCK_COMMANDS = (6, 7, 37, 38, 1024, 1026)
DENIED = PROGRAMS | SOCKETS | OTHERS | CHANNELS | MARKS | SYSTEM
CLONE, CLONE3 = (56, 220), (435, 435)
# Calls that are allowed if their first argument is this process.
OURS = {
    "kill": (62, 129), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "prlimit64": (302, 261), "sched_setaffinity": (203, 122),
}  # fmt: skip
# Of these, the calls that also accept 0 for the caller. To kill(2), 0 means the process group.
TAKE_ZERO = ("prlimit64", "sched_setaffinity")
# The newest call that is known here (mseal). Later ones fail as if they did not exist.
NEWEST = 462
# machine: column in the tables above, AUDIT_ARCH
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
THREAD = 0x00010000  # CLONE_THREAD

# BPF_LD|BPF_W|BPF_ABS, three kinds of BPF_JMP, BPF_RET
LOAD, EQUAL, ABOVE, HAS, RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
# SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO
ALLOW, ERROR = 0x7FFF0000, 0x00050000
# Offsets in struct seccomp_data. FIRST and SECOND are the low halves of two arguments.
NUMBER, MACHINE, FIRST, SECOND = 0, 4, 16, 24
SET_SECCOMP, FILTER = 22, 2
# seccomp(2): its numbers; SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC
SECCOMP, SET_MODE_FILTER, EVERY_THREAD = (317, 277), 1, 1


def supported() -> bool:
    """Return True if `forbid` works on this machine."""
    if not hasattr(os, "uname") or os.uname().machine not in MACHINES:
        return False
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        refused = libc.prctl(SET_SECCOMP, FILTER, None, 0, 0) == -1
    except (AttributeError, OSError):
        return False
    # EFAULT means that the kernel tried to read a filter, so it has the feature.
    return refused and ctypes.get_errno() == errno.EFAULT


def forbid(every_thread: bool = False) -> list[str]:
    """Forbid these calls for good, in this thread and those it starts. Return the layers.

    The caller must have set no_new_privs. New threads are still possible, new processes are not.

    Args:
        every_thread: forbid them in the other threads of this process, too.

    Raises:
        OSError: the kernel refused.
    """
    program = _program(*MACHINES[os.uname().machine], os.getpid())
    buffer = ctypes.create_string_buffer(b"".join(program))
    filters = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if every_thread:
        number = SECCOMP[MACHINES[os.uname().machine][0]]
        # With this flag, a positive result is the number of a thread that cannot have the filter.
        refused = libc.syscall(number, SET_MODE_FILTER, EVERY_THREAD, filters)
    else:
        refused = libc.prctl(SET_SECCOMP, FILTER, filters, 0, 0)
    if refused > 0:
        raise OSError(errno.EBUSY, f"thread {refused} cannot be confined")
    if refused < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return ["seccomp processes", "seccomp sockets", "seccomp channels"]


def _deny_locks(column: int, deny: bytes) -> list[bytes]:
    """Return the instructions that refuse fcntl's locks and notices, and allow its other commands.

    A lock on a file of a library would tell another trial something.
    """
    compared = [
        _jump(EQUAL, command, len(LOCK_COMMANDS) - i, 0) for i, command in enumerate(LOCK_COMMANDS)
    ]
    skipped = len(compared) + 3
    return [
        _jump(EQUAL, FCNTL[column], 0, skipped), _load(SECOND), *compared, _return(ALLOW), deny,
    ]  # fmt: skip


def _program(column: int, machine: int, pid: int) -> list[bytes]:
    """Return the filter's instructions.

    Each is a struct sock_filter {u16 code; u8 jt, jf; u32 k}. jt and jf say how many instructions
    to skip if the comparison is true or false.
    """
    deny, absent = _return(ERROR | errno.EPERM), _return(ERROR | errno.ENOSYS)
    program = [_load(MACHINE), _jump(EQUAL, machine, 1, 0), deny, _load(NUMBER)]
    # This also refuses the second ABI of x86_64 (x32), whose numbers begin at 2^30.
    program += [_jump(ABOVE, NEWEST, 0, 1), absent]
    # clone3 keeps its flags in memory, which a filter cannot read. Without it, libc uses clone.
    program += [_jump(EQUAL, CLONE3[column], 0, 1), absent]
    program += [_jump(EQUAL, CLONE[column], 0, 4), _load(FIRST), _jump(HAS, THREAD, 1, 0), deny]
    program += [_return(ALLOW)]
    for name, numbers in OURS.items():
        program += [_jump(EQUAL, numbers[column], 0, 5), _load(FIRST), _jump(EQUAL, pid, 2, 0)]
        program += [_jump(EQUAL, 0 if name in TAKE_ZERO else pid, 1, 0), deny, _return(ALLOW)]
    program += _deny_locks(column, deny)
    for numbers in DENIED.values():
        if numbers[column] is not None:
            program += [_jump(EQUAL, numbers[column], 0, 1), deny]
    return [*program, _return(ALLOW)]


def _load(offset: int) -> bytes:
    """Return an instruction that loads 32 bits of the call's data."""
    return struct.pack("HBBI", LOAD, 0, 0, offset)


def _jump(code: int, value: int, true: int, false: int) -> bytes:
    """Return an instruction that compares what was loaded, and skips others by the result."""
    return struct.pack("HBBI", code, true, false, value)


def _return(value: int) -> bytes:
    """Return an instruction that ends the filter with this decision."""
    return struct.pack("HBBI", RETURN, 0, 0, value)
