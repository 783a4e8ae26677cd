"""`python -m harness`: races, and the commands around them."""

import sys
from pathlib import Path

from harness.cli.main import main
from harness.system.paths import ROOT


def search_current_folder_last() -> None:
    """Put the current folder behind ours in the module path; `python -m` puts it first.

    A folder of the user's may have its own workloads/ or submissions/, which would hide ours.
    """
    if sys.flags.safe_path or not sys.path or Path(sys.path[0] or ".").resolve() == ROOT:
        return
    current = sys.path.pop(0)
    sys.path += [path for path in (str(ROOT), current) if path not in sys.path]


if __name__ == "__main__":
    search_current_folder_last()
    sys.exit(main())
