"""Records made older and given new ids again are byte for byte what they were."""

import json
import shutil
from dataclasses import replace

import pytest

from harness.catalog import identity
from harness.cli import main
from harness.race import configuration
from harness.records import manifest, run_folder
from harness.records.compact import read_compact, signed
from scripts import identities, old_identities, rekey, rekey_runs
from scripts.old_identities import Change, Keys
from tests.support.racing import ROOT, planned, race

RESULTS = ROOT / "results"
BOARD = "stream_scole.mini"
ENGINE = configuration.engine_for(configuration.engine_named("cpu"), "mini")


def names(results):
    """Every file of a results folder with its bytes."""
    files = (path for path in sorted(results.rglob("*")) if path.is_file())
    return {str(path.relative_to(results)): path.read_bytes() for path in files}


def aged(text, changes):
    for change in changes:
        text = text.replace(change.new, change.old)
    return text


@pytest.fixture(scope="module")
def old_results(tmp_path_factory):
    """A folder with one board, its reference, target and failures, as 0.1.0 wrote them."""
    results = tmp_path_factory.mktemp("old") / "results"
    (results / "board").mkdir(parents=True)
    (results / "reference").mkdir()
    one = old_identities.present(*BOARD.split("."), None)
    submissions = map(old_identities.submission, old_identities.kept()["submissions"])
    changes = [*old_identities.workload(one).values(), *filter(None, submissions)]
    changes += old_identities.shipped_tables().values()
    lines = []
    for line in (RESULTS / "board" / f"{BOARD}.jsonl").read_text().splitlines():
        row = json.loads(aged(line, changes))
        del row["digest"]
        if "run_id" in row:
            new, row["run_id"] = row["run_id"], identities.run_id(row, ENGINE)
            changes.append(Change(row["run_id"], new))
        lines.append(signed(row) + "\n")
    (results / "board" / f"{BOARD}.jsonl").write_text("".join(lines))
    for place in (f"board/{BOARD}.failed.json", f"reference/{BOARD}.json",
                  f"reference/{BOARD}.target.json"):  # fmt: skip
        (results / place).write_text(aged((RESULTS / place).read_text(), changes))
    return results


@pytest.fixture
def written(capsys):
    """The program: a folder and options to its exit status and words."""

    def run(folder, *options):
        code = rekey.main([str(folder), *options])
        done = capsys.readouterr()
        return code, done.out + done.err

    return run


def test_old_records_get_the_ids_that_new_ones_have(old_results, tmp_path, written):
    folder = tmp_path / "results"
    shutil.copytree(old_results, folder)
    before = names(folder)
    assert all(content != (RESULTS / name).read_bytes() for name, content in before.items())
    assert written(folder)[0] == 0
    assert names(folder) == before, "without --write nothing is written"
    code, words = written(folder, "--write")
    assert code == 0, words
    assert names(folder) == {name: (RESULTS / name).read_bytes() for name in before}
    assert "0 files" in written(folder, "--write")[1]


@pytest.mark.parametrize("name, old, new, message", [
    (f"board/{BOARD}.jsonl", '"seed":1', '"seed":7', "does not have the digest"),
    (f"reference/{BOARD}.json", '"submission_hash": "', '"submission_hash": "0', "not the submiss"),
    (f"reference/{BOARD}.target.json", '"run_id": "', '"run_id": "0', "is not on the board"),
    (f"board/{BOARD}.failed.json", '"source": "', '"source": "0', "there is no source"),
])  # fmt: skip
def test_what_cannot_be_derived_stops_it(name, old, new, message, old_results, tmp_path, written):
    folder = tmp_path / "results"
    shutil.copytree(old_results, folder)
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))
    before = names(folder)
    code, words = written(folder, "--write")
    assert code == 1
    assert message in words
    assert names(folder) == before


def test_an_edited_line_that_is_signed_again_is_found(old_results, tmp_path):
    path = tmp_path / f"{BOARD}.jsonl"
    rows = [
        json.loads(line) for line in (old_results / "board" / path.name).read_text().splitlines()
    ]
    for row in rows:
        del row["digest"]
        if "run_id" in row:
            row["seed"] += 1
    path.write_text("".join(f"{signed(row)}\n" for row in rows))
    with pytest.raises(old_identities.Stop, match="is not what its fields give"):
        rekey.board(path, Keys(), ENGINE)


def test_a_record_of_an_old_source_keeps_its_hash_alone(old_results, tmp_path):
    path = tmp_path / f"{BOARD}.jsonl"
    rows = [
        json.loads(line) for line in (old_results / "board" / path.name).read_text().splitlines()
    ]
    environments = [row for row in rows if "id" in row]
    row = next(row for row in rows if "run_id" in row)
    del row["digest"]
    row["submission_hash"] = "0" * 64
    row["run_id"] = identities.run_id(row, ENGINE)
    written = [signed({k: v for k, v in e.items() if k != "digest"}) for e in environments]
    path.write_text("\n".join([*written, signed(row)]) + "\n")
    keys = Keys()
    path.write_text(rekey.board(path, keys, ENGINE))
    assert keys.counts["runs of a source that is not here"] == 1
    left_out = []
    (run,) = read_compact(path, left_out)
    assert not left_out
    assert run.record["submission_hash"] == row["submission_hash"]
    assert run.record["run_id"] != row["run_id"]
    present = old_identities.present(*BOARD.split("."), None)
    assert run.record["workload_hash"] == present.hash


@pytest.mark.slow
def test_a_run_folder_gets_its_new_name_ids_chain_and_manifest(tmp_path, capsys):
    # a workload that had identities of the first version
    numbers = {"horizon": 12, "batch": 2, "evaluate": {"points": 4, "batch": 16}}
    one_trial = planned("gpt2", "list_sgd", tmp_path, numbers=numbers, isolation="inline")
    race(one_trial)
    (folder,) = run_folder.runs(tmp_path)
    before = names(folder)
    record = json.loads((folder / "run.json").read_text())
    # Make it older: the same program, from new ids to old ones.
    one = replace(one_trial.definition, block=record["config"])
    changes = {n: Change(c.new, c.old) for n, c in old_identities.workload(one).items()}
    plugin = one_trial.card.plugin
    changes["submission_hash"] = Change(
        identity.source_hash(plugin), old_identities.source_hash(plugin)
    )
    old = record | {name: change.new for name, change in changes.items()}
    name = "run_id"
    old[name] = identities.run_id(old, record["engine"])
    changes[name] = Change(record[name], old[name])
    rekey_runs.move(rekey_runs.Move(folder, old, changes))
    (folder,) = run_folder.runs(tmp_path)
    assert folder.name == old["run_id"]
    assert names(folder) != before
    # And new again.
    plans = list(rekey_runs.plans(tmp_path, Keys()))
    assert [plan.target.name for plan in plans] == [record["run_id"]]
    for plan in plans:
        rekey_runs.move(plan)
    (folder,) = run_folder.runs(tmp_path)
    after = names(folder)
    changed = {name for name in before if after.get(name) != before[name]}
    assert changed <= {"config.yaml", "run.json", "log.jsonl", "MANIFEST"}
    again = json.loads((folder / "run.json").read_text())
    assert again["run_id"] == record["run_id"] == one_trial.run_id
    assert not manifest.problems(folder, again["manifest"])
    assert main.main(["comply", str(tmp_path)]) == 0
    assert "1 pass, 0 fail" in capsys.readouterr().out
    # A folder in which something is not as it was written is left as it is.
    (folder / "config.yaml").write_text("seed: 7")
    rekeyed = Keys()
    assert not list(rekey_runs.plans(tmp_path, rekeyed))
    assert any("left as they are" in what for what in rekeyed.counts)
