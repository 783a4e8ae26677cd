"""harness doctor: what works on this machine: packages, device, isolation, tracker, disk, data."""

import os
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from harness.cli.arguments import parser
from harness.errors import EXIT_FAILED, EXIT_OK
from harness.system import paths, processes, sandbox

PACKAGES = (
    "torch",
    "hydra-core",
    "hydra-joblib-launcher",
    "wandb",
    "safetensors",
    "tokenizers",
    "rich",
    "pandas",
    "matplotlib",
)
CACHE = "cache folder"
# what no race can do without
NEEDED = (*PACKAGES, CACHE)
MARKS = {True: "ok", False: "MISSING", None: "-"}
# bytes that the prepared data and a few runs need
ENOUGH_DISK = 2e9


class Finding(NamedTuple):
    """One line of the examination: `works` is None for what a race can do without."""

    works: bool | None
    subject: str
    text: str


def run(arguments: list[str]) -> int:
    """Print what works; return 0 if a race can run here, else 1."""
    parser("doctor", "Say what works on this machine.").parse_args(arguments)
    complete = True
    for finding in _examine():
        print(f"{MARKS[finding.works]:8} {finding.subject:28} {finding.text}", flush=True)
        complete = complete and not (finding.works is False and finding.subject in NEEDED)
    return EXIT_OK if complete else EXIT_FAILED


def _examine() -> Iterator[Finding]:
    """Return every finding, the packages first."""
    for name in PACKAGES:
        try:
            yield Finding(True, name, version(name))
        except PackageNotFoundError:
            yield Finding(False, name, "make sets it up")
    yield from _devices()
    yield from _isolation()
    yield _tracker()
    yield _cache()
    yield _disk()
    yield _data()


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except ImportError:
        return
    cores, threads = os.cpu_count(), torch.get_num_threads()
    load = f"load {processes.load_average():.2f}"
    yield Finding(True, "CPU", f"{cores} cores, {load}, torch uses {threads} threads by itself")
    if torch.cuda.is_available():
        yield Finding(True, "GPU", torch.cuda.get_device_name())
    else:
        yield Finding(None, "GPU", "torch sees none")


def _isolation() -> Iterator[Finding]:
    for layer, works in processes.layers().items():
        text = "active" if works else "not on this platform"
        yield Finding(True if works else None, f"isolation: {layer}", text)
    for layer, text in sandbox.available().items():
        yield Finding(True if text else None, f"strict: {layer}", text or "not on this machine")
    levels = "strict, process, inline" if sandbox.offered() else "process, inline"
    yield Finding(None, "isolation levels", f"{levels} (isolation=LEVEL; docs/rules.md)")


def _tracker() -> Finding:
    from harness.report.run.trackers import has_wandb_key

    if has_wandb_key():
        return Finding(None, "W&B", "online: an API key is configured")
    text = "offline: no API key (runs are kept; harness sync sends them later)"
    return Finding(None, "W&B", text)


def _cache() -> Finding:
    """Say whether downloads and prepared data can be kept."""
    cache = paths.cache_folder()
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return Finding(True, CACHE, str(cache))
    return Finding(False, CACHE, f"{cache} cannot be written: HARNESS_CACHE=FOLDER names another")


def _disk() -> Finding:
    cache = paths.cache_folder()
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    return Finding(free > ENOUGH_DISK, "disk", f"{free / 1e9:.1f} GB free at {cache}")


def _data() -> Finding:
    wheels = sorted(path.name for path in paths.cache_folder().rglob("*.whl"))
    text = ", ".join(wheels) or "nothing downloaded yet; the first race does it"
    return Finding(True if wheels else None, "data", text)
