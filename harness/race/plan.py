"""From a resolved configuration to one trial: what is run, with which numbers, under which id."""

import math
from pathlib import Path

from harness.catalog import discover, identity, key, kinds, labels, numbers
from harness.catalog.card import Card
from harness.catalog.definition import (
    Definition,
    allows_predictor,
    define,
    forward_only,
    require_functions,
)
from harness.clock import prices, tables
from harness.errors import UserError
from harness.race import point
from harness.race.configuration import engine_for, processes_of
from harness.race.trial import Trial, steps_of
from harness.system import sandbox
from harness.train import predictor

# of seeds and studies
LARGEST = 2**63


def budget_share(budget: float, definition: Definition) -> float:
    """Return the share of the workload's budget that a trial is given; whole shares as integers.

    Raises:
        UserError: it is not a positive number, or the workload is a stream and it is not 1.
    """
    valid = isinstance(budget, int | float) and not isinstance(budget, bool)
    if not valid or not math.isfinite(budget) or budget <= 0:
        raise UserError(
            f"budget={budget}", "a positive number, the share of the workload's budget", "budget=1"
        )
    if budget != 1 and "stream" in definition.block:
        raise UserError(
            f"budget={budget}: {definition.key} is a stream, which has its own length",
            "1 for a stream",
            "leave budget= out",
        )
    return int(budget) if budget == int(budget) else float(budget)


def _check_plain_settings(config: dict) -> None:
    """Raise UserError if seed or study is out of bounds, or if no results folder is named."""
    for name in ("seed", "study"):
        if not 0 <= config[name] < LARGEST:
            raise UserError(f"{name}={config[name]}", "a whole number from 0 up, below 2^63")
    if not config["results"].strip():
        raise UserError("results= has no folder", "the path of a folder", "results=results")


def _check_ranks(ranks: int, definition: Definition) -> None:
    """Raise UserError if a batch has fewer examples than there are processes."""
    batch = definition.block["batch"]
    if ranks > batch:
        raise UserError(
            f"engine.processes={ranks}, and a batch of {definition.key} has {batch} examples",
            "a process for each example at most",
            f"engine.processes={batch}",
        )


def _check_predictor(card: Card, definition: Definition) -> None:
    """Raise UserError if the submission predicts and may know more than it paid for.

    A workload's inputs may hold its answers; and what a predictor keeps of clients' examples was
    never exchanged between them.
    """
    if predictor.NAME not in card.functions:
        return
    if "fed" in definition.block:
        raise UserError(
            f"submission {card.plugin.name} answers with its own {predictor.NAME}(), and what it "
            f"keeps of the clients of {definition.name} is not counted as an exchange",
            "workloads without clients",
            "hand one model over, or race it on another workload",
        )
    if not allows_predictor(definition):
        raise UserError(
            f"submission {card.plugin.name} answers with its own {predictor.NAME}(), and the "
            f"inputs of {definition.name} may hold the answers",
            f"workloads whose YAML has `{numbers.PREDICT}: true`: their inputs tell nothing of the "
            "labels",
            f"race it where the YAML says `{numbers.PREDICT}: true`: harness list workloads",
        )


def _passes(card: Card, definition: Definition) -> dict[str, float]:
    """Return the passes that a submission makes in a step.

    Raises:
        UserError: the workload does not offer one of them.
    """
    passes = prices.canonical_passes(card.literals.get("PASSES", {kinds.REFERENCE_STEP: 1}))
    if shared := [kind for kind in passes if kinds.ranks_of(kind) > 1]:
        raise UserError(
            f"PASSES of {card.plugin.name} names {shared[0]}: the engine decides how many "
            "processes share a pass",
            do=f"PASSES with {kinds.alone(shared[0])}",
        )
    derivatives = [kind for kind in passes if kinds.parse_kind(kind)[0] != kinds.FORWARD]
    if derivatives and forward_only(definition):
        raise UserError(
            f"submission {card.plugin.name} makes passes of the kind {derivatives[0]}, and "
            f"{definition.name} offers forward passes only",
            f"submissions whose PASSES are of the kind {kinds.FORWARD} alone, as mezo's",
            f"race it where the YAML has no `{numbers.FORWARD_ONLY}: true`: harness list workloads",
        )
    passes = with_exchanges(passes, definition)
    # Labels are charged to the time, and take nothing from the horizon.
    return passes | ({kinds.LABEL: 0} if labels.BLOCK in definition.block else {})


def with_exchanges(passes: dict[str, float], definition: Definition) -> dict[str, float]:
    """Return passes with the exchanges that they cause where the examples belong to clients.

    A submission that declares none knows of no clients: its batches are mixed, so each pass that
    computes a gradient counts one (`Task.exchange`).
    """
    if "fed" not in definition.block or not all(map(kinds.computes, passes)):
        return passes
    mixed = [n for kind, n in passes.items() if kinds.parse_kind(kind)[0] not in kinds.SILENT]
    return passes | {kinds.EXCHANGE: sum(mixed)} if mixed else passes


def _definition(config: dict, card: Card) -> Definition:
    """Return the workload that a configuration asks for; raise UserError if the two do not fit."""
    workload_tree = dict(config["workload"])
    definition = define(
        workload_tree.pop("name"), workload_tree, config["scale"], config["variant"]
    )
    require_functions(definition)
    tracks = discover.tracks(card)
    if definition.track not in tracks:
        shipped = discover.submissions().get(card.plugin.name) == card.plugin
        own = f', or write TRACKS = ["{definition.track}"] in {card.plugin.path.name}'
        raise UserError(
            f"submission {card.plugin.name} is for the track {' and '.join(tracks)}; "
            f"{definition.key} is of the track {definition.track}",
            do=f"harness list --track {definition.track}" + ("" if shipped else own),
        )
    _check_predictor(card, definition)
    return definition


def _check_diagnosis(config: dict, definition: Definition) -> None:
    """Raise UserError if a diagnosis is asked for where there is no loss to differentiate."""
    if config.get("diagnose", False) and (definition.track != "train" or forward_only(definition)):
        kind = "offers forward passes only" if forward_only(definition) else "has another track"
        raise UserError(
            f"diagnose=true: {definition.key} {kind} ({definition.track})",
            "workloads of the track train with a loss that can be differentiated",
            "leave diagnose= out, or: harness list --track train",
        )


def make(config: dict) -> Trial:
    """Plan one trial from the resolved configuration (plain dictionaries); raises UserError."""
    _check_plain_settings(config)
    submission = config["submission"]
    plugin = discover.find(submission.get("path") or submission["name"])
    card = discover.read(plugin)
    definition = _definition(config, card)
    _check_diagnosis(config, definition)
    chosen = point.choose(config, card, definition)
    hp = chosen.hp
    engine = engine_for(config["engine"], definition.scale)
    passes = _passes(card, definition)
    ranks = processes_of(engine, config["isolation"])
    _check_ranks(ranks, definition)
    sandbox.require(config["isolation"], ranks)
    shared = {kinds.among(kind, ranks): n for kind, n in passes.items()}
    table = tables.prices(definition, engine, passes | shared)
    share = budget_share(chosen.budget, definition)
    horizon = steps_of(definition.block["horizon"], share)
    # A stream has its own length; what its steps cost is charged to the time.
    if "stream" not in definition.block:
        horizon = prices.horizon_of(horizon, passes, table)
    source = identity.source_hash(plugin)
    run_id = identity.run_id(
        definition.training_hash,
        source,
        hp,
        config["seed"],
        engine,
        horizon,
        config["isolation"],
        key=key.fingerprint(),
    )
    results = Path(config["results"]).expanduser().resolve()
    return Trial(
        definition,
        card,
        plugin.place if plugin.package is None else plugin.name,
        hp,
        shared,
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
        share,
        chosen.origin,
        config.get("diagnose", False),
    )
