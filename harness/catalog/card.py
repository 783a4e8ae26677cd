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
        """Whether it is an entry of its file's VARIANTS."""
        return self.target is None and self.name != self.path.stem

    @property
    def place(self) -> str:
        """What `discover.find` takes where the name will not do: the class's or the file's path."""
        return self.target or str(self.path)


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
