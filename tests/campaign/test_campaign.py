"""Laws of campaigns: trials before seeds, the best is re-run, what is written is what was found."""

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest

from harness.campaign import board
from harness.campaign import pairs as campaign_pairs
from harness.campaign.board import Known, commit
from harness.campaign.pair_results import TRIES, Job
from harness.campaign.pairs import Pair, shares
from harness.campaign.plan import load, ruleset, rulesets, tree_of
from harness.campaign.running import Pace, run
from harness.campaign.trial import apart, failure, settings
from harness.catalog import discover, identity
from harness.catalog.definition import define
from harness.errors import UserError
from harness.race import plan, point
from harness.records import rejudge
from harness.records.collect import collect
from harness.report.board.cells import choose
from harness.report.run.text import duration
from harness.system.files import atomic_json
from tests.support import records

RULES = {"studies": 2, "trials": 2, "seeds": 2}
DEFINITION = define("gpt2", tree_of("gpt2"), "mini", None)


def finish(pair, job, results, crossing, lr) -> None:
    """As if the job had been raced."""
    pair.take(job, race_result(pair, job, results, crossing, {"lr": lr}))


def race_result(pair, job, results, crossing, hp, whole=None) -> dict:
    """What racing the job would say, with its record in a folder."""
    study, trial, seed, share = job
    made, rows = records.record(pair.submission, "gpt2", seed, trial, crossing, study=study, hp=hp)
    if share not in (None, 1):
        made["budget"] = {"steps": round(1000 * share), "factor": share, "whole": 1000}
    if crossing and (pair.until == "budget" if whole is None else whole):
        made |= {"step": made["horizon"], "outcome": "reached"}
    made |= {
        "run_id": f"{pair.submission}-{study}-{trial}-{seed}-{share or 1}",
        "workload_hash": DEFINITION.hash,
        "training_hash": DEFINITION.training_hash,
        "goal": DEFINITION.block["goal"],
        "submission_hash": identity.source_hash(discover.find(pair.submission)),
    }
    return {
        "label": pair.name,
        "outcome": made["outcome"],
        "reason": None,
        "folder": str(records.folder(results, made, rows)),
        "earlier": False,
        "wall": 10.0,
    }


def test_a_study_re_runs_its_own_best_point_once_its_trials_are_over(tmp_path):
    pair = Pair("gpt2", "adamw", RULES, hopeless=True, isolation="strict")
    assert list(pair.ready()) == [Job(0, 0, 0), Job(0, 1, 0), Job(1, 0, 1), Job(1, 1, 1)]
    finish(pair, Job(0, 0, 0), tmp_path, 14, 0.001)
    assert Job(0, None, 1) not in list(pair.ready())
    finish(pair, Job(0, 1, 0), tmp_path, 9, 0.002)
    assert list(pair.ready()) == [Job(1, 0, 1), Job(1, 1, 1), Job(0, None, 1), Job(0, None, 2)]
    made = pair.config(Job(0, None, 2), str(tmp_path))
    assert (made["submission"], made["seed"], made["trial"]) == (
        {"name": "adamw", "lr": 0.002},
        2,
        None,
    )
    assert not made["hopeless"]
    assert pair.config(Job(1, 0, 1), str(tmp_path))["hopeless"]
    assert made["isolation"] == "strict"


def test_what_is_committed_is_what_was_found_and_other_runs_stay(tmp_path):
    pair = Pair("gpt2", "adamw", {"studies": 1, "trials": 2, "seeds": 1})
    results = tmp_path / "results"
    for job, crossing, lr in [
        (Job(0, 0, 0), 14, 0.001),
        (Job(0, 1, 0), 9, 0.002),
        (Job(0, None, 1), 10, 0.002),
    ]:
        finish(pair, job, results, crossing, lr)
    atomic_json(
        _made(results / "tuned") / "gpt2.mini.json", {"lion": {"hp": {"lr": 1.0}, "trial": 0}}
    )
    messages = commit([pair], results)
    assert messages == [f"{results}/board/gpt2.mini.jsonl: 3 runs"]
    assert commit([pair], results) == messages
    tuned = json.loads((results / "tuned" / "gpt2.mini.json").read_text())
    assert list(tuned) == ["adamw", "lion"]
    assert {k: tuned["adamw"][k] for k in ("hp", "trial", "trials")} == {
        "hp": {"lr": 0.002},
        "trial": 1,
        "trials": 2,
    }
    kept = collect([results / "board" / "gpt2.mini.jsonl"])
    assert (len(kept.runs), kept.left_out) == (3, [])
    alone = Pair("gpt2", "adamw", {"studies": 1, "trials": 0, "seeds": 3})
    finish(alone, Job(0, None, 3), tmp_path / "other", 12, 0.1)
    assert commit([alone], results)[0].endswith(": 4 runs")


def test_campaigns_that_share_a_folder_write_one_after_the_other(tmp_path, monkeypatch):
    reading, usual = Event(), board.read_compact

    def read(*given):
        runs = list(usual(*given))
        reading.set()
        time.sleep(0.5)
        return runs

    rules = {"studies": 1, "trials": 0, "seeds": 1}
    before, slow, quick = pairs = [Pair("gpt2", name, rules) for name in ("adam", "adamw", "lion")]
    for pair in pairs:
        finish(pair, Job(0, None, 1), tmp_path, 12, 0.1)
    commit([before], tmp_path)
    monkeypatch.setattr(board, "read_compact", read)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(commit, [slow], tmp_path)
        assert reading.wait(30)
        assert commit([quick], tmp_path)[0].endswith(": 3 runs")
    assert waiting.result()[0].endswith(": 2 runs")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_the_rest_is_estimated_from_the_trials_timed():
    pair = Pair("gpt2", "adamw", {"studies": 1, "trials": 4, "seeds": 2})
    pace = Pace(jobs=2)
    assert pace.left([pair]) is None
    pace.add("gpt2", 30.0)
    pace.add("gpt2", None)
    assert pace.left([pair]) == pytest.approx(90.0)
    assert duration(90.0) == "2 min"
    assert duration(7380.0) == "2 h 03 min"


class Race:
    """Stands for the racing of a job: keeps what was raced, and leaves a record.

    `crossings` has the evaluation at which the goal is met by (study, share of the budget), or by
    (study, share, seed), None
    for a miss; trials add their number to it at the whole budget.
    """

    def __init__(self, results, fail=(), crossings=None):
        self.results, self.fail, self.raced, self.shares = results, fail, [], []
        self.crossings = crossings

    def __call__(self, config, racing=None):
        name, trial, study, seed = (
            config["submission"]["name"], config["trial"], config["study"], config["seed"],
        )  # fmt: skip
        share = config["budget"]
        self.raced.append((name, study, trial, seed))
        self.shares.append((study, trial, seed, share))
        if name in self.fail:
            return failure(config, "it does not fit")
        card = discover.read(discover.find(name))
        settings = {k: v for k, v in config["submission"].items() if k != "name"}
        hp = point.hyperparameters(card, settings, trial, study, None, {})
        pair = Pair("gpt2", name, RULES, until=config["until"])
        crossing = 12 if trial is None else 9 + trial
        if self.crossings is not None:
            usual = self.crossings.get((study, share))
            crossing = self.crossings.get((study, share, seed), usual)
            crossing = crossing and crossing + (trial or 0) * (share == 1)
        return race_result(pair, Job(study, trial, seed, share), self.results, crossing, hp)


def go(monkeypatch, race, pairs, results, **more) -> bool:
    monkeypatch.setattr("harness.campaign.running.apart", race)
    whole = run(pairs, str(results), 1, Known(results), lambda *_: None, **more)
    commit(pairs, results)
    return whole


def pairs_of(*submissions, until="goal", **rules) -> list:
    rules = {"studies": 1, "trials": 2, "seeds": 2} | rules
    return [Pair("gpt2", name, rules, until=until) for name in submissions]


def test_a_campaign_goes_on_from_the_board_where_no_run_folder_exists(tmp_path, monkeypatch):
    first = Race(tmp_path / "folders")
    assert go(monkeypatch, first, pairs_of("adamw"), tmp_path / "results")
    assert first.raced == [
        ("adamw", 0, 0, 0), ("adamw", 0, 1, 0), ("adamw", 0, None, 1), ("adamw", 0, None, 2),
    ]  # fmt: skip
    second = Race(tmp_path / "others")
    pairs = pairs_of("adamw", "lion", seeds=3)
    assert go(monkeypatch, second, pairs, tmp_path / "results")
    assert second.raced[0] == ("adamw", 0, None, 3)
    assert [r for r in second.raced if r[0] == "adamw"] == [("adamw", 0, None, 3)]
    assert len(collect([tmp_path / "results" / "board" / "gpt2.mini.jsonl"]).runs) == 5 + 5


def test_a_run_that_stopped_at_its_goal_does_not_cover_a_job_that_trains_on(tmp_path, monkeypatch):
    go(monkeypatch, Race(tmp_path / "a"), pairs_of("adamw", seeds=0), tmp_path / "results")
    again = Race(tmp_path / "b")
    go(monkeypatch, again, pairs_of("adamw", seeds=0, until="budget"), tmp_path / "results")
    assert len(again.raced) == 2


def test_a_moved_goal_judges_the_board_again_and_races_nothing(tmp_path, monkeypatch):
    results = tmp_path / "results"
    go(monkeypatch, Race(tmp_path / "a"), pairs_of("adamw", seeds=1, until="budget"), results)
    before = collect([results / "board" / "gpt2.mini.jsonl"]).runs
    moved = tree_of("gpt2")
    moved["mini"]["goal"] = {"loss": {"at_most": 5.0}}
    present = define("gpt2", moved, "mini", None)
    monkeypatch.setattr(Pair, "definition", present)
    monkeypatch.setattr(rejudge, "present", lambda *_: present)
    again = Race(tmp_path / "b")
    go(monkeypatch, again, pairs_of("adamw", seeds=1, until="budget"), results)
    assert again.raced == []
    found = collect([results / "board" / "gpt2.mini.jsonl"])
    assert found.left_out == []
    assert {run.record["workload_hash"] for run in found.runs} == {present.hash}
    for old, new in zip(before, found.runs, strict=True):
        first = next(i for i, (*_, v) in enumerate(old.curve) if i and v <= 5.0)
        assert new.time == old.curve[first][1] < old.time
        assert new.record["crossing"]["after"] == old.curve[first - 1][1]


def test_a_run_that_stopped_at_an_easier_goal_is_not_judged_by_a_harder_one(tmp_path):
    pair = Pair("gpt2", "adamw", RULES)
    pair.take(Job(0, 0, 0), race_result(pair, Job(0, 0, 0), tmp_path, 12, {"lr": 0.1}, whole=False))
    run, harder = pair.found[Job(0, 0, 0)], tree_of("gpt2")
    harder["mini"]["goal"] = {"loss": {"at_most": 1.0}}
    assert rejudge.rejudge(run, define("gpt2", harder, "mini", None)) is run


def test_an_edited_submission_is_raced_again(tmp_path, monkeypatch):
    go(monkeypatch, Race(tmp_path / "a"), pairs_of("adamw", seeds=0), tmp_path / "results")
    monkeypatch.setattr(identity, "source_hash", lambda plugin: "another")
    again = Race(tmp_path / "b")
    go(monkeypatch, again, pairs_of("adamw", seeds=0), tmp_path / "results")
    assert len(again.raced) == 2


def test_after_the_minutes_nothing_is_handed_out(tmp_path, monkeypatch):
    race = Race(tmp_path / "a")
    assert not go(monkeypatch, race, pairs_of("adamw"), tmp_path / "results", minutes=1e-9)
    assert race.raced == []


def test_a_pair_that_only_fails_is_given_up_and_the_next_is_raced(tmp_path, monkeypatch):
    race = Race(tmp_path / "a", fail=["adamw"])
    pairs = pairs_of("adamw", "lion", trials=5, seeds=1)
    go(monkeypatch, race, pairs, tmp_path / "results")
    assert [r[0] for r in race.raced].count("adamw") == TRIES
    assert pairs[0].failed == "it does not fit"
    assert len(pairs[1].found) == 6
    again = Race(tmp_path / "b", fail=["adamw"])
    pairs = pairs_of("adamw", "lion", trials=5, seeds=1)
    assert go(monkeypatch, again, pairs, tmp_path / "results")
    assert (again.raced, pairs[0].failed) == ([], "it does not fit")
    monkeypatch.setattr(identity, "source_hash", lambda plugin: "another")
    go(monkeypatch, again, pairs_of("adamw", trials=5, seeds=1), tmp_path / "results")
    assert len(again.raced) == TRIES


def test_a_submission_that_is_mended_while_it_fails_is_raced_again(tmp_path, monkeypatch):
    source, usual = ["broken"], identity.source_hash
    monkeypatch.setattr(
        identity,
        "source_hash",
        lambda plugin: source[-1] if plugin.name == "adamw" else usual(plugin),
    )

    class Mended(Race):
        def __call__(self, config, racing=None):
            source.append("mended")
            return super().__call__(config, racing)

    results, rules = tmp_path / "results", {"trials": 5, "seeds": 1}
    race, pairs = Mended(tmp_path / "a", fail=["adamw"]), pairs_of("adamw", **rules)
    go(monkeypatch, race, pairs, results)
    assert pairs[0].failed
    again = Race(tmp_path / "b")
    go(monkeypatch, again, pairs_of("adamw", **rules), results)
    assert len(again.raced) == 6


def test_a_trial_whose_process_dies_is_a_failure_not_the_end(monkeypatch):
    config = settings("gpt2", "mini", "adamw", 0, "/nowhere") | {"fault": True}
    monkeypatch.setattr("harness.campaign.trial._apart", die)
    said = apart(config)
    assert (said["outcome"], said["reason"]) == ("crashed", "its process died (exit code 7)")


def die(*_) -> None:
    import os

    os._exit(7)


@pytest.mark.parametrize(
    "text, said",
    [
        ("submisions: [adamw]", "did you mean submissions"),
        ("submissions: [adamww]\nworkloads: [gpt2]", "did you mean .*adamw"),
        ("submissions: [adamw]\nworkloads: [gtp2]", "did you mean gpt2"),
        ("submissions: [adamw]\nworkloads: [gpt2]\nruleset: externl", "did you mean external"),
        ("submissions: [adamw]", "workloads is empty"),
        ("blocks: [{submissions: [adamw], workloads: [gpt2]}, {x: 1}]", "block 2: .*no key 'x'"),
        ("submissions: [adamw, lora]\nworkloads: [gpt2, vit]", "lora races on none .* finetune"),
        ("submissions: [adamw]\nworkloads: [gpt2]\nuntil: godot", "goal, budget"),
        ("submissions: [adamw]\nworkloads: [gpt2.pots_norm]", "did you mean post_norm"),
        ("submissions: [adamw]\nworkloads: [gpt2]\nisolation: strikt", "inline"),
        ("submissions: [adamw]\nworkloads: [gpt2]\nhopeless: true\nuntil: budget", "contradict"),
        ("submissions: [adamw]\nworkloads: [gpt2]\ntrials: 0\nseeds: 0", "nothing would be"),
        ("submissions: [adamw]\nworkloads: [gpt2]\ntrials: many", "whole number"),
        ("submissions: [adamw]\nworkloads: [gpt2]\ntuned: yes please", "true or false"),
        ("submissions: [adamw]\nworkloads: [gpt2]\ntuned: true", "with trials: 5.*ruleset: fixed"),
    ],
)
def test_a_wrong_plan_is_an_error_that_names_the_right_word(tmp_path, text, said):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        load(path)


def test_a_plan_takes_a_rulesets_numbers_and_its_own(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("submissions: [adamw]\nworkloads: [gpt2]\nruleset: algoperf\ntrials: 7\n")
    made = load(path)
    rules = {k: made.blocks[0].rules[k] for k in ("studies", "trials", "seeds")}
    assert rules == {"studies": 3, "trials": 7, "seeds": 0}
    assert [
        (p.workload, p.submission, p.total) for p in campaign_pairs.pairs_of(made, tmp_path)
    ] == [("gpt2", "adamw", 21)]


def test_a_variant_is_raced_at_the_point_that_is_tuned_on_its_base(tmp_path):
    path, told = tmp_path / "plan.yaml", []
    path.write_text(
        "submissions: [adamw, lion]\nworkloads: [gpt2.relu]\nruleset: fixed\ntuned: true\n"
    )
    point = {"hp": {"lr": 0.5}, "budget": 0.64}
    (tmp_path / "tuned").mkdir()
    atomic_json(tmp_path / "tuned" / "gpt2.mini.json", {"adamw": point})
    (pair,) = campaign_pairs.pairs_of(load(path), tmp_path, told.append)
    assert told == ["left out: gpt2.relu/lion: no point of lion is tuned on gpt2.mini"]
    made = [pair.config(job, "r") for job in pair.ready()]
    assert [each["seed"] for each in made] == [1, 2, 3]
    assert {each["variant"] for each in made} == {"relu"}
    assert {each["budget"] for each in made} == {0.64}
    assert made[0]["submission"] == {"name": "adamw", "lr": 0.5}


def test_blocks_are_done_in_order_and_a_submission_races_on_its_tracks_alone(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(
        "until: budget\nblocks:\n"
        "- {submissions: [adamw], workloads: [vit, ft_gpt2.trainable_1, stream_split]}\n"
        "- {submissions: [peft, lion], workloads: all, ruleset: once}\n"
    )
    pairs = campaign_pairs.pairs_of(load(path), tmp_path)
    assert [p.name for p in pairs][:1] == ["vit/adamw"]
    assert {p.until for p in pairs} == {"budget"}
    second = [p for p in pairs if p.ruleset["trials"] == 0]
    assert {p.total for p in second} == {1}
    assert next(second[0].ready()) == Job(0, None, 1)
    tracks = {tree_of(p.workload)["track"] for p in second if p.submission == "lora"}
    assert tracks == {"finetune"}
    assert {"gpt2", "vit"} <= {p.workload for p in second if p.submission == "lion"}


def climb(monkeypatch, tmp_path, crossings, until="goal", **rules):
    """Race a pair down (or up) a ladder; return what was raced, the pair, and its tuned point."""
    race = Race(tmp_path / "folders", crossings=crossings)
    pairs = pairs_of("adamw", until=until, ladder=0.8, **rules)
    assert go(monkeypatch, race, pairs, tmp_path / "results")
    again = Race(tmp_path / "again", crossings=crossings)
    assert go(monkeypatch, again, pairs_of("adamw", ladder=0.8, **rules), tmp_path / "results")
    assert again.raced == []
    tuned = json.loads((tmp_path / "results" / "tuned" / "gpt2.mini.json").read_text())["adamw"]
    return race.shares, pairs[0], tuned


def test_the_shares_of_a_ladder():
    assert shares(0.8, up=False)[:5] == [0.8, 0.64, 0.51, 0.41, 0.33]
    assert shares(0.8, up=True) == [1.25, 1.56, 1.95]
    for ratio in (0.3, 0.5, 0.95):
        for up in (False, True):
            steps = [1, *shares(ratio, up)]
            assert sorted(set(steps), reverse=not up) == steps
            assert 0.05 <= min(steps) <= max(steps) <= 2


def test_a_ladder_goes_down_until_a_share_misses_and_seeds_race_at_the_best(tmp_path, monkeypatch):
    crossings = {(0, 1): 12, (0, 0.8): 9, (0, 0.64): 10, (0, 0.51): None}
    raced, pair, tuned = climb(monkeypatch, tmp_path, crossings)
    assert raced == [
        (0, 0, 0, 1), (0, 1, 0, 1),
        (0, 0, 0, 0.8), (0, 0, 0, 0.64), (0, 0, 0, 0.51),
        (0, None, 1, 0.8), (0, None, 2, 0.8),
    ]  # fmt: skip
    assert (tuned["budget"], tuned["trial"]) == (0.8, 0)
    assert (pair.total, pair.left) == (7, 0)
    choice = choose(collect([tmp_path / "results" / "board" / "gpt2.mini.jsonl"]).runs)
    assert (choice.budget, choice.tuned, len(choice.runs)) == (0.8, True, 2)


def test_a_share_that_another_seed_misses_is_given_up_for_the_next_best(tmp_path, monkeypatch):
    crossings = {
        (0, 1): 12, (0, 0.8): 11, (0, 0.64): 9, (0, 0.51): 8, (0, 0.41): None,
        (0, 0.51, 1002): None, (0, 0.64, 1001): None,
    }  # fmt: skip
    raced, pair, tuned = climb(monkeypatch, tmp_path, crossings, confirm=2, trials=1)
    assert raced[1:5] == [(0, 0, 0, share) for share in (0.8, 0.64, 0.51, 0.41)]
    assert raced[5:] == [
        (0, 0, 1001, 0.51), (0, 0, 1002, 0.51),
        (0, 0, 1001, 0.64),
        (0, 0, 1001, 0.8), (0, 0, 1002, 0.8),
        (0, None, 1, 0.8), (0, None, 2, 0.8),
    ]  # fmt: skip
    assert tuned["budget"] == 0.8
    assert pair.left == 0
    choice = choose(collect([tmp_path / "results" / "board" / "gpt2.mini.jsonl"]).runs)
    assert (choice.budget, choice.tuned, len(choice.runs)) == (0.8, True, 2)


def test_no_share_is_confirmed_where_the_whole_budget_is_best(tmp_path, monkeypatch):
    crossings = {(0, 1): 8, (0, 0.8): 9, (0, 0.64): None}
    raced, _, tuned = climb(monkeypatch, tmp_path, crossings, confirm=2, trials=1)
    assert raced[3:] == [(0, None, 1, 1), (0, None, 2, 1)]
    assert "budget" not in tuned


def test_the_whole_budget_stays_where_every_smaller_share_is_slower(tmp_path, monkeypatch):
    raced, _, tuned = climb(monkeypatch, tmp_path, {(0, 1): 12, (0, 0.8): None})
    assert raced[2:] == [(0, 0, 0, 0.8), (0, None, 1, 1), (0, None, 2, 1)]
    assert "budget" not in tuned


def test_what_misses_with_all_trials_gets_one_seed_and_no_ladder(tmp_path, monkeypatch):
    raced, pair, _ = climb(monkeypatch, tmp_path, {}, until="budget", seeds=3)
    assert raced == [(0, 0, 0, 1), (0, 1, 0, 1), (0, None, 1, 1)]
    assert pair.total == 3


def test_a_fresh_seed_that_reaches_where_all_trials_missed_is_followed_by_the_others(
    tmp_path, monkeypatch
):
    crossings = {(0, 1): None, (0, 1, 1): 14}
    raced, pair, _ = climb(monkeypatch, tmp_path, crossings, seeds=3)
    assert raced == [(0, 0, 0, 1), (0, 1, 0, 1), *((0, None, seed, 1) for seed in (1, 2, 3))]
    assert pair.total == 5


def test_a_study_that_missed_goes_up_where_another_reached(tmp_path, monkeypatch):
    """Seed 1 of study 1 is its trial's: one run, as a point has one run a seed."""
    crossings = {(1, 1): 12, (0, 1.25): None, (0, 1.56): 14, (1, 0.8): None}
    raced, _, tuned = climb(monkeypatch, tmp_path, crossings, studies=2, trials=1)
    assert raced == [
        (0, 0, 0, 1), (1, 0, 1, 1),
        (0, 0, 0, 1.25), (0, 0, 0, 1.56),
        (0, None, 1, 1.56), (0, None, 2, 1.56), (1, 0, 1, 0.8), (1, None, 2, 1),
    ]  # fmt: skip
    assert "budget" not in tuned


def test_a_ladder_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    crossings = {(0, 1): 12, (0, 0.8): 9, (0, 0.64): None}
    results, raced = tmp_path / "results", []
    for stop in range(1, 8):

        class Stops(Race):
            def __call__(self, config, racing=None):
                if self.raced:
                    raise KeyboardInterrupt
                return super().__call__(config, racing)

        race = Stops(tmp_path / str(stop), crossings=crossings)
        pairs = pairs_of("adamw", ladder=0.8)
        try:
            go(monkeypatch, race, pairs, results)
        except KeyboardInterrupt:
            commit(pairs, results)
        raced += race.shares
    assert raced == [
        (0, 0, 0, 1), (0, 1, 0, 1), (0, 0, 0, 0.8), (0, 0, 0, 0.64),
        (0, None, 1, 0.8), (0, None, 2, 0.8),
    ]  # fmt: skip


def test_a_stream_has_no_ladder():
    pair = Pair("stream_split", "er", ruleset("answer"))
    for job in pair.tuning:
        pair.take(job, {"outcome": "diverged"}, SimpleNamespace(record={"outcome": "reached"}))
    assert pair.ladder(0) == []


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"ladder": 1}, "0.3 to 0.95"),
        ({"ladder": "down"}, "0.3 to 0.95"),
        ({"trials": 0}, "tuning trials at budget: 1"),
        ({"budget": 2}, "tuning trials at budget: 1"),
        ({"budget": 0}, "a positive number"),
        ({"budget": True}, "a positive number"),
    ],
)
def test_a_ruleset_with_a_wrong_ladder_or_budget_is_an_error(changes, message):
    with pytest.raises(UserError) as caught:
        ruleset("answer", **changes)
    assert message in f"{caught.value.what} {caught.value.allowed}"


@pytest.mark.parametrize("name", sorted(rulesets()))
def test_every_ruleset_makes_jobs(name):
    rules = ruleset(name)
    assert Pair("gpt2", "adamw", rules).total > 0


def test_a_self_tuning_submission_gets_one_point_and_three_budgets(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("submissions: [pbt]\nworkloads: [gpt2, stream_split]\nruleset: self_tuning\n")
    (pair,) = campaign_pairs.pairs_of(load(path), tmp_path)  # no stream: it has its own length
    assert list(pair.ready()) == [Job(0, None, 1), Job(0, None, 2), Job(0, None, 3)]
    planned = plan.make(pair.config(Job(0, None, 1), str(tmp_path)))
    usual = plan.make(pair.config(Job(0, None, 1), str(tmp_path)) | {"budget": 1})
    assert planned.horizon == 3 * usual.horizon
    assert planned.grid[:4] == usual.grid[:4]  # as fine a grid
    assert planned.run_id != usual.run_id
    assert planned.describe()["budget"] == {"steps": 3 * usual.budget, "factor": 3}


def test_a_budget_is_a_share_of_the_horizon_and_no_other_workload(tmp_path):
    (pair,) = pairs_of("adamw", trials=0, seeds=1)
    config = pair.config(Job(0, None, 1), str(tmp_path))
    usual = plan.make(config)
    for share, steps, points in ((0.64, 640, 13), (1.25, 1250, 25), (1e-9, 1, 2), (2, 2000, 40)):
        shared = plan.make(config | {"budget": share})
        assert (shared.horizon, shared.budget) == (steps, steps)
        assert shared.definition.hash == usual.definition.hash
        assert shared.run_id != usual.run_id
        assert (shared.grid[0], shared.grid[-1]) == (0, steps)
        assert len(shared.grid) == len(set(shared.grid)) == min(points, steps) + 1
    assert plan.make(config | {"budget": 0.64}).describe()["budget"] == {
        "steps": 640, "factor": 0.64, "whole": 1000,
    }  # fmt: skip
    assert plan.make(config | {"budget": 1.0}).describe() == usual.describe()
    assert plan.make(config | {"budget": None}).describe() == usual.describe()
    for share in (0, -1, True, math.inf, math.nan, "half"):
        with pytest.raises(UserError, match="a positive number"):
            plan.make(config | {"budget": share})
    stream = Pair("stream_split", "er", {"studies": 1, "trials": 0, "seeds": 1})
    config = stream.config(Job(0, None, 1), str(tmp_path))
    assert plan.make(config).horizon > 0
    for share in (0.64, 2):
        with pytest.raises(UserError, match="is a stream"):
            plan.make(config | {"budget": share})


def test_a_submissions_own_passes_take_the_same_share(tmp_path):
    config = pairs_of("prodigy", trials=0)[0].config(Job(0, None, 1), str(tmp_path))
    config |= {"submission": {"name": "sam"}}
    usual, shared = plan.make(config), plan.make(config | {"budget": 0.5})
    assert usual.horizon < usual.budget
    assert abs(shared.horizon - usual.horizon / 2) <= 1


def test_a_tuned_point_has_a_budget_which_a_race_uses(tmp_path):
    hp = point.hyperparameters(discover.read(discover.find("adamw")), {}, 0, 0, None, {})
    tuned = {"adamw": {"hp": hp, "budget": 0.64, "trial": 0}}
    atomic_json(_made(tmp_path / "tuned") / "gpt2.mini.json", tuned)
    config = settings("gpt2", "mini", "adamw", 1, str(tmp_path)) | {"tuned": None}
    planned = plan.make(config)
    assert (planned.horizon, planned.hp) == (640, hp)
    assert planned.point == "tuned point of gpt2.mini at 0.64 of the budget"
    for changes in ({"budget": 1}, {"tuned": False}, {"trial": 0}):
        assert plan.make(config | changes).horizon == 1000


def test_a_pair_is_written_though_its_last_jobs_were_known(monkeypatch, tmp_path):
    from harness.cli.commands import campaign

    written = []
    monkeypatch.setattr(campaign, "commit", lambda pairs, results: written.append(pairs[0].name))
    pairs = [SimpleNamespace(name=name, left=2, done={}, total=2) for name in ("raced", "known")]
    display, pace = campaign.Display(pairs, tmp_path), SimpleNamespace(left=lambda pairs: None)
    for pair in pairs:
        for earlier in (pair.name == "known", True):
            pair.left -= 1
            result = {"label": pair.name, "outcome": "reached", "time": 1.0, "earlier": earlier}
            display(pair, None, result, pace)
    assert written == ["raced"]
