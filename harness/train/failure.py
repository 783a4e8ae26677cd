"""Describe an exception of a submission for the referee and for users."""

import errno
import os
import traceback

from harness.errors import UserError
from harness.system import sandbox
from harness.system.paths import ROOT

# What the kernel calls EPERM and EACCES.
NOT_ALLOWED = (os.strerror(errno.EPERM), os.strerror(errno.EACCES))
LONGEST = 4000  # letters of a text; a tensor in an exception may print millions


def failure(error: BaseException) -> dict:
    """Return the outcome, the error and the traceback of an exception in a submission.

    A UserError says that submission and workload do not fit, where no file of the user's raised it:
    nothing is to be mended then.
    """
    text = _text(error)
    memory = (
        isinstance(error, MemoryError)
        or "can't allocate memory" in text
        or "out of memory" in text.lower()
    )
    # The numbers are EFBIG, ENOSPC and EDQUOT.
    disk_full = "DiskFull" in type(error).__name__ or getattr(error, "errno", None) in (27, 28, 122)
    told_no = isinstance(error, UserError) and not (disk_full or in_file_of_the_user(error))
    if told_no:
        return {"outcome": "refused", "error": text, "traceback": ""}
    return {
        "outcome": "oom" if memory else "disk_full" if disk_full else "failed",
        "error": in_one_line(error) + _refusal(error),
        "traceback": "".join(traceback.format_exception(error))[-LONGEST:],
    }


def _text(error: BaseException) -> str:
    """Return the message of an exception, or its type where it has none or cannot print one."""
    try:
        text = str(error)
    except Exception:
        text = ""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... ({len(text):,} letters)"
    return text or type(error).__name__


def _refusal(error: BaseException) -> str:
    """Return what a confined process is refused, if that may be the cause of the error."""
    # Libraries in C give the kernel's words alone.
    text = _text(error)
    refused = isinstance(error, PermissionError) or any(words in text for words in NOT_ALLOWED)
    # The errors of the tripwire say it themselves.
    if not refused or not sandbox.confined() or "isolation:" in text:
        return ""
    return (
        "; isolation=strict refuses new processes (workers of a data loader, too), sockets, shared "
        "memory, and files other than the submission's own"
    )


def not_ours(error: BaseException) -> tuple[str, str] | None:
    """Return outcome and reason of an error in the referee; None for a bug of the harness.

    A disk or the memory may fail it, or a workload of the user's own, whose data, model and metrics
    are made in its process.
    """
    message = failure(error)
    machine = isinstance(error, OSError) or message["outcome"] in ("oom", "disk_full")
    if machine or in_file_of_the_user(error):
        return message["outcome"], message["error"]
    return None


def in_one_line(error: BaseException) -> str:
    """Return the error in one line, with the place in the submission where it was raised."""
    text = _text(error)
    message = text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
    frame = _frame(error)
    return f"{message} ({frame.filename}:{frame.lineno}, in {frame.name})" if frame else message


def in_file_of_the_user(error: BaseException) -> bool:
    """Return True if an error comes from a file that is neither the project's nor a library's."""
    frame = _frame(error)
    return frame is not None and not frame.filename.startswith(str(ROOT) + os.sep)


def _frame(error: BaseException) -> traceback.FrameSummary | None:
    """Return the innermost frame of an error that is in no library and not in the harness."""
    own_code = str(ROOT / "harness") + os.sep
    libraries = ("site-packages", "dist-packages", os.path.dirname(os.__file__))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        foreign = any(part in frame.filename for part in libraries)
        if not foreign and not frame.filename.startswith((own_code, "<")):
            return frame
    return None
