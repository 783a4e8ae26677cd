"""How a law ends: kept, broken, not applicable, or skipped by the file that it is about."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from harness.train.failure import in_one_line

KEPT, BROKEN, NOT_APPLICABLE, SKIPPED = "kept", "broken", "not applicable", "skipped"


class Violation(Exception):
    """A law is broken: what was measured, and the function of the file that it is about."""

    def __init__(self, what: str, function: str = ""):
        super().__init__(what)
        self.function = function


class NotApplicable(Exception):
    """A law does not apply to this submission or workload, and why."""


@dataclass(frozen=True)
class Verdict:
    """The end of a law.

    Attributes:
        outcome: KEPT, BROKEN, NOT_APPLICABLE or SKIPPED.
        text: what was measured, or the reason.
        function: of the file, that a broken law is about; empty where it is not known.
    """

    outcome: str
    text: str
    function: str = ""


def try_law(law: Callable, subject, exemption: str | None = None) -> Verdict:
    """Return the verdict of one law; an error that the tried file raises breaks the law.

    Args:
        exemption: the reason for which the file exempts itself.
    """
    if exemption:
        return Verdict(SKIPPED, exemption)
    try:
        return Verdict(KEPT, law(subject))
    except NotApplicable as reason:
        return Verdict(NOT_APPLICABLE, str(reason))
    except Violation as violation:
        return Verdict(BROKEN, str(violation), violation.function)
    except Exception as error:
        return Verdict(BROKEN, in_one_line(error))


def sentence(law: Callable) -> str:
    """Return what a law says, in one sentence."""
    return (inspect.getdoc(law) or "").split("\n")[0]
