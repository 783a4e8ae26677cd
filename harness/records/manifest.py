"""Write and check MANIFEST: the hash of every file of a run, in the format of `sha256sum -c`."""

import re
from collections.abc import Iterator
from pathlib import Path

from harness.system.files import atomic_write, sha256_of
from harness.train import final_weights

NAME = "MANIFEST"
# Files that are not in the manifest: those that other programs write, those that only serve the
# trial's processes, and run.json, which is written later.
APART = ("private", "wandb", "tensorboard", "progress", "spent", "run.json", "mirror.log", NAME)
# Large files that the keeper of the records may delete.
MAY_GO = ("checkpoint", "before_crossing", final_weights.NAME)


def write(folder: Path) -> str:
    """Write the manifest of a run's folder. Return its SHA-256, which run.json keeps.

    Raises:
        DiskFull, OSError: the manifest could not be written, so run.json must not be written.
    """
    atomic_write(
        folder / NAME, b"".join(_line(sha256_of(folder / name), name) for name in names(folder))
    )
    return sha256_of(folder / NAME)


def names(folder: Path) -> list[str]:
    """Return the names of the files in a run's manifest, relative to its folder, in order."""
    return sorted(_files(folder, folder))


def problems(folder: Path, stated: str) -> list[str]:
    """Return the differences between a run's files and its manifest.

    A deleted checkpoint is allowed; a changed one is not.

    Args:
        stated: the hash that the manifest itself should have.
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
    differences = []
    for name, digest in listed.items():
        file = folder / name
        if not file.is_file():
            differences += [f"{name!r} is missing"] * (name.split("/")[0] not in MAY_GO)
        elif sha256_of(file) != digest:
            differences.append(f"{name!r} was changed")
    return differences + [f"{name!r} was added" for name in names(folder) if name not in listed]


def _files(folder: Path, top: Path) -> Iterator[str]:
    """Yield the names of the files in a folder that belong in the manifest, relative to `top`."""
    for path in folder.iterdir():
        inside = path.relative_to(top).as_posix()
        if path.name.startswith(".") or inside in APART or inside.startswith("mirror."):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _files(path, top)
        elif path.is_file():
            yield inside


def _line(digest: str, name: str) -> bytes:
    r"""Return a line of the manifest. As in sha256sum, a name with a newline or \ is escaped."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    mark = "\\" * (escaped != name)
    return f"{mark}{digest}  {escaped}\n".encode("utf-8", "surrogateescape")


def _parsed(line: str) -> tuple[str, str]:
    """Return the name and the hash in a line of the manifest."""
    marked, line = line.startswith("\\"), line.removeprefix("\\")
    digest, _, name = line.partition("  ")
    if marked:
        characters = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}
        name = re.sub(r"\\[\\nr]", lambda match: characters[match[0]], name)
    return name, digest
