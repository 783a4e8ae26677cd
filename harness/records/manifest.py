"""MANIFEST: the hash of every file that a run keeps, in the format of `sha256sum -c`."""

import re
from collections.abc import Iterator
from pathlib import Path

from harness.system.files import atomic_write, sha256_of

NAME = "MANIFEST"
# What others than the trial write, what serves its processes, and run.json, which comes after it.
APART = ("private", "wandb", "tensorboard", "progress", "spent", "run.json", "mirror.log", NAME)
# Large files that whoever keeps the records may delete.
MAY_GO = ("checkpoint", "before_crossing")


def write(folder: Path) -> str:
    """Write the manifest of a run's folder; returns its own SHA-256, which run.json keeps.

    Raises:
        DiskFull, OSError: it could not be written; there is no new run.json then either.
    """
    atomic_write(
        folder / NAME, b"".join(_line(sha256_of(folder / name), name) for name in kept(folder))
    )
    return sha256_of(folder / NAME)


def kept(folder: Path) -> list[str]:
    """Names, relative to the run's folder, of the files in its manifest, in order."""
    return sorted(_files(folder, folder))


def problems(folder: Path, stated: str) -> list[str]:
    """What differs between a run's files and its manifest, whose own hash should be `stated`.

    A checkpoint that is no longer there is no problem; a changed one is.
    """
    path = folder / NAME
    if not path.is_file():
        return ["there is no MANIFEST"]
    if sha256_of(path) != stated:
        return ["MANIFEST is not the one that run.json names"]
    listed = dict(
        _parsed(line)
        for line in path.read_bytes().decode("utf-8", "surrogateescape").split("\n")[:-1]
    )
    found = []
    for name, digest in listed.items():
        file = folder / name
        if not file.is_file():
            found += [f"{name!r} is missing"] * (name.split("/")[0] not in MAY_GO)
        elif sha256_of(file) != digest:
            found.append(f"{name!r} was changed")
    return found + [f"{name!r} was added" for name in kept(folder) if name not in listed]


def _files(folder: Path, top: Path) -> Iterator[str]:
    for path in folder.iterdir():
        inside = path.relative_to(top).as_posix()
        if path.name.startswith(".") or inside in APART or inside.startswith("mirror."):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _files(path, top)
        elif path.is_file():
            yield inside


def _line(digest: str, name: str) -> bytes:
    r"""One line; a name with a newline or a backslash is escaped and marked, as by sha256sum."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    mark = "\\" * (escaped != name)
    return f"{mark}{digest}  {escaped}\n".encode("utf-8", "surrogateescape")


def _parsed(line: str) -> tuple[str, str]:
    marked, line = line.startswith("\\"), line.removeprefix("\\")
    digest, _, name = line.partition("  ")
    if marked:
        plain = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}
        name = re.sub(r"\\[\\nr]", lambda found: plain[found[0]], name)
    return name, digest
