"""Give the folders of finished runs the identities of the second version, for scripts/rekey.py.

A run's id is in its folder's name, in config.yaml, in run.json and in rows of its log, whose rows
are chained, and the manifest has the hashes of these files. So the log's chain, the manifest and
the run id are checked first, and a folder in which one of them is wrong is left as it is. The new
folder is written beside the old one, and takes its place by its name.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from harness.catalog import discover, identity
from harness.errors import UserError
from harness.records import log, manifest, run_folder
from harness.system.files import BadFile, atomic_json, atomic_write
from scripts import old_identities
from scripts.old_identities import Change, Keys, Stop, rekey

IDS = ("run_id", "workload_hash", "training_hash", "submission_hash", "prices", "config_hash")


@dataclass(frozen=True)
class Move:
    """A run's folder, and the new values of the fields of its records in IDS."""

    folder: Path
    record: dict
    changes: dict[str, Change]

    @property
    def target(self) -> Path:
        return self.folder.with_name(self.changes["run_id"].new)


def plans(results: Path, keys: Keys) -> Iterator[Move]:
    """Yield the folders of finished runs whose ids change."""
    for folder in run_folder.runs(results):
        record = json.loads((folder / "run.json").read_text())
        if problem := _problem(folder, record):
            keys.counts[f"run folders left as they are: {problem}"] += 1
            continue
        try:
            new = rekey(record, keys, {}, str(folder), _source(folder, record))
        except Stop as error:
            keys.counts[f"run folders left as they are: {error}"] += 1
            continue
        if new is None or new["run_id"] == record["run_id"]:
            continue
        described = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
        assert isinstance(described, dict)
        if run_folder.config_hash(described) == record["config_hash"]:
            described |= {name: new[name] for name in IDS if name in described}
            new["config_hash"] = run_folder.config_hash(described)
        names = [name for name in IDS if name in record and record[name] != new[name]]
        yield Move(folder, new, {name: Change(record[name], new[name]) for name in names})


def _problem(folder: Path, record: dict) -> str:
    """Return what is wrong with a run's files, or nothing."""
    if folder.name != record["run_id"]:
        return "the folder does not have the name of its run"
    try:
        problems = log.verify(folder / "log.jsonl", record["chain"])
    except (OSError, BadFile) as error:
        return str(error)
    problems += manifest.problems(folder, record["manifest"])
    return problems[0] if problems else ""


def _source(folder: Path, record: dict) -> Change | None:
    """Return the hashes of the sources that a run keeps, before and after; None for a class."""
    if "." in record["submission"]:
        try:
            same = identity.source_hash(discover.find(record["submission"]))
        except UserError:
            return None
        return Change(same, same)
    top = folder / "source"
    kept = sorted(top.rglob("*.py"))
    apart = [path for path in kept if path.parent == top]
    ours = [path for path in kept if path.parent != top]
    try:
        old, new = old_identities.contents_of(kept), identity.identity(kept)
    except UserError:
        return None
    # They were hashed in the order of the paths they were copied from. A variant adds its name.
    for order in (kept, apart + ours, ours + apart):
        for ending in ([], [(record["submission"], b"")]):
            before, after = (
                identity.hash_of(
                    [*((path.relative_to(top).as_posix(), each[path]) for path in order), *ending]
                )
                for each in (old, new)
            )
            if before == record["submission_hash"]:
                return Change(before, after)
    return None


def move(plan: Move) -> None:
    """Write a run's folder with its new ids beside the old one, then remove the old one."""
    written = plan.folder.with_name(f".{plan.folder.name}.rekey")
    shutil.rmtree(written, ignore_errors=True)
    shutil.copytree(plan.folder, written, symlinks=True)
    text = (written / "config.yaml").read_text()
    for name, change in plan.changes.items():
        text = text.replace(f"{name}: {change.old}\n", f"{name}: {change.new}\n")
        # YAML quotes a hash that reads as a number.
        text = text.replace(f"{name}: '{change.old}'\n", f"{name}: '{change.new}'\n")
    atomic_write(written / "config.yaml", text)
    rows = log.rows(written / "log.jsonl")
    (written / "log.jsonl").unlink()
    new_log = log.Log(written / "log.jsonl")
    for row in rows:
        row.pop("chain")
        new_log.append(_renamed(row, plan.changes))
    ends = {"chain": new_log.chain, "manifest": manifest.write(written)}
    atomic_json(written / "run.json", plan.record | ends)
    written.rename(plan.target)
    shutil.rmtree(plan.folder)


def _renamed(row: dict, changes: dict[str, Change]) -> dict:
    """Return a row of a log with new ids; the last row has the whole result inside."""
    new = {}
    for name, value in row.items():
        if isinstance(value, dict):
            value = _renamed(value, changes)
        elif name in changes and value == changes[name].old:
            value = changes[name].new
        new[name] = value
    return new
