"""One trial on several processes ("ranks") of this machine: start, confine and watch them.

The process that the referee has started becomes the leader of the ranks: it forks them through
torch.multiprocessing, and runs no code of a submission. Each rank runs the same `Runner`. Rank 0
takes the referee's messages and passes them on; its answers have the sums of what the ranks
measured. If one rank fails or is killed, the leader ends the others and reports which it was.

With `strict`, the leader first moves to a network that only its ranks are in. A rank confines its
files, connects to the others, and then gives up sockets, before it loads the submission.
"""

import faulthandler
import json
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing import connection
from pathlib import Path

from harness.system.messages import Channel, Disconnected
from harness.train.group import Group

# Seconds that ranks have to end by themselves after one of them has failed.
GRACE = 2.0
# Seconds between two looks for a message while ranks train, and the most calls between them.
LOOK, CALLS = 0.2, 50
# Bytes of a rank's report: the kernel writes up to PIPE_BUF bytes in one piece.
REPORT = 4000
# Parts of the errors of a rank that has lost another: they are not the cause.
LOST = ("gloo", "NCCL", "Connection closed", "Connection reset")
# Fields of an answer that are sums over ranks, and those of which the largest counts.
SUMS = ("outside", "own", "setup", "cpu")
LARGEST = ("state_bytes", "training_memory")


class RankChannel:
    """The referee's channel as each rank has it: rank 0 receives and sends for all.

    Args:
        channel: the channel to the referee, on rank 0.
        reports: the descriptor of the pipe for failures.
        spent: CPU seconds of the leader, which count as the harness's own.
    """

    def __init__(self, group: Group, channel: Channel | None, reports: int, spent: float):
        self._group, self._channel, self._reports = group, channel, reports
        self._spent = spent
        self.failed = False
        # Calls of `poll` until the ranks look again, calls between two looks, and the last look.
        self._left, self._calls, self._looked = 0, 1, time.monotonic()

    def receive(self) -> dict:
        """Return the referee's next message; a stop if it is gone."""
        message = None
        if self._channel:
            try:
                message = self._channel.receive()
            except Disconnected:
                message = {"kind": "stop"}
        return self._group.broadcast(message)

    def poll(self) -> bool:
        """Return True if rank 0 has something to receive.

        A look is an exchange among the ranks. So of frequent calls, one in LOOK seconds looks; rank
        0 says which, and all ranks make the same calls.
        """
        self._left -= 1
        if self._left > 0:
            return False
        now = time.monotonic()
        pace = (now - self._looked) / self._calls
        calls = max(1, min(CALLS, int(LOOK / max(pace, LOOK / CALLS))))
        ready = bool(self._channel and self._channel.poll())
        told = self._group.agreed(0 if ready else calls)
        self._left = self._calls = max(1, told)
        self._looked = now
        return not told

    def send(self, kind: str, **fields) -> None:
        """Send one answer for all ranks. A failure goes to the leader at once."""
        if kind == "failed":
            self.failed = True
            report = {"rank": self._group.rank, **fields, "traceback": ""}
            report["error"] = fields["error"][: REPORT // 4]
            os.write(self._reports, json.dumps(report).encode()[:REPORT] + b"\n")
            return
        answers = self._group.gathered(fields)
        if self._channel:
            self._channel.send(kind, **self._merged(answers))

    def _merged(self, answers: list[dict]) -> dict:
        """Return rank 0's answer with the seconds of all ranks, and the leader's."""
        merged = dict(answers[0])
        for name in SUMS:
            if name in merged:
                merged[name] = sum(answer[name] for answer in answers)
        for name in LARGEST:
            if name in merged:
                merged[name] = max(answer[name] for answer in answers)
        if "inside" in merged:
            kinds = {kind for answer in answers for kind in answer["inside"]}
            merged["inside"] = {k: sum(a["inside"].get(k, 0.0) for a in answers) for k in kinds}
        # Both are measured from the start of the processes.
        if "cpu" in merged:
            merged["cpu"] += self._spent
        elif "layout" in merged:
            merged["own"] += self._spent
        return merged


def lead(channel: Channel, weights: int, message: dict) -> None:
    """Start the ranks of a trial, and wait until they end. Report the failure of one of them.

    Args:
        weights: the descriptor of the shared memory for weights.
        message: the referee's start message.
    """
    from harness.system import sandbox

    strict = message["policy"]["level"] == "strict"
    layers = sandbox.leave_network(loopback=True) if strict else []
    import torch.multiprocessing as mp

    incoming, outgoing = os.pipe()
    os.set_blocking(incoming, False)
    machines = message.get("machines")
    count = machines["local"] if machines else message["engine"]["processes"]
    place = machines or str(Path(tempfile.mkdtemp()) / "ranks")
    arguments = (channel, weights, outgoing, message, place, layers, os.getpid())
    context = mp.start_processes(
        _rank,
        (*arguments, time.process_time()),
        count,
        join=False,
        start_method="fork",
    )
    assert context
    os.close(outgoing)
    ranks = context.processes
    # The referee asks the leader for stacks; the ranks have those that it wants to see.
    signal.signal(signal.SIGUSR1, lambda *_: [_signal(rank, signal.SIGUSR1) for rank in ranks])
    if failure := watch(ranks, incoming):
        with suppress(Disconnected):
            channel.send("failed", **failure)


def _rank(
    index: int,
    channel: Channel,
    weights: int,
    reports: int,
    message: dict,
    place: str | dict,
    layers: list[str],
    leader: int,
    spent: float,
) -> None:
    """Be one rank, until the referee sends stop.

    Args:
        index: the rank's number on this machine.
        channel: to the referee, or to what started the ranks of another machine.
        place: where the ranks meet: a file, or torchrun's store.
    """
    from harness.system import processes, sandbox
    from harness.train.child import serve
    from harness.train.failure import failure
    from harness.train.runner import Runner

    processes.die_with_parent(leader)
    faulthandler.register(signal.SIGUSR1)
    first = place["first"] if isinstance(place, dict) else 0
    group, policy = Group(first + index, message["engine"]["processes"], index), message["policy"]
    if not group.leads:
        channel.close()
    shared = RankChannel(group, channel if group.leads else None, reports, spent)
    try:
        layers = layers + sandbox.confine_files(policy)
        group.join(place, message["engine"]["device"])
        layers += [*sandbox.close_sockets(policy), sandbox.watch(policy)]
    except Exception as error:
        shared.send("failed", **failure(error))
    else:
        serve(shared, Runner(weights, group, layers), message)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if shared.failed else 0)


def watch(ranks: list, reports: int) -> dict | None:
    """Wait until all processes have ended. If one fails, end the others and return the failure.

    Args:
        reports: the descriptor that the ranks' own reports are read from.

    Returns:
        outcome, error and traceback, as in `failure`; None if all ended in order.
    """
    alive = {rank.sentinel: rank for rank in ranks}
    while alive and not any(rank.exitcode for rank in ranks):
        for sentinel in connection.wait(list(alive)):
            alive.pop(sentinel).join()  # type: ignore[arg-type]
    deadline = time.monotonic() + GRACE
    for rank in ranks:
        rank.join(max(0.0, deadline - time.monotonic()))
    codes = [rank.exitcode for rank in ranks]
    for rank, code in zip(ranks, codes, strict=True):
        if code is None:
            rank.kill()
            rank.join()
    return _cause(codes, reports) if any(codes) else None


def _cause(codes: list[int | None], reports: int) -> dict:
    """Return the failure that came first, with its rank: not that of a rank that lost another."""
    for rank, code in enumerate(codes):
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = " (by hand, or by the kernel when memory ran out)" if name == "SIGKILL" else ""
            error = f"rank {rank} was killed by {name}{hint}; the same command continues the trial"
            return {"outcome": "killed", "error": error, "traceback": ""}
    found = []
    with suppress(BlockingIOError):
        lines = os.read(reports, 1 << 20).splitlines()
        for line in lines:
            with suppress(ValueError):
                found.append(json.loads(line))
    own = [report for report in found if not any(part in report["error"] for part in LOST)]
    if not own:
        # A rank that ends without a word leaves the others with a lost connection.
        silent = [n for n, code in enumerate(codes) if code and n not in {r["rank"] for r in found}]
        if silent or not found:
            rank = silent[0] if silent else 0
            error = f"rank {rank} ended (status {codes[rank]}) without a word"
            return {"outcome": "failed", "error": error, "traceback": ""}
    first = (own or found)[0]
    # All ranks raise what does not depend on their share of the batch; then no rank is named.
    same = sum(report["error"] == first["error"] for report in found) == len(codes)
    rank = first.pop("rank")
    return first | {"error": first["error"] if same else f"rank {rank}: {first['error']}"}


def _signal(process, number: int) -> None:
    """Send a signal to a process that may have ended."""
    with suppress(ProcessLookupError, TypeError):
        os.kill(process.pid, number)
