"""Watch a runner's CPU time, memory, processes and files from outside, against limits.

The runner reports its own step count, which may be false. CPU time comes from the kernel.
"""

import math
import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from harness.race.message_schema import LONGEST
from harness.system.processes import cpu_seconds, resident_memory, tree
from harness.system.procfs import stat_of, ticks_per_second

PROCESSES = 64  # of one runner, at once
FILES = 10_000  # files and folders in the folders that it may write to
DISK_SHARE = 0.25  # of the disk that was free when it started
MEMORY_SHARE = 0.8  # of the memory that was free when it started
LOG_BYTES = 1 << 26  # of runner.log
BLOCK = 512  # bytes of a file's block, as stat(2) counts
MARGIN = 1.5  # CPU seconds of a lost step, over those of a bare one, that are credible
SLACK_SECONDS = 0.05  # CPU seconds beside them: the kernel's resolution


class LimitExceeded(Exception):
    """A runner took more than it may: outcome and reason."""


class ResourceMonitor:
    """Checks one runner, and keeps in a file the CPU seconds since the last hand-over.

    The file adds up over attempts until a hand-over is in the log, so a runner that crashes again
    and again pays for every attempt.

    Args:
        keep: pids in the tree that are not the runner's.
        folders: the folders that the runner may write to.
        log: the file that takes what the runner prints.
        files: further files that the runner may write to.
        spent: the file of the CPU seconds; the runner of `isolation=strict` cannot write it.
        memory: bytes of memory that are free.

    Attributes:
        mark: the clock at the last hand-over, or when the submission was loaded; 0 before that.
    """

    def __init__(
        self,
        pid: int,
        since: int,
        keep: Collection[int],
        folders: list[Path],
        log: Path,
        files: list[Path],
        spent: Path,
        memory: int,
    ):
        self.clock, self._folders = TreeClock(pid, since, keep), folders
        self._log, self._files = log, files
        self._spent, self._earlier = spent, 0.0
        with suppress(OSError, ValueError):
            seconds = float(spent.read_text())
            self._earlier = seconds if 0 <= seconds <= LONGEST else 0.0
        self.mark = 0.0
        self._room = shutil.disk_usage(folders[0]).free * DISK_SHARE
        self._memory = memory * MEMORY_SHARE

    def check(self) -> None:
        """Note the CPU seconds so far, and compare the rest with the limits.

        Raises:
            LimitExceeded: too many processes or files, or too much memory or disk.
        """
        spent = self.clock.read()
        # Before the first mark, a runner has not loaded the submission.
        self._write(self._earlier + (spent - self.mark if self.mark else 0.0))
        if self.clock.members > PROCESSES:
            reason = f"the submission had {self.clock.members} processes; at most {PROCESSES}"
            raise LimitExceeded("invalid", reason)
        memory = resident_memory(self.clock.pids)
        if memory > self._memory:
            reason = f"the submission used {memory:,} bytes of memory; at most"
            raise LimitExceeded("oom", f"{reason} {int(self._memory):,}")
        count, size = usage(self._folders)
        with suppress(OSError):
            size += max(0, self._log.stat().st_size - LOG_BYTES)
        for path in self._files:
            with suppress(OSError):
                size += _taken(path.stat())
        if count > FILES or size > self._room:
            reason = f"the submission had written {count} files of {size:,} bytes"
            limit = f"at most {FILES} files and {int(self._room):,} bytes"
            raise LimitExceeded("disk_full", f"{reason}; {limit}")

    def settle(self) -> None:
        """Forget the seconds up to the last hand-over: they are in the log."""
        self._earlier = 0.0
        self._write(self.clock.read() - self.mark)

    def clear(self) -> None:
        """Forget all seconds: the attempt ended in order, with everything in the log."""
        self._earlier = 0.0
        self._write(0.0)

    def lost_steps(self, steps: int, step_seconds: float) -> int:
        """Return the steps to charge for earlier attempts that ended without a hand-over.

        Args:
            steps: the steps that their runners reported beyond the checkpoint.
            step_seconds: CPU seconds of a step that makes the declared passes and no more.
        """
        if self._earlier <= MARGIN * steps * step_seconds + SLACK_SECONDS:
            return steps
        return max(steps, math.ceil(self._earlier / step_seconds))

    def _write(self, seconds: float) -> None:
        # Whatever needs the disk reports that it is full.
        with suppress(OSError):
            self._spent.write_text(f"{seconds:.3f}")


def usage(folders: list[Path]) -> tuple[int, int]:
    """Return the number of files and folders in the folders, and what the files take in bytes.

    The count stops above FILES, whatever there is.
    """
    count, size, waiting = 0, 0, [str(folder) for folder in folders]
    while waiting:
        try:
            entries = os.scandir(waiting.pop())
        except OSError:
            continue
        with entries:
            for entry in entries:
                count += 1
                if count > FILES:
                    return count, size
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        size += _taken(entry.stat(follow_symlinks=False))
    return count, size


def _taken(stat: os.stat_result) -> int:
    """Return the larger of a file's length and its blocks, in bytes.

    A sparse file takes as long to read as a full one, and blocks may lie beyond a file's end.
    """
    return max(stat.st_size, BLOCK * stat.st_blocks)


class TreeClock:
    """CPU seconds of a process tree, children that nobody waited for included if seen alive.

    The kernel adds the time of an ended child to its parent's only when the parent waits for it. A
    parent that ignores SIGCHLD never does. So the clock must be read often: a child that is never
    seen alive is not counted.

    Attributes:
        members: the number of processes that lived at the last reading, `pid` included.
        pids: those processes.
    """

    def __init__(self, pid: int, since: int, keep: Collection[int]):
        self._tree = lambda: tree(pid, keep, since)
        self._alive: dict[tuple[int, int], float] = {}
        self._reaped, self._missed = 0.0, 0.0
        self.members, self.pids = 0, []

    def read(self) -> float:
        """Return the seconds of all that live, were waited for, or were seen and then gone."""
        alive, reaped = {}, 0.0
        for member, stat in self._tree().items():
            reaped += stat.reaped / ticks_per_second()
            with suppress(ProcessLookupError):
                alive[member, stat.start] = cpu_seconds(member)
        for who in self._alive.keys() - alive.keys():
            # A list of children may have lacked it.
            with suppress(ProcessLookupError):
                if stat_of(who[0]).start == who[1]:
                    alive[who] = cpu_seconds(who[0])
        gone = sum(seconds for who, seconds in self._alive.items() if who not in alive)
        missed = gone - (reaped - self._reaped)
        # One tick may be on its way to the parent.
        if missed > 1 / ticks_per_second():
            self._missed += missed
        self._alive, self._reaped = alive, reaped
        self.members, self.pids = len(alive), [pid for pid, _ in alive]
        return sum(alive.values()) + reaped + self._missed
