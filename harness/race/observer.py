"""What the referee tells of a race to whoever watches it."""

import sys

from harness.system.terminal import say


class Quiet:
    """The display of a trial in a sweep: nothing but its notes."""

    def __init__(self, label: str):
        self.label = label

    def update(self, row: dict) -> None: ...

    def tick(self, step: int) -> None: ...

    def note(self, text: str) -> None:
        say(f"{self.label}: {text}", sys.stderr)

    def close(self) -> None: ...
