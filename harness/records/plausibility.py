"""Find implausible results: faster than any machine, or far better than the best known.

Such a result is quarantined: it is shown, but not ranked, until somebody else has run it again. A
second record of the same run from another machine ends the quarantine, or an entry in
results/reproduced.json, the maintainers' list:

    [{"workload": "gpt2.mini", "source": "<submission_hash>", "note": "who, when, where"}]
"""

from pathlib import Path

from harness.errors import UserError
from harness.system.files import BadFile, read_json
from harness.system.paths import ROOT

LIST = ROOT / "results" / "reproduced.json"
# FLOPs a second that no machine exceeds. `reference` is one core of the reference machine, where a
# matrix product of size 512 with one thread reaches 0.10e12 in float32 and 0.23e12 in bfloat16
# (torch 2.13). `cpu` is one core of any machine, with matrix units; `cuda` is one GPU. Both are
# twice what the makers of the fastest ones state.
PEAK = {"reference": 0.5e12, "cpu": 10e12, "cuda": 5e15}
# A result is implausible if it is more than this many times better than the frozen reference.
BEYOND = 3.0
# The times of one run on two machines agree if their ratio is at most this.
AGREES = 1.25


def implausible(record: dict, frozen: dict | None) -> str | None:
    """Return why a record's result is implausible, or None.

    Args:
        record: a record that counts, whole or compact.
        frozen: the frozen reference of the same workload version, or None.
    """
    return _impossible(record) or (_far_beyond(record, frozen) if frozen else None)


def _impossible(record: dict) -> str | None:
    """Return a message if the counted FLOPs take more time than was recorded, on any machine."""
    flops = record.get("flops")
    if not flops or not record.get("end"):
        return None
    # Compact lines have no engine.
    device = (record.get("engine") or {}).get("device")
    cuda = not (device == "cpu" if device else ".cpu." in str(record["prices"]))
    reference = PEAK["cuda" if cuda else "reference"]
    spans = [("the whole trial", flops, record["end"]["total"], reference)]
    if record.get("crossing") and record.get("step"):
        share = record["crossing"]["step"] / record["step"]
        spans.append(("the way to the goal", flops * share, record["time"], reference))
    if not cuda and record.get("cpu_seconds") is not None:
        spans.append(("its CPU time", flops, record["cpu_seconds"], PEAK["cpu"]))
    for what, work, seconds, peak in spans:
        if seconds < work / peak:
            message = f"{work:.3g} FLOPs in {seconds:.3g} s"
            return (
                f"{what}: {message}, at {peak:.2g} a second at most they take {work / peak:.3g} s"
            )
    return None


def _far_beyond(record: dict, frozen: dict) -> str | None:
    """Return a message if the result is more than BEYOND times better than the reference.

    Both reference seconds and steps count.
    """
    if record["outcome"] != "reached":
        return None
    pairs = [("reference seconds", record["time"], frozen["time"])]
    share = record["crossing"]["step"] / record["horizon"] if record.get("crossing") else None
    steps = [
        point["step"]
        for point in frozen.get("curve", ())
        if point["reference_seconds"] <= frozen["time"]
    ]
    if share and steps:
        pairs.append(("share of the budget's steps", share, max(steps) / record["budget"]["steps"]))
    for what, mine, theirs in pairs:
        if mine * BEYOND < theirs:
            return f"{theirs / mine:.1f} times better than the frozen reference in {what}"
    return None


def reproduced(record: dict, key: str) -> bool:
    """Return True if the maintainers' list has this source on this workload."""
    return (key, record["submission_hash"]) in _listed()


def confirms(first: dict, environment: dict, second: dict, second_environment: dict) -> bool:
    """Return True if two records of one run come from two machines and agree.

    Args:
        first, second: the records.
        environment, second_environment: the environment of each.
    """
    machines = environment.get("machine"), second_environment.get("machine")
    if None in machines or machines[0] == machines[1]:
        return False
    if not (first["outcome"] == second["outcome"] == "reached"):
        return False
    return max(first["time"], second["time"]) <= AGREES * min(first["time"], second["time"])


def _listed(path: Path | None = None) -> set[tuple[str, str]]:
    """Return the (workload, source) pairs of the maintainers' list."""
    path = path or LIST
    try:
        return {(entry["workload"], entry["source"]) for entry in read_json(path)}
    except FileNotFoundError:
        return set()
    except (BadFile, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a list of reproduced results: {error!r}",
            'entries such as {"workload": "gpt2.mini", "source": HASH, "note": "who, when"}',
        ) from None
