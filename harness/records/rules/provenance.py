"""Rules about where a record comes from: source, workload, prices, machine, files, isolation."""

from functools import cache
from pathlib import Path

from harness.catalog import definition, discover
from harness.catalog.identity import hash_of, identity, source_hash
from harness.clock.prices import load_table
from harness.errors import UserError
from harness.records import manifest
from harness.records.plausibility import reproduced, suspicion
from harness.records.references import references
from harness.records.rules.record_view import MARK, OPEN, Case, Finding, fail, needs_folder, same
from harness.system import machine
from harness.system.paths import ROOT

ENVIRONMENT = ("python", "cpu", "cores", "packages", "torch", "harness_hash")
PRICES = ROOT / "results" / "reference" / "prices"
_references = cache(references)


def source(case: Case) -> Finding | None:
    """The source that was raced is kept, and is the one that the record names."""
    rec = case.record
    if case.folder:
        kept = sorted((case.folder / "source").rglob("*.py"))
        if not kept:
            return fail("no source is kept")
        if rec["submission_hash"] not in _hashes(case.folder / "source", kept, rec["submission"]):
            return fail(f"the kept files do not have the hash {rec['submission_hash'][:8]}")
    shipped = discover.submissions().get(rec["submission"])
    if shipped is None:
        return None if case.folder else Finding(OPEN, "no such submission is installed")
    installed = source_hash(shipped)
    if installed == rec["submission_hash"]:
        return None
    return Finding(
        MARK, f"raced as {rec['submission_hash'][:8]}, here is {installed[:8]}", "other source"
    )


def _hashes(folder: Path, kept: list[Path], submission: str) -> set[str]:
    """Return the hashes of kept files, in each order that the hash of a record may have used.

    The hash is over files in the order of their places. Older records have a file from outside of
    the project before or after all others. A variant's name is hashed after the files.
    """
    apart = [path for path in kept if path.parent == folder]
    ours = [path for path in kept if path.parent != folder]
    try:
        contents = identity(kept)
    except UserError:
        return set()
    variant = [] if any(path.stem == submission for path in kept) else [(submission, b"")]
    return {
        hash_of(
            [*((path.relative_to(folder).as_posix(), contents[path]) for path in order), *variant]
        )
        for order in (kept, apart + ours, ours + apart)
    }


def version(case: Case) -> Finding | None:
    """The workload is the one that is installed: numbers, code and goal."""
    rec = case.record
    name = rec.get("workload_file") or rec["workload"]
    try:
        here = definition.define(name, definition.tree_of(name), rec["scale"], rec["variant"])
    except UserError as error:
        return Finding(MARK, str(error), "other version")
    if here.hash == rec["workload_hash"]:
        return None
    goal = here.training_hash == rec.get("training_hash")
    what = "another goal" if goal else "other numbers or code"
    told = f"{rec['workload_hash']} has {what} than {here.hash}, which is here"
    return Finding(MARK, told, "other goal" if goal else "other version")


def prices(case: Case) -> Finding | None:
    """Its prices are those of a frozen table; else its times are provisional."""
    rec = case.record
    if "prices" not in rec:
        return None
    name, _, stated = str(rec["prices"]).partition(" ")
    try:
        table = load_table(PRICES / Path(name).name) if name.endswith(".json") else None
    except UserError as error:
        return fail(str(error))
    known = table is not None and table.origin == rec["prices"]
    if known and table:
        for kind, price in rec["priced"].items():
            if kind in table.prices and not same(vars(table.of(kind)), price):
                return fail(f"{kind} costs {price['seconds']}, {table.of(kind).seconds} in {name}")
        foreign = sorted(rec["priced"].keys() - table.prices.keys())
        if foreign and not rec["provisional"]:
            return fail(f"{name} has no price of {foreign[0]}, but nothing is provisional")
    if rec["provisional"]:
        return Finding(MARK, rec["provisional_why"] or "without a reason", "provisional")
    if not (name.endswith(".json") and stated):
        return fail(f"prices of {rec['prices']!r}, but nothing is provisional")
    if not known:
        return Finding(MARK, f"priced by {rec['prices']}, which is not here", "other prices")
    return None


def environment(case: Case) -> Finding | None:
    """The machine, the packages and the version of the harness are recorded."""
    found, stated = case.environment, case.record.get("environment_hash")
    if lacking := [key for key in ENVIRONMENT if not found.get(key)]:
        return fail(f"it lacks {', '.join(lacking)}")
    if stated != machine.hash_of(found):
        return fail(f"its hash is {machine.hash_of(found)}, stated is {stated}")
    if (found.get("git") or {}).get("dirty"):
        return Finding(MARK, f"the checkout of {found['git']['commit'][:8]} was changed", "dirty")
    return None


def quiet(case: Case) -> Finding | None:
    """The machine had a core to spare."""
    cores = case.environment.get("cores") or 1
    before, after = case.environment.get("load_average"), case.record.get("load_average_end")
    loads = [load for load in (before, after) if load is not None]
    if loads and max(loads) > cores + 1:
        return Finding(MARK, f"load {max(loads):.1f} on {cores} cores", "busy")
    return None


def files(case: Case) -> Finding | None:
    """Every file of the run is as the manifest says."""
    if not case.folder:
        return needs_folder()
    problems = manifest.problems(case.folder, case.record.get("manifest", ""))
    return fail("; ".join(problems[:3])) if problems else None


def isolation(case: Case) -> Finding | None:
    """The submission ran apart from the clock and the evaluation."""
    rec = case.record
    if rec["verified"] and rec.get("isolation") == "inline":
        return fail("verified, but isolation=inline")
    if not rec["verified"]:
        return Finding(MARK, f"isolation={rec.get('isolation')}", "unverified")
    return None


def believable(case: Case) -> Finding | None:
    """It is not too good to be true, or somebody else has reproduced it."""
    frozen = _references().get(case.key)
    if frozen and frozen["workload_hash"] != case.record["workload_hash"]:
        frozen = None
    why = suspicion(case.record, frozen)
    if why is None or case.confirmed or reproduced(case.record, case.key):
        return None
    return Finding(MARK, why, "quarantined")
