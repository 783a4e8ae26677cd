"""Read and write a run's folder: its log, and run.json, which only a complete run has."""

from collections.abc import Iterator
from pathlib import Path

from harness.catalog import discover, places
from harness.errors import UserError
from harness.records import log, manifest
from harness.system.files import BadFile, atomic_json, atomic_write, read_json
from harness.system.hashing import canonical, digest

SCHEMA = 1
# A folder with one of these files is a run's folder.
MARKERS = ("run.json", "log.jsonl")
# A trial with one of these outcomes is never run again.
FINAL = ("reached", "out_of_budget", "hopeless", "diverged", "invalid")
# outcome: exit status of the command; 1 for any other
EXIT = {
    "reached": 0,
    "out_of_budget": 0,
    "hopeless": 0,
    "invalid": 3,
    "refused": 2,
    "interrupted": 75,
    "killed": 75,
    "busy": 0,
}


def exit_code(outcome: str) -> int:
    """Return the exit status for an outcome."""
    return EXIT.get(outcome, 1)


def finished(folder: Path) -> dict | None:
    """Return the record of a trial that is final, so need not be run again, or None."""
    record = read(folder)
    return record if record and record["outcome"] in FINAL else None


def read(folder: Path) -> dict | None:
    """Return the record in a run's folder, of any outcome; None if there is no valid one."""
    try:
        record = read_json(folder / "run.json")
    except (OSError, BadFile):
        return None
    is_record = isinstance(record, dict) and record.get("schema") == SCHEMA
    return record if is_record and "run_id" in record and "outcome" in record else None


def refuse_newer(folder: Path) -> None:
    """Raise UserError if the folder has a record of a schema that this harness does not know.

    A race in that folder would remove the record.
    """
    try:
        record = read_json(folder / "run.json")
    except (OSError, BadFile):
        return
    schema = record.get("schema") if isinstance(record, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise UserError(
            f"{folder / 'run.json'} is a record of schema {schema}, written by a newer harness",
            f"this harness reads and writes schema {SCHEMA}",
            "update the harness, or choose another place: results=FOLDER",
        )


def log_problem(folder: Path) -> str | None:
    """Return a message if the log of a finished trial is damaged or missing, else None."""
    record = read(folder) or {}
    try:
        problems = log.verify(folder / "log.jsonl", str(record.get("chain") or ""))
    except OSError as error:
        problems = [str(error.strerror)]
    if not problems:
        return None
    return (
        f"{folder / 'log.jsonl'} is damaged ({problems[0]}): restore it, "
        f"or remove {folder} to race the trial again"
    )


def begin(trial) -> None:
    """Write the trial's configuration and the source of its submission."""
    from omegaconf import OmegaConf

    atomic_write(
        trial.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(trial.describe()))
    )
    for path in discover.sources(trial.card.plugin):
        target = trial.folder / "source" / places.inside(trial.card.plugin, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(target, path.read_bytes())


def config_hash(described: dict) -> str:
    """Return the hash of a trial's configuration without its seed: equal for its repetitions."""
    individual = ("run_id", "seed", "trial", "study")
    return digest(canonical({k: v for k, v in described.items() if k not in individual}))[:16]


def finish(folder: Path, record: dict) -> None:
    """Write the manifest of the run's files, and then run.json, in one step each."""
    stated = {"manifest": manifest.write(folder)}
    atomic_json(folder / "run.json", {"schema": SCHEMA} | record | stated)


def valid_rows(rows: list[dict]) -> list[dict]:
    """Return the rows that count. A `resumed` row removes the later steps that stand before it."""
    valid: list[dict] = []
    for row in rows:
        if row["event"] == "resumed":
            valid = [r for r in valid if r["event"] != "ended" and r.get("step", 0) <= row["step"]]
        valid.append(row)
    return valid


def evaluations(rows: list[dict]) -> list[dict]:
    """Return the evaluation rows that count, in order."""
    return [row for row in valid_rows(rows) if row["event"] == "evaluation"]


def runs(results: Path) -> Iterator[Path]:
    """Yield the folders of complete runs in a results folder."""
    for path in sorted((results / "runs").glob("*/*/*/run.json")):
        yield path.parent
