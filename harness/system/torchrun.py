"""What `torchrun` says about this process: one of several that it has started with one command.

`torchrun --nproc-per-node 2 -m harness ...` starts the same command twice. The first process is the
referee, which starts its ranks itself. On other machines, the first process starts the ranks there.
"""

import os
from dataclasses import dataclass

from harness.errors import UserError

WORDS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Place:
    """The place of this process among those of torchrun.

    Attributes:
        rank: its number among all.
        size: the number of all.
        local_rank: its number on this machine.
        local_size: the number of processes on this machine.
        address, port: of torchrun's own store, which all machines reach.
        restarts: how many times torchrun has started the command again.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int
    restarts: int

    @property
    def alone(self) -> bool:
        """Return True if there is one machine."""
        return self.local_size == self.size

    def machines(self, run_id: str) -> dict | None:
        """Return where a trial's ranks on this machine meet the others, as part of a message.

        Return None if there is one machine: its ranks meet in a file.
        """
        if self.alone:
            return None
        key = f"harness/{run_id}/{self.restarts}"
        meeting = {"address": self.address, "port": self.port, "key": key}
        return {"first": self.rank - self.local_rank, "local": self.local_size} | meeting


def here() -> Place | None:
    """Return the place of this process; None if torchrun did not start it.

    Raises:
        UserError: a variable of torchrun is missing.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    if missing := [name for name in WORDS if name not in os.environ]:
        raise UserError(f"torchrun has not set {missing[0]}", do="start the command with torchrun")
    rank, size, local_rank, local_size = (int(os.environ[name]) for name in WORDS[:4])
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return Place(rank, size, local_rank, local_size, address, port, restarts)


def with_processes(arguments: list[str], place: Place) -> list[str]:
    """Return the arguments of a race with the number of processes that torchrun has started.

    Raises:
        UserError: the arguments say another number, or ask for a sweep.
    """
    if any(word in ("-m", "--multirun") for word in arguments):
        raise UserError(
            "torchrun starts one trial on several processes, and -m asks for several trials",
            do="leave torchrun out: engine.processes=2, or a launcher of Hydra (docs/cluster.md)",
        )
    name = "engine.processes="
    asked = [word.removeprefix(name) for word in arguments if word.startswith(name)]
    if asked and asked[-1] != str(place.size):
        raise UserError(
            f"{name}{asked[-1]}, and torchrun has started {place.size} processes",
            do=f"leave {name} out",
        )
    return arguments if asked else [*arguments, f"{name}{place.size}"]
