"""Laws of provenance: an honest record passes, and every forgery breaks the rule it is about."""

import json
import os
import shutil
import signal
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.catalog import optimizer_classes
from harness.cli import main
from harness.clock.prices import load_table
from harness.records import manifest, plausibility
from harness.records.collect import collect
from harness.records.compact import signed, write_compact
from harness.records.log import Log, rows
from harness.records.references import references
from harness.records.rules import RULES, RecordView, logged, provenance
from harness.records.rules.verdict import examine, sentence
from harness.report.board.board import boards
from harness.system import machine
from harness.system.files import atomic_json, read_json
from tests.support import records, tiny
from tests.support.racing import OWN, Watcher

GOAL = {"goal": {"relative_error": {"at_most": 0.9}}}  # gd meets it at steps 6 and 9 of 12


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """The folder of a trial that reached its goal, after an interruption that lost two steps."""
    planned = tiny.trial("gd", tmp_path_factory.mktemp("honest"), numbers=GOAL)
    tiny.race(planned, Watcher(lambda step: step == 5 and os.kill(os.getpid(), signal.SIGTERM)))
    newest = max((planned.folder / "checkpoint").glob("step-*"))
    newest.unlink()
    outcome = tiny.race(planned)
    assert (outcome.outcome, outcome.record["lost_steps"]) == ("reached", 2)
    return planned.folder


@pytest.fixture
def copy(honest, tmp_path):
    """A copy to forge, in a results folder of its own."""
    folder = tmp_path / "results" / "runs" / "matrix_sensing" / "gd" / honest.name
    shutil.copytree(honest, folder)
    return folder


def test_a_class_of_a_package_keeps_the_rules(tmp_path, monkeypatch):
    """Its code is its package's: the hash is over the class's path and the package's release."""
    planned = tiny.trial("torch.optim.Adagrad", tmp_path, lr=0.1)
    assert tiny.race(planned).outcome == "out_of_budget"
    assert not verdict(planned.folder).fails
    assert "other source" not in verdict(planned.folder).marks
    # another release is here, or none
    monkeypatch.setattr(provenance, "_installed_hash", lambda plugin: "0" * 64)
    assert "other source" in verdict(planned.folder).marks
    monkeypatch.undo()
    monkeypatch.setattr(optimizer_classes, "packages_distributions", dict)
    provenance._installed_hash.cache_clear()
    found = verdict(planned.folder)
    assert not found.fails
    assert "not an installed package" in str(found.opened)


def test_a_file_with_a_dot_in_its_name_is_no_class(tmp_path):
    (tmp_path / "my.idea.py").write_text((OWN / "list_lion.py").read_text())
    planned = tiny.trial(tmp_path / "my.idea.py", tmp_path / "results")
    tiny.race(planned)
    assert not verdict(planned.folder).fails
    kept = planned.folder / "source" / "my.idea.py"
    kept.write_text(kept.read_text() + "\nOTHER = 1\n")
    forge(planned.folder)
    assert broken(planned.folder) == {"source"}


def verdict(folder):
    (found,) = examine([folder])
    return found


def broken(folder):
    """The rules that a record breaks, by name."""
    names = {sentence(rule): rule.__name__ for rule in RULES}
    return {names.get(rule, rule) for rule, _ in verdict(folder).fails}


def forge(folder, change=lambda rows: rows, **stated):
    """Rewrite a record so that its chain, both copies of the result and its manifest agree."""
    old, rec = rows(folder / "log.jsonl"), read_json(folder / "run.json")
    *kept, ended = [{k: v for k, v in row.items() if k != "chain"} for row in old]
    (folder / "log.jsonl").unlink()
    log = Log(folder / "log.jsonl")
    for row in change(kept):
        log.append(row)
    ended["result"] |= stated
    last = log.append(ended)["chain"]
    rec |= stated | {"chain": last}
    rec["manifest"] = manifest.write(folder)
    atomic_json(folder / "run.json", rec)


def every(event, **values):
    """A change of the log: rows of an event get other values, or functions of the old ones."""

    def change(kept):
        for row in kept:
            if row["event"] == event:
                for name, value in values.items():
                    row[name] = value(row[name]) if callable(value) else value
        return kept

    return change


def without(*steps):
    return lambda kept: [r for r in kept if r["event"] != "evaluation" or r["step"] not in steps]


def last(**values):
    """A change of the last evaluation, which a row of the saved checkpoint follows."""

    def change(kept):
        [row for row in kept if row["event"] == "evaluation"][-1].update(values)
        return kept

    return change


def test_an_honest_record_keeps_every_rule(honest):
    found = verdict(honest)
    assert found.fails == []
    assert found.opened == []
    assert {"provisional", "unverified", "other version"} <= found.marks.keys()
    assert "quarantined" not in found.marks


def test_a_forger_who_changes_nothing_is_not_accused(copy):
    forge(copy)
    assert verdict(copy).fails == []


EVALUATION = {"event": "evaluation"}
FORGERIES = {
    "half the time": ({}, {"time": 0.001}, "rederived"),
    "another outcome": ({}, {"outcome": "out_of_budget"}, "rederived"),
    "an earlier crossing": (
        every("evaluation", metrics={"relative_error": 0.1}), {}, "rederived",
    ),
    "one evaluation only": (without(9), {}, "goal_held"),
    "a better metric than any": (
        every("evaluation", metrics={"relative_error": 0.95}), {}, "goal_held",
    ),
    "another goal": ({}, {"goal": {"relative_error": {"at_most": 0.5}}}, "goal_held"),
    "less outside": (every("evaluation", outside=0.0), {}, "rederived"),
    "less set-up": (every("evaluation", setup_seconds=lambda s: s / 2), {}, "rederived"),
    "fewer passes": (every("evaluation", counts={"forward_backward": 1}), {}, "counts"),
    "other passes": ({}, {"counts": {"hvp": 3}}, "counts"),
    "more samples than passes": ({}, {"samples": 10**6}, "counts"),
    "a budget overdrawn": (
        {}, {"counts": {"forward_backward": 40}, "samples": 0}, "counts",
    ),
    "CPU time runs back": (last(cpu_seconds=0.0), {}, "monotone"),
    "steps beyond the horizon": (last(step=13), {}, "monotone"),
    "losses forgotten": (every("resumed", lost_steps=0), {"lost_steps": 0}, "lost_work"),
    "losses not charged": ({}, {"lost_steps": 0}, "lost_work"),
    "another seed": ({}, {"seed": 7}, "as_started"),
    "another point": ({}, {"hp": {"lr": 1.0}}, "as_started"),
    "another source": ({}, {"submission_hash": "0" * 64}, "source"),
    "not provisional": ({}, {"provisional": False}, "prices"),
    "no environment": ({}, {"environment": None}, "environment"),
    "a better machine": ({}, {"environment_hash": "0" * 16}, "environment"),
    "verified": ({}, {"verified": True}, "isolation"),
    "no time at all": ({}, {"time": None}, "complete"),
    "another type": ({}, {"counts": 3}, "complete"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_breaks_its_rule_though_all_hashes_agree(name, copy):
    change, stated, rule = FORGERIES[name]
    forge(copy, change or (lambda kept: kept), **stated)
    assert rule in broken(copy)
    assert not {"chain", "files"} & broken(copy)


def _edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


PLAIN = {
    "an edited log": (lambda f: _edit(f / "log.jsonl", '"step": 6', '"step": 5'), "chain"),
    "a shorter log": (
        lambda f: (f / "log.jsonl").write_text(
            "".join(line + "\n" for line in (f / "log.jsonl").read_text().splitlines()[:-1])
        ),
        "chain",
    ),
    "an edited result": (lambda f: _edit(f / "run.json", '"seed": 0', '"seed": 1'), "one_result"),
    "an edited source": (
        lambda f: next((f / "source").rglob("gd.py")).write_text("SPACE = {}\n"), "source",
    ),
    "no source": (lambda f: shutil.rmtree(f / "source"), "source"),
    "a source that is no Python": (
        lambda f: next((f / "source").rglob("gd.py")).write_bytes(b"\xff("), "source",
    ),
    "an edited file": (lambda f: (f / "config.yaml").write_text("seed: 3"), "files"),
    "an added file": (lambda f: (f / "notes.txt").write_text("mine"), "files"),
    "a lost file": (lambda f: (f / "config.yaml").unlink(), "files"),
    "an edited manifest": (lambda f: _edit(f / "MANIFEST", "config.yaml", "other.yaml"), "files"),
    "no manifest": (lambda f: (f / "MANIFEST").unlink(), "files"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_a_changed_file_breaks_its_rule(name, copy):
    change, rule = PLAIN[name]
    change(copy)
    assert rule in broken(copy)


def test_every_rule_can_be_broken_and_says_itself_in_a_sentence():
    breakable = {rule for *_, rule in FORGERIES.values()} | {rule for _, rule in PLAIN.values()}
    marks = {provenance.version, provenance.quiet, provenance.believable}
    assert breakable == {rule.__name__ for rule in RULES if rule not in marks}
    sentences = [sentence(rule) for rule in RULES]
    assert len(set(sentences)) == len(sentences)
    assert all(text[0].isupper() or text.startswith("run.json") for text in sentences)


def test_checkpoints_may_be_deleted(copy):
    shutil.rmtree(copy / "checkpoint")
    assert verdict(copy).fails == []


def test_a_record_that_was_judged_again_by_another_goal_passes(copy):
    numbers = {"goal": {"relative_error": {"at_most": 0.3}}}
    planned = tiny.trial("gd", copy.parents[3], numbers=numbers)
    assert planned.folder == copy
    outcome = tiny.race(planned)
    assert outcome.outcome == "out_of_budget"  # met at step 12 alone
    assert verdict(copy).fails == []


def test_what_is_no_result_neither_passes_nor_fails(copy, capsys):
    results = copy.parents[3]
    forge(copy, outcome="failed", reason="ValueError: five is too many")
    unfinished = results / "runs" / "a" / "b" / "unfinished"
    (unfinished / "checkpoint").mkdir(parents=True)
    (unfinished / "log.jsonl").write_text("")
    assert main.main(["comply", str(unfinished.parents[1])]) == 0
    assert "1 records: 0 pass, 0 fail, 1 are no results" in capsys.readouterr().out
    assert main.main(["comply", str(results)]) == 0
    told = capsys.readouterr().out
    assert "no result: failed: ValueError: five is too many" in told
    assert "no result: unfinished, there is no run.json" in told
    assert "2 records: 0 pass, 0 fail, 2 are no results" in told


def test_the_exit_status_and_one_line_a_record(copy, capsys):
    assert main.main(["comply", str(copy)]) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("pass  matrix_sensing.mini gd seed 0: reached")
    assert first.endswith("]")
    assert second == "1 records: 1 pass, 0 fail"
    assert third.startswith("marks: ")
    forge(copy, time=0.001)
    assert main.main(["comply", str(copy), "--why"]) == 3
    told = capsys.readouterr().out
    assert "breaks: Crossing, outcome and reference seconds are those that the log gives" in told
    assert "time is 0.001, the log gives" in told
    assert "unverified: isolation=inline" in told
    for wrong in (["comply", "nowhere"], ["comply", str(copy / "source")]):
        assert main.main(wrong) == 2
        assert "harness comply results" in capsys.readouterr().err
    assert main.main(["comply", "--rules"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(RULES)


# Compact lines


@pytest.fixture
def compact(copy, tmp_path):
    """A compact file of the honest record."""
    path = tmp_path / "board.jsonl"
    write_compact(path, collect([copy]).runs)
    return path


def _line(path, **stated):
    """The compact file with other values in its record, under a digest that fits."""
    first, line = path.read_text().splitlines()
    row = json.loads(line)
    row.pop("digest")
    path.write_text(f"{first}\n{signed(row | stated)}\n")


def test_an_honest_line_passes_and_says_what_it_cannot_show(compact):
    found = verdict(compact)
    assert found.fails == []
    opened = {rule for rule, _ in found.opened}
    assert sentence(logged.chain) in opened
    assert sentence(provenance.files) in opened
    assert not {sentence(logged.goal_held), sentence(logged.rederived)} & opened


@pytest.mark.parametrize(
    "stated, rule",
    [
        ({"time": 0.001}, "rederived"),
        ({"goal": {"relative_error": {"at_most": 0.3}}}, "goal_held"),
        ({"outcome": "out_of_budget"}, "rederived"),
        ({"counts": {"hvp": 1}}, "counts"),
        ({"evaluations": {"step": []}}, "A compact line is as it was written"),
    ],
)
def test_a_forged_line_breaks_its_rule(compact, stated, rule):
    _line(compact, **stated)
    assert rule in broken(compact)


def test_an_edited_line_fails_at_once(compact):
    _edit(compact, '"seed":0', '"seed":1')
    (found,) = examine([compact])
    assert found.fails[0][0] == "A compact line is as it was written"


# Prices


def test_prices_must_be_those_of_the_table_they_name(honest):
    tables = sorted(provenance.PRICES.glob("*.json"))
    assert tables
    table = load_table(tables[0])
    rec = read_json(honest / "run.json")
    rec |= {"prices": table.origin, "provisional": False, "provisional_why": None}
    priced = {kind: vars(price) for kind, price in table.prices.items()}
    assert provenance.prices(RecordView(rec | {"priced": priced})) is None
    dearer = priced | {"forward": priced["forward"] | {"seconds": 1.0}}
    assert provenance.prices(RecordView(rec | {"priced": dearer})).kind == "fail"
    foreign = priced | {"jvp@batch=1/8": priced["forward"]}
    assert (
        "no price of jvp@batch=1/8" in provenance.prices(RecordView(rec | {"priced": foreign})).text
    )
    other = f"{tables[0].name} {'0' * 16}"
    found = provenance.prices(RecordView(rec | {"priced": priced, "prices": other}))
    assert found.mark == "other prices"


# Too good to be true


FAST = {"flops": 1e12, "end": {"total": 1.0}, "cpu_seconds": 100.0, "prices": "x.cpu.json 0"}


@pytest.mark.parametrize(
    "changes, why",
    [
        ({}, None),
        ({"flops": None}, None),
        (FAST, "the whole trial: 1e+12 FLOPs in 1 s, at 5e+11 a second at most they take 2 s"),
        (FAST | {"end": {"total": 4.0}, "time": 0.5}, "the way to the goal"),
        (FAST | {"end": {"total": 9.0}, "time": 9.0, "cpu_seconds": 0.01}, "its CPU time"),
        (FAST | {"prices": "this machine", "time": 20.0}, None),  # a GPU may be as fast
        ({"time": 10.0}, "4.0 times better than the frozen reference in reference seconds"),
        ({"crossing": {"step": 100}}, "6.0 times better than the frozen reference in share"),
        ({"time": 14.0}, None),
        ({"outcome": "out_of_budget", "time": None, "crossing": None}, None),
    ],
)
def test_what_is_too_good_to_be_true(changes, why, tmp_path):
    records.reference(tmp_path)
    frozen = references([tmp_path])["alpha.mini"]
    made, _ = records.record(price=2.5)
    found = plausibility.implausible(made | changes, frozen)
    assert found is None if why is None else why in found


def _fast_row(results, machines=("a", "a"), crossing=4):
    """The row of a submission ten times as fast as the reference, run once on each machine."""
    shutil.rmtree(results, ignore_errors=True)
    records.reference(results)
    files = []
    for number, name in enumerate(machines):
        for seed in (1, 2):
            made, rows = records.record("lion", seed=seed, crossing=crossing, price=1.0)
            made["environment"] |= {"machine": name}
            files.append(records.folder(results / f"from-{number}", made, rows))
    found = collect([results, *(results / f"from-{n}" for n in range(len(machines)))])
    (board,) = boards(found, references([results]))
    return board.rows[0], found


def test_a_quarantined_result_has_no_rank_until_it_is_reproduced(tmp_path, monkeypatch):
    records.believe(monkeypatch)
    row, _ = _fast_row(tmp_path / "results")
    assert "quarantined" in row.marks
    assert row.rank is None
    row, found = _fast_row(tmp_path / "results", ("a", "b"))
    assert "quarantined" not in row.marks
    assert row.rank is not None
    assert found.left_out == []
    row, _ = _fast_row(tmp_path / "results", crossing=12)  # as many steps as the reference
    assert "quarantined" in row.marks
    entry = {"workload": "alpha.mini", "source": "source of lion", "note": "us, here"}
    atomic_json(tmp_path / "reproduced.json", [entry])
    monkeypatch.setattr(plausibility, "LIST", tmp_path / "reproduced.json")
    row, _ = _fast_row(tmp_path / "results")
    assert row.rank is not None


def test_a_second_made_up_machine_ends_no_quarantine(tmp_path, monkeypatch):
    records.believe(monkeypatch, verified="")
    row, _ = _fast_row(tmp_path / "results", ("a", "b"))
    assert {"quarantined", "not verified"} <= {*row.marks}
    assert row.rank is None


def test_a_damaged_list_of_reproduced_results_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(plausibility, "LIST", tmp_path / "reproduced.json")
    (tmp_path / "reproduced.json").write_text('[{"workload": "alpha.mini"}]')
    with pytest.raises(plausibility.UserError, match=r"reproduced\.json is not a list of"):
        plausibility.reproduced({"submission_hash": "x"}, "alpha.mini")


# Whatever a file holds


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_is_passed_and_none_is_a_traceback(honest, tmp_path_factory, data):
    """Any byte of the log or of run.json that is changed shows, or changes nothing that is read."""
    folder = tmp_path_factory.mktemp("damaged") / "run"
    shutil.copytree(honest, folder)
    path = folder / data.draw(st.sampled_from(["log.jsonl", "run.json", "MANIFEST"]))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 2))
    match data.draw(st.sampled_from(["flip", "cut", "zero", "insert"])):
        case "flip":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del content[at:]
        case "zero":
            content[at:] = bytes(len(content) - at)
        case "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=5))
    path.write_bytes(content)
    before, after = read_json(honest / "run.json"), None
    found = verdict(folder)
    if not found.fails and not found.none:
        after = read_json(folder / "run.json")
        free = {"schema", "manifest", "wall"}  # ended's copy holds all others
        assert {k: v for k, v in after.items() if k not in free} == {
            k: v for k, v in before.items() if k not in free
        }


# What a record says of its machine


def test_an_environment_is_the_same_again_but_for_what_changes():
    one, other = machine.environment(), machine.environment() | {"load_average": 99.0, "host": "x"}
    assert machine.hash_of(one) == machine.hash_of(other)
    assert machine.hash_of(one | {"python": "4"}) != machine.hash_of(one)
    assert all(one.get(name) for name in provenance.ENVIRONMENT)
    assert one["torch"]["threads"] >= 1


def test_a_changed_checkout_is_dirty(tmp_path, monkeypatch):
    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True
        )

    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert machine._git.__wrapped__() is None
    git("init")
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "-m", "first")
    clean = machine._git.__wrapped__()
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "file").write_text("b")
    assert machine._git.__wrapped__() == clean | {"dirty": True}


def test_a_manifest_is_what_sha256sum_checks(tmp_path):
    if not shutil.which("sha256sum"):
        pytest.skip("there is no sha256sum here")
    folder = tmp_path / "a run\nof ours"
    for name in ("plain", "a space", "é", "new\nline", "back\\slash", "deep/er/file", "\udcff"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(9))
    for name in ("run.json", ".lock", "private/x", "wandb/y", "mirror.wandb.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("not listed")
    stated = manifest.write(folder)
    assert manifest.problems(folder, stated) == []
    done = subprocess.run(
        ["sha256sum", "-c", "--strict", "MANIFEST"], cwd=folder, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert len(manifest.names(folder)) == 7
    (folder / "new\nline").write_text("changed")
    assert manifest.problems(folder, stated) == ["'new\\nline' was changed"]
