"""What an exception in a submission says to the referee."""

import os
import traceback

from harness.errors import UserError
from harness.system.paths import ROOT


def failure(error: BaseException) -> dict:
    """What went wrong in the submission, for the referee's record."""
    text = str(error) or type(error).__name__
    memory = (
        isinstance(error, MemoryError)
        or "can't allocate memory" in text
        or "out of memory" in text.lower()
    )
    full = "DiskFull" in type(error).__name__ or getattr(error, "errno", None) in (27, 28, 122)
    return {
        "outcome": "oom" if memory else "disk_full" if full else "failed",
        "error": in_one_line(error),
        "traceback": "".join(traceback.format_exception(error))[-4000:],
    }


def of_machine(error: BaseException) -> tuple[str, str] | None:
    """Outcome and reason where a disk or the memory failed the referee; None for a bug of ours."""
    said = failure(error)
    if isinstance(error, OSError) or said["outcome"] in ("oom", "disk_full"):
        return said["outcome"], said["error"]
    return None


def in_one_line(error: BaseException) -> str:
    """Return the error in one line, with the place in the submission where it was raised."""
    text = str(error) or type(error).__name__
    said = text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
    ours = str(ROOT / "harness") + os.sep
    libraries = ("site-packages", "dist-packages", os.path.dirname(os.__file__))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        foreign = any(part in frame.filename for part in libraries)
        if not foreign and not frame.filename.startswith((ours, "<")):
            return f"{said} ({frame.filename}:{frame.lineno}, in {frame.name})"
    return said
