"""harness show NAME: a submission's or a workload's own words and numbers, nothing imported."""

import ast
import json
from pathlib import Path

from harness.catalog import discover, methods, reading
from harness.catalog.card import Card
from harness.catalog.definition import numbers_path
from harness.catalog.discover import ROOT
from harness.cli.arguments import parser
from harness.records import run_folder
from harness.records.compact import read_compact
from harness.records.schema import check
from harness.report.run.text import seconds
from harness.system.files import BadFile, read_json
from harness.system.terminal import printable

ONE_PASS = {"forward_backward": 1}  # what a file without PASSES does in a step


def run(arguments: list[str]) -> int:
    """Print all that is known of one submission or workload."""
    reader = parser("show", "Show one submission or workload in full.")
    reader.add_argument("name", help="a submission's or a workload's name or file")
    name = reader.parse_args(arguments).name
    if discover.is_workload(name):
        plugin = discover.find_workload(name)
        numbers = numbers_path(plugin).read_text()
        doc = ast.get_docstring(reading.tree(plugin.path)) or ""
        _say(f"workload {plugin.name}  ({plugin.path})\n\n{doc}\n\n{numbers}", end="")
        return 0
    _show_submission(discover.read(discover.find_any(name)))
    return 0


def _say(text: str, end: str = "\n") -> None:
    """Print text of plugins and records, whose control characters a terminal would obey."""
    print(printable(text), end=end)


def _show_submission(card: Card) -> None:
    plugin = card.plugin
    _say(f"submission {plugin.name}  (form {card.form}, {plugin.path})\n\n{card.doc}\n")
    _say("hyperparameters")
    for key, spec in card.literals["SPACE"].items():
        _say(f"  {key:12} {_range(spec)}")
    _say(f"\n{'tracks':14} {', '.join(discover.tracks(card))}")
    _show_badge(card)
    known = methods.of(plugin.name)
    unit = "byte" if known.state == 1 else "bytes"
    state = "-" if known.state is None else f"{known.state:g} {unit} a byte of trained parameters"
    _say(f"{'state':14} {state}{f' (on {known.measured_on})' if known.measured_on else ''}")
    _say(f"{'PASSES':14} {card.literals.get('PASSES', ONE_PASS)} (a step)")
    for key, value in card.literals.items():
        if key not in ("SPACE", "TRACKS", "PASSES"):
            _say(f"{key:14} {value}")
    _show_tuned(plugin.name)
    _show_board(plugin.name)
    _show_runs(plugin.name)


def _range(spec) -> str:
    if not isinstance(spec, dict):
        return f"{spec}"
    from harness.catalog.space import RANGES, default

    kind = next(k for k in spec if k in RANGES)
    value = default({"x": spec})["x"]
    values = f"one of {spec[kind]}" if kind == "choice" else f"{kind} {spec[kind]}"
    decided = f"; the goal's {spec['goal']}, where it asks for one" if "goal" in spec else ""
    kept = "" if spec.get("tuned", True) else "; no trial draws it"
    return f"{value!s:<12} {values}{decided}{kept}"


def _show_badge(card: Card) -> None:
    """Print the badge and the tests that earn it."""
    known = methods.of(card.plugin.name)
    _say(f"{'badge':14} {known.badge or '- (no test compares it with a second implementation)'}")
    for each in known.tests:
        _say(f"  {each.badge}: {each}")


def _show_tuned(name: str) -> None:
    """Print the points that a race uses, by workload."""
    found = {
        path.stem: points[name]
        for path in sorted((ROOT / "results" / "tuned").glob("*.json"))
        if name in (points := json.loads(path.read_text()))
    }
    if found:
        _say("\ntuned points (a race uses them; tuned=false asks for the defaults)")
    for key, point in found.items():
        values = " ".join(f"{k}={v}" for k, v in point["hp"].items())
        _say(f"  {key}: {values}")


def _show_board(name: str) -> None:
    """Print how many recorded runs reached the goal, and the least reference seconds."""
    shown = False
    for path in sorted((ROOT / "results" / "board").glob("*.jsonl")):
        # Most files have nothing of this submission, and parsing all takes seconds.
        if f'"{name}"' not in path.read_text(errors="replace"):
            continue
        mine = [run for run in read_compact(path, []) if run.record["submission"] == name]
        times = [r.record["time"] for r in mine if r.record["outcome"] == "reached"]
        best = f", best {seconds(min(times))} reference s" if times else ""
        if mine and not shown:
            _say("\nrecorded results (results/board)")
            shown = True
        if mine:
            _say(f"  {path.stem}: {len(mine)} runs, {len(times)} reached the goal{best}")


def _show_runs(name: str) -> None:
    """Print the runs of a submission in the results folder here."""
    folders = [one for one in run_folder.runs(Path("results")) if one.parent.name == name]
    if folders:
        _say("\nresults here")
    for folder in folders:
        try:
            run = read_json(folder / "run.json")
            check(run)
        except (ValueError, BadFile, OSError) as error:
            _say(f"  {folder.name}: {error}")
            continue
        time = f"{seconds(run['time'])} s" if run["outcome"] == "reached" else "-"
        _say(
            f"  {run['workload']}.{run['scale']:8} seed {run['seed']:<3} {run['outcome']:14}"
            f" {time:>9}  {run['run_id']}"
        )
