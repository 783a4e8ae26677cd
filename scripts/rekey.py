"""Give the records of a results folder the identities of the second version (catalog/identity.py).

    python -m scripts.rekey                   # the project's results/: say what would be changed
    python -m scripts.rekey --write           # change it
    python -m scripts.rekey MY/RESULTS --write

Every old id is derived first, from the record's own fields: the hash of the submission and of the
workload, the run id, the hashes of price tables, the digest or chain of each line. Nothing is
written if one cannot be. Two exceptions are counted and keep their old hash: a record of a source
that was shipped no longer, and one of a workload's earlier version. What is new already is left
alone, so that the program may be run again.

Of a line in board/ these name files that are not in the folder, and stay: `manifest` and
`config_hash`. Folders in runs/ get the name of their new run id (scripts/rekey_runs.py); a run that
did not end is left as it is, and starts from the beginning when it is raced again.
"""

import argparse
import json
import sys
from pathlib import Path

from harness.clock.prices import table_hash
from harness.race.configuration import engine_for, engine_named
from harness.records.compact import number, signed
from harness.system.files import atomic_write
from harness.system.paths import ROOT
from scripts import old_identities, rekey_runs
from scripts.old_identities import Change, Keys, Stop, definition_of, rekey

# What names runs in a target's evidence; the seeds of a reference are numbers.
NAMING = ("trials", "first", "seeds")

# Price tables


def tables(folder: Path, keys: Keys) -> dict[Path, str]:
    """Return the new text of every price table; the table that others name comes first."""
    parsed = {path: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    texts: dict[Path, str] = {}
    for path in sorted(parsed, key=lambda path: "yardstick" in parsed[path]):
        table, old = parsed[path], parsed[path]["hash"]
        if table_hash(table) != old:
            raise Stop(f"{path.name}: its content does not have the hash {old}")
        change = old_identities.step(definition_of(table["workload"]))
        if change and table["step"] == change.new:
            keys.counts["tables that are new already"] += 1
            continue
        if change is None or table["step"] != change.old:
            raise Stop(f"{path.name}: its step {table['step']} is not that of the workload")
        layout = layout_of(path.read_text(), table)
        table["step"] = change.new
        if table.get("yardstick"):
            table["yardstick"]["table"] = keys.prices(table["yardstick"]["table"])
        table["hash"] = table_hash(table)
        keys.tables[path.name] = Change(old, table["hash"])
        keys.counts["price tables"] += 1
        texts[path] = dumped(table, layout)
    return texts


# Records


def lines_of(path: Path) -> list[dict]:
    """Return the rows of a compact file, without their digests.

    Raises:
        Stop: a line does not have the digest that it states.
    """
    rows = []
    for count, line in enumerate(path.read_text().splitlines(), 1):
        row = json.loads(line)
        stated = row.pop("digest")
        if signed(row) != line:
            raise Stop(f"{path.name} line {count}: its content does not have the digest {stated}")
        rows.append(row)
    return rows


def text_of(rows: list[dict]) -> str:
    """Return rows as a compact file's text, in the order in which such files are written."""
    environments = [row for row in rows if "run_id" not in row]
    runs = [row for row in rows if "run_id" in row]
    order = ("submission", "study", "trial", "seed", "run_id")
    runs.sort(key=lambda row: [number(row[n]) if n == "trial" else row[n] for n in order])
    return "".join(f"{signed(row)}\n" for row in (*environments, *runs))


def board(path: Path, keys: Keys, engine: dict) -> str:
    """Return the new text of a compact file."""
    rows = lines_of(path)
    for place, row in enumerate(rows):
        if "run_id" in row:
            rows[place] = rekey(row, keys, engine, f"{path.name} line {place + 1}") or row
    return text_of(rows)


# References, targets, lists


def reference(path: Path, keys: Keys) -> str | None:
    """Return the new text of a frozen reference or of the evidence for a target."""
    text = path.read_text()
    frozen = json.loads(text)
    layout = layout_of(text, frozen)
    key = path.name.removesuffix(".json").removesuffix(".target")
    change = (old_identities.workload(definition_of(key)) or {}).get("workload_hash")
    if change and frozen["workload_hash"] == change.new:
        return None
    if change is None or frozen["workload_hash"] != change.old:
        raise Stop(f"{path.name}: {frozen['workload_hash']} is not the workload's hash")
    frozen["workload_hash"] = change.new
    if "submission_hash" in frozen:
        source = old_identities.submission(frozen["submission"])
        if source is None or frozen["submission_hash"] != source.old:
            raise Stop(f"{path.name}: {frozen['submission_hash']} is not the submission's hash")
        frozen["submission_hash"] = source.new
        frozen["prices"] = keys.prices(frozen["prices"])
    for run in (run for name in NAMING for run in frozen.get(name, ())):
        if isinstance(run, dict):
            if run["run_id"] not in keys.runs:
                raise Stop(f"{path.name}: run {run['run_id']} is not on the board")
            run["run_id"] = keys.runs[run["run_id"]]
            keys.counts["runs that targets name"] += 1
    keys.counts["references and targets"] += 1
    return dumped(frozen, layout)


def listed(path: Path, keys: Keys) -> str:
    """Return the new text of a list that names sources: *.failed.json, reproduced.json."""
    text = path.read_text()
    entries = json.loads(text)
    layout = layout_of(text, entries)
    changes = map(old_identities.submission, old_identities.kept()["submissions"])
    sources = {each.old: each.new for each in changes if each}
    for entry in entries.values() if isinstance(entries, dict) else entries:
        if entry["source"] not in {*sources, *sources.values()}:
            raise Stop(f"{path.name}: there is no source {entry['source']}")
        entry["source"] = sources.get(entry["source"], entry["source"])
        if "training_hash" in entry:
            key = path.name.removesuffix(".failed.json")
            change = (old_identities.workload(definition_of(key)) or {}).get("training_hash")
            if change is None or entry["training_hash"] not in (change.old, change.new):
                raise Stop(f"{path.name}: {entry['training_hash']} is not the training's hash")
            entry["training_hash"] = change.new
        keys.counts["entries of lists"] += 1
    return dumped(entries, layout)


def layout_of(text: str, value) -> dict:
    """Return the arguments of json.dumps, and the end, that give a file's text."""
    for indent in (None, 1, 2):
        for ascii_only in (True, False):
            for end in ("\n", ""):
                layout = {"indent": indent, "ensure_ascii": ascii_only, "end": end}
                if dumped(value, layout) == text:
                    return layout
    raise Stop(f"a file is not as it was written: {text[:60]!r}")


def dumped(value, layout: dict) -> str:
    end = layout["end"]
    return json.dumps(value, indent=layout["indent"], ensure_ascii=layout["ensure_ascii"]) + end


# All of it


def _is_project(results: Path) -> bool:
    return results.resolve() == (ROOT / "results").resolve()


def new_texts(results: Path, keys: Keys) -> dict[Path, str]:
    """Return the new text of every file of a results folder that changes; runs/ apart.

    Raises:
        Stop: an old id cannot be derived.
    """
    engine = engine_for(engine_named("cpu"), "mini")
    texts: dict[Path, str | None] = {**tables(results / "reference" / "prices", keys)}
    if not _is_project(results):
        # Records of one's own name the tables of the project, which may be new already.
        keys.tables |= old_identities.shipped_tables()
    for path in sorted((results / "board").glob("*.jsonl")):
        texts[path] = board(path, keys, engine)
    for path in sorted((results / "reference").glob("*.json")):
        texts[path] = reference(path, keys)
    for path in (*sorted((results / "board").glob("*.failed.json")), results / "reproduced.json"):
        if path.exists():
            texts[path] = listed(path, keys)
    return {path: text for path, text in texts.items() if text and text != path.read_text()}


def main(arguments: list[str] | None = None) -> int:
    """Change a results folder, or say what would be changed; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("results", nargs="?", type=Path, default=ROOT / "results")
    parser.add_argument("--write", action="store_true", help="change the folder")
    asked = parser.parse_args(arguments)
    keys = Keys()
    try:
        texts = new_texts(asked.results, keys)
        folders = list(rekey_runs.plans(asked.results, keys))
    except Stop as error:
        print(f"nothing was changed: {error}", file=sys.stderr)
        return 1
    if _is_project(asked.results):
        for kind, here in old_identities.derived().items():
            kept = old_identities.kept()[kind]
            same = sum(here.get(name) == old for name, old in kept.items())
            print(f"{same:5} of {len(kept)} old hashes of {kind} are what the old functions give")
    for what, count in keys.counts.items():
        print(f"{count:5} {what}")
    if asked.write:
        for path, text in texts.items():
            atomic_write(path, text)
        for folder in folders:
            rekey_runs.move(folder)
    changed = "changed" if asked.write else "would be changed"
    print(f"{len(texts)} files, {len(folders)} run folders {changed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
