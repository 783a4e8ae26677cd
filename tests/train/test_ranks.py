"""Laws of several processes: a trial trains as in one, up to the order of summation."""

import inspect
import os
import random
import signal
import threading
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from harness.errors import UserError
from harness.system.procfs import stat_of
from harness.train.group import Group
from harness.train.parts import SharedDraws
from harness.train.rank_task import RankTask
from harness.train.ranks import RankChannel
from harness.train.sharded import ShardedTask
from harness.train.task import Task
from tests.support import ranks
from tests.support.racing import SMALL_NET, Watcher, at_work_in, curve, planned, race, trial

# Together they offer every pass.
WORKLOADS = ("gpt2", "pinn_poisson", "stream_split")
METHODS = ("adamw", "lion", "muon", "shampoo", "sam", "lora")
PASSES = (
    "forward", "losses", "terms", "residuals", "logits_of", "features_of", "vjp", "jvp",
    "jvp_logits", "hvp", "jacobian", "per_example_grads",
)  # fmt: skip
# A sum of float32 in another order, after the steps of a small workload.
LOSS_TOLERANCE = 1e-4
PASS_TOLERANCE = 2e-5
KILLS = 30


def same_curve(one, other):
    for a, b in zip(curve(one), curve(other), strict=True):
        assert a["step"] == b["step"]
        assert a["samples"] == b["samples"]
        assert a["metrics"] == pytest.approx(b["metrics"], rel=LOSS_TOLERANCE)
        losses = [row["train_loss"] or 0.0 for row in (a, b)]
        assert losses[0] == pytest.approx(losses[1], rel=LOSS_TOLERANCE)


def check_methods(count, folder):
    one = ranks.trained(None, METHODS)
    several = ranks.run(ranks.trained, count, folder, METHODS)
    for name in METHODS:
        loss = float(several[0][name]["loss"])
        assert loss == pytest.approx(float(one[name]["loss"]), rel=LOSS_TOLERANCE), name
        for other in several[1:]:
            assert all(torch.equal(t, other[name][key]) for key, t in several[0][name].items()), (
                name
            )


def test_two_ranks_train_as_one_process_does(tmp_path):
    check_methods(2, tmp_path)


@pytest.mark.slow
def test_four_ranks_train_as_one_process_does(tmp_path):
    check_methods(4, tmp_path)


# Passes


def all_passes(group, name, examples):
    """Return what every pass returns on the first examples, as far as the workload offers it."""
    task = ranks.small_task(group, name)
    batch = task._gather(torch.arange(examples))
    generator = torch.Generator().manual_seed(1)
    directions = [torch.randn(p.shape, generator=generator) for p in task.params]
    found = {}
    for operation in PASSES:
        arguments = [batch]
        if operation in ("jvp", "hvp", "jvp_logits"):
            arguments = [batch, directions]
        elif operation in ("logits_of", "features_of"):
            arguments = [[p + d for p, d in zip(task.params, directions, strict=True)], batch]
        try:
            if operation == "vjp":
                arguments = [batch, task.residuals(batch).detach().cos()]
            value = getattr(task, operation)(*arguments)
        except (UserError, ValueError):
            continue
        values = value.values() if isinstance(value, dict) else value
        values = [values] if isinstance(value, torch.Tensor) else list(values)
        found |= {f"{operation} {i}": v.detach() for i, v in enumerate(values)}
    for accumulate in (False, True):
        found[f"loss {accumulate}"] = task.forward_backward(batch, accumulate)
        found |= {f"gradient {i}": p.grad.clone() for i, p in enumerate(task.params)}
    found["samples"] = torch.tensor(task.meter.samples)
    return found


def both_passes(group, examples):
    return [all_passes(group, name, examples) for name in WORKLOADS]


@pytest.mark.parametrize("examples", [8, 7])
def test_every_pass_of_two_ranks_is_that_of_the_whole_batch(examples, tmp_path):
    """Also where the parts differ in size; what a workload lacks, ranks lack as well."""
    for result in ranks.run(both_passes, 2, tmp_path, examples):
        for ours, whole in zip(result, both_passes(None, examples), strict=True):
            assert ours.keys() == whole.keys()
            for key, value in whole.items():
                scale = float(value.abs().max()) + 1e-6
                apart = float((ours[key] - value).abs().max()) / scale
                assert apart < PASS_TOLERANCE, (key, apart)
    names = {key.split()[0] for result in both_passes(None, examples) for key in result}
    assert set(PASSES) <= names


@pytest.mark.parametrize("kind", [RankTask, ShardedTask])
def test_several_processes_share_or_refuse_every_pass_of_a_task(kind):
    made = [
        name
        for name, function in inspect.getmembers(Task, inspect.isfunction)
        if "self._pass(" in inspect.getsource(function)
    ]
    assert len(made) > 10
    for name in made:
        shared = getattr(kind, name) is not getattr(Task, name)
        assert shared, f"{kind.__name__} has to share Task.{name} among ranks, or to refuse it"


class Scales(nn.Module):
    """Three scalars, one of which no loss uses."""

    def __init__(self):
        super().__init__()
        self.all, self.some, self.none = (nn.Parameter(torch.ones(())) for _ in range(3))


def partly(model, batch):
    """Return a mean over examples that uses `some` for positive examples alone."""
    x = batch["x"]
    value, chosen = (model.all * x).mean(), x[x > 0]
    return value + (model.some * chosen).sum() / len(x) if len(chosen) else value


def partly_used(group):
    task = ranks.small_task(group, "gpt2")
    task.model = Scales()
    found = {}
    for step in range(3):
        # Both positive examples are those of the first rank.
        task.backward({"x": torch.tensor([1.0, 2.0, -3.0, -4.0])}, partly)
        found |= {f"{step} {name}": p.grad for name, p in task.model.named_parameters()}
    return found


def test_a_parameter_that_one_rank_uses_is_averaged_and_one_that_none_uses_has_no_gradient(
    tmp_path,
):
    one = partly_used(None)
    assert [float(one[name]) for name in ("2 all", "2 some")] == [-1.0, 0.75]
    for several in ranks.run(partly_used, 2, tmp_path):
        assert several == one
        assert several["2 none"] is None


def refused_passes(group):
    task = ranks.small_task(group, "gpt2")
    batch = task._gather(torch.arange(8))
    attempts = {
        "few": lambda: task.forward(task._gather(torch.arange(1))),
        "sum": lambda: task.backward(batch, lambda m, b: m(next(iter(b.values()))).sum()),
        "graph": lambda: task.backward(batch, lambda m, b: torch.ones((), requires_grad=True)),
        "sampled": lambda: task.sampled_backward(batch),
        "maps": lambda: task.linear_maps(batch),
    }
    found = {}
    for name, attempt in attempts.items():
        with pytest.raises(UserError) as error:
            attempt()
        found[name] = str(error.value)
    task.model.add_module("norm", nn.BatchNorm1d(4))
    with pytest.raises(UserError) as error:
        task.join(group, None)
    return found | {"norm": str(error.value)}


def test_what_cannot_be_shared_is_refused_by_name(tmp_path):
    said = ranks.run(refused_passes, 2, tmp_path)[0]
    assert "a pass of 1 examples cannot be shared by 2 processes" in said["few"]
    assert "it is not a mean over examples" in said["sum"]
    assert "a loss without a graph" in said["graph"]
    assert "task.sampled_backward is not offered on several processes" in said["sampled"]
    assert "task.linear_maps is not offered" in said["maps"]
    assert "BatchNorm1d" in said["norm"]
    assert all("engine.processes=1" in text for text in said.values())


def test_dropout_on_a_part_is_that_on_the_whole_batch():
    dropout, x = nn.Dropout(0.3), torch.arange(1.0, 43.0).view(7, 2, 3)
    torch.manual_seed(0)
    whole = dropout(x)
    for rank, flat in ((0, False), (1, False), (2, True)):
        mine = Group(rank, 3).share(7)
        torch.manual_seed(0)
        with SharedDraws(mine, 7):
            part = (
                dropout(x[mine].flatten(0, 1)).unflatten(0, (-1, 2)) if flat else dropout(x[mine])
            )
        assert torch.equal(part, whole[mine])


@pytest.mark.parametrize(("count", "size"), [(8, 2), (7, 3), (3, 3), (64, 5)])
def test_shares_cover_a_batch_once(count, size):
    shares = [Group(rank, size).share(count) for rank in range(size)]
    assert [i for s in shares for i in range(s.start, s.stop)] == list(range(count))
    assert max(s.stop - s.start for s in shares) - min(s.stop - s.start for s in shares) <= 1


class Lone(Group):
    """A group of one rank, which keeps what it would tell the others."""

    def __init__(self):
        super().__init__(0, 1)
        self.told = []

    def agreed(self, value):
        self.told.append(value)
        return value


@pytest.mark.parametrize(
    ("seconds", "most", "latest"), [(0.001, 30, 50), (0.05, 340, 4), (5.0, 1001, 1)]
)
def test_ranks_look_for_a_message_five_times_a_second(seconds, most, latest, monkeypatch):
    now, waiting = [0.0], []
    monkeypatch.setattr("harness.train.ranks.time", SimpleNamespace(monotonic=lambda: now[0]))
    group, source = Lone(), SimpleNamespace(poll=lambda: bool(waiting))
    channel = RankChannel(group, source, -1, 0.0)

    def poll():
        now[0] += seconds
        return channel.poll()

    assert not any(poll() for _ in range(1000))
    assert len(group.told) <= most
    waiting.append("pause")
    assert any(poll() for _ in range(latest))


# Races


def trial_of_two(submission, results, *, isolation="process", **hp):
    engine = {"device": "cpu", "threads": 1, "deterministic": True, "processes": 2}
    return planned(str(SMALL_NET), submission, results, hp=hp, isolation=isolation, engine=engine)


def test_inline_has_no_processes_to_share(tmp_path):
    with pytest.raises(UserError, match="isolation=process"):
        trial_of_two("adamw", tmp_path, isolation="inline")


@pytest.mark.slow
def test_a_race_of_two_ranks_is_that_of_one_also_after_a_kill(tmp_path):
    one = race(trial("unhurried", tmp_path / "one"))
    # Steps are reported five times a second: each has to last as long to be seen.
    two = trial_of_two("unhurried", tmp_path / "two", wait=0.2)
    killed = []

    def kill(step):
        if step >= 5 and not killed:
            killed.append(members(tmp_path)[2])
            os.kill(killed[0], signal.SIGKILL)

    first = race(two, Watcher(kill))
    assert first.outcome == "killed"
    assert "rank 1 was killed by SIGKILL" in first.record["reason"]
    assert at_work_in(tmp_path) == []
    again = race(two)
    assert again.outcome == "out_of_budget"
    assert again.record["resumed"] == 1
    same_curve(one.folder, again.folder)
    record = again.record
    assert record["counts"] == {"forward_backward@ranks=2": 12}
    assert record["processes"] == 2
    assert record["device_seconds"] == pytest.approx(2 * record["end"]["total"])
    assert record["cpu_seconds"] > 0


def members(folder):
    """Return the pids of the leader and of its ranks, in their order; [] until all are there."""
    known = {}
    for pid in at_work_in(folder):
        with suppress(ProcessLookupError):
            known[pid] = stat_of(pid)
    ranks = sorted((s.start, pid) for pid, s in known.items() if s.parent in known)
    leaders = [pid for pid, s in known.items() if s.parent not in known]
    return [*leaders, *(pid for _, pid in ranks)] if (len(leaders), len(ranks)) == (1, 2) else []


def kill_later(folder, which, seconds, over):
    """Kill a member of the group so many seconds after all of them are there."""
    while not (pids := members(folder)):
        if over.wait(0.01):
            return
    if not over.wait(seconds):
        with suppress(ProcessLookupError):
            os.kill(pids[which], signal.SIGKILL)


def killed_race(planned, folder, which, seconds):
    """Return the outcome of a race whose leader (0) or one of whose ranks (1, 2) is killed."""
    over = threading.Event()
    killer = threading.Thread(target=kill_later, args=(folder, which, seconds, over))
    killer.start()
    try:
        return race(planned)
    finally:
        over.set()
        killer.join()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_kills_at_random_points_end_alike(tmp_path):
    """Whoever is killed, whenever: the attempt ends as killed, and the next one continues."""
    draws, kills, chain = random.Random(0), [], 0
    undisturbed = race(trial_of_two("unhurried", tmp_path / "whole", wait=0.05))
    whole, wall = curve(undisturbed.folder), undisturbed.record["wall"]
    # The ranks begin somewhere in the set-up.
    seconds = wall["setup"] / 2 + wall["training"] + wall["evaluation"]
    names = "the runner was killed by", "rank 0 was killed by", "rank 1 was killed by"
    while len(kills) < KILLS:
        folder = tmp_path / str(chain)
        two = trial_of_two("unhurried", folder, wait=0.05)
        which, at = draws.randrange(3), draws.uniform(0.0, seconds)
        ended = killed_race(two, folder, which, at)
        assert at_work_in(folder) == []
        if ended.outcome == "out_of_budget":
            # The kill came too late. The trial has lived through all those before.
            assert curve(ended.folder) == whole
            chain += 1
            continue
        kills.append((which, round(at, 2), ended.outcome, ended.record["reason"]))
        assert ended.outcome == "killed", kills
        assert names[which] in ended.record["reason"], kills
    ended = race(two)
    assert ended.outcome == "out_of_budget"
    assert curve(ended.folder) == whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "outcome", "reason"),
    [
        ("raise", "failed", "rank 1: ValueError: one rank alone is wrong"),
        ("exit", "failed", "rank 1 ended (status 3) without a word"),
        ("kill", "killed", "rank 1 was killed by SIGKILL"),
        ("drift", "failed", "rank 1 has other weights than rank 0 after step 6"),
    ],
)
def test_a_rank_that_fails_ends_the_attempt_by_name(fault, outcome, reason, tmp_path):
    ended = race(trial_of_two("apart", tmp_path, fault=fault))
    assert ended.outcome == outcome
    assert reason in ended.record["reason"]
    assert at_work_in(tmp_path) == []


@pytest.mark.slow
def test_strict_confines_every_rank_and_changes_nothing(tmp_path):
    one = race(trial("adamw", tmp_path / "one"))
    two = race(trial_of_two("adamw", tmp_path / "two", isolation="strict"))
    same_curve(one.folder, two.folder)
    layers = two.record["isolation_layers"]
    assert {"namespace network", "landlock files", "seccomp sockets", "tripwire"} <= set(layers)
