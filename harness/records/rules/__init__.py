"""What a record must fulfil: one small function a rule.

A rule is given a case and returns None where it holds, else a finding; the first line of its
docstring is what is said. `harness comply` goes through them in this order.
"""

from harness.records.rules import logged, provenance
from harness.records.rules.record_view import FAIL, MARK, OPEN, Case, Finding

RULES = (
    logged.complete,
    logged.chain,
    logged.one_result,
    logged.as_started,
    logged.goal_held,
    logged.rederived,
    logged.counts,
    logged.monotone,
    logged.lost_work,
    provenance.source,
    provenance.version,
    provenance.prices,
    provenance.environment,
    provenance.files,
    provenance.isolation,
    provenance.quiet,
    provenance.believable,
)

__all__ = ["FAIL", "MARK", "OPEN", "RULES", "Case", "Finding"]
