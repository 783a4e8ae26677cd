"""The settings of a race: conf/config.yaml holds every default, and nothing else does.

The command line, a campaign and the Python API compose the same configuration through Hydra.
"""

import copy
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from harness.catalog.definition import TINY
from harness.errors import UserError, nearest
from harness.race.trial import ISOLATION, UNTIL
from harness.system.paths import ROOT

CONF = ROOT / "conf"
# OmegaConf's word for a value that the YAML has to give
MISSING: Any = "???"


@dataclass
class Schema:
    """Types of conf/config.yaml's keys; the comments there say what each is for."""

    workload: Any = MISSING
    submission: Any = MISSING
    engine: Any = MISSING
    tracker: Any = MISSING
    scale: str = MISSING
    variant: str | None = MISSING
    seed: int = MISSING
    trial: int | None = MISSING
    study: int = MISSING
    tuned: bool | None = MISSING
    isolation: str = MISSING
    until: str = MISSING
    hopeless: bool = MISSING
    diagnose: bool = MISSING
    budget: float | None = MISSING
    results: str = MISSING
    jobs: int = MISSING
    dry: bool = MISSING


SETTINGS = tuple(Schema.__dataclass_fields__)


@cache
def default_choices() -> dict[str, str]:
    """Return the option of each group that conf/config.yaml names: {"workload": "gpt2", ...}."""
    listed = yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]
    pairs = [pair for entry in listed if isinstance(entry, dict) for pair in entry.items()]
    return {group: option for group, option in pairs if not group.startswith("override ")}


@cache
def _defaults() -> dict:
    """Compose conf/config.yaml without a submission, which the caller names."""
    from hydra.core.config_store import ConfigStore

    # an option of the group without a value: the caller names the submission
    ConfigStore.instance().store(group="submission", name="unnamed", node={})
    values = compose(["submission=unnamed"])
    return {key: values[key] for key in SETTINGS if key != "submission"}


def defaults() -> dict:
    """Return the settings of a race that nothing was changed of, but for the submission."""
    return copy.deepcopy(_defaults())


def compose(overrides: list[str]) -> dict:
    """Return the configuration that Hydra composes of conf/ and these overrides, as plain data."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    ConfigStore.instance().store(name="schema", node=Schema)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = hydra_compose("config", overrides, return_hydra_config=True)
        workload = composed.hydra.runtime.choices["workload"]
        # Hydra's own node has values that only a running job knows
        return plain(OmegaConf.masked_copy(composed, list(SETTINGS)), workload)


def plain(config: Any, workload: str) -> dict:
    """Return a composed configuration as plain data, checked where the schema's types cannot.

    Args:
        config: what Hydra composed.
        workload: the option that was chosen of the group `workload`.
    """
    from omegaconf import OmegaConf

    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    # A workload of the user's own is known by its path. No race uses the block `tiny`.
    values["workload"]["name"] = values["workload"].pop("path", None) or workload
    values["workload"].pop(TINY, None)
    for key, options in (("isolation", ISOLATION), ("until", UNTIL)):
        if values[key] not in options:
            raise UserError(f"{key}={values[key]} does not exist", nearest(values[key], options))
    return values


def settings(workload: dict, submission: dict, **changes: object) -> dict:
    """Return the configuration of one trial: conf/config.yaml's with these values in their place.

    Args:
        workload: a workload's YAML with its `name` (definition.tree_of).
        submission: `name`, and hyperparameters where they are not the point's.
        changes: any other setting.
    """
    values = defaults()
    assert changes.keys() <= values.keys(), changes.keys() - values.keys()
    return values | {"workload": workload, "submission": submission} | changes


# What an engine may do besides, with the values that change nothing. Only others are recorded, so a
# run keeps its id.
OPTIONS = {
    "processes": 1, "shard": False, "precision": "float32", "compile": False,
    "checkpointing": False, "pinned": False,
}  # fmt: skip
PRECISIONS = ("float32", "bf16", "fp16")


def processes_of(engine: dict, isolation: str) -> int:
    """Return the number of processes of a trial.

    Raises:
        UserError: the isolation has no room for them, or for what the engine does.
    """
    processes = engine.get("processes", 1)
    _check_confined(engine, isolation)
    if processes > 1 and isolation == "inline":
        raise UserError(
            f"engine.processes={processes} needs processes of its own, isolation=inline has none",
            "process, strict",
            "isolation=process",
        )
    return processes


def _check_options(engine: dict) -> None:
    """Raise UserError where an option of an engine has a value that it cannot have."""
    processes = engine.get("processes", 1)
    if not isinstance(processes, int) or isinstance(processes, bool) or processes < 1:
        raise UserError(f"engine.processes={processes}", "a whole number from 1 up")
    for name in ("shard", "compile", "checkpointing", "pinned"):
        if not isinstance(engine.get(name, False), bool):
            raise UserError(f"engine.{name}={engine[name]}", "true, false")
    precision = engine.get("precision", "float32")
    if precision not in PRECISIONS:
        raise UserError(f"engine.precision={precision}", nearest(str(precision), PRECISIONS))
    if engine.get("shard") and processes == 1:
        raise UserError(
            "engine.shard=true divides the weights among processes, and there is one",
            do="engine.processes=2 engine.shard=true",
        )
    if engine.get("shard") and precision == "fp16":
        raise UserError(
            "engine.precision=fp16 looks for overflow in whole gradients, and engine.shard=true "
            "divides them",
            do="engine.precision=bf16, or engine.shard=false",
        )
    if engine.get("pinned") and engine["device"] == "cpu":
        raise UserError(
            "engine.pinned=true is for copies to a GPU, and the device is cpu", do="engine=gpu"
        )


def _check_confined(engine: dict, isolation: str) -> None:
    """Raise UserError where an option needs what an isolation refuses."""
    if engine.get("compile") and isolation == "strict":
        raise UserError(
            "engine.compile=true starts a compiler, which isolation=strict refuses",
            do="isolation=process, or engine.compile=false",
        )


def engine_options() -> list[str]:
    """Return the names of the engines in conf/engine/."""
    return sorted(path.stem for path in (CONF / "engine").glob("*.yaml"))


def engine_named(name: str) -> dict:
    """Return an engine of conf/engine/."""
    if name not in engine_options():
        raise UserError(f"engine={name} does not exist", nearest(name, engine_options()))
    return yaml.safe_load((CONF / "engine" / f"{name}.yaml").read_text())


def engine_for(engine: dict, scale: str) -> dict:
    """Return an engine with the values of one scale, where it gives a value for each scale.

    Raises:
        UserError: a value is not one that an engine can have, or the scale has none.
    """
    chosen = {}
    for key, value in engine.items():
        if isinstance(value, dict) and scale not in value:
            raise UserError(
                f"engine.{key} has no value for scale={scale}", nearest(scale, value), "engine=cpu"
            )
        chosen[key] = value[scale] if isinstance(value, dict) else value
    _check_options(chosen)
    chosen = {k: v for k, v in chosen.items() if k not in OPTIONS or v != OPTIONS[k]}
    if chosen["threads"] < 1:
        raise UserError(f"engine.threads={chosen['threads']}", "a whole number from 1 up")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", chosen["device"]):
        raise UserError(
            f"engine.device={chosen['device']} does not exist", "cpu, cuda or cuda:NUMBER"
        )
    return chosen
