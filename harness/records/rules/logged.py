"""Rules about what the log says, and whether the result follows from it."""

from fractions import Fraction

from harness.catalog.kinds import parse_kind
from harness.clock import prices, reading
from harness.records import judging, log, stream_metrics
from harness.records.rules.record_view import ROUNDED, Case, Finding, fail, needs_folder, same
from harness.records.run import check

DESCRIBED = (
    "run_id", "workload", "scale", "variant", "training_hash", "submission", "submission_hash",
    "hp", "seed", "trial", "study", "horizon", "passes", "engine", "isolation", "harness",
)  # fmt: skip


def complete(case: Case) -> Finding | None:
    """It has its schema's fields and an outcome that counts."""
    try:
        check(case.record)
    except ValueError as error:
        return fail(str(error))
    return None


def chain(case: Case) -> Finding | None:
    """The log's hash chain is whole and ends in the value that run.json states."""
    if not case.folder:
        return needs_folder()
    stated = case.record.get("chain", "")
    problems = log.verify(case.folder / "log.jsonl", stated)
    if not stated:
        problems.append("run.json states no chain value")
    return fail(problems[0]) if problems else None


def one_result(case: Case) -> Finding | None:
    """run.json says what the log's last row says."""
    if not case.folder:
        return needs_folder()
    ended = next((row for row in reversed(case.rows) if row["event"] == "ended"), None)
    if ended is None:
        return fail("the log has no row that ends the trial")
    rec = case.record
    other = sorted(k for k, v in ended["result"].items() if not same(rec.get(k), v, 0.0))
    return fail(f"they differ in {', '.join(other)}") if other else None


def as_started(case: Case) -> Finding | None:
    """What is reported is what was started: workload, source, hyperparameters, seed, horizon."""
    if not case.folder:
        return needs_folder()
    first = case.rows[0] if case.rows else {}
    if first.get("event") != "started":
        return fail("the log does not begin with the trial's start")
    # Not the workload's hash: with another goal, a finished trial is judged again.
    other = [k for k in DESCRIBED if not same(first.get(k), case.record.get(k), 0.0)]
    return fail(f"they differ in {', '.join(other)}") if other else None


def goal_held(case: Case) -> Finding | None:
    """A goal that was reached was met at two evaluations in a row."""
    if case.record["outcome"] != "reached" or case.at is not None:
        return None
    if not case.seen:
        return fail("there is no evaluation")
    return fail(f"of {len(case.seen)} evaluations no two in a row meet {case.record['goal']}")


def rederived(case: Case) -> Finding | None:
    """Crossing, outcome and reference seconds are those that the log gives."""
    rec, seen, at = case.record, case.seen, case.at
    if not seen or "end" not in rec:
        return None if not seen and "end" not in rec else fail("the evaluations, or the end, lack")
    crossed = rec.get("crossing") or {}
    stated = {"time": rec["time"], "step": crossed.get("step"), "after": crossed.get("after")}
    if not case.folder:
        if at is None or rec["outcome"] != "reached":
            return fail("the goal was met") if at is not None else None
        given = {"time": seen[at]["seconds"], "step": seen[at]["step"]}
        given["after"] = seen[at - 1]["seconds"]
        return _compared(stated, given, ROUNDED)
    given: dict = {"time": None, "step": None, "after": None}
    if at is not None:
        given = {"time": _total(seen[: at + 1], case.table), "step": seen[at]["step"]}
        given["after"] = _total(seen[:at], case.table)
    stated |= {"end": rec["end"]["total"], "outcome": rec["outcome"]}
    given |= {"end": _total(seen, case.table), "outcome": _outcome(case)}
    if case.streaming:
        given["continual"] = stream_metrics.report(rec["config"], case.rows)
        stated["continual"] = rec.get("continual")
    return _compared(stated, given)


def _compared(stated: dict, given: dict, *within: float) -> Finding | None:
    other = [key for key in given if not same(stated[key], given[key], *within)]
    return fail("; ".join(_told(k, stated[k], given[k]) for k in other)) if other else None


def _told(name: str, stated, given) -> str:
    if isinstance(given, dict):
        return f"{name} is not what the log gives"
    return f"{name} is {stated}, the log gives {given}"


def _total(rows: list[dict], table: prices.Table) -> float:
    return reading.read(rows, table).total


def _outcome(case: Case) -> str:
    """The outcome that the log gives; the stated one where the evaluations alone do not say."""
    rec = case.record
    # "goal" serves a trial that used up its budget too: at the horizon both end alike.
    if result := judging.ending(case.terms, case.seen, case.table, None):
        return result[0]
    others = ("hopeless", "invalid")  # the one by earlier trials, the other by what was refused
    return rec["outcome"] if rec["outcome"] in others else "unfinished"


def counts(case: Case) -> Finding | None:
    """Passes are of declared kinds, within budget, add up, and explain the samples."""
    rec = case.record
    made, known = rec.get("counts"), set(prices.canonical_passes(rec["passes"]))
    if made is None:
        return None
    if unknown := sorted(set(made) - known):
        return fail(f"{unknown[0]} was made, declared are {', '.join(sorted(known))}")
    budget = rec["budget"]["steps"]
    over = None if case.streaming else prices.overdrawn(made, budget, case.table)
    if over and rec["outcome"] != "invalid":
        return fail(over)
    shapes = {kind: parse_kind(kind) for kind in made}
    grads = ("forward_backward", "per_example_gradients")
    batches = sum((made[k] * s[1] for k, s in shapes.items() if s[0] in grads), Fraction(0))
    batch = (rec.get("config") or {}).get("batch")
    if batch and rec["samples"] > batches * batch:
        return fail(f"{rec['samples']} samples, the passes take {float(batches * batch):g}")
    if not case.folder:
        return needs_folder()
    total: dict[str, int] = {}
    for row in (r for r in case.rows if r["event"] in ("evaluation", "paused")):
        for kind, n in row["passes"].items():
            total[kind] = total.get(kind, 0) + n
        if {k: n for k, n in row["counts"].items() if n} != {k: n for k, n in total.items() if n}:
            return fail(f"{row['counts']} at step {row['step']}, the segments give {total}")
    return None


def monotone(case: Case) -> Finding | None:
    """Steps, samples, CPU and wall seconds never fall, and no step is beyond the horizon."""
    names = ("step", "samples", "cpu_seconds", "wall_seconds") if case.folder else ("step",)
    for name in names:
        for before, row in zip(case.seen, case.seen[1:]):
            if row[name] < before[name] or (name == "step" and row[name] == before[name]):
                return fail(f"{name} {before[name]}, then {row[name]} at step {row['step']}")
    last = case.seen[-1]["step"] if case.seen else 0
    return fail(f"step {last}") if last > case.record["horizon"] else None


def lost_work(case: Case) -> Finding | None:
    """Steps that a crash threw away are charged."""
    if not case.folder:
        return needs_folder()
    every, lost, furthest = log.rows(case.folder / "log.jsonl"), 0, 0
    for row in every:
        if row["event"] == "resumed":
            least = lost + max(0, furthest - row["step"])
            if row["lost_steps"] < least:
                told = f"{row['lost_steps']} at the resumption at step {row['step']}"
                return fail(f"{told}, at least {least} were lost")
            lost, furthest = row["lost_steps"], row["step"]
        furthest = max(furthest, row.get("step") or 0)
    stated = case.record.get("lost_steps", lost)
    return fail(f"{stated} are charged, {lost} were lost") if stated < lost else None
