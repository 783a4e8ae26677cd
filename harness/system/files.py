"""Files that survive kill -9, power loss, a full disk and a second process."""

import errno
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from harness.errors import UserError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
ELSEWHERE = "choose another place: results=FOLDER"

# Descriptors of the locks this process holds. A flock belongs to the open file, which fork()
# shares: without closing it in the child, a forked child would keep a dead parent's lock.
_held: set[int] = set()


class DiskFull(UserError):
    """A write found no room (disk, quota or file-size limit); what was there before is intact."""

    def __init__(self, path: Path | str, needed: int):
        super().__init__(
            f"no room for {path}",
            f"{needed:,} bytes are needed",
            "free some space (or raise the quota or `ulimit -f`) and run the same command again",
        )
        self.path, self.needed = Path(path), needed

    def __reduce__(self):
        return DiskFull, (self.path, self.needed)


class BadFile(UserError):
    """A file exists, but what it holds is truncated, corrupt or not what it should be."""

    def __init__(self, path: Path | str, why: str, do: str = ""):
        super().__init__(f"{path} cannot be used: {why}", do=do)
        self.path, self.why = Path(path), why

    def __reduce__(self):
        return BadFile, (self.path, self.why, self.do)


def atomic_write(path: Path | str, content: bytes | str) -> None:
    """Replace the file as a whole, durably: whenever this is interrupted, it holds old or new.

    Raises:
        DiskFull: there is no room; the old content is intact.
    """
    path = Path(path)
    content = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with _room_for(path, len(content)):
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                _write_all(handle, content)
                os.fsync(handle)
            finally:
                os.close(handle)  # a network file system may first report a full disk here
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_folder(path.parent)


def atomic_json(path: Path | str, value: Any) -> None:
    """Replace the file by `value` as indented JSON, as `atomic_write` does."""
    atomic_write(path, json.dumps(value, indent=2) + "\n")


def append_line(path: Path | str, line: str, *, durable: bool = False) -> None:
    """Add one line in one write: a reader, or a crash, sees all of it or a torn last line.

    With `durable`, it is on the disk when this returns: what is written later is never there alone.

    Raises:
        DiskFull: there is no room; nothing of the line is left behind.
    """
    assert "\n" not in line, "one line is one record"
    content = line.encode() + b"\n"
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    with _room_for(path, len(content)):
        handle = os.open(path, flags, 0o666)
        try:
            before = os.fstat(handle).st_size
            try:
                _write_all(handle, content)
                if durable:
                    os.fsync(handle)
            except OSError:
                # Cut what was written, unless somebody else appended after it.
                after = os.fstat(handle).st_size
                if before < after <= before + len(content):
                    os.ftruncate(handle, before)
                raise
        finally:
            os.close(handle)
        if durable and before == 0:
            _sync_folder(Path(path).parent)  # the file is new


@contextmanager
def locked(folder: Path | str, *, wait: bool = False, elsewhere: str = ELSEWHERE) -> Iterator[bool]:
    """Be the only one at work in `folder`: yields whether we are (with `wait`, once we are).

    The kernel frees the lock when this process ends, however it ends. Children do not inherit it.

    Args:
        elsewhere: what a user types to have the folder in another place.

    Raises:
        UserError: nothing can be written or locked there.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A file of its own, open for writing: on NFS a folder cannot be locked exclusively.
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}", do=elsewhere) from error
    owner = os.getpid()
    _held.add(handle)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            got = True
        except BlockingIOError:
            got = False
        except OSError as error:  # a network file system without locks
            raise UserError(f"cannot lock {folder}: {error.strerror}", do=elsewhere) from error
        yield got
    finally:
        if os.getpid() == owner:
            _held.discard(handle)
            os.close(handle)


def sha256_of(path: Path | str) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path | str) -> Any:
    """The value in a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        BadFile: it is empty, truncated, or no JSON.
    """
    content = Path(path).read_bytes()
    if not content.strip():
        raise BadFile(path, "it is empty")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadFile(path, f"it is not valid JSON ({error})") from error


@contextmanager
def _room_for(path: Path | str, needed: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFull(path, needed) from error
        if error.filename is None:  # a write or fsync knows only its number
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _write_all(handle: int, content: bytes) -> None:
    """Write everything: a write may be short near a full disk, and the next one says why."""
    left = memoryview(content)
    while left:
        left = left[os.write(handle, left) :]


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _forget_locks() -> None:
    """In a forked child: give up our copies of the parent's locks (the parent keeps its own)."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_forget_locks)
