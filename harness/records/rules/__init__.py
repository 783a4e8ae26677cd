"""The rules that a record must keep, one small function each.

A rule takes a RecordView. It returns None if the record keeps the rule, else a Finding. The first
line of its docstring is the sentence that users read (`verdict.sentence`). `harness comply` applies
the rules in this order.
"""

from harness.records.rules import logged, provenance
from harness.records.rules.record_view import FAIL, MARK, OPEN, Finding, RecordView

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

__all__ = ["FAIL", "MARK", "OPEN", "RULES", "Finding", "RecordView"]
