"""The leaderboard as data: boards by track and scale, rows with score, interval, rank and marks.

Every run that was collected is in a row of a board, or in the collection's list of those left out.
"""

from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache

from harness.catalog import discover, identity, methods
from harness.catalog.definition import tree_of
from harness.errors import UserError
from harness.records.collect import Collection
from harness.records.references import reference_time
from harness.records.run import LARGEST_SHARE, RecordedRun, described
from harness.report.board import score
from harness.report.board.cells import by_workload, choose, unfit, with_misses
from harness.report.board.marks import marks_of
from harness.report.board.rows import CONSTRAINED, Board, Row, Workload, robust

# of a board's name: runs with more than a schedule's share of the budget
SELF_TUNING = "-self-tuning"
TRACKS = ("train", "finetune", "compress", "continual", "game")
SCALES = ("mini", "small", "base", "full")


def boards(collection: Collection, references: dict[str, dict]) -> list[Board]:
    """Return all boards of the records; runs that are not used move to `collection.left_out`."""
    groups: dict[tuple, list[RecordedRun]] = defaultdict(list)
    for run in collection.runs:
        groups[_place(run.record)].append(run)
    return [
        _board(place, groups[place], references, collection) for place in sorted(groups, key=_order)
    ]


def _place(rec: dict) -> tuple[bool, str, str, str]:
    """Return the board of a record: whether its budget was longer, track, constraint, scale."""
    longer = ((rec.get("budget") or {}).get("factor") or 1) > LARGEST_SHARE
    constraint = (rec["variant"] or "") if rec["track"] in CONSTRAINED else ""
    return longer, rec["track"], constraint, rec["scale"]


def _order(place: tuple[bool, str, str, str]) -> tuple:
    longer, track, constraint, scale = place
    known = {name: i for i, name in enumerate((*TRACKS, *SCALES))}
    return longer, known.get(track, 99), track, constraint, known.get(scale, 99), scale


def _board(
    place: tuple[bool, str, str, str],
    runs: list[RecordedRun],
    references: dict[str, dict],
    collection: Collection,
) -> Board:
    longer, track, constraint, scale = place
    track += f"-{constraint}" * bool(constraint) + SELF_TUNING * longer
    complaints: set[str] = set()
    workloads, kept = _versions(runs, references, collection, complaints)
    kept = _sources(kept, collection, complaints)
    groups: dict[str, list[RecordedRun]] = defaultdict(list)
    for run in kept:
        groups[run.record["submission"]].append(run)
    times = {w.key: w.time for w in workloads}
    rows = [_row(name, group, times) for name, group in sorted(groups.items())]
    trainings = {(run.key, run.record.get("training_hash")) for run in kept}
    for pair in collection.unfit:
        for row in rows:
            raced = (row.name, row.source) == (pair.submission, pair.source)
            known = (pair.key, pair.training_hash) in trainings
            if raced and known and pair.key not in row.choices:
                others = [choice.cell for choice in row.choices.values()]
                row.choices[pair.key] = unfit(others, times[pair.key])
    for row in rows:
        row.choices = {k: with_misses(c, row.choices) for k, c in row.choices.items()}
    own = frozenset(r.record["run_id"] for r in kept if r.where in collection.folders)
    board = Board(track, scale, constraint, workloads, rows, {}, own)
    every = {w.key: w.time for w in board.mains if w.time}
    # Rows without core workloads are scored on the workloads they have.
    for row in rows:
        core = {k: choice for k, choice in row.choices.items() if k in board.references}
        row.counted = core or {k: c for k, c in row.choices.items() if "@" not in k} or row.choices
        row.headline = score.headline(row.cells, board.references if core else every)
        row.robust = robust(row.choices, {w.key for w in board.bases})
        row.marks = marks_of(row, board, row.name in complaints)
    _rank(board)
    return board


def _versions(
    runs: list[RecordedRun], references: dict, collection: Collection, complaints: set
) -> tuple[list[Workload], list[RecordedRun]]:
    """Return the workloads of a board and their runs.

    A workload's version is its reference's, or else the most frequent. Runs at another horizon make
    a workload of their own, KEY@STEPS, which has no reference; other versions are left out.
    """
    workloads, kept, dropped = [], [], []
    for key, group in by_workload(runs).items():
        counts = Counter(run.record["workload_hash"] for run in group)
        steps = {run.record["workload_hash"]: run.whole_budget for run in group}
        frozen = references.get(key)
        if not frozen or frozen["workload_hash"] not in counts:
            frozen = None
        main = frozen["workload_hash"] if frozen else min(counts, key=lambda h: (-counts[h], h))
        versions = {"": main}
        for version in sorted(counts, key=lambda h: (-counts[h], h)):
            if steps[version] != steps[main]:
                versions.setdefault(f"@{steps[version]:g}", version)
        labels = {version: label for label, version in versions.items()}
        for run in group:
            version = run.record["workload_hash"]
            if version in labels:
                kept.append(replace(run, version=labels[version]) if labels[version] else run)
            else:
                reason = f"another version of the workload {key} ({version}, not {main})"
                dropped.append((run, reason))
                complaints.add(run.record["submission"])
        for label, version in versions.items():
            goal = next(r.record["goal"] for r in group if r.record["workload_hash"] == version)
            core = not label and "@" not in key and _core(group[0].record["workload"])
            reference = frozen if not label else None
            measured = reference_time(reference) if reference else None
            workloads.append(Workload(key + label, version, reference, goal, core, measured))
    collection.leave_out(dropped)
    return workloads, kept


@cache
def _core(name: str) -> bool:
    """Return True if the workload counts for the headline of its track, as its YAML says."""
    try:
        return bool(tree_of(name).get("core", False))
    except UserError:  # a workload from outside of the project
        return False


def _sources(runs: list[RecordedRun], collection: Collection, complaints: set) -> list[RecordedRun]:
    """Keep the runs of one version of each submission: the installed, or the most frequent."""
    groups: dict[str, list[RecordedRun]] = defaultdict(list)
    for run in runs:
        groups[run.record["submission"]].append(run)
    kept, dropped = [], []
    for name, group in sorted(groups.items()):
        hashes = Counter(run.record["submission_hash"] for run in group)
        version = min(hashes, key=lambda h: (-hashes[h], h))
        if len(hashes) > 1 and name in discover.submissions():
            installed = identity.source_hash(discover.submissions()[name])
            version = installed if installed in hashes else version
        for run in group:
            source = run.record["submission_hash"]
            if source == version:
                kept.append(run)
            else:
                versions = f"{source[:8]}, not {version[:8]}"
                dropped.append((run, f"another version of the source of {name} ({versions})"))
                complaints.add(name)
    collection.leave_out(dropped)
    return kept


def _row(name: str, runs: list[RecordedRun], references: dict[str, float | None]) -> Row:
    source = runs[0].record["submission_hash"]
    about = next((run.about for run in runs if run.about), {})
    shipped = discover.submissions().get(name)
    if shipped and not about:
        about = described(shipped.path)
    choices = {key: choose(group, references[key]) for key, group in by_workload(runs).items()}
    family = shipped.family if shipped else ""
    return Row(
        name,
        source,
        about.get("summary") or "",
        about.get("arxiv"),
        family,
        _badge(shipped, source),
        choices,
    )


def _badge(shipped: discover.Plugin | None, source: str) -> str | None:
    """Return the badge of a shipped submission, if its source is the one that was raced."""
    if not shipped or identity.source_hash(shipped) != source:
        return None
    return methods.of(shipped.name).badge


def _rank(board: Board) -> None:
    """Rank the rows that may be ranked, and order all.

    The ranked come first, by score; then the others, those raced on more workloads before.
    """
    barred = {"one seed", "partial", "unverified", "quarantined", "not verified"}
    ranked = [row for row in board.rows if row.headline and not barred.intersection(row.marks)]
    cells = {
        row.name: {k: c for k, c in row.cells.items() if k in board.references}
        for row in board.rows
        if row.headline
    }
    board.compared = score.pairs(cells, board.references)
    places = score.ranks([row.name for row in ranked], board.compared)
    for row in ranked:
        row.rank = places[row.name]
    times = {row.name: {k: cell.time for k, cell in row.cells.items()} for row in board.rows}
    bases = [w.key for w in board.bases]
    if bases and board.rows:
        for name, r in score.ratios(times, bases).items():
            next(row for row in board.rows if row.name == name).algoperf = score.algoperf(r)
    board.rows.sort(
        key=lambda row: (
            row.rank is None,
            row.headline is None,
            -len(board.references.keys() & row.cells.keys()),
            -(row.headline.score if row.headline else 0.0),
            row.name,
        )
    )
