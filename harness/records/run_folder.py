"""What is kept of a trial: its folder, its log, and run.json, which only a complete one has."""

from collections.abc import Iterator
from pathlib import Path

from harness.catalog import discover
from harness.records import manifest
from harness.system.files import BadFile, atomic_json, atomic_write, read_json
from harness.system.hashing import canonical, digest

SCHEMA = 1
FINAL = ("reached", "out_of_budget", "hopeless", "diverged", "invalid")  # never run again
EXIT = {
    "reached": 0,
    "out_of_budget": 0,
    "hopeless": 0,
    "invalid": 3,
    "interrupted": 75,
    "killed": 75,
    "busy": 0,
}


def exit_code(outcome: str) -> int:
    return EXIT.get(outcome, 1)


def finished(folder: Path) -> dict | None:
    """The record of a trial that need not be run again, or None."""
    found = read(folder)
    return found if found and found["outcome"] in FINAL else None


def read(folder: Path) -> dict | None:
    """The record in a run's folder, whatever its outcome; None where there is none to read."""
    try:
        found = read_json(folder / "run.json")
    except (OSError, BadFile):
        return None
    whole = isinstance(found, dict) and found.get("schema") == SCHEMA
    return found if whole and "run_id" in found and "outcome" in found else None


def begin(trial) -> None:
    """Write what the trial is: its configuration and the source of the submission."""
    from omegaconf import OmegaConf

    atomic_write(
        trial.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(trial.describe()))
    )
    for path in discover.sources(trial.card.plugin):
        target = trial.folder / "source" / discover.inside(trial.card.plugin, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(target, path.read_bytes())


def config_hash(described: dict) -> str:
    """The hash of what a trial was asked to do, whatever its seed: equal for its repetitions."""
    own = ("run_id", "seed", "trial", "study")
    return digest(canonical({k: v for k, v in described.items() if k not in own}))[:16]


def finish(folder: Path, record: dict) -> None:
    """Write the manifest of the run's files, then run.json, last and as a whole."""
    stated = {"manifest": manifest.write(folder)}
    atomic_json(folder / "run.json", {"schema": SCHEMA} | record | stated)


def valid_rows(rows: list[dict]) -> list[dict]:
    """The rows that count: after a `resumed` row, later steps before it are superseded."""
    kept: list[dict] = []
    for row in rows:
        if row["event"] == "resumed":
            kept = [r for r in kept if r["event"] != "ended" and r.get("step", 0) <= row["step"]]
        kept.append(row)
    return kept


def evaluations(rows: list[dict]) -> list[dict]:
    """The evaluation rows that count, in order."""
    return [row for row in valid_rows(rows) if row["event"] == "evaluation"]


def runs(results: Path) -> Iterator[Path]:
    """Folders of complete runs under a results folder."""
    for path in sorted((results / "runs").glob("*/*/*/run.json")):
        yield path.parent
