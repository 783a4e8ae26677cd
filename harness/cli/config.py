"""The settings of a race as they are typed: the options discovery adds, and errors people can use.

What a configuration is made of is in harness/race/configuration.py and conf/.
"""

import re
from collections.abc import Iterable
from typing import Any

from harness.catalog import discover, optimizer_classes
from harness.catalog.card import Plugin
from harness.catalog.definition import tree_of
from harness.cli.overrides import check
from harness.errors import UserError
from harness.race import configuration
from harness.system.command_line import SWEEP


def register(arguments: list[str]) -> list[str]:
    """Offer every submission as an option of its group; return the arguments for Hydra.

    A path to a file, of a submission or a workload, becomes an option named by the file's stem;
    submission=optimizer, one for each class=.
    """
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name="schema", node=configuration.Schema)
    plugins = dict(discover.submissions())
    places: dict[str, str] = {}
    rewritten = []
    for argument in optimizer_classes.expanded(arguments):
        if argument.startswith("submission="):
            values = argument.removeprefix("submission=").split(",")
            argument = "submission=" + ",".join(
                _option(value, plugins) if discover.is_path(value) or "." in value else value
                for value in values
            )
        elif argument.startswith("workload="):
            values = argument.removeprefix("workload=").split(",")
            argument = "workload=" + ",".join(
                _workload_option(value, places) if discover.is_path(value) else value
                for value in values
            )
        elif argument.startswith("results=") and "${" in argument:
            raise UserError(
                f"{argument}: a folder's name cannot have ${{",
                "the path of a folder; a variable of the shell has no quotes around it",
                "results=FOLDER",
            )
        elif argument.startswith("results=") and argument[8:9] not in ("", "'", '"'):
            # Any folder, as it is: Hydra wants quotes around spaces and letters beyond ASCII.
            argument = 'results="' + argument[8:].replace('"', '\\"') + '"'
        elif re.match(r"workload\.\w+\.(deadlines|goal)\.", argument):
            # the YAML files leave deadlines out, and a goal may get another condition
            argument = f"++{argument}"
        rewritten.append(argument)
    # Hydra wants these first
    rewritten.sort(key=lambda argument: argument not in SWEEP)
    for option, plugin in plugins.items():
        keys = _keys(option, plugin, rewritten)
        store.store(
            group="submission",
            name=option,
            node=keys | {"name": plugin.name, "path": None if plugin.package else plugin.place},
        )
    _store_workloads(store, places)
    check(rewritten, plugins, places)
    return rewritten


def compose(arguments: list[str]) -> dict:
    """Return the configuration of one race that these arguments ask for, as plain data."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        return configuration.compose(register(arguments))
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from None


def plain(config: Any) -> dict:
    """Return the configuration of a running job of Hydra as plain data."""
    from hydra.core.hydra_config import HydraConfig

    return configuration.plain(config, HydraConfig.get().runtime.choices["workload"])


def refuse_name_clash(plugin: Plugin, plugins: dict[str, Plugin]) -> None:
    """Raise UserError if another submission than this file has its name."""
    other = plugins.get(_option_name(plugin))
    if other and other.path != plugin.path:
        raise UserError(
            f"{plugin.path} has the name of another submission, {other.path}",
            do="give your file another name",
        )


def _option_name(plugin: Plugin) -> str:
    """Return the submission's name as Hydra can read it."""
    option = re.sub(r"[^A-Za-z0-9_]", "_", plugin.name)
    plain_name = re.match("[A-Za-z]", option) and plugin.name == option
    return option if plain_name else f"file_{option}"


def _option(path: str, plugins: dict[str, Plugin]) -> str:
    """Add the file at `path` to the plugins; return its option."""
    plugin = discover.find(path.strip("'\""))
    refuse_name_clash(plugin, plugins)
    option = _option_name(plugin)
    plugins[option] = plugin
    return option


def _workload_option(path: str, places: dict[str, str]) -> str:
    """Add the workload's file at `path` to the places by option; return its option."""
    plugin = discover.find_workload(path.strip("'\""))
    if plugin.package:
        return plugin.name
    option = _option_name(plugin)
    places[option] = plugin.place
    return option


def _store_workloads(store: Any, places: dict[str, str]) -> None:
    """Offer the workloads whose numbers are not in conf/workload/: files, and those of packages."""
    packaged = {p.name: p.name for p in discover.workloads().values() if p.package != "workloads"}
    for option, name in (packaged | places).items():
        numbers = {key: value for key, value in tree_of(name).items() if key != "name"}
        path = name if option in places else None
        store.store(group="workload", name=option, node=numbers | {"path": path})


def _keys(option: str, plugin: Plugin, arguments: Iterable[str]) -> dict:
    """Return a submission's hyperparameters, all unset.

    Files that no argument can mean are not read: a hundred of them take half a second. A broken
    file is an error if it is mentioned.
    """
    default = f"submission={configuration.default_choices()['submission']}"
    choices = [a for a in arguments if a.startswith("submission=")] or [default]
    mentioned = any(option in choice for choice in choices)
    # glob(*), choice(...)
    if not mentioned and not any("(" in choice for choice in choices):
        return {}
    try:
        return dict.fromkeys(discover.read(plugin).literals["SPACE"])
    except UserError:
        if mentioned:
            raise
        return {}


def explain(error: Exception) -> UserError:
    """Return the UserError that says a Hydra or OmegaConf error in one line."""
    text = str(error).strip()
    if text.startswith("Error merging override") and error.__cause__:
        cause = str(error.__cause__).strip().splitlines()[0]
        return UserError(f"{text.removeprefix('Error merging override ')}: {cause}")
    if match := re.search(r"Key '(\S+)' is not in struct\s+full_key: (\S+)", text):
        return UserError(f"there is no setting {match[2]!r}", do="python -m harness --cfg job")
    lines = [line for line in text.splitlines() if line.strip()]
    first = [line for line in lines[:2] if line is lines[0] or not line.strip().endswith(":")]
    return UserError("; ".join(line.strip() for line in first) or type(error).__name__)
