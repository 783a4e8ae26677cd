"""Marks on a row of the leaderboard: each names a weakness of its records, by rule."""

from pathlib import Path

from harness.records.plausibility import implausible, reproduced

MARKS = {
    "one seed": "a workload rests on one run: no interval, no rank",
    "partial": "not raced on every workload that counts: no rank; the score is over those raced",
    "tuning only": "a time is that of the best tuning trial, which chance favours: the point"
    " was not re-run",
    "defaults": "a point is the submission's default (or one set by hand), not one that "
    "tuning chose",
    "selected": "several points were raced equally often, and the fastest is shown, which chance"
    " favours; the others are listed with the row",
    "unfit": "it fails on a workload whenever it is raced there, for the reason that is listed:"
    " counted as a miss",
    "misses": "a workload's goal was missed: counted as four times the reference's time",
    "all missed": "no goal was reached",
    "provisional": "reference seconds were priced on the machine of the run, not by the "
    "measured table",
    "mixed prices": "its runs were priced by more than one table",
    "unverified": "a run was made without isolation (isolation=inline): no rank",
    "process": "a run was made with isolation=process, which confines less than strict: only the"
    " maintainers' own are ranked",
    "not verified": "a run is not in the list of verified records: nobody else has raced it again"
    " under isolation=strict (harness verify): no rank",
    "own predictor": "its own code answered for it, not the workload's model with its weights",
    "quarantined": "a result is too good to be believed before somebody else has re-run it"
    " (harness comply says why): no rank",
    "disqualified": "a run handed over what the evaluator refused; it counts as a miss",
    "diverged": "a run ended in a value that is not finite, or exploded; it counts as a miss",
    "hopeless": "a run was ended early because it could not reach the goal; it counts as a miss",
    "no reference": "a workload has no frozen reference of this version: it is not in the score",
    "left out": "some of its records were not used; they are listed with the reason",
}


def marks_of(row, board, complained: bool) -> list[str]:
    """Return the marks of a board's row, in the order of MARKS.

    Args:
        complained: some records of the submission were left out.
    """
    outcomes = {run.record["outcome"] for run in row.counting}
    choices = row.counted.values()
    prices = {
        (run.key, Path(str(run.record.get("prices"))).name, bool(run.record.get("provisional")))
        for run in row.counting
        if "prices" in run.record
    }
    keys = {key for key, _, _ in prices}
    true = {
        "one seed": row.n < 2,
        "partial": bool(board.references.keys() - row.choices.keys()),
        "tuning only": any(choice.cell.evidence == "tuning" for choice in choices),
        "defaults": any(choice.cell.evidence == "seeds" and not choice.tuned for choice in choices),
        "selected": any(choice.selected for choice in choices),
        "unfit": any(choice.cell.evidence == "unfit" for choice in choices),
        "misses": 0 < row.reached < len(row.counted),
        "all missed": row.reached == 0,
        "provisional": any(run.record.get("provisional") for run in row.counting),
        "mixed prices": len(prices) > len(keys),
        "unverified": not all(run.record["verified"] for run in row.counting),
        "process": any(run.record.get("isolation") == "process" for run in row.counting),
        "not verified": not all(run.verified for run in row.counting),
        "own predictor": any(run.record.get("own_predictor") for run in row.counting),
        "quarantined": any(_too_good(run, board) for run in row.counting),
        "disqualified": "invalid" in outcomes,
        "diverged": "diverged" in outcomes,
        "hopeless": "hopeless" in outcomes,
        "no reference": any(w.key in row.choices for w in board.without_reference),
        "left out": complained,
    }
    return [mark for mark in MARKS if true[mark]]


def _too_good(run, board) -> bool:
    """Return True if a run's result must be reproduced before it is ranked."""
    if run.confirmed or reproduced(run.record, run.key):
        return False
    frozen = next((w.reference for w in board.workloads if w.key == run.key), None)
    return implausible(run.record, frozen) is not None
