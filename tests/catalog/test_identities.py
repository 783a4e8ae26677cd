"""No identity that a record depends on has changed since it was frozen."""

import json

import pytest

from scripts import identities

FROZEN = json.loads(identities.FROZEN.read_text())


@pytest.mark.parametrize("kind", ["submissions", "workloads"])
def test_every_frozen_identity_is_that_of_the_tree(kind):
    """A new submission or workload need not be frozen; a frozen one must not change or go."""
    here = getattr(identities, kind)()
    assert {name: here.get(name) for name in FROZEN[kind]} == FROZEN[kind]


def test_every_run_id_of_the_board_can_be_derived_again():
    here = identities.runs()
    assert {
        name: set(FROZEN["runs"][name]) - set(here.get(name, ())) for name in FROZEN["runs"]
    } == {name: set() for name in FROZEN["runs"]}
    assert len([run for runs in FROZEN["runs"].values() for run in runs]) >= 470
