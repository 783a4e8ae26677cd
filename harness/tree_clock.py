"""The CPU time of a process tree over time, with that of children that ended without a trace."""

from collections.abc import Collection
from contextlib import suppress

from harness.process import cpu_seconds, tree
from harness.procfs import stat_of, ticks_per_second


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
