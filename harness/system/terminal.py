"""Say things to a reader that may go away: a closed pipe or terminal ends nothing."""

import os
from typing import Any, TextIO


def say(text: str, stream: TextIO) -> None:
    """Print at once."""
    try:
        print(text, file=stream, flush=True)
    except OSError:
        _hush(stream)


def redraw(screen: Any, content: Any, stream: TextIO) -> bool:
    """Show other content on a `rich.live.Live`; False where its terminal is gone."""
    try:
        screen.update(content, refresh=True)
    except OSError:
        _hush(stream)
        return False
    return True


def _hush(stream: TextIO) -> None:
    """Let what is still to be written to a stream go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def coloured(stream: TextIO) -> bool:
    """Say whether a stream is to get colours: a terminal, and no NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
