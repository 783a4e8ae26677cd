"""Sweeps: many trials through one of Hydra's launchers, watched from here until the last has ended.

The trials' progress comes through a folder beside the records, so that it can be read from any
machine that sees them. The table at the end is made from the records, whoever ran the trials.
"""

import os
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.cli import launchers, sweep_plan, sweep_trial
from harness.cli.sweep_plan import Planned
from harness.cli.sweep_watch import Stopped, Watch, with_reference
from harness.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, UserError
from harness.race import configuration
from harness.records import run_folder
from harness.report.run.text import table
from harness.system.terminal import say


def run(words: list[str]) -> int:
    """Run the sweep that these settings ask for; return the exit status."""
    overrides = sweep_plan.parsed(words)
    if any(o.key_or_group == "hydra/sweeper" for o in overrides):
        raise UserError("hydra/sweeper cannot be set", "sweeps go over every combination")
    launcher = launchers.chosen(overrides)
    own = launchers.settings(launcher, overrides)
    planned = sweep_plan.plan(overrides)
    for text in dict.fromkeys(_problem(each) for each in planned if each.problem):
        say(f"harness: {text}", sys.stderr)
    raced = list({each.trial.run_id: each for each in planned if each.trial}.values())
    if not raced:
        return EXIT_USAGE
    fixed = [o.input_line for o in overrides if not o.is_sweep_override()]
    settings = configuration.compose([w for w in fixed if not _is_hydras(w)])
    jobs = 1 if launcher == "basic" else settings["jobs"]
    wrong = EXIT_USAGE if any(e.problem and not e.left_out for e in planned) else EXIT_OK
    results = raced[0].trial.results if raced[0].trial else Path()
    if settings["dry"]:
        say("\n".join(sweep_plan.dry_lines(raced, jobs, results)), sys.stdout)
        return wrong
    todo = [each for each in raced if each.trial and not sweep_plan.is_done(each.trial)]
    if todo:
        group = launchers.group_size(launcher, overrides, jobs)
        _launch(raced, todo, fixed + own, jobs, group, launcher)
    interrupted = any(each.result.get("exit") == EXIT_INTERRUPTED for each in todo)
    return max(wrong, _summary(raced), EXIT_INTERRUPTED if interrupted else 0)


def _is_hydras(word: str) -> bool:
    return word.lstrip("+~").startswith("hydra")


def _problem(planned: Planned) -> str:
    return f"left out: {planned.problem}" if planned.left_out else planned.problem


def _launch(
    raced: list[Planned],
    todo: list[Planned],
    fixed: list[str],
    jobs: int,
    group: int | None,
    launcher: str,
) -> None:
    """Hand the trials to the launcher, and watch them."""
    from hydra.errors import ConfigCompositionException

    assert todo[0].trial
    folder = new_folder(todo[0].trial.results)
    watch = Watch(folder, raced, todo, jobs)
    kept = False
    try:
        with watch.watching(launcher == "basic"):
            _hand_over(todo, [*fixed, f'hydra.sweep.dir="{folder}"'], group, folder)
    except Stopped:
        pass
    # a setting of the launcher that does not exist
    except ConfigCompositionException:
        raise
    except (KeyboardInterrupt, Exception) as error:
        # what a launcher raises when its workers are killed, or refuse to start
        if not watch.asked:
            kept = (folder / ".submitit").exists()
            say(f"harness: {launcher}: {type(error).__name__}: {error}", sys.stderr)
            for each in todo:
                each.result = each.result or {"exit": EXIT_FAILED}
    finally:
        watch.finish()
        # jobs that still wait in a queue find the word `stop` there
        kept = kept or (watch.asked and (folder / ".submitit").exists())
        if kept:
            say(f"harness: the launcher's files are in {folder}", sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                folder.parent.rmdir()


def new_folder(results: Path) -> Path:
    """Make a sweep's folder beside the records, where every machine sees it."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.uname().nodename}-{os.getpid()}"
    folder = results / "sweeps" / name
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"cannot write into {results}: {error.strerror}", do="results=FOLDER"
        ) from None
    return folder


def _hand_over(todo: list[Planned], words: list[str], group: int | None, folder: Path) -> None:
    """Start the trials through Hydra's launcher, and keep what each returns."""
    jobs, stop = [each.words for each in todo], folder / sweep_trial.STOP
    results = launchers.launched(jobs, words, sweep_trial.job, group, stop)
    for each, result in zip(todo, results, strict=False):  # a sweep that stops returns fewer
        each.result = result
        if "error" in result:
            say(f"harness: {each.label}: {result['error']}", sys.stderr)


def _summary(raced: Sequence[Planned]) -> int:
    """Print the table of all trials, whoever ran them; return the worst exit status."""
    rows, worst = [], EXIT_OK
    for each in raced:
        trial = each.trial
        assert trial
        record = run_folder.read(trial.folder) or {}
        result = each.result
        if not record:
            record = result if "goal" in result else {"outcome": _without_record(result)}
        named = {
            "workload": trial.definition.name,
            "submission": trial.card.plugin.name,
            "seed": trial.seed,
            "trial": trial.trial,
        }
        rows.append(named | with_reference(each, record))
        ended = run_folder.exit_code(record["outcome"]) if "run_id" in record else EXIT_OK
        worst = max(worst, ended, result.get("exit", EXIT_OK))
    order = sorted(rows, key=lambda row: [_sortable(row[k]) for k in sweep_plan.OWN_COLUMNS])
    say(table(order), sys.stdout)
    return worst


def _sortable(value: Any) -> tuple:
    return (value is not None, value if value is not None else 0)


def _without_record(result: dict) -> str:
    """Return the outcome of a trial that has no record yet."""
    outcome = result.get("outcome", "")
    if outcome == "busy":
        return "runs elsewhere"
    if outcome in ("interrupted", "not started", "refused"):
        return outcome
    return "not started" if result.get("exit") == EXIT_INTERRUPTED else "failed"
