"""Which hyperparameters a race uses: a tuned point, SPACE's defaults or another point of it."""

from pathlib import Path
from typing import NamedTuple

from harness.catalog import naming, space
from harness.catalog.card import Card
from harness.catalog.definition import Definition
from harness.errors import UserError, nearest
from harness.system.command_line import race
from harness.system.files import BadFile, read_json
from harness.system.paths import ROOT


class Point(NamedTuple):
    """Hyperparameters, where they come from in words (tuned point of gpt2.mini), and the budget.

    Attributes:
        budget: the share of the workload's budget, which the schedule spans.
    """

    hp: dict
    origin: str
    budget: float = 1


def choose(config: dict, card: Card, definition: Definition) -> Point:
    """Return the point that a configuration asks for.

    `trial=N` takes point N of SPACE. Otherwise the point is the tuned one that is recorded for the
    workload, else SPACE's defaults; `tuned` requires the one (true) or asks for the other (false).
    What the user set for a hyperparameter takes the point's place. The budget is what the user set,
    else the tuned point's, else 1.

    Raises:
        UserError: there is no tuned point though one is required, or a value is wrong.
    """
    given = {
        key: value
        for key, value in config["submission"].items()
        if key not in ("name", "path") and value is not None
    }
    trial, study, goal = config["trial"], config["study"], definition.block["goal"]
    tuned, origin, budget = None, "defaults of SPACE", 1
    if trial is not None:
        if config["tuned"]:
            raise UserError(
                f"tuned=true and trial={trial} contradict each other",
                "the tuned point, or a point of SPACE",
                "leave one of them out",
            )
        origin = f"point {trial} of SPACE" + (f" in study {study}" if study else "")
    elif config["tuned"] is not False:
        recorded = _tuned(config, card, definition)
        if recorded is None:
            origin += ": no tuned point is recorded"
        elif not config["tuned"] and (reason := _misfit(recorded["hp"], card)):
            origin += f": the tuned point recorded does not fit ({reason})"
        else:
            tuned, budget = recorded["hp"], recorded.get("budget", 1)
            origin = f"tuned point of {definition.key}"
            if budget != 1 and config["budget"] is None:
                origin += f" at {budget:g} of the budget"
    if given:
        words = " ".join(f"submission.{key}={value}" for key, value in given.items())
        origin += f", with {words}"
    if config["budget"] is not None:
        budget = config["budget"]
    return Point(hyperparameters(card, given, trial, study, tuned, goal), origin, budget)


def hyperparameters(
    card: Card, settings: dict, trial: int | None, study: int, tuned: dict | None, goal: dict
) -> dict:
    """Return a whole point: defaults, point `trial` or a tuned one; then what the user set.

    What the workload's `goal` decides (`space.asked`) is not part of a point.
    """
    declared, where = card.literals["SPACE"], str(card.plugin.path)
    space.validate(declared, where)
    if trial is not None and not (0 <= trial < space.POINTS and study >= 0):
        raise UserError(
            f"trial={trial} study={study}",
            f"trials are counted from 0 to {space.POINTS - 1}, studies from 0",
        )
    ours = space.asked(declared, goal, where)
    values = space.default(ours) if trial is None else space.point(ours, study, trial)
    for name, value in ((tuned or {}) | settings).items():
        values[name] = space.check(declared, name, value, card.plugin.name)
    return values


def _tuned(config: dict, card: Card, definition: Definition) -> dict | None:
    """Return the tuned point recorded for this submission on this workload, if there is one.

    A campaign writes them into its results folder; the project's own are in results/tuned/.
    """
    known: set[str] = set()
    for results in (Path(config["results"]).expanduser(), ROOT / "results"):
        points = _recorded(results / "tuned" / f"{definition.key}.json")
        if card.plugin.name in points:
            recorded = points[card.plugin.name]
            return recorded | {"hp": _without_goals(recorded["hp"], card)}
        known |= set(points)
    if config["tuned"]:
        settings = [f"workload={definition.name}", *naming.settings(card.plugin)]
        raise UserError(
            f"no tuned point of {card.plugin.name} is recorded for {definition.key}",
            nearest(card.plugin.name, known),
            f"leave tuned=true out, or race points of SPACE: "
            f"{race(settings, sweep=True, trial='range(0,5)')}",
        )
    return None


def _recorded(path: Path) -> dict:
    """Return the tuned points in a file, by submission; none if there is no file.

    Raises:
        UserError: the file is damaged.
    """
    if not path.exists():
        return {}
    points = read_json(path)
    entries = points.values() if isinstance(points, dict) else [None]
    if not all(
        isinstance(each, dict)
        and isinstance(each.get("hp"), dict)
        and isinstance(each.get("budget", 1), int | float)
        for each in entries
    ):
        raise BadFile(path, "it is not a file of tuned points", "remove it, or restore it")
    return points


def _without_goals(hp: dict, card: Card) -> dict:
    """Return a point without the values that a workload's goal decides."""
    declared = card.literals["SPACE"]
    decided = {name for name, spec in declared.items() if isinstance(spec, dict) and "goal" in spec}
    return {name: value for name, value in hp.items() if name not in decided}


def _misfit(tuned: dict, card: Card) -> str | None:
    """Return why a recorded point is not one of SPACE as it is now, or None if it is."""
    try:
        for name, value in tuned.items():
            space.check(card.literals["SPACE"], name, value, card.plugin.name)
    except UserError as error:
        return error.what
    return None
