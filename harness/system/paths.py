"""The project's folder, and the folder for downloads and prepared data."""

import os
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
