"""A plugin: where it lives, and what its file says of itself."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Plugin:
    """Where a plugin lives: `name` is the file's stem (or a variant's), `family` its folder."""

    name: str
    path: Path
    family: str
    package: str | None  # dotted package to import it from, or None for a loose file
    target: str | None = None  # an optimizer class's dotted path (optimizer_classes.py)

    @property
    def variant(self) -> bool:
        """True if it is an entry of its file's VARIANTS."""
        return self.target is None and self.name != self.path.stem

    @property
    def place(self) -> str:
        """What `discover.find` takes where the name will not do: a class's path, or a file's.

        Of a variant it is the file's path, a colon and the variant's name.
        """
        return (
            self.name
            if self.target
            else (f"{self.path}:{self.name}" if self.variant else str(self.path))
        )

    @property
    def base(self) -> Path | None:
        """The folder whose files the plugin may import, or None for a plugin of a package."""
        return None if self.package or self.target else self.path.parent


@dataclass(frozen=True)
class Card:
    """What a plugin's file says of itself, read without importing it."""

    plugin: Plugin
    doc: str
    form: str
    literals: dict = field(default_factory=dict)
    functions: frozenset = frozenset()

    @property
    def summary(self) -> str:
        """The docstring's first line; of a variant also what it fixes."""
        told = self.doc.strip().split("\n")[0].rstrip(".")
        if not self.plugin.variant:
            return told
        fixed = self.literals["VARIANTS"][self.plugin.name].items()
        return f"{self.plugin.path.stem} with {', '.join(f'{k}={v}' for k, v in fixed)}"
