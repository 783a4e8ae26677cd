"""Price tables: what is refused, what is marked, what the lint sees."""

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from harness.catalog import identity
from harness.catalog.definition import define, tree_of
from harness.cli.commands import audit
from harness.cli.commands import calibrate as calibrate_command
from harness.clock import calibrate, measure, prices, table_checks, tables
from harness.errors import UserError
from harness.system.files import atomic_json

# milliseconds and GFLOPs of gpt2 mini's passes, measured on one core of an AMD EPYC
MEASURED = {
    "forward": (24.4, 1.007),
    "forward@batch=2": (49.8, 2.013),
    "forward@batch=20": (677.2, 20.133),
    "forward_backward": (72.4, 3.020),
    "forward_backward@batch=1/2": (37.5, 1.510),
    "forward_backward@batch=2": (144.6, 6.040),
    "forward_backward@depth=1/4": (27.7, 1.208),
    "forward_backward@depth=1/2": (41.5, 1.812),
    "forward_backward@depth=3/4": (56.4, 2.416),
    "hvp": (277.0, 9.060),
    "per_example_gradients": (102.5, 3.020),
}
ENGINE = {"device": "cpu", "threads": 1, "deterministic": True}


def gpt2(**changes):
    tree = tree_of("gpt2")
    tree["mini"] |= changes
    return define("gpt2", tree, "mini", None)


def processes(scale=(1.0, 1.02, 0.99)):
    """What measuring processes would have answered."""
    split = 2 * MEASURED["forward_backward@batch=1/2"][0]
    times = {kind: ms for kind, (ms, _) in MEASURED.items()} | {"split": split}
    flops = {kind: gflops * 1e9 for kind, (_, gflops) in MEASURED.items()} | {"split": None}
    return [
        {
            "samples": {k: [ms * s * f / 1e3 for f in (1, 1.1, 1.3)] for k, ms in times.items()},
            "waited": 1.0,
            "flops": flops,
            "device": "cpu",
        }
        for s in scale
    ]


@pytest.fixture
def table():
    return calibrate.make_table(gpt2(), ENGINE, processes(), None)


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A place for tables and for the cache of local prices."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tables, "prices_path", lambda definition, engine: tmp_path / "table.json")
    return tmp_path / "table.json"


def with_prices(table, changes):
    rows = table["prices"] | changes
    return table | {"prices": rows}


def scaled(row, factor):
    return row | {key: row[key] * factor for key in ("seconds", "low", "high")}


def test_lint_passes_what_was_measured(table):
    assert table_checks.lint(table) == []


@pytest.mark.parametrize("kind", sorted(MEASURED))
@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_lint_sees_a_tenfold_typo_in_any_entry(table, kind, factor):
    changed = scaled(table["prices"][kind], factor)
    assert table_checks.lint(with_prices(table, {kind: changed}))


def test_lint_sees_any_two_swapped_entries(table):
    rows = table["prices"]
    for one, two in itertools.combinations(rows, 2):
        if max(rows[one]["seconds"], rows[two]["seconds"]) > 1.5 * min(
            rows[one]["seconds"], rows[two]["seconds"]
        ):
            swapped = {
                one: rows[one] | {k: rows[two][k] for k in ("seconds", "low", "high")},
                two: rows[two] | {k: rows[one][k] for k in ("seconds", "low", "high")},
            }
            assert table_checks.lint(with_prices(table, swapped)), (one, two)


def test_lint_lets_a_part_of_a_step_that_waits_for_memory_fit_a_cache(table):
    rows, half = table["prices"], "forward_backward@batch=1/2"
    cheap = {half: scaled(rows[half], 0.8)}
    assert table_checks.lint(with_prices(table, cheap))
    waiting = {kind: row | {"flops": row["flops"] / 100} for kind, row in rows.items()}
    assert table_checks.lint(with_prices(table, waiting)) == []
    assert table_checks.lint(with_prices(table, waiting | {half: scaled(waiting[half], 0.8)})) == []
    assert table_checks.lint(with_prices(table, waiting | {half: scaled(waiting[half], 0.1)}))


def test_lint_sees_a_split_step_that_does_not_add_up(table):
    assert table_checks.lint(table | {"checks": {"split": 1.5}})


def test_a_table_is_read_as_it_was_written(table, shelf):
    atomic_json(shelf, table)
    loaded = prices.load_table(shelf)
    assert loaded.of("hvp").seconds == table["prices"]["hvp"]["seconds"]
    assert loaded.of("hvp").flops == 9.06e9
    assert not loaded.provisional


@pytest.mark.parametrize("damage", ["edited", "swapped", "truncated", "another schema"])
def test_a_changed_table_is_refused(table, shelf, damage):
    rows = table["prices"]
    match damage:
        case "edited":
            rows["hvp"]["seconds"] *= 10
        case "swapped":
            rows["hvp"], rows["forward"] = rows["forward"], rows["hvp"]
        case "another schema":
            table["schema"] = 99
    text = json.dumps(table)
    shelf.write_text(text[:-40] if damage == "truncated" else text)
    with pytest.raises(UserError, match=r"table\.json"):
        tables.prices(gpt2(), ENGINE, {"forward_backward": 1})


def test_a_table_of_a_busy_machine_makes_results_provisional(shelf):
    busy = calibrate.make_table(gpt2(), ENGINE, processes(), "the load was 9")
    atomic_json(shelf, busy)
    assert "busy" in tables.prices(gpt2(), ENGINE, {"forward": 2}).why


def test_a_table_that_makes_no_sense_is_written_to_a_file_of_its_own_only(
    tmp_path, shelf, monkeypatch
):
    wrong = processes()
    for timing in wrong:
        timing["samples"]["forward"] = [10 * s for s in timing["samples"]["forward"]]
    monkeypatch.setattr(calibrate_command, "measure", lambda *arguments: wrong)
    monkeypatch.setattr(calibrate_command, "prices_path", lambda *arguments: shelf)
    words, place = ["workload=gpt2", "engine=cpu"], tmp_path / "seen.json"
    for more in (["--out", str(place)], ["--anyway"]):
        with pytest.raises(UserError, match="of forward_backward, not"):
            calibrate_command.run([*words, *more])
    assert not place.exists()
    assert not shelf.exists()
    assert calibrate_command.run([*words, "--anyway", "--out", str(place)]) == 0
    table = json.loads(place.read_text())
    assert "of forward_backward, not 0.2 to 0.55" in table["busy"]
    assert "busy" in prices.load_table(place).why


def test_a_table_of_another_torch_makes_results_provisional(table, shelf):
    table["machine"]["torch"] = "1.13.0"
    atomic_json(shelf, table | {"hash": prices.table_hash(table)})
    found = tables.prices(gpt2(), ENGINE, {"forward": 2})
    assert "torch 1.13.0" in found.why
    assert found.of("forward").seconds == table["prices"]["forward"]["seconds"]


def test_other_shapes_do_not_take_the_prices(table, shelf):
    atomic_json(shelf, table)
    found = tables.prices(gpt2(batch=24), ENGINE, {"forward_backward": 1})
    assert found.relative
    assert "shapes" in found.why


def test_goal_budget_evaluation_and_data_are_no_part_of_a_step():
    changed = gpt2(goal={"loss": {"at_most": 1.0}}, horizon=3, evaluate={"points": 1, "batch": 1})
    assert identity.step_hash(changed) == identity.step_hash(gpt2())
    assert identity.step_hash(gpt2(batch=24)) != identity.step_hash(gpt2())


def test_a_kind_that_the_table_lacks_is_measured_once_and_marked(table, shelf, monkeypatch, capsys):
    del table["prices"]["hvp"]
    atomic_json(shelf, table | {"hash": prices.table_hash(table)})
    measured = []
    monkeypatch.setattr(tables, "measure", lambda *a, **k: measured.append(a) or processes())
    first = tables.prices(gpt2(), ENGINE, {"hvp": 1})
    again = tables.prices(gpt2(), ENGINE, {"hvp": 1})
    assert len(measured) == 1
    assert first == again
    assert "hvp" in first.why
    assert "hvp" in capsys.readouterr().err
    unit = first.of("forward_backward").seconds
    assert first.of("hvp").seconds == pytest.approx(3.8 * unit, rel=1e-12)  # 277/72.4, two digits


def test_a_kind_that_does_not_fit_is_named(shelf, monkeypatch):
    monkeypatch.setattr(tables, "measure", lambda *a, **k: processes())
    with pytest.raises(UserError, match="forward@depth=1/3"):
        tables.prices(gpt2(), ENGINE, {"forward@depth=1/3": 1})


def test_times_are_in_the_seconds_of_the_standard():
    """A machine that is slower at everything measures the same prices."""
    beside = [one | {"samples": one["samples"] | {"yardstick": [0.05]}} for one in processes()]
    slower = [
        one | {"samples": {k: [1.4 * t for t in times] for k, times in one["samples"].items()}}
        for one in beside
    ]
    here, there = (measure.in_units(one, 0.06)["samples"] for one in (beside[0], slower[0]))
    assert here.keys() == MEASURED.keys() | {"split"}
    for kind, times in here.items():
        assert there[kind] == pytest.approx(times, rel=1e-12)
        assert times == pytest.approx([t * 1.2 for t in beside[0]["samples"][kind]], rel=1e-12)


def test_gpt2_is_the_standard_of_all_others_and_has_none():
    vit = define("vit", tree_of("vit"), "mini", None)
    unit = calibrate.standard(vit, ENGINE)
    table = tables.table_of(unit.definition, ENGINE)
    assert unit.definition.key == "gpt2.mini"
    assert table.step == identity.step_hash(unit.definition)
    assert (unit.seconds, unit.origin) == (table.of("forward_backward").seconds, table.origin)
    assert calibrate.standard(gpt2(), ENGINE) is None
    assert calibrate.standard(vit, ENGINE | {"device": "cuda"}) is None


@pytest.mark.slow
def test_a_process_times_the_standard_among_the_kinds():
    definition = define("stream_split", tree_of("stream_split"), "mini", None)
    unit = measure.Standard(gpt2(), 1.0, "nowhere")
    (one,) = measure.measure(definition, ENGINE, ["forward_backward"], 1, 2, standard=unit)
    assert one["yardstick"] > 0
    assert 0.001 < measure.level(one, "forward_backward") < 0.1  # a small step, in steps of gpt2


def test_signs_of_a_busy_machine():
    assert measure.busy(processes(), 0.1) is None
    assert "load" in measure.busy(processes(), 50.0)
    assert "differed" in measure.busy(processes((1.0, 1.3)), 0.1)
    for apart, seconds, told in ((1.15, None, True), (1.15, 0.06, False), (1.3, 0.06, True)):
        unit = {"yardstick": seconds} if seconds else {}
        found = [one | unit for one in processes((1.0, apart))]
        assert ("differed" in (measure.busy(found, 0.1) or "")) == told
    assert "times as long" in measure.busy([p | {"waited": 2.0} for p in processes()], 0.1)


def test_audit_names_what_differs_from_the_table(table, shelf):
    atomic_json(shelf, table)
    here = processes()
    for found in here:
        found["samples"]["forward"] = [2 * s for s in found["samples"]["forward"]]
    lines = {
        k: here / there for k, there, here, _, _ in audit.compare(prices.load_table(shelf), here)
    }
    assert lines["forward"] == pytest.approx(2.0)
    assert lines["hvp"] == pytest.approx(1.0)


@pytest.mark.slow
def test_two_measurements_of_a_small_model_agree(tmp_path):
    definition = gpt2()
    kinds = ["forward_backward", "forward"]
    first, second = (
        measure.measure(definition, ENGINE, kinds, processes=3, rounds=2) for _ in range(2)
    )
    shares = [
        [measure.level(p, "forward") / tables.level(p, "forward_backward") for p in run]
        for run in (first, second)
    ]
    one, two = (measure.summary(s)[0] for s in shares)
    assert one == pytest.approx(two, rel=0.1)


def test_a_variant_of_the_same_step_is_told_in_its_bases_prices(tmp_path, monkeypatch):
    monkeypatch.setattr(
        tables, "prices_path", lambda definition, engine: tmp_path / f"{definition.key}.json"
    )
    goal = define("ft_vit", tree_of("ft_vit"), "mini", "trainable_10")
    batch = define("gpt2", tree_of("gpt2"), "mini", "post_norm")
    for name in ("ft_vit", "gpt2"):
        base = define(name, tree_of(name), "mini", None)
        made = calibrate.make_table(base, ENGINE, processes(), None)
        atomic_json(tmp_path / f"{base.key}.json", made)
    kinds = ["forward_backward"]
    assert tables.prices(goal, ENGINE, kinds).name == "ft_vit.mini.json"
    assert tables.prices(batch, ENGINE, kinds).why.endswith("has no price table for this device")


@pytest.mark.parametrize("variant, exchange", [("slow", 100), ("free", 0)])
def test_a_variant_of_another_stated_price_has_the_prices_of_its_base(variant, exchange):
    definition = define("fed", tree_of("fed"), "mini", variant)
    table = tables.prices(definition, ENGINE, ["forward_backward", "exchange"])
    base = define("fed", tree_of("fed"), "mini", None)
    assert table.origin == tables.table_of(base, ENGINE).origin
    assert table.of("exchange").seconds == exchange * table.of("forward_backward").seconds
    more = replace(definition, block=definition.block | {"batch": 2 * definition.block["batch"]})
    assert tables.step_of(more) != tables.step_of(definition) == tables.step_of(base)


def test_gradients_of_each_example_may_cost_what_they_compute(table):
    rows = table["prices"]
    dear = rows["forward_backward"]
    many = scaled(dear, 50.0) | {"flops": 1600 * dear["flops"]}
    assert table_checks.lint(with_prices(table, {"per_example_gradients": many})) == []
    assert table_checks.lint(with_prices(table, {"per_example_gradients": scaled(dear, 50.0)}))


def test_a_timer_that_the_kernel_killed_is_named(monkeypatch):
    killed = SimpleNamespace(returncode=-9, stderr="", stdout="")
    monkeypatch.setattr(measure, "_opening", lambda definition: {})
    monkeypatch.setattr(measure.subprocess, "run", lambda *_, **__: killed)
    with pytest.raises(UserError, match="its process ended with status -9"):
        measure.measure(gpt2(), ENGINE, ["forward"], processes=1, rounds=1)
