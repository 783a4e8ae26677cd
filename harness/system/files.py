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

# Descriptors of the locks that this process holds. A flock belongs to the open file, and fork()
# shares open files: if the child did not close its copy, it would keep a dead parent's lock.
_lock_descriptors: set[int] = set()


class DiskFull(UserError):
    """A write failed because the disk, the quota or the file-size limit is full.

    The earlier content of the file is intact.
    """

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
    """A file exists, but its content is truncated, corrupt or of the wrong kind."""

    def __init__(self, path: Path | str, why: str, do: str = ""):
        super().__init__(f"{path} cannot be used: {why}", do=do)
        self.path, self.why = Path(path), why

    def __reduce__(self):
        return BadFile, (self.path, self.why, self.do)


def atomic_write(path: Path | str, content: bytes | str) -> None:
    """Replace the content of the file in one step, and flush it to the disk.

    If this is interrupted, at any moment, the file has either its old or its new content.

    Raises:
        DiskFull: the disk is full; the old content is intact.
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
                # A network file system may report a full disk only here.
                os.close(handle)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_folder(path.parent)


def atomic_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON with `atomic_write`."""
    atomic_write(path, json.dumps(value, indent=2) + "\n")


def append_line(path: Path | str, line: str, *, durable: bool = False) -> None:
    """Append one line in a single write. After a crash, at most the last line is incomplete.

    Args:
        durable: flush the line to the disk before returning, so that nothing that is written
            later can survive a crash without it.

    Raises:
        DiskFull: the disk is full; no part of the line is left in the file.
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
                # Remove what was written, unless another process appended after it.
                after = os.fstat(handle).st_size
                if before < after <= before + len(content):
                    os.ftruncate(handle, before)
                raise
        finally:
            os.close(handle)
        if durable and before == 0:
            # The file is new, so its folder has to be flushed as well.
            _sync_folder(Path(path).parent)


@contextmanager
def locked(folder: Path | str, *, wait: bool = False, elsewhere: str = ELSEWHERE) -> Iterator[bool]:
    """Lock `folder`. Yield True if the lock was obtained; with `wait`, block until it is.

    The kernel frees the lock when this process ends, however it ends. Child processes do not
    inherit it.

    Args:
        elsewhere: the setting that a user types to choose another folder; shown in errors.

    Raises:
        UserError: the folder cannot be written or locked.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The lock is on a file that is open for writing: NFS cannot lock a folder exclusively.
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}", do=elsewhere) from error
    owner = os.getpid()
    _lock_descriptors.add(handle)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            acquired = True
        except BlockingIOError:
            acquired = False
        except OSError as error:
            # Some network file systems have no locks.
            raise UserError(f"cannot lock {folder}: {error.strerror}", do=elsewhere) from error
        yield acquired
    finally:
        # A forked child that leaves this block must not free its parent's lock.
        if os.getpid() == owner:
            _lock_descriptors.discard(handle)
            os.close(handle)


def sha256_of(path: Path | str) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path | str) -> Any:
    """Return the value in a JSON file.

    Raises:
        FileNotFoundError: the file does not exist.
        BadFile: the file is empty, truncated, or not JSON.
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
    """Turn a failed write of the block into DiskFull, or into an OSError that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFull(path, needed) from error
        if error.filename is None:
            # write() and fsync() know only the descriptor.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _write_all(handle: int, content: bytes) -> None:
    """Write all of the content. Near a full disk a write may be short; the next one then fails."""
    left = memoryview(content)
    while left:
        left = left[os.write(handle, left) :]


def _sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk, so that a rename in it survives a crash."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _forget_locks() -> None:
    """Close a forked child's copies of the lock descriptors. The parent keeps its own."""
    while _lock_descriptors:
        os.close(_lock_descriptors.pop())


os.register_at_fork(after_in_child=_forget_locks)


def remove_tree(folder: Path) -> None:
    """Remove a folder and everything in it, however deep it nests; links are not followed.

    What lies in inner folders is moved up before they are removed, so that no path grows too long.

    Raises:
        OSError: something cannot be removed.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    while entries := list(os.scandir(folder)):
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)
            for inner in list(os.scandir(entry.path)):
                # A folder that its owner may not write to cannot be moved.
                if inner.is_dir(follow_symlinks=False):
                    os.chmod(inner.path, 0o700)
                os.rename(inner.path, folder / f".{secrets.token_hex(12)}")
            os.rmdir(entry.path)
    folder.rmdir()
