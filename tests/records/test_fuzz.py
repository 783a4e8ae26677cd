"""Whatever a record holds, nothing that reads records crashes: made-up lines, damaged folders."""

import copy
import json
import shutil
from itertools import islice

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import results as frame_of
from harness.records import hopeless
from harness.records.collect import collect
from harness.records.compact import read_compact, signed
from harness.records.log import Log, rows
from harness.records.references import references
from harness.records.rejudge import present, present_of, rejudge
from harness.records.rules.verdict import examine, summary
from harness.records.schema import check
from harness.report.board.board import boards
from harness.report.board.tables import as_csv, markdown, tables
from harness.system.files import read_json
from harness.system.paths import ROOT
from tests.support import tiny

BOARD = ROOT / "results" / "board"
FILES = ("matrix_sensing.mini", "stream_split.mini", "ft_gpt2.mini.trainable_1")
NASTY = [
    None, True, -1, 0, 10**18, 10**30, 10**400, 1e308, -1e308, 5e-324, float("nan"), float("inf"),
    "", "..", "../../x", "a/b", "...py", "=1+1", "@x", "\t=1", "<script>", "a|b", "\x1b[31m",
    "\ud800", "x" * 30_000, "1e5", [], {}, [[]], {"": {}}, [None], {"a": [1, "b"]}, "[x](y)",
]  # fmt: skip


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


values = st.one_of(
    st.sampled_from(NASTY),
    st.sampled_from([deep(30), deep(400)]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
        ),
        max_leaves=5,
    ),
)


def lines():
    """Environment lines and one record of each file."""
    kept = []
    for name in FILES:
        every = [json.loads(line) for line in (BOARD / f"{name}.jsonl").read_text().splitlines()]
        run = next(row for row in every if "run_id" in row)
        kept += [row for row in every if row.get("id") == run["environment"]] + [run]
    return [{key: value for key, value in row.items() if key != "digest"} for row in kept]


LINES = lines()


def places(value, at=()):
    """Yield the path of every value inside a JSON value; of long lists, of their first entries."""
    pairs = []
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(islice(enumerate(value), 2))
    for key, inner in pairs:
        yield (*at, key)
        yield from places(inner, (*at, key))


def changed(value, place, new):
    """Return a copy with another value at a place, or without it where `new` is `places`."""
    value = copy.deepcopy(value)
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    if new is places:
        del inner[place[-1]]
    else:
        inner[place[-1]] = new
    return value


def read_by_everything(file):
    """Read a compact file as every reader of records does."""
    found = collect([file])
    made = boards(found, references([]))
    shown = sum(len(choice.every) for b in made for r in b.rows for choice in r.choices.values())
    assert shown + len(found.left_out) + len(found.copies) == found.read
    for table in tables(made).values():
        as_csv(table).encode()
    text = markdown(made, found, [{}] * len(made))
    text.encode()
    assert "<script>" not in text
    assert len(frame_of(file)) == shown
    summary(examine([file]))
    for run in read_compact(file, []):
        rejudge(run, present_of(run.record))
    for definition in (present("matrix_sensing", "mini", None), present("ft_vit", "mini", None)):
        hopeless.bound_for(definition, file.parents[1])


def made_up_line(data, folder):
    """Write a compact file, one line of which has other values under a digest that fits."""
    at = data.draw(st.integers(0, len(LINES) - 1))
    row = LINES[at]
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from(list(places(row))))
        row = changed(row, place, data.draw(values | st.just(places)))
    kept = [signed(each) for each in (*LINES[:at], row, *LINES[at + 1 :])]
    file = folder / "board" / f"{FILES[0]}.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(kept) + "\n")
    return file


FIXTURES = [HealthCheck.function_scoped_fixture]


@settings(max_examples=40, suppress_health_check=FIXTURES)
@given(data=st.data())
def test_no_made_up_line_crashes_a_reader(tmp_path, data):
    read_by_everything(made_up_line(data, tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(1500)
@settings(max_examples=500, suppress_health_check=FIXTURES)
@given(data=st.data())
def test_no_made_up_line_of_five_hundred_crashes_a_reader(tmp_path, data):
    read_by_everything(made_up_line(data, tmp_path))


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """The folder of a short race."""
    goal = {"goal": {"relative_error": {"at_most": 0.9}}}
    planned = tiny.trial("gd", tmp_path_factory.mktemp("honest"), numbers=goal)
    assert tiny.race(planned).outcome == "reached"
    return planned.folder


def made_up_folder(data, honest, tmp_path):
    """Write a run's folder with another value in its log or its result; all hashes fit."""
    folder = tmp_path / "runs" / "matrix_sensing" / "gd" / honest.name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(honest, folder, ignore=shutil.ignore_patterns("checkpoint"))
    kept, rec = rows(folder / "log.jsonl"), read_json(folder / "run.json")
    kept = [{key: value for key, value in row.items() if key != "chain"} for row in kept]
    if data.draw(st.booleans()):
        place = data.draw(st.sampled_from([p for p in places(rec) if p[0] != "chain"]))
        rec = changed(rec, place, data.draw(values | st.just(places)))
        kept[-1]["result"] = {k: v for k, v in rec.items() if k in kept[-1]["result"]}
    else:
        at = data.draw(st.integers(0, len(kept) - 1))
        place = data.draw(st.sampled_from(list(places(kept[at]))))
        kept[at] = changed(kept[at], place, data.draw(values | st.just(places)))
    (folder / "log.jsonl").unlink()
    log = Log(folder / "log.jsonl")
    for row in kept:
        rec["chain"] = log.append(row)["chain"]
    (folder / "run.json").write_text(json.dumps(rec))
    return folder


def folder_read_by_everything(folder):
    (verdict,) = examine([folder])
    summary([verdict])
    verdict.lines(why=True)
    found = collect([folder])
    assert found.read == 1
    made = boards(found, references([]))
    markdown(made, found, [{}] * len(made)).encode()
    tables(made)


@settings(max_examples=40, suppress_health_check=FIXTURES)
@given(data=st.data())
def test_no_made_up_folder_crashes_a_reader(honest, tmp_path, data):
    folder_read_by_everything(made_up_folder(data, honest, tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(1500)
@settings(max_examples=500, suppress_health_check=FIXTURES)
@given(data=st.data())
def test_no_made_up_folder_of_five_hundred_crashes_a_reader(honest, tmp_path, data):
    folder_read_by_everything(made_up_folder(data, honest, tmp_path))


@pytest.mark.parametrize("track", ["../..", "a/b", "..", "a\x00b", "=1", "<b>"])
def test_a_name_that_is_a_path_or_markup_is_left_out(tmp_path, track):
    row = LINES[-1] | {"track": track}
    (tmp_path / "x.jsonl").write_text(signed(row) + "\n")
    ((where, why),) = collect([tmp_path / "x.jsonl"]).left_out
    assert (where, why) == ("x.jsonl line 1", "damaged: not a valid track")


@pytest.mark.parametrize("tasks", [0, -1, 10**9, 1.5, None, [5]])
def test_a_stream_without_end_is_named_before_its_tasks_are_listed(tasks):
    line = next(line for line in LINES if line.get("workload") == "stream_split")
    check(line | {"config": {"stream": {"tasks": 5}}})
    with pytest.raises(ValueError, match="not a valid config"):
        check(line | {"config": {"stream": {"tasks": tasks}}})


def test_a_line_that_is_too_long_or_too_deep_is_named(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text('{"a": "' + "x" * 5_000_000 + '"}\n' + "[" * 100_000 + "\n")
    reasons = [why for _, why in collect([file]).left_out]
    assert "more than 4,000,000" in reasons[0]
    assert "it is not a record" in reasons[1]
