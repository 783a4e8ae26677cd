"""Checks of the settings as they were typed: what is wrong is said before Hydra does, in one line.

Four checks, one after the other: that each word is a setting, that its form is right, that each
option exists, and that each key exists and its value has the right type.
"""

import math
from typing import Any

import yaml

from harness.catalog import definition, discover, naming
from harness.catalog.card import Plugin
from harness.cli import sweep_plan
from harness.cli.arguments import COMMANDS
from harness.errors import UserError, nearest
from harness.race import configuration
from harness.race.configuration import CONF, SETTINGS
from harness.system.command_line import SWEEP

GROUPS = ("engine", "tracker")
# settings of a command line, not of a trial
ONE_VALUE = ("dry", "jobs", "results", "tracker")
# what values of a type are called
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
SHOW_ALL = "python -m harness --cfg job"
# Hydra's own flags whose value is the next word
WITH_VALUE = (
    ("-c", "--cfg", "-p", "--package", "-i", "--info", "-cn", "--config-name")
    + ("-cp", "--config-path", "-cd", "--config-dir", "--experimental-rerun")
)  # fmt: skip


def check(
    arguments: list[str], plugins: dict[str, Plugin], places: dict[str, str] | None = None
) -> None:
    """Raise UserError where the arguments of a race are wrong, with the nearest right name.

    Args:
        plugins: the submissions that can be chosen, by option.
        places: the paths of workloads that are files of the user's own, by option.
    """
    overrides = _parsed(settings_of(arguments))
    sweep = any(word in SWEEP for word in arguments)
    for override in overrides:
        _check_form(override)
        if override.is_sweep_override() and not sweep:
            raise UserError(
                f"{override.input_line}: several values, and this is one race", do="add -m"
            )
    chosen = _check_options(overrides, plugins, places or {})
    racing = [plugins[name] for name in chosen.get("submission", _default("submission"))]
    _check_learning_rates(overrides, racing)
    for override in overrides:
        _check_key(override, chosen, racing)
    _check_scales(overrides)


def _default(group: str) -> list[str]:
    return [configuration.default_choices()[group]]


def settings_of(arguments: list[str]) -> list[str]:
    """Return the settings among the arguments; raise UserError for a word that is none."""
    words = []
    for i, word in enumerate(arguments):
        if word.startswith("-") or (i and arguments[i - 1] in WITH_VALUE):
            continue
        if "=" not in word:
            raise UserError(
                f"{word!r} is neither a command nor a setting",
                nearest(word, COMMANDS, limit=len(COMMANDS)),
                "harness --help",
            )
        words.append(word)
    return words


def _parsed(words: list[str]) -> list:
    """Return the settings as Hydra reads them."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    try:
        return OverridesParser.create().parse_overrides(words)
    except OverrideParseException as error:
        raise UserError(
            f"cannot read {error.override!r}",
            "settings are key=value",
            "quote values with spaces inside: 'key=\"a b\"'",
        ) from None


def _check_form(override) -> None:
    """Refuse forms of Hydra that no setting takes, and a number of jobs that is none."""
    key = override.key_or_group
    if override.is_delete() and not key.startswith("hydra"):
        raise UserError(
            f"{override.input_line}: a setting cannot be removed",
            f"{key}=null where it may be empty",
        )
    if override.package is not None:
        raise UserError(
            f"{override.input_line!r}: settings have no packages", "settings are key=value"
        )
    if override.is_sweep_override() and key in ONE_VALUE:
        raise UserError(f"{override.input_line}: {key} has one value for all trials of a sweep")
    if override.is_range_sweep():
        _check_range(override)
    value = override.value() if key == "jobs" else 1
    if not (isinstance(value, int) and value >= 1):
        raise UserError(f"{override.input_line}", "a whole number from 1 up")


def _check_range(override) -> None:
    """Refuse a range without values, or with more than anyone races."""
    span = override.value()
    count = (span.stop - span.start) / span.step if span.step else math.inf
    if not 0 < count <= sweep_plan.MOST:
        amount = f"more than {sweep_plan.MOST:,} values" if count > 0 else "no value"
        raise UserError(f"{override.input_line} has {amount}", "range(FROM,TO), FROM below TO")


def _check_options(
    overrides: list, plugins: dict[str, Plugin], places: dict[str, str]
) -> dict[str, list[str]]:
    """Check that every option of a group exists; return the options chosen, by group.

    A workload of the user's own is returned as its path.
    """
    chosen = {
        override.key_or_group: [str(value) for value in _values(override)]
        for override in overrides
        if override.key_or_group in ("workload", "submission", *GROUPS)
    }
    if "workload" in chosen:
        chosen["workload"] = [places.get(name, name) for name in chosen["workload"]]
    for name in chosen.get("workload", []):
        discover.find_workload(name)
    for name in chosen.get("submission", []):
        if name not in plugins:
            raise discover.unknown(name, "submission", plugins)
    for group in GROUPS:
        options = [path.stem for path in (CONF / group).glob("*.yaml")]
        for name in chosen.get(group, []):
            if name not in options:
                raise UserError(f"{group}={name} does not exist", nearest(name, options))
    return chosen


def _check_learning_rates(overrides: list, racing: list[Plugin]) -> None:
    """Refuse an optimizer class without a learning rate."""
    given = {override.key_or_group for override in overrides}
    if given & {"submission.lr", "trial"}:
        return
    for plugin in racing:
        if plugin.target and "lr" in discover.read(plugin).literals["SPACE"]:
            raise UserError(f"{plugin.name} needs a learning rate", do="submission.lr=1e-3")


def _check_scales(overrides: list) -> None:
    """Refuse a change of a scale's numbers that no race of this command line reads."""
    scales = [str(v) for o in overrides if o.key_or_group == "scale" for v in _values(o)]
    for override in overrides:
        parts = override.key_or_group.split(".")
        if parts[0] != "workload" or len(parts) < 3:
            continue
        scales = scales or [configuration.defaults()["scale"]]
        if parts[1] not in scales:
            changed = ".".join(["workload", scales[0], *parts[2:]])
            raise UserError(
                f"{override.input_line}: a race at scale={scales[0]} does not read it",
                f"{changed} is read",
                f"scale={parts[1]}, or {changed}={override.input_line.partition('=')[2]}",
            )


def _check_key(override, chosen: dict[str, list[str]], racing: list[Plugin]) -> None:
    """Check that a setting exists, and the type of its value."""
    head, _, rest = override.key_or_group.partition(".")
    if head == "submission" and rest:
        for plugin in racing:
            _check_hyperparameter(plugin, rest)
    elif head in ("workload", *GROUPS) and rest:
        for option in chosen.get(head) or _default(head):
            _check_path(override, head, option)
    elif head.partition("/")[0] != "hydra" and override.key_or_group not in SETTINGS:
        known = _elsewhere(override.key_or_group, chosen, racing) or nearest(head, SETTINGS)
        raise UserError(f"there is no setting {override.key_or_group!r}", known, SHOW_ALL)


def _check_hyperparameter(plugin: Plugin, name: str) -> None:
    declared = discover.read(plugin).literals["SPACE"]
    if name not in declared:
        raise UserError(
            f"submission {plugin.name} has no hyperparameter {name!r}",
            nearest(name, declared),
            naming.show(plugin),
        )


def _elsewhere(key: str, chosen: dict[str, list[str]], racing: list[Plugin]) -> str:
    """Return where a setting of this name is: lr is submission.lr."""
    name = key.rpartition(".")[2]
    if any(name in discover.read(plugin).literals["SPACE"] for plugin in racing):
        return f"did you mean submission.{name}?"
    for group in GROUPS:
        for option in chosen.get(group) or _default(group):
            if name in _tree(group, option):
                return f"did you mean {group}.{name}?"
    return _in_workload(name, chosen)


def _in_workload(name: str, chosen: dict[str, list[str]]) -> str:
    """Return the setting of a workload's numbers that has this name, or nothing."""
    for option in chosen.get("workload") or _default("workload"):
        for scale, block in _tree("workload", option).items():
            if isinstance(block, dict) and (path := _path_to(name, block)):
                return f"did you mean workload.{scale}.{path}?"
    return ""


def _path_to(name: str, block: dict) -> str:
    """Return the dotted path to a key in nested dictionaries, or nothing."""
    if name in block:
        return name
    for key, value in block.items():
        if isinstance(value, dict) and key != "variants" and (path := _path_to(name, value)):
            return f"{key}.{path}"
    return ""


def _tree(group: str, option: str) -> dict:
    """Return the values of an option, with what a workload's YAML leaves out."""
    if group != "workload":
        return yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
    return {
        key: value | {"deadlines": definition.DEADLINES} if isinstance(value, dict) else value
        for key, value in definition.tree_of(option).items()
    }


def _check_path(override, group: str, option: str) -> None:
    """Check a key below workload, engine or tracker against the YAML file of an option."""
    path = override.key_or_group.split(".")[1:]
    tree: Any = _tree(group, option)
    for depth, name in enumerate(path):
        # any metric of the workload
        if path[max(0, depth - 1)] == "goal":
            return
        if not isinstance(tree, dict) or name not in tree:
            known = nearest(name, tree) if isinstance(tree, dict) else ""
            if group == "workload" and depth == 0:
                known = _in_workload(path[-1], {"workload": [option]}) or known
            where = ".".join([group, *path])
            raise UserError(f"there is no setting {where!r} for {group}={option}", known)
        tree = tree[name]
    for value in _values(override):
        _check_type(".".join([group, *path]), value, tree)


def _check_type(key: str, value: Any, like: Any) -> None:
    """Refuse a value of another type than the one it replaces; null and interpolations pass."""
    if like is None or (isinstance(value, str) and "${" in value):
        return
    if key.startswith("engine.") and isinstance(like, dict) and not isinstance(value, dict):
        # engine=auto has a value for each scale
        like = next(iter(like.values()))
    if isinstance(like, dict) and isinstance(value, dict):
        for name, part in value.items():
            if name not in like and not key.endswith(".goal"):
                raise UserError(f"there is no setting '{key}.{name}'", nearest(str(name), like))
            _check_type(f"{key}.{name}", part, like.get(name))
        return
    allowed = (int, float) if type(like) is float else type(like)
    if not isinstance(value, allowed) or (isinstance(value, bool) and not isinstance(like, bool)):
        kind = KINDS.get(type(like))
        raise UserError(
            f"{key}={value!r} is not of the type of {like!r}", f"{kind} is allowed" if kind else ""
        )


def _values(override) -> list:
    """Return the values an override takes: one, or those of a sweep (none for a glob)."""
    if not override.is_sweep_override():
        return [override.value()]
    try:
        return list(override.sweep_iterator())
    # a glob over options can only be expanded by Hydra's sweeper
    except Exception:
        return []
