"""Describe the machine, the packages and the project's source that a run used."""

import hashlib
import os
import platform
import socket
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

from harness.system.hashing import canonical, digest
from harness.system.paths import ROOT
from harness.system.processes import load_average

# packages whose versions a record lists by name; all others count in `packages_hash`
SHOWN = ("torch", "numpy", "hydra-core", "wandb", "safetensors")
# Keys that differ between two runs on one machine, or that name its owner.
CHANGING = ("load_average", "host")


def environment() -> dict:
    """Return the machine, the packages and the version of the project, for a record.

    `machine` distinguishes machines without naming them. `packages_hash` covers the name and
    version of every installed package. `git` is None if the project is not a git checkout.
    """
    return {
        "host": socket.gethostname(),
        "machine": identity(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": _usable_cores(),
        "memory": _memory(),
        "torch": _torch(),
        "packages": {name: _installed(name) for name in SHOWN},
        "packages_hash": _packages_hash(),
        "harness_hash": harness_hash(),
        "git": _git(),
        "load_average": load_average(),
    }


def steady(recorded: dict) -> dict:
    """Return an environment without the keys that change between runs on one machine."""
    return {key: value for key, value in recorded.items() if key not in CHANGING}


def hash_of(recorded: dict) -> str:
    """Return the hash of the steady part of an environment."""
    return digest(canonical(steady(recorded)))[:16]


@cache
def identity() -> str:
    """Return eight digits that identify this machine. A container counts as a machine."""
    parts = [socket.gethostname(), cpu_model()]
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        if Path(path).is_file():
            parts.append(Path(path).read_text().strip())
            break
    return digest(*parts)[:8]


@cache
def cpu_model() -> str:
    """Return the processor's name as its maker writes it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()


@cache
def harness_hash() -> str:
    """Return the hash of the harness's own code: file names and contents."""
    total = hashlib.sha256()
    for path in sorted((ROOT / "harness").rglob("*.py")):
        total.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def _usable_cores() -> int | None:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _memory() -> int | None:
    """Return the bytes of main memory, or None if they are unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _torch() -> dict:
    """Return the build of torch, its instruction set and threads, and the GPUs it sees."""
    import torch

    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return {
        "build": torch.__version__,
        "commit": torch.version.git_version,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpus": [torch.cuda.get_device_name(n) for n in gpus],
    }


@cache
def _installed(name: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def _packages_hash() -> str:
    """Return the hash of the names and versions of all installed packages."""
    names = {f"{package.metadata['Name']}=={package.version}" for package in distributions()}
    return digest(*sorted(names))[:16]


@cache
def _git() -> dict | None:
    """Return the commit of the checkout, and whether a tracked file differs from it."""
    if not (ROOT / ".git").exists():
        return None
    variables = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    # Without this, `git status` writes to the index.
    variables["GIT_OPTIONAL_LOCKS"] = "0"

    def git(*words: str) -> str:
        completed = subprocess.run(
            ["git", "-C", str(ROOT), *words],
            capture_output=True, text=True, check=True, timeout=20, env=variables,
        )  # fmt: skip
        return completed.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        # git is not installed, or it refuses a checkout that belongs to another user.
        return None
