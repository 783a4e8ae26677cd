"""Results too good to be believed at once: faster than physics, or far beyond the best known.

Such a result is quarantined: shown, but not ranked, until somebody else has re-run it. A second
record of the same run from another machine lifts it, or an entry in results/reproduced.json, the
maintainers' list:

    [{"workload": "gpt2.mini", "source": "<submission_hash>", "note": "who, when, where"}]
"""

from pathlib import Path

from harness.errors import UserError
from harness.system.files import BadFile, read_json
from harness.system.paths import ROOT

LIST = ROOT / "results" / "reproduced.json"
# FLOPs a second that no machine exceeds. `reference`: one core of the reference machine; a matrix
# product makes 0.10e12 in float32 and 0.23e12 in bfloat16 there, one thread, size 512, torch 2.13.
# `cpu`: a core anywhere, matrix units included; `cuda`: one GPU. Twice what the best are sold with.
PEAK = {"reference": 0.5e12, "cpu": 10e12, "cuda": 5e15}
BEYOND = 3.0  # times better than the frozen reference
AGREES = 1.25  # two times of the same run on two machines are at most this far apart


def suspicion(rec: dict, frozen: dict | None) -> str | None:
    """Why a record's result is too good to be believed at once, or None.

    Args:
        rec: a record that counts, whole or compact.
        frozen: the frozen reference of the same workload version, or None.
    """
    return _impossible(rec) or (_far_beyond(rec, frozen) if frozen else None)


def _impossible(rec: dict) -> str | None:
    """Less time than the counted FLOPs take at a speed that no machine reaches."""
    made = rec.get("flops")
    if not made or not rec.get("end"):
        return None
    device = (rec.get("engine") or {}).get("device")  # compact lines have none
    cuda = not (device == "cpu" if device else ".cpu." in str(rec["prices"]))
    reference = PEAK["cuda" if cuda else "reference"]
    spans = [("the whole trial", made, rec["end"]["total"], reference)]
    if rec.get("crossing") and rec.get("step"):
        share = rec["crossing"]["step"] / rec["step"]
        spans.append(("the way to the goal", made * share, rec["time"], reference))
    if not cuda and rec.get("cpu_seconds") is not None:
        spans.append(("its CPU time", made, rec["cpu_seconds"], PEAK["cpu"]))
    for what, flops, seconds, peak in spans:
        if seconds < flops / peak:
            told = f"{flops:.3g} FLOPs in {seconds:.3g} s"
            return f"{what}: {told}, at {peak:.2g} a second at most they take {flops / peak:.3g} s"
    return None


def _far_beyond(rec: dict, frozen: dict) -> str | None:
    """More than BEYOND times faster than the frozen reference, in seconds or in steps."""
    if rec["outcome"] != "reached":
        return None
    pairs = [("reference seconds", rec["time"], frozen["time"])]
    share = rec["crossing"]["step"] / rec["horizon"] if rec.get("crossing") else None
    steps = [p["step"] for p in frozen.get("curve", ()) if p["reference_seconds"] <= frozen["time"]]
    if share and steps:
        pairs.append(("share of the budget's steps", share, max(steps) / rec["budget"]["steps"]))
    for what, mine, theirs in pairs:
        if mine * BEYOND < theirs:
            return f"{theirs / mine:.1f} times better than the frozen reference in {what}"
    return None


def reproduced(rec: dict, key: str) -> bool:
    """Whether the maintainers' list has this source on this workload."""
    return (key, rec["submission_hash"]) in _listed()


def confirms(one: dict, here: dict, other: dict, there: dict) -> bool:
    """Whether two records of one run come from two machines and say the same.

    Args:
        one, other: the records; here, there: their environments.
    """
    if None in (here.get("machine"), there.get("machine")) or here["machine"] == there["machine"]:
        return False
    if not (one["outcome"] == other["outcome"] == "reached"):
        return False
    return max(one["time"], other["time"]) <= AGREES * min(one["time"], other["time"])


def _listed(path: Path | None = None) -> set[tuple[str, str]]:
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
