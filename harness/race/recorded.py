"""The settings of the trial that a record describes, so that it can be raced again."""

import shutil
from pathlib import Path

from harness.catalog import discover, identity
from harness.catalog.definition import tree_of
from harness.race import configuration


def settings_of(record: dict, source: str | None, place: Path, until: str = "goal") -> dict:
    """Return the configuration of a recorded trial, to be raced in `place`.

    Args:
        record: run.json's content, whose own numbers and engine are taken; or a compact line's,
            which does not have them, so that those of conf/ are.
        source: the path of the submission's file, or None for an installed submission.
    """
    tree = tree_of(record.get("workload_file") or record["workload"])
    changes = {"engine": record["engine"]} if "engine" in record else {}
    if record.get("config"):
        # The recorded numbers have the variant's changes already.
        stub = {"variants": {record["variant"]: {}}} if record["variant"] else {}
        numbers = {record["scale"]: record["config"] | stub}
        tree = {"name": tree["name"], "track": record["track"]} | numbers
    return configuration.settings(
        tree,
        {"name": record["submission"], "path": source} | record["hp"],
        scale=record["scale"],
        variant=record["variant"],
        seed=record["seed"],
        tuned=False,
        isolation=record.get("isolation"),
        until=until,
        budget=(record.get("budget") or {}).get("factor"),
        results=str(place),
        **changes,
    )


def source_of(record: dict, folder: Path | None, place: Path, file: str = "") -> str | None:
    """Return the path of the submission's file to race, or None for an installed submission.

    Args:
        folder: the run's folder, whose kept source is copied into `place` if need be; None for a
            compact line.
        file: the path that the user has named, if any.
    """
    if file:
        return file
    name = record["submission"]
    shipped = discover.submissions().get(name)
    if shipped and identity.source_hash(shipped) == record["submission_hash"]:
        return None
    kept = sorted((folder / "source").rglob(f"{name}.py")) if folder else []
    if not kept:
        return None
    copy = place / "source"
    # A link could lead anywhere.
    shutil.copytree(kept[0].parent, copy, symlinks=True)
    return str(copy / kept[0].name)
