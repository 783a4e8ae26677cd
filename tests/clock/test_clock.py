"""Reference seconds: the ledger's arithmetic, the horizon, and work that was meant to be free."""

import json
import math
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.catalog import kinds
from harness.clock import reading
from harness.clock.prices import (
    SCHEMA,
    Price,
    Table,
    flops,
    horizon_of,
    load_table,
    overdrawn,
    table_hash,
)
from harness.errors import UserError
from harness.train import meter

TABLE = Table(
    {
        "forward_backward": Price(0.06, 0.058, 0.063, 3e9),
        "forward": Price(0.02, 0.019, 0.021, 1e9),
        "forward_backward@depth=1/2": Price(0.035, 0.034, 0.036, 2e9),
    },
    "test",
)


def rows(counts, inside, outside, anchors, setup=0.0, lost=0, hooked=None, per=1):
    """Evaluation rows of a trial that made `counts[i]` more passes of each kind in segment i."""
    made, result = {}, []
    for i, (passes, i_seconds, o_seconds, anchor) in enumerate(
        zip(counts, inside, outside, anchors)
    ):
        for kind, n in passes.items():
            made[kind] = made.get(kind, 0) + n
        result.append({
            "event": "evaluation", "step": sum(made.values()) // per, "counts": dict(made),
            "passes": passes, "inside": {"any": i_seconds} if i_seconds else {},
            "outside": o_seconds, "anchor": anchor, "anchor_seconds": anchors[0],
            "setup_seconds": setup, "lost_steps": lost if i else 0, "hooked": hooked,
        })  # fmt: skip
    return result


def derived(log, table):
    """The total, written out once more from the definition in docs/clock.md."""
    last, unit = log[-1], table["forward_backward"]["seconds"]
    counted = math.fsum(n * table[kind]["seconds"] for kind, n in last["counts"].items())
    pairs = [(math.fsum(r["inside"].values()), r["outside"]) for r in log]

    def mean_and_end(pairs):
        bottom, top, n = math.fsum(x for x, _ in pairs), math.fsum(y for _, y in pairs), len(pairs)
        if not bottom:
            return 0.0, 0.0
        mean = top / bottom
        if n < 2:
            return mean, mean
        spread = math.fsum((y - mean * x) ** 2 for x, y in pairs)
        return mean, mean + 1.96 * math.sqrt(spread * n / (n - 1)) / bottom

    expected = [
        math.fsum(n * table[k]["seconds"] for k, n in r["passes"].items()) / unit * r["anchor"]
        for r in log
    ]
    mean, end = mean_and_end([(e, x) for e, (x, _) in zip(expected, pairs)])
    excess = max(0.0, end - 1 if last["hooked"] else mean - 1.25)
    work = counted * (1 + excess) * (1 + mean_and_end(pairs)[1])
    setup = last["setup_seconds"] / last["anchor_seconds"] * unit
    return work + setup + (last["lost_steps"] / last["step"] * work if last["step"] else 0.0)


seconds = st.floats(1e-3, 10.0)


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 50), seconds, seconds, seconds),
        min_size=1,
        max_size=6,
    ),
    seconds,
    st.integers(0, 9),
    st.sampled_from([None, "a hook"]),
)
def test_the_ledger_is_its_formula(segments, setup, lost, hooked):
    counts = [{"forward_backward": a + 1, "forward": b} for a, b, *_ in segments]
    log = rows(counts, *([s[i] for s in segments] for i in (2, 3, 4)), setup, lost, hooked)
    prices = {kind: vars(price) for kind, price in TABLE.prices.items()}
    assert reading.read(log, TABLE).total == pytest.approx(derived(log, prices), rel=1e-9)


def test_a_machine_twice_as_slow_reads_the_same():
    quick = rows(
        [{"forward_backward": 10}] * 3, [0.6, 0.61, 0.59], [0.05, 0.06, 0.05], [0.06] * 3, setup=0.1
    )
    slow = rows(
        [{"forward_backward": 10}] * 3, [1.2, 1.22, 1.18], [0.1, 0.12, 0.1], [0.12] * 3, setup=0.2
    )
    assert reading.read(quick, TABLE).total == pytest.approx(
        reading.read(slow, TABLE).total, rel=1e-12
    )


def test_a_resumed_ledger_is_the_uninterrupted_one_plus_what_was_lost():
    parts = ([{"forward_backward": 20, "forward": 20}] * 3, [1.6] * 3, [0.2] * 3, [0.06] * 3)
    whole = reading.read(rows(*parts, setup=0.3, per=2), TABLE)
    resumed = reading.read(rows(*parts, setup=0.3, per=2, lost=7), TABLE)
    per_step = (whole.total - whole.setup) / 60
    assert resumed.total == pytest.approx(whole.total + 7 * per_step, rel=1e-12)
    assert resumed.counted == whole.counted


def test_a_segment_without_passes_is_charged_too():
    made = [{"forward_backward": 10}, {}, {"forward_backward": 10}]
    honest = reading.read(rows(made, [0.6, 0, 0.6], [0.0, 0.0, 0.0], [0.06] * 3), TABLE)
    sly = reading.read(rows(made, [0.6, 0, 0.6], [0.0, 3.0, 0.0], [0.06] * 3), TABLE)
    assert honest.other == 0.0
    assert sly.other >= 3.0
    assert reading.read(
        rows([{}, {}], [0, 0], [1.0, 2.0], [0.12] * 2), TABLE
    ).total == pytest.approx(1.5)


def test_work_beside_passes_that_took_no_time_is_charged_as_it_is():
    made, none = [{"forward_backward": 10}] * 2, [0.0, 0.0]
    read = reading.read(rows(made, none, [1.0, 2.0], [0.12] * 2), TABLE)
    assert read.other == pytest.approx(1.5)
    assert read.total == pytest.approx(read.counted + 1.5)
    assert read.low < read.total < read.high
    assert reading.read(rows(made, [1e-9, 0.0], [1.0, 2.0], [0.12] * 2), TABLE).other > 1.5


def test_longer_passes_are_charged_where_there_are_hooks_and_beyond_the_slack_elsewhere():
    made, quiet = [{"forward_backward": 10}] * 3, ([0.0] * 3, [0.06] * 3)
    assert reading.read(
        rows(made, [0.6] * 3, *quiet, hooked="a hook"), TABLE
    ).hidden == pytest.approx(0)
    assert reading.read(rows(made, [0.66] * 3, *quiet), TABLE).hidden == 0.0
    assert reading.read(
        rows(made, [0.66] * 3, *quiet, hooked="a hook"), TABLE
    ).hidden == pytest.approx(0.18)
    assert reading.read(rows(made, [1.2] * 3, *quiet), TABLE).hidden == pytest.approx(0.75 * 1.8)


def test_a_kind_without_a_price_is_named():
    with pytest.raises(UserError, match="hvp"):
        reading.read(rows([{"hvp": 1}], [1.0], [0.0], [0.06]), TABLE)


def test_flops_are_counted_or_unknown():
    assert flops({"forward_backward": 2, "forward": 1}, TABLE) == 7e9
    assert flops({"forward": 1}, Table({"forward": Price(1, 1, 1)}, "test")) is None


@pytest.mark.parametrize(
    "passes, steps",
    [
        ({"forward_backward": 1}, 1000),
        ({"forward_backward": 2}, 500),
        ({"forward": 2}, 1500),
        ({"forward_backward": 1, "forward": 3}, 500),
        ({"forward_backward@depth=1/2": 0.5, "forward_backward": 0.5}, 1263),
    ],
)
def test_the_horizon_is_the_budget_over_the_declared_passes(passes, steps):
    assert horizon_of(1000, passes, TABLE) == steps


@given(st.integers(1, 5000), st.integers(1, 7))
def test_whole_multiples_divide_the_budget_exactly(steps, n):
    assert horizon_of(steps * n, {"forward_backward": n}, TABLE) == steps


def test_a_trial_may_not_spend_more_than_its_budget():
    assert overdrawn({"forward_backward": 1000}, 1000, TABLE) is None
    assert "PASSES" in overdrawn({"forward_backward": 1100}, 1000, TABLE)


@given(st.sampled_from(kinds.OPERATIONS), st.fractions(0.01, 50), st.fractions(0.01, 1))
def test_kind_names_are_canonical(operation, batch, depth):
    assert kinds.parse_kind(kinds.kind_of(operation, batch, depth)) == (operation, batch, depth)
    assert kinds.canonical_kind(f"{operation}@depth={depth}@batch={batch}") == kinds.kind_of(
        operation, batch, depth
    )


@pytest.mark.parametrize(
    "ratio", ["1e999999999", "1/0", "-1", "0", "", "9" * 10_000, "1/3/2", "nan"]
)
def test_a_kind_of_no_ratio_is_refused_at_once(ratio):
    with pytest.raises(ValueError, match="batch must be above 0"):
        kinds.parse_kind(f"forward@batch={ratio}")


def test_a_table_whose_hash_fits_and_whose_prices_do_not_is_damaged(tmp_path):
    """Its honest twin is read; one that nests deep is named too."""
    path = tmp_path / "prices.json"

    def written(prices):
        raw = {
            "schema": SCHEMA,
            "prices": prices,
            "busy": None,
            "step": "s",
            "machine": {"torch": 2},
        }
        path.write_text(json.dumps(raw | {"hash": table_hash(raw)}))
        return load_table(path)

    honest = {"seconds": 0.1, "low": 0.09, "high": 0.11, "flops": None}
    assert written({"forward": honest}).of("forward").seconds == 0.1
    for wrong in ("x", -1.0, None, math.inf, math.nan, True, [1]):
        with pytest.raises(UserError, match="is damaged"):
            written({"forward": honest | {"seconds": wrong}})
    for wrong in ([], {"forward": 3}, {"forward": {}}):
        with pytest.raises(UserError, match="is damaged"):
            written(wrong)
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="is damaged"):
        load_table(path)


def test_an_undeclared_pass_fails_with_its_name():
    import torch

    counter = meter.Meter(torch.device("cpu"), ["forward_backward"])
    with pytest.raises(UserError, match=r"'hvp'.*PASSES"), counter.kind("hvp"):
        pass


def test_hooks_are_seen():
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    assert meter.touched(model) is None
    for add in (
        lambda: model[0].weight.register_hook(lambda g: g),
        lambda: model[0].bias.register_post_accumulate_grad_hook(lambda p: None),
        lambda: model[1].register_forward_hook(lambda *a: None),
        lambda: model[1].register_full_backward_hook(lambda *a: None),
        lambda: nn.modules.module.register_module_forward_hook(lambda *a: None),
    ):
        handle = add()
        assert meter.touched(model)
        handle.remove()
        assert meter.touched(model) is None
    model[1].forward = torch.relu
    assert meter.touched(model)


BURNED = 0.6  # CPU seconds that each way below is to get for nothing
CHEAT = """
    '''Cheat: plain descent that does something beside it.'''
    import subprocess, sys, threading, time
    import torch

    SPACE = {"lr": 0.1, "way": {"choice": ["honest", "sleep", "setup", "thread", "child", "hook",
                                           "state"]}}
    SECONDS = 0.6

    def burn(seconds):
        a, until = torch.ones(128, 128), time.thread_time() + seconds
        while time.thread_time() < until:
            a @ a

    class Algorithm:
        def __init__(self, task, hp):
            self.task, self.hp = task, hp
            if hp.way == "setup":
                burn(SECONDS)
            if hp.way == "hook":
                task.params[0].register_hook(lambda g: burn(SECONDS / 40))

        def step(self):
            task = self.task
            if self.hp.way == "sleep":
                time.sleep(0.02)
            if self.hp.way == "thread" and task.step == 2:  # it would go on during evaluations
                self.beside = threading.Thread(target=burn, args=[SECONDS], daemon=True)
                self.beside.start()
            if self.hp.way == "thread" and task.step == 39:  # on a busy machine it needs longer
                self.beside.join()
            if self.hp.way == "child" and task.step == 2:
                code = f"import time\\nwhile time.process_time() < {SECONDS}: pass"
                subprocess.run([sys.executable, "-c", code])
            loss = task.forward_backward(task.next_batch())
            with torch.no_grad():
                for p in task.params:
                    p.sub_(p.grad, alpha=self.hp.lr)
            return loss

        def state_dict(self):
            if self.hp.way == "state" and self.task.step == 30:
                burn(SECONDS)
            return {}

        def load_state_dict(self, state):
            pass
"""


def trial(folder, way="honest", path=None, **settings):
    """Race the cheat on a small gpt2; returns the record and its evaluation rows."""
    from harness.catalog.definition import tree_of
    from harness.records import run_folder
    from harness.records.log import rows as read_rows
    from tests.support.racing import planned, race

    path = path or folder / "cheat.py"
    path.write_text(textwrap.dedent(CHEAT))
    numbers = {
        "horizon": 40,
        "batch": 4,
        "evaluate": {"points": 4, "batch": 80},
        "goal": {"loss": {"at_most": settings.pop("goal", 0.0)}},
        "model": tree_of("gpt2")["mini"]["model"] | {"width": 16, "depth": 2},
    }
    settings = {"isolation": "process"} | settings
    trial = planned("gpt2", path, folder / "results", numbers=numbers, hp={"way": way}, **settings)
    outcome = race(trial)
    log = list(read_rows(outcome.folder / "log.jsonl"))
    return outcome, run_folder.evaluations(log)


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return trial(tmp_path_factory.mktemp("honest"))


def uncounted(record):
    """What the ledger holds besides the counted passes, in seconds of this machine."""
    end = record["end"]
    return end["other"] + end["hidden"] + end["setup"]


def test_a_record_holds_what_its_time_is_derived_from(honest):
    outcome, log = honest
    result = json.loads((outcome.folder / "run.json").read_text())
    assert result["outcome"] == "out_of_budget"
    assert result["end"]["total"] == pytest.approx(derived(log, result["priced"]), rel=1e-9)
    assert result["end"]["hidden"] == 0.0
    assert result["provisional"]


@pytest.mark.slow
def test_sleep_changes_nothing_that_is_counted(honest, tmp_path):
    _, log = trial(tmp_path, "sleep")
    assert log[-1]["counts"] == honest[1][-1]["counts"]
    assert [r["weights"] for r in log] == [r["weights"] for r in honest[1]]


@pytest.mark.parametrize(
    "way",
    [
        "thread",
        "hook",
        *(pytest.param(w, marks=pytest.mark.slow) for w in ("setup", "child", "state")),
    ],
)
def test_work_beside_the_passes_is_charged(honest, tmp_path, way):
    """A thread that would work during evaluation is stopped, and its work is charged."""
    outcome, log = trial(tmp_path, way)
    assert outcome.outcome == "out_of_budget"
    assert [r["weights"] for r in log] == [r["weights"] for r in honest[1]]
    # what was got for nothing is at most a third: the reference step is timed on a machine in use
    assert uncounted(outcome.record) - uncounted(honest[0].record) > 0.67 * BURNED
    assert bool(outcome.record["hooked"]) == (way == "hook")


@pytest.mark.slow
def test_after_the_goal_a_trial_can_use_up_its_budget_and_be_refined(honest, tmp_path):
    from harness.cli.commands import refine

    losses = [r["metrics"]["loss"] for r in honest[1]]
    goal = (losses[1] + losses[2]) / 2
    outcome, log = trial(tmp_path, goal=goal)
    assert (outcome.outcome, log[-1]["step"]) == ("reached", 30)
    refine.run([str(outcome.folder), "--points", "5"])
    refined = json.loads((outcome.folder / "run.json").read_text())["refined"]
    assert 10 <= refined["after_step"] < refined["step"] <= 20
    assert (
        outcome.record["crossing"]["after"]
        <= refined["after"]
        < refined["time"]
        <= outcome.record["time"]
    )

    longer, log = trial(tmp_path, goal=goal, until="budget")
    assert longer.folder == outcome.folder
    assert (longer.outcome, log[-1]["step"]) == ("reached", 40)
    assert longer.record["time"] == outcome.record["time"]
    assert longer.record["lost_steps"] == 0
    assert longer.record["final"]["loss"] == losses[-1]


def test_a_record_of_reference_steps_is_told_in_frozen_prices_as_its_log_would_be(monkeypatch):
    from harness.catalog.definition import define
    from harness.records import rejudge
    from harness.records.run import RecordedRun

    steps = [{}, *[{"forward_backward": 25}] * 4]
    log = rows(steps, [0, 1.6, 1.9, 1.7, 1.8], [0.01, 0.2, 0.3, 0.1, 0.2], [0.06] * 5, setup=0.4)
    for row, loss in zip(log, (7.0, 5.0, 3.0, 2.0, 1.9), strict=True):
        row["metrics"] = {"loss": loss}
    step, provisional = Price(1.0, 1.0, 1.0), "there is no table"
    here = Table({"forward_backward": step}, "this machine", provisional, True).at(0.06)
    definition = define("gpt2", rejudge.tree_of("gpt2"), "mini", None)
    reading.reprice(log, here)
    rec = {
        "workload": "gpt2", "scale": "mini", "variant": None, "workload_hash": definition.hash,
        "goal": {"loss": {"at_most": 3.0}}, "outcome": "reached", "step": 100, "horizon": 100,
        "time": log[2]["reference_seconds"], "counts": log[-1]["counts"],
        "crossing": {"step": 50, "total": log[2]["reference_seconds"]},
        "prices": here.origin, "priced": {"forward_backward": vars(here.of("forward_backward"))},
        "provisional": True, "provisional_why": provisional, "end": {"setup": 0.4},
    }  # fmt: skip
    rec["evaluations"] = rejudge.table(rec, log)
    price = Price(0.08, 0.075, 0.09, 3e9)
    table = Table({"forward_backward": price}, "frozen", None, torch="2.13.0")
    monkeypatch.setattr(rejudge, "frozen", lambda *_: table)
    machine = {"torch": {"build": "2.13.0+cpu", "gpus": []}}
    told = rejudge.by_present_rules(RecordedRun(rec, [], machine)).record

    reading.reprice(log, table)
    seconds = [row["reference_seconds"] for row in log]
    assert told["evaluations"]["seconds"] == pytest.approx(seconds, rel=1e-8)
    assert told["time"] == told["crossing"]["total"] == pytest.approx(seconds[2])
    assert told["crossing"]["step"] == 50
    assert told["end"] == {"setup": pytest.approx(0.4 * 0.08 / 0.06)}
    assert (told["prices"], told["provisional"]) == ("frozen", False)
    for low, high, row in zip(*(told["evaluations"][k] for k in ("low", "high")), log):
        assert low <= row["interval"][0] * (1 + 1e-8)
        assert high >= row["interval"][1] * (1 - 1e-8)

    for change in ({"counts": {"forward": 1, "forward_backward": 1}}, {"prices": "frozen"}):
        run = RecordedRun(rec | change, [], machine)
        assert rejudge.by_present_rules(run) is run
    elsewhere = RecordedRun(rec, [], {"torch": {"build": "2.14.0", "gpus": []}})
    assert rejudge.by_present_rules(elsewhere) is elsewhere
    with_gpu = RecordedRun(rec, [], {"torch": {"build": "2.13.0", "gpus": ["one"]}})
    assert rejudge.by_present_rules(with_gpu) is with_gpu
