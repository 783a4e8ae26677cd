"""Print without failing when the reader is gone: a closed pipe or terminal does not stop a race."""

import os
import re
from typing import Any, TextIO

# Control characters but the newline and the tab, and those that turn the direction of text or end a
# line: a terminal would obey them. Halves of surrogate pairs cannot be printed at all.
CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Return text of unknown origin with such characters written out, as in a Python string."""
    return CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


def say(text: str, stream: TextIO) -> None:
    """Print a line and flush it; once the reader is gone, discard all output."""
    try:
        print(text, file=stream, flush=True)
    except OSError:
        _discard_output(stream)


def redraw(screen: Any, content: Any, stream: TextIO) -> bool:
    """Update a `rich.live.Live` with new content. Return False if its terminal is gone."""
    try:
        screen.update(content, refresh=True)
    except OSError:
        _discard_output(stream)
        return False
    return True


def _discard_output(stream: TextIO) -> None:
    """Redirect the stream to /dev/null."""
    # Otherwise Python raises again at exit, when it flushes what is still in the buffer.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def coloured(stream: TextIO) -> bool:
    """Return True if the stream is a terminal that shows colours, and NO_COLOR is not set."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
