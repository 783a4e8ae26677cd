"""The project's folder, and the folder for downloads and prepared data."""

import os
from importlib.util import find_spec
from pathlib import Path

from harness.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def cache_folder() -> Path:
    """Return the folder of downloads and prepared data: $HARNESS_CACHE, or ~/.cache/harness."""
    return Path(os.environ.get("HARNESS_CACHE") or Path.home() / ".cache" / "harness").expanduser()


def require_root(root: str) -> None:
    """Raise UserError unless this process imported the copy of the harness in this folder."""
    if str(ROOT) != root:
        raise UserError(
            f"the runner imported harness from {ROOT}, the referee from {root}",
            "one copy of the harness in the path",
            "uninstall one of them, or take it out of PYTHONPATH",
        )


def require_own_packages() -> None:
    """Raise UserError if another package hides one of ours, by PYTHONPATH or an installation."""
    for name in ("workloads", "submissions"):
        spec = find_spec(name)
        places = [*(spec.submodule_search_locations or [spec.origin])] if spec else []
        if str(ROOT / name) not in [str(Path(place).resolve()) for place in places if place]:
            where = places[0] if places else "nowhere"
            raise UserError(
                f"Python finds the package {name!r} in {where}, not in {ROOT / name}",
                "the harness needs its own",
                "take the other out of PYTHONPATH, rename it, or work in an environment of its own",
            )
