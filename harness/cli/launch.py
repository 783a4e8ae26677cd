"""Races through Hydra: one trial here, or a sweep (harness/cli/sweep.py)."""

import os
import sys
from pathlib import Path

from harness.catalog.discover import ROOT
from harness.cli import config, launchers
from harness.cli.hints import next_lines
from harness.cli.overrides import settings_of
from harness.errors import EXIT_FAILED, EXIT_OK
from harness.race import configuration
from harness.race.trial import Trial
from harness.records import run_folder
from harness.system.command_line import SWEEP
from harness.system.terminal import coloured, say
from harness.system.torchrun import Place


def launch(arguments: list[str], place: Place | None = None) -> int:
    """Run what the arguments ask for through Hydra; return the exit status.

    Args:
        place: of this process among those of torchrun, if that has started it.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    typed, arguments = arguments, config.register(arguments)
    # Hydra raises its errors here, where they become one line.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    flags = [word for word in arguments if word.startswith("-")]
    try:
        if flags and all(flag in SWEEP for flag in flags):
            from harness.cli import sweep

            return sweep.run(settings_of(arguments))
        launchers.refuse_without_sweep(settings_of(arguments))
        if flags:
            return _through_hydra(typed, arguments)
        settings = configuration.compose(arguments)
        if place and not place.alone and not settings["dry"]:
            return _on_machines(settings, typed, place)
        return race(settings, typed)
    except (HydraException, OmegaConfBaseException) as error:
        raise config.explain(error) from None


def _through_hydra(typed: list[str], arguments: list[str]) -> int:
    """Do what a flag of Hydra's asks for, such as --cfg; return the exit status."""
    import hydra

    # most of Hydra's flags race nothing
    configurations = []

    def task(cfg) -> None:
        configurations.append(config.plain(cfg))

    main = hydra.main(config_path=str(ROOT / "conf"), config_name="config", version_base="1.3")
    sys.argv = ["harness", *arguments]
    try:
        main(task)()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else EXIT_FAILED
    return race(configurations[0], typed) if configurations else EXIT_OK


def race(settings: dict, typed: list[str]) -> int:
    """Plan one trial and run it, or say what would be run; return the exit status.

    Args:
        settings: the composed configuration.
        typed: the arguments of the command line, for what to type next.
    """
    from harness.race import plan

    trial = plan.make(settings)
    if settings["dry"]:
        from harness.cli.sweep_plan import Planned, dry_lines

        say("\n".join(dry_lines([Planned([], {}, trial)], 1, trial.results)), sys.stdout)
        return EXIT_OK
    from harness.cli import api
    from harness.cli.observers import LiveLine
    from harness.report.run.text import verdict_lines

    line = LiveLine(trial)
    for text in _first_lines(trial):
        line.note(text)
    result = api.run(trial, settings["tracker"], line)
    if result.outcome == "busy":
        return EXIT_OK
    folder = _short(result.folder)
    shown = result.record | {
        "folder": folder,
        "next": next_lines(typed, trial, result.outcome, Path(folder)),
    }
    lines = verdict_lines(shown, result.reference, coloured(sys.stdout))
    if result.record.get("earlier"):
        lines.insert(0, "this trial was run before; its record stands")
    say("\n".join(lines), sys.stdout)
    return run_folder.exit_code(result.outcome)


def _on_machines(settings: dict, typed: list[str], place: Place) -> int:
    """Run one trial on several machines, as its referee or for its ranks here."""
    from harness.race import host, plan

    trial = plan.make(settings)
    host.check(trial)
    if place.rank == 0:
        try:
            return race(settings, typed)
        finally:
            host.end(place, trial)
    if problem := host.serve(trial, place):
        say(f"harness: {problem}", sys.stderr)
        return EXIT_FAILED
    return EXIT_OK


def _first_lines(trial: Trial) -> list[str]:
    """Say what is raced, at which point, and whether its seconds are provisional."""
    lines = [
        f"{trial.definition.key}: {trial.card.plugin.name}, {trial.point}, seed {trial.seed}, "
        f"{trial.horizon} steps at most; record in {_short(trial.folder)}"
    ]
    why = trial.table.why
    return [*lines, f"provisional reference seconds: {why}"] if why else lines


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
