"""Labels that cost: who has them, what a task shows, what the referee counts, what they win."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

from harness.catalog import data as prepared
from harness.catalog import labels as block_of
from harness.catalog.data import open_data
from harness.catalog.definition import define, tree_of
from harness.clock import prices, reading
from harness.clock.pass_timer import PassTimer
from harness.clock.prices import Price, Table
from harness.errors import UserError
from harness.laws import small_workloads
from harness.race import message_schema
from harness.race.label_office import LabelOffice
from harness.race.message_schema import FalseClaim
from harness.train import predictor
from harness.train.labels import HIDDEN, first
from tests.race.test_race import stop_at
from tests.support import racing
from tests.support.racing import planned
from tests.workloads.test_labels import opened, raced

SHORT = {"horizon": 48, "evaluate": {"points": 4, "batch": 500}}


def small(seed=0):
    return small_workloads.read("active").task(seed=seed)


# What a task shows


def test_a_task_shows_the_labels_of_the_start_alone():
    task = small()
    shown = task._data["labels"]
    assert len(task.labelled) == 40
    assert (shown >= 0).nonzero()[:, 0].tolist() == sorted(task.labelled.tolist())
    assert sorted([*task.labelled.tolist(), *task.unlabelled.tolist()]) == list(range(200))
    assert not torch.equal(task.labelled, small(seed=1).labelled)
    index = torch.cat([task.next_index() for _ in range(8)])
    assert set(index[:40].tolist()) == set(task.labelled.tolist())


def test_a_batch_with_a_hidden_label_has_images_and_no_loss():
    task = small()
    batch = task.gather(task.unlabelled[:10])
    assert set(batch) == {"inputs"}
    assert len(task.logits_of(task.params, batch)) == 10
    assert task.calibration(5).shape[0] == 5
    for passed in (task.losses, task.forward, task.forward_backward):
        with pytest.raises(UserError, match=r"labels were not bought.*task\.reveal"):
            passed(batch)
    assert "targets" in task.gather(task.labelled)


def test_a_label_is_counted_once_and_the_next_epoch_has_it():
    task = small()
    true = torch.arange(10).repeat_interleave(20)
    bought = torch.tensor([3, 190, 77])
    bought = bought[~torch.isin(bought, task.labelled)]
    task.reveal(bought)
    task.reveal(bought[:1])
    task.reveal(task.labelled[:5])
    assert task.meter.counts["label"] == len(bought)
    assert torch.equal(task.gather(bought)["targets"], true[bought])
    count = len(task.labelled)
    epoch = torch.cat([task.next_index(1) for _ in range(count)])
    assert sorted(epoch.tolist()) == sorted(task.labelled.tolist())
    with pytest.raises(UserError, match="numbers from 0 to 199"):
        task.reveal(torch.tensor([200]))
    with pytest.raises(UserError, match="numbers from 0 to 199"):
        task.reveal(torch.tensor([-1]))


def test_who_buys_nothing_is_given_random_labels_in_rounds():
    task, counts = small(), []
    for _ in range(task.horizon):
        task.next_batch()
        task.step += 1
        counts.append(len(task.labelled))
    assert counts == [40 + 8 * min(5, step * 6 // 60) for step in range(60)]
    own = small()
    own.reveal(torch.empty(0, dtype=torch.int64))
    own.step = 59
    own.next_batch()
    assert len(own.labelled) == 40


def test_a_task_goes_on_with_its_labels_and_its_order():
    task = small()
    task.next_index(30)
    task.reveal(task.unlabelled[:6])
    task.next_index(13)
    again = small()
    again.load_state_dict(task.state_dict())
    assert torch.equal(again._data["labels"], task._data["labels"])
    for _ in range(12):
        assert torch.equal(again.next_index(9), task.next_index(9))


def test_a_workload_with_free_labels_sells_none():
    task = small_workloads.read("clean").task()
    for ask in (lambda: task.labelled, lambda: task.unlabelled, lambda: task.reveal([1])):
        with pytest.raises(UserError, match=r"sells no labels.*workload=active"):
            ask()


# The numbers of the block


@pytest.mark.parametrize(
    "change, words",
    [
        ({"start": 0}, "start=0"),
        ({"price": -1}, "price=-1"),
        ({"size": 1.5}, "size=1.5"),
        ({"tensor": 3}, "name of a tensor"),
        ({"cost": 1}, "a key 'cost'"),
    ],
    ids=str,
)
def test_a_block_that_cannot_be_raced_is_refused(change, words):
    tree = tree_of("active")
    tree["mini"]["labels"] = tree["mini"]["labels"] | change
    with pytest.raises(UserError, match=words):
        define("active", tree, "mini", None)


def test_a_label_has_the_price_that_is_stated_and_takes_nothing_from_the_horizon(tmp_path):
    trial = planned("active", "adamw", tmp_path, numbers=SHORT)
    price = trial.definition.block["labels"]["price"]
    step = trial.table.of("forward_backward").seconds
    assert trial.table.of("label").seconds == price * step
    assert trial.horizon == 48
    assert trial.passes == {"forward_backward": 1, "label": 0}
    counts = {"forward_backward": 48, "label": 4000}
    assert prices.overdrawn(counts, 48, trial.table) is None
    assert prices.overdrawn({"forward_backward": 60}, 48, trial.table)


def test_a_method_that_declares_labels_is_refused_where_they_are_free(tmp_path):
    path = tmp_path / "buyer.py"
    path.write_text(
        '"""Buys."""\nSPACE = {"lr": 0.1}\nPASSES = {"forward_backward": 1, "label": 1}\n'
        "class Algorithm:\n    def __init__(self, task, hp):\n        self.lr = hp.lr\n"
    )
    with pytest.raises(UserError, match=r"clean\.mini sells no labels.*workload=active"):
        planned("clean", path, tmp_path)


@pytest.mark.slow
def test_scores_of_many_examples_have_a_price_though_few_have_a_label():
    definition = define("active", tree_of("active"), "mini", None)
    train = str(prepared.prepare(definition, "train"))
    timer = PassTimer(asdict(definition), train, {"device": "cpu", "threads": 1}, 0)
    for kind in ("forward@batch=16", "forward_backward", "per_example_gradients", "jvp"):
        assert timer.fits(kind)


def test_what_labels_cost_is_part_of_the_time():
    unit = Price(1.0, 0.9, 1.1)
    table = Table({"forward_backward": unit, "label": unit.times(2)}, "here")
    row = {
        "step": 10, "counts": {"forward_backward": 10}, "passes": {"forward_backward": 10},
        "inside": {"forward_backward": 10.0}, "outside": 0.0, "anchor": 1.0, "anchor_seconds": 1.0,
        "setup_seconds": 0.0, "lost_steps": 0, "hooked": None,
    }  # fmt: skip
    bought = row | {"counts": row["counts"] | {"label": 30}}
    assert reading.read([bought], table).total == reading.read([row], table).total + 60


def test_labels_given_are_those_of_the_start_and_those_bought():
    block = {"labels": {"start": 50}}
    assert block_of.given(block, {"label": 7}) == 57
    assert block_of.given(block, {}) == 50


# The referee


@pytest.fixture
def office(tmp_path):
    trial = SimpleNamespace(definition=define("active", tree_of("active"), "mini", None), seed=3)
    made = LabelOffice(trial, prepared.prepare(trial.definition, "train"), tmp_path / "labels")
    made.open()
    return made


def test_the_runners_folder_has_the_labels_of_the_start_alone(office):
    given, whole = open_data(office.folder), opened("active").splits["train"]
    known = first(4000, 50, 3)
    assert torch.equal(given["images"], whole["images"])
    assert torch.equal(given["labels"][known], whole["labels"][known])
    assert int((given["labels"] == HIDDEN).sum()) == 3950


def test_an_office_answers_and_counts_each_example_once(office):
    whole = opened("active").splits["train"]["labels"]
    office.begin({"label": 20})
    assert torch.equal(predictor.unpack(office.answer([5, 9])), whole[[5, 9]])
    office.answer([9, 11])
    office.check({"label": 23})
    for counts in ({"label": 22}, {"label": 24}, {}):
        with pytest.raises(FalseClaim, match="23 were sold"):
            office.check(counts)
    with pytest.raises(FalseClaim, match="example 4000"):
        office.answer([4000])


@pytest.mark.parametrize("index", [[-1], ["1"], [True], 3, [1.0], None], ids=str)
def test_a_question_of_another_form_is_a_false_claim(index):
    with pytest.raises(FalseClaim, match="index"):
        message_schema.check({"kind": "reveal", "index": index})
    message_schema.check({"kind": "reveal", "index": [0, 3999]})


def bought(tmp_path, **changes):
    """Return the rows of a short trial that buys ten labels."""
    hp = {"labels": 60, "size": 5}
    trial = planned("active", "random_labels", tmp_path, numbers=SHORT, hp=hp, until="budget",
                    **changes)  # fmt: skip
    outcome = racing.race(trial)
    assert outcome.outcome == "out_of_budget", outcome.record["reason"]
    return racing.curve(outcome.folder)


def test_a_trial_counts_what_it_bought(tmp_path):
    rows = bought(tmp_path, isolation="inline")
    # After steps 20 and 40; evaluations are at every twelfth.
    assert [row["metrics"]["labels"] for row in rows] == [50, 50, 55, 55, 60]
    assert [row["counts"].get("label", 0) for row in rows] == [0, 0, 5, 5, 10]
    assert not rows[-1]["goal"]


@pytest.mark.slow
@pytest.mark.parametrize("level", ["process", "strict"])
def test_a_runner_is_sold_the_same_labels(level, tmp_path):
    inline = bought(tmp_path / "inline", isolation="inline")
    assert bought(tmp_path / "apart", isolation=level) == inline


@pytest.mark.slow
def test_a_paused_trial_goes_on_with_its_labels(tmp_path):
    """Asked to stop after a purchase; the labels are in the checkpoint and are not bought again."""
    hp = {"labels": 60, "size": 5}
    whole = racing.race(planned("active", "random_labels", tmp_path / "whole", numbers=SHORT,
                                hp=hp, until="budget", isolation="inline"))  # fmt: skip
    trial = planned("active", "random_labels", tmp_path / "parts", numbers=SHORT, hp=hp,
                    until="budget", isolation="inline")  # fmt: skip
    stopped = racing.race(trial, stop_at(22))
    assert stopped.outcome == "interrupted"
    outcome = racing.race(trial)
    assert racing.curve(outcome.folder)[-1] == racing.curve(whole.folder)[-1]
    assert outcome.record["counts"]["label"] == 10


@pytest.mark.slow
def test_active_separates_chosen_labels_from_random_ones():
    run = opened("active")
    goal = run.definition.block["goal"]["accuracy"]["at_least"]
    horizon = run.definition.block["horizon"]
    assert raced(run, "adamw", horizon, lr=1e-3)["accuracy"] < goal
    assert raced(run, "margin", horizon, lr=1e-3)["accuracy"] >= goal
