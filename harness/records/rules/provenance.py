"""Rules about where a record comes from: source, workload, prices, machine, files, isolation."""

from functools import cache
from pathlib import Path

from harness.catalog import definition, discover
from harness.catalog.identity import hash_of, identity, source_hash
from harness.catalog.kinds import computes
from harness.clock.prices import load_table
from harness.errors import UserError
from harness.records import manifest
from harness.records.plausibility import implausible, reproduced
from harness.records.references import references
from harness.records.rules.record_view import (
    MARK,
    OPEN,
    Finding,
    RecordView,
    fail,
    needs_folder,
    same,
)
from harness.system import machine
from harness.system.paths import ROOT

ENVIRONMENT = ("python", "cpu", "cores", "packages", "torch", "harness_hash")
PRICES = ROOT / "results" / "reference" / "prices"
_references = cache(references)
_load_table = cache(load_table)
_installed_hash = cache(source_hash)


@cache
def _installed(name: str, scale: str, variant: str | None) -> definition.Definition | str:
    """Return the workload as it is installed, or why there is none."""
    try:
        return definition.define(name, definition.tree_of(name), scale, variant)
    except UserError as error:
        return str(error)


def source(view: RecordView) -> Finding | None:
    """Check that the source that was raced is kept, and is the one that the record names."""
    record = view.record
    name, kept = record["submission"], view.folder and view.folder / "source"
    shipped = discover.submissions().get(name)
    of_package = "." in name and not (kept and (kept / f"{name}.py").exists())
    if kept:
        paths = sorted(kept.rglob("*.py"))
        if not paths:
            return fail("no source is kept")
        if not of_package and record["submission_hash"] not in _hashes(kept, paths, name):
            return fail(f"the kept files do not have the hash {record['submission_hash'][:8]}")
    if shipped is None and not of_package:
        return None if view.folder else Finding(OPEN, "no such submission is installed")
    try:
        # The code of a class is its package's: its hash is over the package's name and release.
        installed = _installed_hash(shipped or discover.find(name))
    except UserError as error:
        return Finding(OPEN, str(error))
    if installed == record["submission_hash"]:
        return None
    return Finding(
        MARK, f"raced as {record['submission_hash'][:8]}, here is {installed[:8]}", "other source"
    )


def _hashes(folder: Path, paths: list[Path], submission: str) -> set[str]:
    """Return the hashes of kept files, in each order that the hash of a record may have used.

    The hash is over files in the order of their places. Older records have a file from outside of
    the project before or after all others. A variant's name is hashed after the files.
    """
    foreign = [path for path in paths if path.parent == folder]
    ours = [path for path in paths if path.parent != folder]
    try:
        contents = identity(paths)
    except UserError:
        return set()
    variant = [] if any(path.stem == submission for path in paths) else [(submission, b"")]
    return {
        hash_of(
            [*((path.relative_to(folder).as_posix(), contents[path]) for path in order), *variant]
        )
        for order in (paths, foreign + ours, ours + foreign)
    }


def version(view: RecordView) -> Finding | None:
    """Check that the workload is the one that is installed: numbers, code and goal."""
    record = view.record
    name = record.get("workload_file") or record["workload"]
    installed = _installed(name, record["scale"], record["variant"])
    if isinstance(installed, str):
        return Finding(MARK, installed, "other version")
    if installed.hash == record["workload_hash"]:
        return None
    goal = installed.training_hash == record.get("training_hash")
    what = "another goal" if goal else "other numbers or code"
    message = f"{record['workload_hash']} has {what} than {installed.hash}, which is here"
    return Finding(MARK, message, "other goal" if goal else "other version")


def prices(view: RecordView) -> Finding | None:
    """Check that prices are those of a frozen table; else times are provisional."""
    record = view.record
    if "prices" not in record:
        return None
    name, _, stated = str(record["prices"]).partition(" ")
    try:
        table = _load_table(PRICES / Path(name).name) if name.endswith(".json") else None
    except UserError as error:
        return fail(str(error))
    known = table is not None and table.origin == record["prices"]
    if known and table:
        for kind, price in record["priced"].items():
            if kind in table.prices and not same(vars(table.of(kind)), price):
                return fail(f"{kind} costs {price['seconds']}, {table.of(kind).seconds} in {name}")
        foreign = sorted(filter(computes, record["priced"].keys() - table.prices.keys()))
        if foreign and not record["provisional"]:
            return fail(f"{name} has no price of {foreign[0]}, but nothing is provisional")
    if record["provisional"]:
        return Finding(MARK, record["provisional_why"] or "without a reason", "provisional")
    if not (name.endswith(".json") and stated):
        return fail(f"prices of {record['prices']!r}, but nothing is provisional")
    if not known:
        return Finding(MARK, f"priced by {record['prices']}, which is not here", "other prices")
    return None


def environment(view: RecordView) -> Finding | None:
    """Check that the machine, the packages and the version of the harness are recorded."""
    recorded, stated = view.environment, view.record.get("environment_hash")
    if missing := [key for key in ENVIRONMENT if not recorded.get(key)]:
        return fail(f"the environment has no {', '.join(missing)}")
    if stated != machine.hash_of(recorded):
        return fail(f"its hash is {machine.hash_of(recorded)}, stated is {stated}")
    if (recorded.get("git") or {}).get("dirty"):
        return Finding(
            MARK, f"the checkout of {recorded['git']['commit'][:8]} was changed", "dirty"
        )
    return None


def quiet(view: RecordView) -> Finding | None:
    """Check that the machine had an idle core."""
    cores = view.environment.get("cores") or 1
    before, after = view.environment.get("load_average"), view.record.get("load_average_end")
    loads = [load for load in (before, after) if load is not None]
    if loads and max(loads) > cores + 1:
        return Finding(MARK, f"load {max(loads):.1f} on {cores} cores", "busy")
    return None


def files(view: RecordView) -> Finding | None:
    """Check that every file of the run is as the manifest says."""
    if not view.folder:
        return needs_folder()
    problems = manifest.problems(view.folder, view.record.get("manifest", ""))
    return fail("; ".join(problems[:3])) if problems else None


def isolation(view: RecordView) -> Finding | None:
    """Check that the submission ran apart from the clock and the evaluation."""
    rec = view.record
    if rec["verified"] and rec.get("isolation") == "inline":
        return fail("verified, but isolation=inline")
    if not rec["verified"]:
        return Finding(MARK, f"isolation={rec.get('isolation')}", "unverified")
    return None


def believable(view: RecordView) -> Finding | None:
    """Check that the result is plausible, or that somebody else has reproduced it."""
    frozen = _references().get(view.key)
    if frozen and frozen["workload_hash"] != view.record["workload_hash"]:
        frozen = None
    reason = implausible(view.record, frozen)
    if reason is None or view.confirmed or reproduced(view.record, view.key):
        return None
    return Finding(MARK, reason, "quarantined")
