"""The leaderboard as data: boards by track and scale, rows with score, interval, rank and marks."""

from collections import Counter, defaultdict
from functools import cache

from harness.catalog import discover, identity
from harness.catalog.definition import tree_of
from harness.errors import UserError
from harness.records.collect import Collection
from harness.records.run import RecordedRun, described
from harness.report.board import score
from harness.report.board.cells import by_workload, choose, unfit
from harness.report.board.marks import marks_of
from harness.report.board.rows import CONSTRAINED, Board, Row, Workload

SELF_TUNING = "-self-tuning"  # of a board's name: runs with more than the workload's budget
TRACKS = ("train", "finetune", "compress", "continual")
SCALES = ("mini", "base", "full")


def boards(collection: Collection, references: dict[str, dict]) -> list[Board]:
    """All boards that the records make; what is not used is added to `collection.left_out`."""
    groups: dict[tuple, list[RecordedRun]] = defaultdict(list)
    for run in collection.runs:
        groups[_place(run.record)].append(run)
    return [
        _board(place, groups[place], references, collection) for place in sorted(groups, key=_order)
    ]


def _place(rec: dict) -> tuple[bool, str, str, str]:
    """The board of a record: whether its budget was longer, track, constraint, scale."""
    longer = (rec.get("budget") or {}).get("factor", 1) != 1
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
    workloads, kept = _versions(runs, references, collection.left_out, complaints)
    kept = _sources(kept, collection.left_out, complaints)
    groups: dict[str, list[RecordedRun]] = defaultdict(list)
    for run in kept:
        groups[run.record["submission"]].append(run)
    rows = [_row(name, group) for name, group in sorted(groups.items())]
    trainings = {(run.key, run.record.get("training_hash")) for run in kept}
    for one in collection.unfit:
        for row in rows:
            raced = (row.name, row.source) == (one.submission, one.source)
            if raced and one.key not in row.choices and (one.key, one.training_hash) in trainings:
                row.choices[one.key] = unfit([choice.cell for choice in row.choices.values()])
    board = Board(track, scale, constraint, workloads, rows, {})
    every = {w.key: w.time for w in board.mains if w.time}
    for row in rows:  # who raced on nothing of the core is scored on what there is
        core = {k: choice for k, choice in row.choices.items() if k in board.references}
        row.counted = core or row.choices
        row.headline = score.headline(row.cells, board.references if core else every)
        row.marks = marks_of(row, board, row.name in complaints)
    _rank(board)
    return board


def _versions(
    runs: list[RecordedRun], references: dict, left_out: list, complaints: set
) -> tuple[list[Workload], list[RecordedRun]]:
    """Keep the runs of one version of each workload: the reference's, or else the most frequent."""
    workloads, kept = [], []
    for key, group in by_workload(runs).items():
        frozen = references.get(key)
        hashes = Counter(run.record["workload_hash"] for run in group)
        version = (
            frozen["workload_hash"]
            if frozen and frozen["workload_hash"] in hashes
            else min(hashes, key=lambda h: (-hashes[h], h))
        )
        if not frozen or frozen["workload_hash"] != version:
            frozen = None
        for run in group:
            found = run.record["workload_hash"]
            if found == version:
                kept.append(run)
            else:
                reason = f"another version of the workload {key} ({found}, not {version})"
                left_out.append((run.where, reason))
                complaints.add(run.record["submission"])
        goal = next(run.record["goal"] for run in group if run.record["workload_hash"] == version)
        core = _core(group[0].record["workload"])
        workloads.append(Workload(key, version, frozen, goal, core))
    return workloads, kept


@cache
def _core(name: str) -> bool:
    """Whether the workload counts for the headline of its track, as its YAML says."""
    try:
        return bool(tree_of(name).get("core", False))
    except UserError:  # somebody else's
        return False


def _sources(runs: list[RecordedRun], left_out: list, complaints: set) -> list[RecordedRun]:
    """Keep the runs of one version of each submission: the installed, or the most frequent."""
    groups: dict[str, list[RecordedRun]] = defaultdict(list)
    for run in runs:
        groups[run.record["submission"]].append(run)
    kept = []
    for name, group in sorted(groups.items()):
        hashes = Counter(run.record["submission_hash"] for run in group)
        version = min(hashes, key=lambda h: (-hashes[h], h))
        if len(hashes) > 1 and name in discover.submissions():
            installed = identity.source_hash(discover.submissions()[name])
            version = installed if installed in hashes else version
        for run in group:
            found = run.record["submission_hash"]
            if found == version:
                kept.append(run)
            else:
                versions = f"{found[:8]}, not {version[:8]}"
                reason = f"another version of the source of {name} ({versions})"
                left_out.append((run.where, reason))
                complaints.add(name)
    return kept


def _row(name: str, runs: list[RecordedRun]) -> Row:
    source = runs[0].record["submission_hash"]
    told = next((run.about for run in runs if run.about), {})
    shipped = discover.submissions().get(name)
    if shipped and not told:
        told = described(shipped.path)
    choices = {key: choose(group) for key, group in by_workload(runs).items()}
    family = shipped.family if shipped else ""
    return Row(
        name,
        source,
        told.get("summary") or "",
        told.get("arxiv"),
        family,
        _badge(shipped, source),
        choices,
    )


def _badge(shipped: discover.Plugin | None, source: str) -> str | None:
    """The BADGE of a shipped submission's file, where that is the source that was raced."""
    if not shipped or identity.source_hash(shipped) != source:
        return None
    try:
        return discover.read(shipped).literals.get("BADGE")
    except UserError:  # a file that cannot be read is the races' business
        return None


def _rank(board: Board) -> None:
    """Rank the rows that may be ranked, and order all.

    The ranked come first, by score; then the others, those raced on more workloads before.
    """
    barred = {"one seed", "partial", "unverified", "quarantined"}
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
