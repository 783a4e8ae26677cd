"""What a run ran on: hardware, packages, the state of the project's own source."""

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

SHOWN = ("torch", "numpy", "hydra-core", "wandb", "safetensors")
CHANGING = ("load_average", "host")  # differ between runs on one machine, or name its owner


def environment() -> dict:
    """The machine, the packages and the version of the project, for a record.

    `machine` tells machines apart without naming them; `packages_hash` is over the name and version
    of everything installed; `git` is None where the project is no checkout.
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


def steady(found: dict) -> dict:
    """An environment without what differs between two runs on the same machine."""
    return {key: value for key, value in found.items() if key not in CHANGING}


def hash_of(found: dict) -> str:
    """The hash of what is steady in an environment."""
    return digest(canonical(steady(found)))[:16]


@cache
def identity() -> str:
    """Eight digits that tell this machine from others; containers count as machines."""
    parts = [socket.gethostname(), cpu_model()]
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        if Path(path).is_file():
            parts.append(Path(path).read_text().strip())
            break
    return digest(*parts)[:8]


@cache
def cpu_model() -> str:
    """The processor's name as its maker writes it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()


@cache
def harness_hash() -> str:
    """The hash of the harness's own code: the file names inside it and their content."""
    found = hashlib.sha256()
    for path in sorted((ROOT / "harness").rglob("*.py")):
        found.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def _usable_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _memory() -> int | None:
    """Bytes of main memory."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _torch() -> dict:
    """The build of torch, what it computes with, and the GPUs that it sees."""
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
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def _packages_hash() -> str:
    found = {f"{one.metadata['Name']}=={one.version}" for one in distributions()}
    return digest(*sorted(found))[:16]


@cache
def _git() -> dict | None:
    """The commit of the checkout, and whether a tracked file differs from it."""
    if not (ROOT / ".git").exists():
        return None
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    kept["GIT_OPTIONAL_LOCKS"] = "0"  # status writes nothing

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *words],
            capture_output=True, text=True, check=True, timeout=20, env=kept,
        )  # fmt: skip
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None  # no git, or a checkout of another user's
