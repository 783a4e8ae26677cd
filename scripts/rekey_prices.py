"""Keep a price table for a workload whose step is the same computation as before, in other code.

    git worktree add ../former COMMIT
    python -m scripts.rekey_prices ../former vit            # compare, say
    python -m scripts.rekey_prices ../former vit --write    # give the table the new step's hash

A table belongs to a step by the hash of the workload's code, so a change of its data voids it too.
Here the loss of a batch and its gradients are traced in both trees: every operation with the
shapes, types and constants of its arguments, numbers with a fraction left out. If the traces are
equal, and the table was the former step's, its prices are the present step's.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from harness.errors import UserError
from harness.system.paths import ROOT

TRACE = """
import hashlib, inspect, json, sys
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from harness.catalog.definition import define, load_workload, tree_of
from harness.catalog.identity import step_hash

definition = define(sys.argv[1], tree_of(sys.argv[1]), "mini", None)
workload, config = load_workload(definition), definition.config
torch.manual_seed(0)
model = workload.model(config)
seed = [0] * (len(inspect.signature(workload.data).parameters) - 2)
data = workload.data(config, "train", *seed)


def shown(value):
    if isinstance(value, torch.Tensor):
        return [list(value.shape), str(value.dtype)]
    if isinstance(value, (list, tuple)):
        return [shown(each) for each in value]
    return "a fraction" if isinstance(value, float) else repr(value)


class Trace(TorchDispatchMode):
    rows = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.rows.append([str(function), shown(args), shown(list((kwargs or {}).values()))])
        return function(*args, **(kwargs or {}))


batch = workload.batch(data, torch.arange(definition.block["batch"]), config)
with Trace():
    workload.loss(model, batch).backward()
digest = hashlib.sha256(json.dumps(Trace.rows).encode()).hexdigest()
print(json.dumps({"step": step_hash(definition), "trace": digest, "operations": len(Trace.rows)}))
"""


def traced(tree: Path, name: str) -> dict:
    """Return the hash of a workload's step in a tree, and the digest and length of its trace.

    Raises:
        UserError: the tree has no such workload, or its step fails.
    """
    done = subprocess.run(
        [sys.executable, "-c", TRACE, name], cwd=tree, capture_output=True, text=True
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise UserError(f"{tree}: the step of {name} cannot be traced: {' '.join(last)}")
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str]) -> int:
    from harness.clock.prices import table_hash
    from harness.system.files import atomic_json

    parser = argparse.ArgumentParser(description="Keep price tables of steps that are the same.")
    parser.add_argument("former", type=Path, help="a checkout of the tree that was measured")
    parser.add_argument("names", nargs="+", help="workloads")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args(arguments)
    failed = 0
    for name in asked.names:
        path = ROOT / "results" / "reference" / "prices" / f"{name}.mini.cpu.json"
        table = json.loads(path.read_text())
        before, now = traced(asked.former, name), traced(ROOT, name)
        same = before["trace"] == now["trace"] and before["operations"] == now["operations"]
        if table["step"] not in (before["step"], now["step"]) or not same:
            print(f"{name}: the table is not the former step's, or the step is another one")
            failed += 1
            continue
        print(
            f"{name}: {now['operations']} operations, the same; {before['step']} is {now['step']}"
        )
        if asked.write:
            table["step"] = now["step"]
            atomic_json(path, table | {"hash": table_hash(table)})
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))
