"""The configuration: its schema, the options discovery adds, and errors people can use."""

import re
from dataclasses import dataclass
from typing import Any

from harness.catalog import definition, discover, optimizer_classes
from harness.catalog.discover import ROOT
from harness.errors import UserError, nearest
from harness.race.trial import ISOLATION, UNTIL

GROUPS = ("engine", "tracker")
DEFAULT = "adamw"  # the submission that conf/config.yaml names
WITH_VALUE = [
    [flag]
    for flag in (
        "-c",
        "--cfg",
        "-p",
        "--package",
        "-i",
        "--info",
        "-cn",
        "--config-name",
        "-cp",
        "--config-path",
        "-cd",
        "--config-dir",
        "--experimental-rerun",
    )
]


@dataclass
class Config:
    """Types of conf/config.yaml's keys; the comments there say what each is for."""

    workload: Any = None
    submission: Any = None
    engine: Any = None
    tracker: Any = None
    scale: str = "mini"
    variant: str | None = None
    seed: int = 0
    trial: int | None = None
    study: int = 0
    tuned: bool = False
    isolation: str = "process"
    until: str = "goal"
    hopeless: bool = False
    budget: int = 1
    results: str = "results"
    jobs: int = 2
    dry: bool = False


def _is_path(value: str) -> bool:
    return value.endswith(".py") or "/" in value


def register(arguments: list[str]) -> list[str]:
    """Offer every submission as an option of its group; returns the arguments for Hydra.

    A path to a file becomes an option named by the file's stem; submission=optimizer, one for each
    class=.
    """
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    plugins = dict(discover.submissions())
    rewritten = []
    for argument in optimizer_classes.expanded(arguments):
        if argument.startswith("submission="):
            values = argument.removeprefix("submission=").split(",")
            argument = "submission=" + ",".join(
                _option(value, plugins) if _is_path(value) or "." in value else value
                for value in values
            )
        elif argument.startswith("results=") and argument[8:9] not in ("", "'", '"'):
            # Any folder, as it is: Hydra wants quotes around spaces and letters beyond ASCII.
            argument = 'results="' + argument[8:].replace('"', '\\"') + '"'
        elif re.match(r"workload\.\w+\.deadlines\b", argument):  # the YAML files leave them out
            argument = f"++{argument}"
        rewritten.append(argument)
    rewritten.sort(
        key=lambda argument: argument not in ("-m", "--multirun")
    )  # Hydra wants these first
    for option, plugin in plugins.items():
        keys = _keys(option, plugin, rewritten)
        store.store(
            group="submission",
            name=option,
            node=keys | {"name": plugin.name, "path": None if plugin.package else plugin.place},
        )
    check(rewritten, plugins)
    return rewritten


def _option(path: str, plugins: dict) -> str:
    """Add the file at `path` to the plugins; returns its option, the stem as Hydra reads it."""
    plugin = discover.find(path.strip("'\""))
    option = re.sub(r"[^A-Za-z0-9_]", "_", plugin.name)
    if not re.match("[A-Za-z]", option) or plugin.name != option:
        option = f"file_{option}"
    if option in plugins and plugins[option].path != plugin.path:
        raise UserError(
            f"{path} has the name of another submission, {plugins[option].path}",
            do="give your file another name",
        )
    plugins[option] = plugin
    return option


def _keys(option: str, plugin: discover.Plugin, arguments: list[str]) -> dict:
    """A submission's hyperparameters, all unset; a broken file matters if it is mentioned.

    Files that no argument can mean are not read: a hundred of them take half a second.
    """
    choices = [a for a in arguments if a.startswith("submission=")] or [f"submission={DEFAULT}"]
    mentioned = any(option in choice for choice in choices)
    if not mentioned and not any("(" in choice for choice in choices):  # glob(*), choice(...)
        return {}
    try:
        return dict.fromkeys(discover.read(plugin).literals["SPACE"])
    except UserError:
        if mentioned:
            raise
        return {}


def check(arguments: list[str], plugins: dict) -> None:
    """Say what is wrong with the overrides before Hydra does, with the nearest right name."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    words = [
        a
        for i, a in enumerate(arguments)
        if not a.startswith("-") and arguments[i - 1 : i] not in WITH_VALUE
    ]
    for word in words:
        if "=" not in word:
            raise UserError(
                f"{word!r} is neither a command nor a setting",
                nearest(word, ["list", "show", "new", "doctor", "sync"]),
                "harness --help",
            )
    try:
        overrides = OverridesParser.create().parse_overrides(words)
    except OverrideParseException as error:
        raise UserError(
            f"cannot read {error.override!r}",
            "settings are key=value",
            "quote values with spaces inside: 'key=\"a b\"'",
        ) from None
    chosen: dict[str, list[str]] = {}
    for override in overrides:
        key = override.key_or_group
        value = override.value() if key == "jobs" else 1
        if not (isinstance(value, int) and value >= 1):
            raise UserError(f"{override.input_line}", "a whole number from 1 up")
        if override.is_delete() and not key.startswith("hydra"):
            raise UserError(
                f"{override.input_line}: a setting cannot be removed",
                f"{key}=null where it may be empty",
            )
        if override.package is not None:
            raise UserError(
                f"{override.input_line!r}: settings have no packages", "settings are key=value"
            )
        if key in ("workload", "submission", *GROUPS):
            chosen[key] = [str(v) for v in _values(override)]
    for name in chosen.get("workload", []):
        discover.find_workload(name)
    for name in chosen.get("submission", []):
        if name not in plugins:
            raise UserError(
                f"no submission is called {name!r}", nearest(name, plugins), "harness list"
            )
    racing = [plugins[name] for name in chosen.get("submission", [DEFAULT])]
    given = {override.key_or_group for override in overrides}
    for plugin in (p for p in racing if p.target and not given & {"submission.lr", "trial"}):
        if "lr" in discover.read(plugin).literals["SPACE"]:
            raise UserError(f"{plugin.name} needs a learning rate", do="submission.lr=1e-3")
    for override in overrides:
        head, _, rest = override.key_or_group.partition(".")
        if head == "submission" and rest:
            for plugin in racing:
                declared = discover.read(plugin).literals["SPACE"]
                if rest not in declared:
                    raise UserError(
                        f"submission {plugin.name} has no hyperparameter {rest!r}",
                        nearest(rest, declared),
                        f"harness show {plugin.name}",
                    )
        elif head in GROUPS and not rest:
            options = [p.stem for p in (ROOT / "conf" / head).glob("*.yaml")]
            for value in _values(override):
                if str(value) not in options:
                    raise UserError(f"{head}={value} does not exist", nearest(str(value), options))
        elif head in ("workload", *GROUPS) and rest:
            _check_key(override, chosen.get(head))
        elif (
            head.partition("/")[0] != "hydra"
            and head != "workload"
            and head not in Config.__dataclass_fields__
        ):
            raise UserError(
                f"there is no setting {override.key_or_group!r}",
                nearest(head, Config.__dataclass_fields__),
                "python -m harness --cfg job shows all",
            )


def _check_key(override, options: list[str] | None) -> None:
    """Check a key below workload, engine or tracker against the YAML files that are chosen."""
    from omegaconf import OmegaConf

    group, *path = override.key_or_group.split(".")
    default = OmegaConf.load(ROOT / "conf" / "config.yaml").defaults
    options = options or [entry[group] for entry in default if group in entry]
    for option in options:
        tree: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / group / f"{option}.yaml"))
        if group == "workload":
            tree = {
                k: v | {"deadlines": definition.DEADLINES} if isinstance(v, dict) else v
                for k, v in tree.items()
            }
        for depth, name in enumerate(path):
            if path[max(0, depth - 1)] == "goal":  # any metric of the workload
                return
            if not isinstance(tree, dict) or name not in tree:
                known = nearest(name, tree) if isinstance(tree, dict) else ""
                raise UserError(
                    f"there is no setting {'.'.join([group, *path])!r} for {group}={option}", known
                )
            tree = tree[name]
        for value in _values(override):
            _check_type(".".join([group, *path]), value, tree)


def _check_type(key: str, value, like) -> None:
    """Refuse a value of another type than the one it replaces; null and interpolations pass."""
    if like is None or (isinstance(value, str) and "${" in value):
        return
    if isinstance(like, dict) and isinstance(value, dict):
        for name, part in value.items():
            if name not in like and not key.endswith(".goal"):
                raise UserError(f"there is no setting '{key}.{name}'", nearest(str(name), like))
            _check_type(f"{key}.{name}", part, like.get(name))
        return
    allowed = (int, float) if type(like) is float else type(like)
    if not isinstance(value, allowed) or (isinstance(value, bool) and not isinstance(like, bool)):
        raise UserError(f"{key}={value!r} is not of the type of {like!r}")


def _values(override) -> list:
    """The values an override takes: one, or those of a sweep (none for a glob)."""
    if not override.is_sweep_override():
        return [override.value()]
    try:
        return list(override.sweep_iterator())
    except Exception:  # a glob over options can only be expanded by Hydra's sweeper
        return []


def plain(config) -> dict:
    """The resolved configuration as plain dictionaries, checked where types cannot."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    values["workload"]["name"] = HydraConfig.get().runtime.choices["workload"]
    if values["engine"]["threads"] < 1:
        raise UserError(f"engine.threads={values['engine']['threads']}", "a whole number from 1 up")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", values["engine"]["device"]):
        raise UserError(
            f"engine.device={values['engine']['device']} does not exist", "cpu, cuda or cuda:NUMBER"
        )
    for key, options in (("isolation", ISOLATION), ("until", UNTIL)):
        if values[key] not in options:
            raise UserError(f"{key}={values[key]} does not exist", nearest(values[key], options))
    return values


def explain(error: Exception) -> UserError:
    """A Hydra or OmegaConf error in one line."""
    text = str(error).strip()
    if text.startswith("Error merging override") and error.__cause__:
        cause = str(error.__cause__).strip().splitlines()[0]
        return UserError(f"{text.removeprefix('Error merging override ')}: {cause}")
    if match := re.search(r"Key '(\S+)' is not in struct\s+full_key: (\S+)", text):
        return UserError(
            f"there is no setting {match[2]!r}", do="python -m harness --cfg job shows all"
        )
    first = [line for line in text.splitlines() if line.strip()][:2]
    return UserError("; ".join(line.strip() for line in first) or type(error).__name__)
