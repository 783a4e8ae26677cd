"""The ranks of a trial on a machine where its referee does not run.

torchrun has started this process. It plans the same trial from the same command, prepares the same
data, and starts the ranks of this machine; they get everything else from rank 0. It keeps no record
and judges nothing.
"""

import os
import time

from harness.catalog import data, discover
from harness.errors import UserError
from harness.race.runner_base import TrialEnded, policy_of, start_message
from harness.race.runner_child import RunnerChild
from harness.race.trial import Trial
from harness.system.processes import keep_freed_memory
from harness.system.torchrun import Place
from harness.train import shared_weights

# Seconds between two looks at whether the referee is done.
LOOK = 1.0
OVER = "over"


def check(trial: Trial) -> None:
    """Raise UserError if a trial cannot run on several machines."""
    if trial.isolation == "strict":
        raise UserError(
            "isolation=strict is for the ranks of one machine: they share a closed network",
            do="isolation=process, or one machine",
        )
    if trial.terms.streaming:
        raise UserError(
            f"{trial.definition.key} is a stream, whose data arrive at one machine",
            do="one machine: engine.processes=2 without torchrun --nnodes",
        )


def serve(trial: Trial, place: Place) -> str | None:
    """Run this machine's ranks until the trial is over. Return what went wrong, or None."""
    folder = trial.results / "hosts" / f"{trial.run_id}-{place.rank}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "progress").touch()
    keep_freed_memory()
    weights = shared_weights.shared_file()
    private = trial.results / "private" / f"{trial.run_id}-{place.rank}"
    child = RunnerChild(folder, private, [folder], weights, trial.engine["threads"], ())
    try:
        train = data.prepare(trial.definition, "train", trial.seed)
        start = data.prepare(trial.definition, data.PRETRAINED)
        assert train is not None
        message = start_message(trial, folder / "progress", train, start)
        message |= {"checkpoint": str(folder), "machines": place.machines(trial.run_id)}
        policy = policy_of(trial, [child.private, folder], [train, start])
        known = discover.described(trial.card.plugin)
        child.send("start", **message, policy=policy, submissions=known)
        return _watch(child, place, trial)
    finally:
        child.close()
        os.close(weights)


def _watch(child: RunnerChild, place: Place, trial: Trial) -> str | None:
    """Wait for the ranks to end, or for the referee to be done without them."""
    looked = time.monotonic()
    try:
        while not child.poll():
            if time.monotonic() - looked > LOOK:
                looked = time.monotonic()
                if store(place, trial).check([OVER]):
                    return None
        child.receive("failed", LOOK, "a rank")
    except TrialEnded as ended:
        return None if child.status == 0 else ended.message
    return None


def store(place: Place, trial: Trial):
    """Return torchrun's store, as far as it belongs to this attempt at the trial."""
    import torch.distributed as dist

    meeting = place.machines(trial.run_id)
    assert meeting
    client = dist.TCPStore(place.address, place.port, is_master=False)
    return dist.PrefixStore(meeting["key"], client)


def end(place: Place, trial: Trial) -> None:
    """Tell the other machines that the referee is done."""
    store(place, trial).set(OVER, "1")
