"""What the referee sees of a runner at work: CPU time, processes, disk; and what a crash had cost.

The runner counts its own steps, and may lie; the kernel counts its seconds.
"""

import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from harness.system.processes import cpu_seconds, tree
from harness.system.procfs import stat_of, ticks_per_second

PROCESSES = 64  # of one runner, at once
FILES = 10_000  # in the folders it may write to
DISK_SHARE = 0.25  # of what was free when it started
MARGIN = 2.0  # seconds per lost step, over those of a bare one, that are credible after a crash


class LimitExceeded(Exception):
    """A runner took more than it may: outcome and reason."""


class ResourceMonitor:
    """Looks at one runner, and keeps in a file what it has used since its last hand-over.

    Args:
        folders: where the runner may write.
        spent: the file; the runner of `isolation=strict` cannot reach it.
    """

    def __init__(
        self, pid: int, since: int, keep: Collection[int], folders: list[Path], spent: Path
    ):
        self.clock, self._folders, self._spent = TreeClock(pid, since, keep), folders, spent
        self._earlier = 0.0
        with suppress(OSError, ValueError):
            self._earlier = float(spent.read_text())
        self.mark = 0.0  # the clock at the last hand-over
        self._room = shutil.disk_usage(folders[0]).free * DISK_SHARE

    def look(self) -> None:
        """Note the seconds, and check the rest.

        Raises:
            LimitExceeded: too many processes, or too much on the disk.
        """
        self._write(self.clock.read() - self.mark)
        if self.clock.members > PROCESSES:
            told = f"{self.clock.members} processes at once; at most {PROCESSES}"
            raise LimitExceeded("invalid", f"the submission had {told}")
        count, size = _held(self._folders)
        if count > FILES or size > self._room:
            told = f"{count} files of {size:,} bytes; at most {FILES} and {int(self._room):,}"
            raise LimitExceeded("disk_full", f"the submission had written {told}")

    def settle(self) -> None:
        """What was spent until now is in the log."""
        self._write(0.0)

    def lost_steps(self, steps: int, step_seconds: float) -> int:
        """Steps to be charged for the attempt before, which ended without a hand-over.

        Args:
            steps: those that its runner said it had made.
            step_seconds: CPU seconds of a step that makes the declared passes and no more.
        """
        if self._earlier <= MARGIN * (steps + 1) * step_seconds + 1.0:
            return steps
        return max(steps, int(self._earlier / step_seconds))

    def _write(self, seconds: float) -> None:
        with suppress(OSError):  # a full disk is told by what needs it
            self._spent.write_text(f"{seconds:.3f}")


def _held(folders: list[Path]) -> tuple[int, int]:
    """Files in the folders, and their bytes; no further than FILES."""
    count = size = 0
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in names:
                with suppress(OSError):
                    size += os.lstat(os.path.join(place, name)).st_blocks * 512
                count += 1
                if count > FILES:
                    return count, size
    return count, size


class TreeClock:
    """CPU seconds of a tree that count children nobody waited for, if they were seen alive.

    The kernel adds the time of an ended child to its parent's only when the parent waits for it;
    one that ignores SIGCHLD never does. So look often: what is not seen alive is not counted.

    Attributes:
        members: processes alive at the last look, `pid` included.
    """

    def __init__(self, pid: int, since: int, keep: Collection[int]):
        self._tree = lambda: tree(pid, keep, since)
        self._alive: dict[tuple[int, int], float] = {}
        self._reaped, self._missed = 0.0, 0.0
        self.members = 0

    def read(self) -> float:
        """Seconds so far, of all that live, were waited for, or were seen and then gone."""
        alive, reaped = {}, 0.0
        for member, stat in self._tree().items():
            reaped += stat.reaped / ticks_per_second()
            with suppress(ProcessLookupError):
                alive[member, stat.start] = cpu_seconds(member)
        for who in self._alive.keys() - alive.keys():
            with suppress(ProcessLookupError):  # a list of children may have lacked it
                if stat_of(who[0]).start == who[1]:
                    alive[who] = cpu_seconds(who[0])
        gone = sum(seconds for who, seconds in self._alive.items() if who not in alive)
        missed = gone - (reaped - self._reaped)
        if missed > 1 / ticks_per_second():  # a tick may be on its way
            self._missed += missed
        self._alive, self._reaped, self.members = alive, reaped, len(alive)
        return sum(alive.values()) + reaped + self._missed
