"""How a submission is named on a command line: by its name, its file's path, or its class."""

from pathlib import Path

from harness.catalog.card import Plugin
from harness.catalog.optimizer_classes import OPTIMIZER
from harness.system.command_line import harness


def settings(plugin: Plugin) -> list[str]:
    """Return the settings of a race that name a submission."""
    if plugin.target:
        fallback = plugin.name.partition("+")[2]
        chosen = [f"submission={OPTIMIZER}", f"class={plugin.target}"]
        return chosen + ([f"fallback={fallback}"] if fallback else [])
    return [f"submission={word(plugin)}"]


def word(plugin: Plugin) -> str:
    """Return the word that a command such as `harness show` takes for a submission."""
    if plugin.target:
        return plugin.name
    if plugin.package:
        return plugin.name
    return typed_path(plugin.path) + f":{plugin.name}" * plugin.variant


def show(plugin: Plugin) -> str:
    """Return the command that shows a submission."""
    return harness("show", word(plugin))


def typed_path(path: Path) -> str:
    """Return a file's path as `submission=` takes it: ./ and the way from the current folder."""
    here = Path.cwd()
    return f"./{path.relative_to(here)}" if path.is_relative_to(here) else str(path)
