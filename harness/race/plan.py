"""From a resolved configuration to one trial: what is run, with which numbers, under which id."""

import json
from pathlib import Path

from harness import __version__
from harness.catalog import discover, kinds, space
from harness.catalog.definition import Definition, define
from harness.catalog.discover import Card
from harness.catalog.identity import source_hash
from harness.clock import prices, tables
from harness.errors import UserError, nearest
from harness.race.trial import Trial
from harness.system import hashing, sandbox


def hyperparameters(
    card: Card, settings: dict, trial: int | None, study: int, tuned: dict | None, goal: dict
) -> dict:
    """The point to race: defaults, point `trial` or a tuned record; then what the user set.

    What the workload's `goal` decides (`space.asked`) is no part of a point.
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
    for name, value in (
        (tuned or {}) | {k: v for k, v in settings.items() if v is not None}
    ).items():
        values[name] = space.check(declared, name, value, card.plugin.name)
    return values


def budget_factor(factor: int, definition: Definition) -> int:
    """How many times the workload's budget a trial is given."""
    if isinstance(factor, bool) or not isinstance(factor, int) or factor < 1:
        raise UserError(f"budget={factor}", "a whole number from 1 up: times the workload's budget")
    if factor > 1 and "stream" in definition.block:
        raise UserError(f"budget={factor}: {definition.key} is a stream, which has its own length")
    return factor


def tuned_point(definition: Definition, card: Card) -> dict:
    """The tuned hyperparameters recorded for this submission on this workload."""
    path = discover.ROOT / "results" / "tuned" / f"{definition.key}.json"
    points = json.loads(path.read_text()) if path.exists() else {}
    if card.plugin.name not in points:
        raise UserError(
            f"no tuned point of {card.plugin.name} is recorded for {definition.key}",
            nearest(card.plugin.name, points),
            "leave tuned=true out, or tune it: harness -m ... trial=range(0,8)",
        )
    return points[card.plugin.name]["hp"]


def make(config: dict) -> Trial:
    """Plan one trial from the resolved configuration (plain dictionaries); raises UserError."""
    sandbox.require(config["isolation"])
    settings = dict(config["submission"])
    name = settings.pop("name")
    plugin = discover.find(settings.pop("path", None) or name)
    card = discover.read(plugin)
    workload_tree = dict(config["workload"])
    definition = define(
        workload_tree.pop("name"), workload_tree, config["scale"], config["variant"]
    )
    tracks = discover.tracks(card)
    if definition.track not in tracks:
        raise UserError(
            f"submission {plugin.name} is for the track {' and '.join(tracks)}; "
            f"{definition.key} is of the track {definition.track}",
            do="harness list shows what fits",
        )
    tuned = tuned_point(definition, card) if config["tuned"] else None
    hp = hyperparameters(
        card, settings, config["trial"], config["study"], tuned, definition.block["goal"]
    )
    engine = dict(config["engine"])
    passes = prices.canonical_passes(card.literals.get("PASSES", {kinds.REFERENCE_STEP: 1}))
    table = tables.prices(definition, engine, passes)
    factor = budget_factor(config.get("budget", 1), definition)
    horizon = definition.block["horizon"] * factor
    if (
        "stream" not in definition.block
    ):  # a stream has its length, and what a step costs is charged
        horizon = prices.horizon_of(horizon, passes, table)
    source = source_hash(plugin)
    identity = {
        "workload": definition.training_hash,
        "submission": source,
        "hp": hp,
        "seed": config["seed"],
        "engine": engine,
        "horizon": horizon,
        "harness": __version__,
    } | (
        {"isolation": config["isolation"]} if config["isolation"] != "process" else {}
    )  # not verified, or proven by more: another run
    run_id = hashing.digest(hashing.canonical(identity))[:16]
    results = Path(config["results"]).expanduser().resolve()
    return Trial(
        definition,
        card,
        plugin.place if plugin.package is None else plugin.name,
        hp,
        passes,
        horizon,
        config["seed"],
        config["trial"],
        config["study"],
        engine,
        config["isolation"],
        table,
        config.get("until", "goal"),
        source,
        run_id,
        results / "runs" / definition.name / plugin.name / run_id,
        results,
        config.get("hopeless", False),
        factor,
    )
