"""Further seeds for the pairs whose order is undecided and matters, top places first.

The board says which neighbours its intervals do not separate. The first such two get one seed more,
on the workload whose scatter keeps them apart least. Then the board is made again.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from harness.campaign.board import commit
from harness.campaign.pairs import Pair
from harness.records.collect import collect
from harness.records.references import references
from harness.report.board.board import boards
from harness.report.board.rows import Board, Row

# Races every job of pairs, starting none after so many minutes (None: no limit); True if all began.
Race = Callable[[list[Pair], float | None], bool]
# seeds of a point beyond which a tie stays a tie
MOST = 25


@dataclass(frozen=True)
class Decision:
    """The pairs that are raced on further seeds, up to seed `seeds`, and why."""

    pairs: tuple[Pair, Pair]
    seeds: int
    reason: str


def decide(pairs: list[Pair], made: list[Board]) -> Decision | None:
    """Return what to race next: the first undecided neighbours of the first board, or None.

    Args:
        pairs: those of the campaign; no others get seeds.
        made: the boards of the records.
    """
    known = {(pair.definition.key, pair.submission): pair for pair in pairs if not pair.failed}
    for board in made:
        rows = [row for row in board.rows if row.rank]
        for place, (first, second) in enumerate(pairwise(rows), 1):
            result = board.compared[first.name, second.name]
            if result.verdict != "not separable" or not result.more:
                continue
            choices = list(_choices(board, first, second, known))
            if not choices:
                continue
            _, key, seeds = max(choices, key=lambda choice: choice[:2])
            reason = (
                f"places {place} and {place + 1} of {board.track} {board.scale} are undecided: "
                f"{first.name} and {second.name} ({result.ratio:.2f}x, {result.low:.2f} to "
                f"{result.high:.2f}); seed {seeds} of both on {key}"
            )
            return Decision((known[key, first.name], known[key, second.name]), seeds, reason)
    return None


def _choices(board: Board, first: Row, second: Row, known: dict) -> Iterator[tuple]:
    """Yield (variance that one seed more is spent on, workload, seeds to have) of two rows."""
    for key, reference in board.references.items():
        names = [(key, row.name) for row in (first, second)]
        if not all(name in known and known[name].more_helps for name in names):
            continue
        costs = [row.cells[key].unit_costs(reference) for row in (first, second)]
        seeds = max(map(len, costs)) + (costs[0].keys() == costs[1].keys())
        common = costs[0].keys() & costs[1].keys()
        if len(common) < 2 or seeds > MOST:
            continue
        variance = statistics.variance([costs[0][unit] - costs[1][unit] for unit in common])
        yield variance / len(common), key, seeds


def spend(
    pairs: list[Pair],
    results: Path,
    race: Race,
    say: Callable[[str], None],
    hours: float,
) -> bool:
    """Race further seeds until every order is decided or the hours are over.

    Args:
        race: races pairs for so many minutes, as the campaign's own trials are raced.
        say: called with a line for each decision, and one at the end.

    Returns:
        True if nothing is left to decide; False if the hours are over.
    """
    until = time.monotonic() + 3600 * hours
    while True:
        decision = decide(pairs, boards(collect([results]), references([results])))
        if decision is None:
            say("every order that further seeds could decide is decided")
            return True
        left = until - time.monotonic()
        if left <= 0:
            say(f"the {hours:g} hours are over; {decision.reason} would be next")
            return False
        say(decision.reason)
        for pair in decision.pairs:
            pair.more = max(pair.more, decision.seeds - pair.ruleset["seeds"])
        before = sum(len(pair.found) for pair in decision.pairs)
        race(list(decision.pairs), left / 60)
        commit(decision.pairs, results)
        if sum(len(pair.found) for pair in decision.pairs) == before:
            say("no trial brought a record: nothing more is raced")
            return False
