"""Races through Hydra: one trial, or a sweep of trials in processes of their own."""

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

from harness.catalog.discover import ROOT
from harness.cli import config
from harness.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE, NoScale, UserError
from harness.race.observer import Quiet
from harness.system.files import append_line
from harness.system.terminal import say

OUTCOMES = "HARNESS_OUTCOMES"  # where the trials of a sweep say how they ended
SWEEP = "HARNESS_SWEEP"  # not empty in the trials of a sweep


def launch(arguments: list[str]) -> int:
    """Run what the arguments ask for through Hydra; returns the exit status."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    arguments = config.register(arguments)
    sweep = any(a in ("-m", "--multirun") for a in arguments)
    import hydra

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us, and are told in one line
    sys.argv = [sys.argv[0], *arguments]
    with tempfile.TemporaryDirectory() as folder:
        os.environ[OUTCOMES] = str(Path(folder) / "outcomes.jsonl")
        os.environ[SWEEP] = "1" if sweep else ""
        sys.argv += [f"hydra.sweep.dir={folder}"] * sweep  # Hydra leaves a multirun.yaml there
        try:
            hydra.main(config_path=str(ROOT / "conf"), config_name="config", version_base="1.3")(
                task
            )()
        except (HydraException, OmegaConfBaseException) as error:
            raise config.explain(error) from None
        except SystemExit as error:
            return error.code if isinstance(error.code, int) else 0
        told = Path(os.environ[OUTCOMES])
        outcomes = (
            [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []
        )
    return _summary(outcomes) if sweep else max((o["exit"] for o in outcomes), default=0)


def task(cfg) -> None:
    """One job of Hydra: one trial. Its outcome goes to the file that OUTCOMES names."""
    from omegaconf.errors import OmegaConfBaseException

    try:
        told = one(config.plain(cfg))
    except (UserError, OmegaConfBaseException) as error:  # told here: Hydra would end a sweep
        said = str(error if isinstance(error, UserError) else config.explain(error))
        told = {"exit": EXIT_USAGE, "error": said}
        if isinstance(error, NoScale) and os.environ.get(SWEEP):
            told = {"exit": EXIT_OK, "left_out": said}
            said = f"left out: {said}"
        print(f"harness: {said}", file=sys.stderr, flush=True)
    except Exception as error:  # a fault of ours ends its own trial, not the others of a sweep
        if not os.environ.get(SWEEP):
            raise
        traceback.print_exc()
        told = {"exit": EXIT_FAILED, "error": repr(error)}
    append_line(os.environ[OUTCOMES], json.dumps(told))


def one(settings: dict) -> dict:
    """Plan and run one trial; returns how it ended, for the summary."""
    from harness.race import plan

    trial = plan.make(settings)
    if settings["dry"]:
        from harness.records.run_folder import finished

        state = "done" if finished(trial.folder) else "to run"
        print(
            f"{state:8}{trial.definition.key:24}{trial.card.plugin.name:24}seed {trial.seed}  "
            f"{trial.run_id}  {json.dumps(trial.hp)}"
        )
        return {"exit": 0}
    from harness.race.referee import race
    from harness.records.references import reference
    from harness.report.run.live import Live
    from harness.report.run.text import verdict_lines

    in_sweep = bool(os.environ.get(SWEEP))
    label = f"{trial.label} seed {trial.seed}" + (
        f" trial {trial.trial}" if trial.trial is not None else ""
    )
    display = (
        Quiet(label)
        if in_sweep
        else Live(trial.horizon, trial.label, trial.definition.block["goal"])
    )
    if not in_sweep:
        display.note(
            f"{trial.definition.key}: {trial.card.plugin.name}, seed {trial.seed}, "
            f"{trial.horizon} steps at most; record in {_short(trial.folder)}"
        )
        if trial.table.why:
            display.note(f"provisional reference seconds: {trial.table.why}")
    try:
        outcome = race(trial, settings["tracker"], display)
    finally:
        display.close()
    if outcome.outcome == "busy":
        return {"exit": 0}
    told = outcome.record | {
        "folder": _short(outcome.folder),
        "reference": reference(trial.definition),
    }
    lines = verdict_lines(told, told["reference"])
    if outcome.record.get("earlier"):
        lines.insert(0, "this trial was run before; its record stands")
    if in_sweep:
        display.note(lines[0])
    else:
        say("\n".join(lines), sys.stdout)
    return told | {"exit": outcome.exit_code}


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _summary(outcomes: list[dict]) -> int:
    """Print a sweep's table; its status is the worst of its trials', of none a wrong command's."""
    from harness.report.run.text import table

    raced = [o for o in outcomes if "outcome" in o]
    if raced:
        order = sorted(
            raced, key=lambda o: (o["workload"], o["submission"], o["trial"] or 0, o["seed"])
        )
        say(table(order), sys.stdout)
    if outcomes and all("left_out" in o for o in outcomes):
        return EXIT_USAGE
    return max((o["exit"] for o in outcomes), default=0)
