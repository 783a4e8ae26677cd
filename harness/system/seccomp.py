"""A filter of system calls: no other processes, no sockets, no channels to anybody (Linux).

Classic BPF, loaded with prctl(2), of numbers from the kernel's headers for x86_64 and aarch64.
A refused call fails with EPERM. Python and torch do without all of these once they have started.
"""

import ctypes
import errno
import os
import struct

# name: number on x86_64, on aarch64; None where the call does not exist there
PROGRAMS = {
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
}  # fmt: skip
SOCKETS = {
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242),
}  # fmt: skip
OTHERS = {  # reading, steering and slowing other processes
    "tkill": (200, 130), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "kcmp": (312, 272), "setpriority": (141, 140),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    "ioprio_set": (251, 30), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "perf_event_open": (298, 241),
}  # fmt: skip
CHANNELS = {  # places in the kernel that outlive a process
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "shmget": (29, 194),
    "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "semop": (65, 193),
    "semctl": (66, 191), "semtimedop": (220, 192), "msgget": (68, 186), "msgsnd": (69, 189),
    "msgrcv": (70, 188), "msgctl": (71, 187), "mq_open": (240, 180), "mq_unlink": (241, 181),
}  # fmt: skip
MARKS = {  # what Landlock does not cover: a file's mode, owner, times, attributes, length
    "truncate": (76, 45), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53),
    "fchmodat2": (452, 452), "chown": (92, None), "fchown": (93, 55), "lchown": (94, None),
    "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None), "futimesat": (261, None),
    "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "mknod": (133, None), "mknodat": (259, 33),
}  # fmt: skip
SYSTEM = {  # the machine itself, and ways around this filter
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
DENIED = PROGRAMS | SOCKETS | OTHERS | CHANNELS | MARKS | SYSTEM
CLONE, CLONE3 = (56, 220), (435, 435)
OURS = {  # allowed where the first argument is this process
    "kill": (62, 129), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "prlimit64": (302, 261), "sched_setaffinity": (203, 122),
}  # fmt: skip
TAKE_ZERO = ("prlimit64", "sched_setaffinity")  # 0 is the caller; to kill, it is the whole group
NEWEST = 462  # mseal; what came later is said not to exist
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, AUDIT_ARCH
THREAD = 0x00010000  # CLONE_THREAD

LOAD, EQUAL, ABOVE, HAS, RETURN = 0x20, 0x15, 0x25, 0x45, 0x06  # BPF_LD|W|ABS, BPF_JMP|..., BPF_RET
ALLOW, ERROR = 0x7FFF0000, 0x00050000
NUMBER, MACHINE, FIRST = 0, 4, 16  # offsets in struct seccomp_data (low half of an argument)
SET_SECCOMP, FILTER = 22, 2


def supported() -> bool:
    """Whether `forbid` works here."""
    if not hasattr(os, "uname") or os.uname().machine not in MACHINES:
        return False
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        refused = libc.prctl(SET_SECCOMP, FILTER, None, 0, 0) == -1
    except (AttributeError, OSError):
        return False
    return refused and ctypes.get_errno() == errno.EFAULT  # it would have read a filter


def forbid() -> list[str]:
    """Give these calls up for good, in this thread and those it starts; returns the layers.

    no_new_privs must be set. Threads can still be started, processes cannot.
    """
    program = _program(*MACHINES[os.uname().machine], os.getpid())
    buffer = ctypes.create_string_buffer(b"".join(program))
    filters = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(SET_SECCOMP, FILTER, filters, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return ["seccomp processes", "seccomp sockets", "seccomp channels"]


def _program(column: int, machine: int, pid: int) -> list[bytes]:
    """The filter's instructions: struct sock_filter {u16 code; u8 true, false; u32 k}."""
    deny, absent = _give(ERROR | errno.EPERM), _give(ERROR | errno.ENOSYS)
    made = [_load(MACHINE), _jump(EQUAL, machine, 1, 0), deny, _load(NUMBER)]
    made += [_jump(ABOVE, NEWEST, 0, 1), absent]  # and the other ABI of x86_64, from 2^30 up
    made += [_jump(EQUAL, CLONE3[column], 0, 1), absent]  # its flags cannot be read here
    made += [_jump(EQUAL, CLONE[column], 0, 4), _load(FIRST), _jump(HAS, THREAD, 1, 0), deny]
    made += [_give(ALLOW)]
    for name, numbers in OURS.items():
        made += [_jump(EQUAL, numbers[column], 0, 5), _load(FIRST), _jump(EQUAL, pid, 2, 0)]
        made += [_jump(EQUAL, 0 if name in TAKE_ZERO else pid, 1, 0), deny, _give(ALLOW)]
    for numbers in DENIED.values():
        if numbers[column] is not None:
            made += [_jump(EQUAL, numbers[column], 0, 1), deny]
    return [*made, _give(ALLOW)]


def _load(offset: int) -> bytes:
    return struct.pack("HBBI", LOAD, 0, 0, offset)


def _jump(code: int, value: int, true: int, false: int) -> bytes:
    return struct.pack("HBBI", code, true, false, value)


def _give(value: int) -> bytes:
    return struct.pack("HBBI", RETURN, 0, 0, value)
