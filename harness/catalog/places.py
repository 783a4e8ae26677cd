"""Where plugins' files lie: the file at a path that a user typed, and a source's place."""

from pathlib import Path

from harness.catalog import reading
from harness.catalog.card import Plugin
from harness.errors import UserError, nearest
from harness.system.paths import ROOT


def is_path(name: str) -> bool:
    """Return True if `name` is a path: of a plugin's file, a variant in it, or its folder."""
    return name.endswith(".py") or ".py:" in name or "/" in name


def file_of(name: str, what: str) -> Path:
    """Return the plugin's file at a path: the file, or NAME.py in the folder NAME.

    Raises:
        UserError: there is no such file.
    """
    path = Path(name).expanduser().resolve()
    if path.is_dir():
        inside = path / f"{path.name}.py"
        if not inside.is_file():
            place = f"{name.rstrip('/')}/FILE.py"
            raise UserError(f"{name} is a folder without {inside.name}", place)
        return inside
    if not path.is_file():
        beside = [str(p.relative_to(Path.cwd())) for p in Path.cwd().glob("*.py")]
        stem = Path(name).stem if Path(name).stem.isidentifier() else "my_idea"
        raise UserError(
            f"{what} file {name} does not exist",
            nearest(Path(name).name, beside) if beside else "",
            f"to write one: harness new {what} {stem}",
        )
    reading.check_name(path)
    return path


def inside(plugin: Plugin, path: Path) -> Path:
    """Return where a source file lies in the project, in the plugin's own folder, or its name."""
    if path.is_relative_to(ROOT):
        return path.relative_to(ROOT)
    if plugin.base and path.is_relative_to(plugin.base):
        return path.relative_to(plugin.base)
    return Path(path.name)
