"""Print every identity that records depend on, so that a change can prove that it voids nothing.

    python scripts/identities.py            # print them as JSON
    python scripts/identities.py --write    # freeze them in tests/catalog/identities.json

The identities are the hash of every submission, the hash, training hash and step hash of every
workload at every scale and variant, and the run id of every line of results/board/, derived again
from the line's own fields. tests/catalog/test_identities.py compares the tree with the frozen file.
"""

import argparse
import json
from pathlib import Path

from harness.catalog import definition, discover, identity
from harness.catalog.discover import ROOT
from harness.catalog.identity import source_hash
from harness.clock.tables import step_of
from harness.race.configuration import engine_for, engine_named

FROZEN = ROOT / "tests" / "catalog" / "identities.json"


def submissions() -> dict[str, str]:
    """Return the hash of every shipped submission by name."""
    return {name: source_hash(plugin) for name, plugin in discover.submissions().items()}


def workloads() -> dict[str, dict[str, str]]:
    """Return hash, training hash and step hash of every workload at every scale and variant."""
    identities = {}
    for name in discover.workloads():
        tree = definition.tree_of(name)
        for scale in definition.scales_of(tree):
            for variant in (None, *(tree[scale].get("variants") or {})):
                one = definition.define(name, tree, scale, variant)
                identities[one.key] = {
                    "hash": one.hash,
                    "training": one.training_hash,
                    "step": step_of(one),
                }
    return identities


def run_id(line: dict, engine: dict) -> str:
    """Return the run id that the fields of a compact line give."""
    names = ("training_hash", "submission_hash", "hp", "seed", "horizon", "isolation")
    fields = {name: line[name] for name in names}
    return identity.run_id(**fields, engine=engine, race=line["harness"])


def lines(path: Path) -> list[dict]:
    """Return the run lines of a compact file, without the lines that name environments."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row for row in rows if "run_id" in row]


def runs() -> dict[str, list[str]]:
    """Return the derived run ids of every compact file.

    Raises:
        SystemExit: a line's own run id is another one.
    """
    engine = engine_for(engine_named("cpu"), "mini")
    identities = {}
    for path in sorted((ROOT / "results" / "board").glob("*.jsonl")):
        rows = lines(path)
        derived = [run_id(row, engine) for row in rows]
        for row, own in zip(rows, derived, strict=True):
            if row["run_id"] != own:
                raise SystemExit(f"{path.name}: run {row['run_id']} is derived as {own}")
        identities[path.stem] = derived
    return identities


def identities() -> dict[str, dict]:
    """Return all identities: submissions, workloads, runs."""
    return {"submissions": submissions(), "workloads": workloads(), "runs": runs()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--write", action="store_true", help=f"freeze them in {FROZEN.name}")
    text = json.dumps(identities(), indent=1) + "\n"
    if parser.parse_args().write:
        FROZEN.parent.mkdir(parents=True, exist_ok=True)
        FROZEN.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
