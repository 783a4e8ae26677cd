"""Frozen reference runs, by workload."""

from collections.abc import Sequence
from pathlib import Path

from harness.catalog.definition import Definition
from harness.catalog.discover import ROOT
from harness.errors import UserError
from harness.system.files import BadFile, read_json


def reference(definition: Definition) -> dict | None:
    """The frozen reference run of this very workload version (time, curve), or None."""
    path = definition.frozen / f"{definition.key}.json"
    try:
        frozen = read_json(path)
    except FileNotFoundError:
        return None
    return frozen if frozen["workload_hash"] == definition.hash else None


def references(paths: Sequence[Path | str] = ()) -> dict[str, dict]:
    """The frozen references by workload key: the project's, and those of given results folders."""
    found = {}
    for folder in (ROOT / "results", *map(Path, paths)):
        for path in sorted((folder / "reference").glob("*.json")):
            if path.name.endswith(".target.json"):
                continue
            try:
                frozen = read_json(path)
            except BadFile as error:
                raise UserError(
                    f"frozen reference {error}", do="restore it from version control"
                ) from None
            if isinstance(frozen, dict) and frozen.get("time") and "workload_hash" in frozen:
                found[frozen.get("workload", path.stem)] = frozen
    return found
