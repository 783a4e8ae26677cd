"""`python -m harness`: races, and the commands around them."""

import sys

from harness.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
