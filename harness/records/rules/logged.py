"""Rules about the log, and whether the result follows from it."""

from fractions import Fraction

from harness.catalog.kinds import parse_kind
from harness.clock import prices, reading
from harness.records import judging, log, stream_metrics
from harness.records.rules.record_view import ROUNDED, Finding, RecordView, fail, needs_folder, same
from harness.records.schema import check

# Keys that the log's first row and run.json must agree on.
DESCRIBED = (
    "run_id", "workload", "scale", "variant", "training_hash", "submission", "submission_hash",
    "hp", "seed", "trial", "study", "horizon", "passes", "engine", "isolation", "harness",
)  # fmt: skip


def complete(view: RecordView) -> Finding | None:
    """Check that the record has its schema's fields and an outcome that counts."""
    try:
        if not view.checked:
            check(view.record)
    except ValueError as error:
        return fail(str(error))
    return None


def chain(view: RecordView) -> Finding | None:
    """Check that the log's hash chain is whole and ends in the value that run.json states."""
    if not view.folder:
        return needs_folder()
    stated = view.record.get("chain", "")
    problems = log.verify(view.folder / "log.jsonl", stated)
    if not stated:
        problems.append("run.json states no chain value")
    return fail(problems[0]) if problems else None


def one_result(view: RecordView) -> Finding | None:
    """Check that run.json says what the log's last row says."""
    if not view.folder:
        return needs_folder()
    ended = next((row for row in reversed(view.rows) if row["event"] == "ended"), None)
    if ended is None:
        return fail("the log has no row that ends the trial")
    record = view.record
    differing = sorted(k for k, v in ended["result"].items() if not same(record.get(k), v, 0.0))
    return fail(f"they differ in {', '.join(differing)}") if differing else None


def as_started(view: RecordView) -> Finding | None:
    """Check that the result is of the trial that was started: source, point, seed, horizon."""
    if not view.folder:
        return needs_folder()
    first = view.rows[0] if view.rows else {}
    if first.get("event") != "started":
        return fail("the log does not begin with the trial's start")
    # The workload's hash may differ: a finished trial is judged again when its goal changes.
    differing = [k for k in DESCRIBED if not same(first.get(k), view.record.get(k), 0.0)]
    return fail(f"they differ in {', '.join(differing)}") if differing else None


def goal_held(view: RecordView) -> Finding | None:
    """Check that a goal that was reached was met at two evaluations in a row."""
    if view.record["outcome"] != "reached" or view.crossing is not None:
        return None
    if not view.evaluations:
        return fail("there is no evaluation")
    return fail(
        f"of {len(view.evaluations)} evaluations no two in a row meet {view.record['goal']}"
    )


def rederived(view: RecordView) -> Finding | None:
    """Check that crossing, outcome and reference seconds are those that the log gives."""
    record, evaluations, crossing = view.record, view.evaluations, view.crossing
    if not evaluations or "end" not in record:
        return (
            None
            if not evaluations and "end" not in record
            else fail("the record has no evaluations or no final row")
        )
    crossed = record.get("crossing") or {}
    stated = {"time": record["time"], "step": crossed.get("step"), "after": crossed.get("after")}
    if not view.folder:
        if crossing is None or record["outcome"] != "reached":
            return fail("the goal was met") if crossing is not None else None
        derived = {"time": evaluations[crossing]["seconds"], "step": evaluations[crossing]["step"]}
        derived["after"] = evaluations[crossing - 1]["seconds"]
        return _compared(stated, derived, ROUNDED)
    derived: dict = {"time": None, "step": None, "after": None}
    if crossing is not None:
        derived = {
            "time": _total(evaluations[: crossing + 1], view.table),
            "step": evaluations[crossing]["step"],
        }
        derived["after"] = _total(evaluations[:crossing], view.table)
    stated |= {"end": record["end"]["total"], "outcome": record["outcome"]}
    derived |= {"end": _total(evaluations, view.table), "outcome": _outcome(view)}
    if view.streaming:
        derived["continual"] = stream_metrics.report(record["config"], view.rows)
        stated["continual"] = record.get("continual")
    return _compared(stated, derived)


def _compared(stated: dict, derived: dict, *within: float) -> Finding | None:
    differing = [key for key in derived if not same(stated[key], derived[key], *within)]
    return (
        fail("; ".join(_difference(k, stated[k], derived[k]) for k in differing))
        if differing
        else None
    )


def _difference(name: str, stated, derived) -> str:
    if isinstance(derived, dict):
        return f"{name} is not what the log gives"
    return f"{name} is {stated}, the log gives {derived}"


def _total(rows: list[dict], table: prices.Table) -> float:
    return reading.read(rows, table).total


def _outcome(view: RecordView) -> str:
    """Return the outcome that the log gives; the stated one if evaluations alone do not decide."""
    record = view.record
    # The terms stop at the goal. That is also right for a trial that used all its budget, since at
    # the horizon the outcome is the same.
    if result := judging.ending(view.terms, view.evaluations, view.table, None):
        return result[0]
    # Earlier trials decide the first; a refused message or pass decides the second.
    others = ("hopeless", "invalid")
    return record["outcome"] if record["outcome"] in others else "unfinished"


def counts(view: RecordView) -> Finding | None:
    """Check that passes are of declared kinds, within budget, add up, and explain the samples."""
    record = view.record
    counted, known = record.get("counts"), set(prices.canonical_passes(record["passes"]))
    if counted is None:
        return None
    if unknown := sorted(set(counted) - known):
        return fail(f"{unknown[0]} was made, declared are {', '.join(sorted(known))}")
    budget = record["budget"]["steps"]
    overdrawn = None if view.streaming else prices.overdrawn(counted, budget, view.table)
    if overdrawn and record["outcome"] != "invalid":
        return fail(overdrawn)
    shapes = {kind: parse_kind(kind) for kind in counted}
    grads = ("forward_backward", "per_example_gradients")
    examples = sum((counted[k] * s[1] for k, s in shapes.items() if s[0] in grads), Fraction(0))
    batch = (record.get("config") or {}).get("batch")
    if batch and record["samples"] > examples * batch:
        return fail(f"{record['samples']} samples, the passes take {float(examples * batch):g}")
    if not view.folder:
        return needs_folder()
    total: dict[str, int] = {}
    for row in (r for r in view.rows if r["event"] in ("evaluation", "paused")):
        for kind, n in row["passes"].items():
            total[kind] = total.get(kind, 0) + n
        if {k: n for k, n in row["counts"].items() if n} != {k: n for k, n in total.items() if n}:
            return fail(f"{row['counts']} at step {row['step']}, the segments give {total}")
    return None


def monotone(view: RecordView) -> Finding | None:
    """Check that steps, samples, CPU and wall seconds never fall, nor steps pass the horizon."""
    names = ("step", "samples", "cpu_seconds", "wall_seconds") if view.folder else ("step",)
    for name in names:
        for before, row in zip(view.evaluations, view.evaluations[1:]):
            if row[name] < before[name] or (name == "step" and row[name] == before[name]):
                return fail(f"{name} {before[name]}, then {row[name]} at step {row['step']}")
    last = view.evaluations[-1]["step"] if view.evaluations else 0
    return fail(f"step {last}") if last > view.record["horizon"] else None


def lost_work(view: RecordView) -> Finding | None:
    """Check that steps that a crash threw away are charged."""
    if not view.folder:
        return needs_folder()
    rows, lost, furthest = log.rows(view.folder / "log.jsonl"), 0, 0
    for row in rows:
        if row["event"] == "resumed":
            least = lost + max(0, furthest - row["step"])
            if row["lost_steps"] < least:
                message = f"{row['lost_steps']} at the resumption at step {row['step']}"
                return fail(f"{message}, at least {least} were lost")
            lost, furthest = row["lost_steps"], row["step"]
        furthest = max(furthest, row.get("step") or 0)
    stated = view.record.get("lost_steps", lost)
    return fail(f"{stated} are charged, {lost} were lost") if stated < lost else None
