"""What works on this machine: packages, device, isolation, tracker, disk, data."""

import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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
    "seaborn",
)


def examine() -> int:
    """Print one line per finding; returns 0 if a race can run here, else 1."""
    bad = 0

    def say(good: bool | None, what: str, found: str) -> None:
        mark = {True: "ok", False: "MISSING", None: "-"}[good]
        print(f"{mark:8} {what:28} {found}")

    for name in PACKAGES:
        try:
            say(True, name, version(name))
        except PackageNotFoundError:
            bad += 1
            say(False, name, "make sets it up")
    try:
        import torch

        say(
            True,
            "CPU",
            f"{os.cpu_count()} cores, load {processes.load_average():.2f}, "
            f"torch uses {torch.get_num_threads()} threads by itself",
        )
        gpu = torch.cuda.is_available()
        say(
            True if gpu else None,
            "GPU",
            torch.cuda.get_device_name() if gpu else "none seen by torch",
        )
    except ImportError:
        pass
    for layer, works in processes.layers().items():
        say(
            True if works else None,
            f"isolation: {layer}",
            "active" if works else "not on this platform",
        )
    for layer, found in sandbox.available().items():
        say(True if found else None, f"strict: {layer}", found or "not on this machine")
    offered = "strict, process, inline" if sandbox.offered() else "process, inline"
    say(None, "isolation levels", f"{offered} (isolation=LEVEL; docs/rules.md)")
    from harness.report.run.trackers import has_wandb_key

    say(
        None,
        "W&B",
        "online: an API key is configured"
        if has_wandb_key()
        else "offline: no API key (runs are kept; harness sync sends them later)",
    )
    cache = paths.cache_folder()
    free = shutil.disk_usage(next(p for p in (cache, *cache.parents) if p.exists())).free
    say(free > 2e9, "disk", f"{free / 1e9:.1f} GB free at {cache}")
    wheels = sorted(p.name for p in Path(cache).rglob("*.whl"))
    say(
        True if wheels else None,
        "data",
        ", ".join(wheels) or "nothing downloaded yet; the first race does it",
    )
    return 1 if bad else 0
