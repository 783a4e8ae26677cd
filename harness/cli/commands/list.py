"""harness list: submissions and workloads, one line each; nothing is imported."""

import argparse
import ast
import fnmatch
import gc

from harness.catalog import discover, methods, reading
from harness.catalog.definition import track_of, tree_of
from harness.cli.arguments import parser
from harness.errors import UserError, nearest
from harness.system.terminal import printable

TEXT = """List submissions and workloads, one line each; nothing is imported. Of a submission:
family, name, tracks, badge (what a test proves of it), bytes of state for each byte of trained
parameters (measured; AdamW keeps 2), summary."""
# width of the column of tracks
TRACKS = 18


def run(arguments: list[str]) -> int:
    """Print a line for each submission and workload that is asked for."""
    reader = parser("list", TEXT)
    reader.add_argument(
        "what", nargs="?", default="all", choices=["all", "submissions", "workloads"]
    )
    reader.add_argument(
        "--like", default="*", metavar="PATTERN", help="names that match, e.g. 'ada*'"
    )
    reader.add_argument(
        "--track",
        choices=discover.TRACKS,
        help="what belongs to one track: submissions that race there, workloads of it",
    )
    asked = reader.parse_args(arguments)
    # The syntax trees of 400 files stay to the end: looking for garbage in them takes half
    # of the time.
    gc.disable()
    try:
        rows = _rows(asked)
    finally:
        gc.freeze()
        gc.enable()
    if not rows:
        where = f" on the track {asked.track}" if asked.track else ""
        raise UserError(
            f"nothing{where} matches --like {asked.like!r}",
            nearest(asked.like, [*discover.submissions(), *discover.workloads()]),
        )
    width = max(len(name) for _, name, _ in rows)
    for kind, name, text in rows:
        print(printable(f"{kind:14}{name:{width}}  {text}"))
    return 0


def _rows(asked: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Return kind, name and text of all that is asked for."""
    rows = []
    if asked.what != "submissions":
        rows += [("workload", name, _summary(name)) for name in _workloads(asked)]
    if asked.what != "workloads":
        plugins = discover.submissions().values()
        rows += [row for plugin in plugins if (row := _submission(plugin, asked))]
    return rows


def _submission(plugin: discover.Plugin, asked: argparse.Namespace) -> tuple[str, str, str] | None:
    """Return a submission's line, or None if it is not asked for."""
    if not fnmatch.fnmatch(plugin.name, asked.like):
        return None
    try:
        card = discover.read(plugin)
    except UserError as error:
        return ("broken", plugin.name, str(error))
    tracks = discover.tracks(card)
    if asked.track and asked.track not in tracks:
        return None
    track = "all" if len(tracks) == len(discover.TRACKS) else ",".join(tracks)
    known = methods.of(plugin.name)
    text = f"{track:{TRACKS}}  {known.badge or '-':15}  {known.words:>6}  {card.summary}"
    return (plugin.family or "submission", plugin.name, text)


def _workloads(asked: argparse.Namespace) -> list[str]:
    """Return the names of the workloads that are asked for."""
    names = [name for name in discover.workloads() if fnmatch.fnmatch(name, asked.like)]
    return [name for name in names if not asked.track or asked.track in _tracks(name)]


def _tracks(name: str) -> set[str]:
    """Return the tracks of a workload: its own, and those that its variants name."""
    tree = tree_of(name)
    scales = [scale for scale, block in tree.items() if isinstance(block, dict)]
    return {
        track_of(tree, scale, variant)
        for scale in scales
        for variant in (None, *(tree[scale].get("variants") or {}))
    }


def _summary(name: str) -> str:
    """Return the first line of a workload's docstring."""
    doc = ast.get_docstring(reading.tree(discover.workloads()[name].path)) or ""
    return doc.split("\n")[0].rstrip(".")
