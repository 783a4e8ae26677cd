"""The project's folder, and the folder for downloads and prepared data."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from harness.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def cache_folder() -> Path:
    """Return the folder of downloads and prepared data: $HARNESS_CACHE, or ~/.cache/harness."""
    return Path(os.environ.get("HARNESS_CACHE") or Path.home() / ".cache" / "harness").expanduser()


def children_import_this_copy() -> None:
    """Change the environment of this process, so that its children import ours and no user's file.

    Workers of a launcher start in the current folder. Without a safe path they would import a
    json.py or random.py that lies there.
    """
    path = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path))
    os.environ["PYTHONSAFEPATH"] = "1"


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


def not_installed(error: Exception) -> str:
    """Return what to type where a package that the harness needs is missing; "" otherwise."""
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or not package or (ROOT / package).exists():
        return ""
    environment = ROOT / ".venv" / "bin" / "activate"
    fix = f"make race in {ROOT}, or pip install {ROOT}"
    if environment.exists():
        fix = f". {environment}"
    return f"{sys.executable} has no package {package!r}, which the harness needs; type {fix}"
