"""`python -m harness`: races, and the commands around them."""

import os
import sys


def search_current_folder_last() -> None:
    """Put the current folder behind ours in the module path; `python -m` puts it first.

    A folder of the user's may have its own workloads/ or submissions/, which would hide ours, or a
    json.py. So nothing is imported before this but what Python itself has loaded.
    """
    root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    if sys.flags.safe_path or not sys.path or os.path.realpath(sys.path[0] or ".") == root:
        return
    current = sys.path.pop(0)
    sys.path += [path for path in (root, current) if path not in sys.path]


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 (nobody has installed anything yet)
        print("harness: needs Python 3.11 or newer, not", sys.version.split()[0], file=sys.stderr)
        sys.exit(2)
    search_current_folder_last()
    try:
        from harness.cli.main import main

        status = main()
    except KeyboardInterrupt:
        # Ctrl-C while modules are imported
        status = 130
    sys.exit(status)
