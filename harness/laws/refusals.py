"""What a race refuses a submission, refused while the laws are tried: writing files, the network.

In a race the runner is confined (harness/system/sandbox.py). The laws run in the process of
`harness check`, so here an audit hook refuses what the submission's own code asks for.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
NETWORK = ("socket.connect", "socket.bind", "socket.sendto")
# devices, and what Python and torch keep of compiled code
ALLOWED = ("/dev/", "/proc/")
# the files whose code is refused; an audit hook stays for good, so it reads them from here
_watched: set[str] = set()
_installed: list[bool] = []


@contextmanager
def refusing(files: Iterable[Path]) -> Iterator[None]:
    """Within the block, raise PermissionError where the code of `files` writes or connects."""
    if not _installed:
        sys.addaudithook(_hook)
        _installed.append(True)
    _watched.update(str(path) for path in files)
    try:
        yield
    finally:
        _watched.clear()


def _hook(event: str, arguments: tuple) -> None:
    if not _watched or not (event == "open" or event in NETWORK):
        return
    if event == "open":
        path, _, flags = arguments
        if not ((flags or 0) & WRITES) or not isinstance(path, str | bytes | os.PathLike):
            return
        place = os.path.abspath(os.fsdecode(path))
        if place.startswith(ALLOWED) or "__pycache__" in place or "torchinductor" in place:
            return
        if _called_by_watched():
            raise PermissionError(f"a race refuses writing {place}")
    elif _called_by_watched():
        raise PermissionError(f"a race refuses the network ({event})")


def _called_by_watched() -> bool:
    """Return True if code of a watched file is on the stack."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename in _watched:
            return True
        frame = frame.f_back
    return False
