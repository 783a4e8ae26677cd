"""On every small workload of its track a submission trains, or says in words why it does not."""

from contextlib import suppress

import pytest

from harness.catalog import discover
from harness.errors import UserError
from harness.laws.small_run import SmallRun
from harness.laws.small_workloads import small_workloads

# vmap warns of a slow path before it says that it has none.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]

# A variant has the code of its file.
NAMES = sorted(n for n, plugin in discover.submissions().items() if plugin.path.stem == n)


@pytest.mark.parametrize("name", NAMES)
def test_submission_fits_or_refuses(name):
    """A KeyError or the like would tell the user to mend a file that only is not for this."""
    card = discover.read(discover.find(name))
    for workload in (w for w in small_workloads() if w.track in discover.tracks(card)):
        with suppress(UserError):
            run = SmallRun(card, workload)
            run.advance(run.begin(workload), 2)
