"""What is known of the shipped submissions: badges and state sizes, from results/methods.json.

scripts/badges.py writes the file: badges from the tests, states by measurement. `harness list`,
`harness show` and the leaderboard read it. A submission of one's own is not in it.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from harness.catalog import discover
from harness.catalog.definition import tiny_of
from harness.errors import UserError
from harness.system.paths import ROOT

PATH = ROOT / "results" / "methods.json"
# The best first: same path as a trusted package; as a loop written from the paper; a property.
BADGES = ("reference", "formula", "self-consistent")


@dataclass(frozen=True)
class Evidence:
    """A test of a submission: the badge it earns, where it is, the package it compares with."""

    badge: str
    test: str
    package: str = ""

    def __str__(self) -> str:
        if not self.package:
            return self.test
        try:
            return f"{self.package} {version(self.package)} ({self.test})"
        except PackageNotFoundError:
            return f"{self.package}, not installed here ({self.test})"


@dataclass(frozen=True)
class Method:
    """What is known of one submission.

    Attributes:
        badge: the best that its tests earn, or None.
        tests: the tests, each with what it earns.
        state: bytes of state over bytes of trained parameters, None where it was not measured.
        measured_on: the problem on which the state was measured.
    """

    badge: str | None = None
    tests: tuple[Evidence, ...] = ()
    state: float | None = None
    measured_on: str = ""

    @property
    def words(self) -> str:
        """The state in a few letters, for a column; "-" if it was not measured."""
        return "-" if self.state is None else f"{self.state:.2g}"

    def plain(self) -> dict:
        """Return plain data for the file."""
        return {
            "badge": self.badge,
            "tests": [[each.badge, each.test, each.package] for each in self.tests],
            "state": self.state,
            "measured_on": self.measured_on,
        }


@cache
def methods() -> dict[str, Method]:
    """Return what is known of each shipped submission, by name.

    Raises:
        UserError: results/methods.json is missing or damaged.
    """
    try:
        return {
            name: Method(
                entry["badge"],
                tuple(Evidence(*row) for row in entry["tests"]),
                entry["state"],
                entry["measured_on"],
            )
            for name, entry in json.loads(PATH.read_text()).items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{PATH} cannot be read: {error!r}", do="restore it from version control"
        ) from None


def of(name: str) -> Method:
    """Return what is known of a submission; nothing is known of one that is not shipped."""
    return methods().get(name, Method())


@cache
def _small_workloads() -> dict[str, str]:
    """Return the workloads by the titles of their small forms."""
    blocks = {name: tiny_of(name) for name in discover.workloads()}
    return {tiny["title"]: name for name, tiny in blocks.items() if tiny}


def home(name: str) -> str:
    """Return the workload on which a submission's state was measured, small or not; else ""."""
    problem = of(name).measured_on
    place = problem.partition(",")[0]
    return place if place in discover.workloads() else _small_workloads().get(problem, "")
