"""Apply the rules to records, and say what a reader must know of each (`harness comply`)."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.errors import UserError
from harness.records import run_folder
from harness.records.compact import read_compact, require_compact
from harness.records.plausibility import confirms
from harness.records.rules import FAIL, MARK, OPEN, RULES, RecordView
from harness.records.schema import DAMAGED
from harness.records.verified import verified_by
from harness.system.files import BadFile, read_json

DO = "harness comply results, a run's folder, or results/board/NAME.jsonl"


@dataclass
class Verdict:
    """The result of all rules for one record.

    Attributes:
        where: the place of the record.
        name: its workload, submission, seed, trial and outcome.
        fails, opened: (rule, reason) of the rules that it breaks, or that cannot be checked here.
        marks: the reason for each of its weaknesses, by short name.
        none: why it is not a result, and so neither keeps nor breaks the rules; else empty.
    """

    where: str
    name: str = ""
    fails: list[tuple[str, str]] = field(default_factory=list)
    opened: list[tuple[str, str]] = field(default_factory=list)
    marks: dict[str, str] = field(default_factory=dict)
    none: str = ""

    def lines(self, why: bool = False) -> list[str]:
        """Return the record's line, and one line for each rule that it breaks.

        With `why`, also return one line for each mark. The reason for a quarantine is always there.
        """
        status = "none" if self.none else "FAIL" if self.fails else "pass"
        marks = f"  [{', '.join(self.marks)}]" if self.marks else ""
        first = f"{status}  {self.name or self.where}{marks}" + f"  {self.none}" * bool(self.none)
        rest = [f"      breaks: {rule} ({text})" for rule, text in self.fails]
        marked = [f"      {m}: {t}" for m, t in self.marks.items() if why or m == "quarantined"]
        return [first, *rest, *marked]


def sentence(rule) -> str:
    """Return a rule as a sentence: the first line of its docstring without "Check that"."""
    text = rule.__doc__.strip().split("\n")[0].rstrip(".").removeprefix("Check that ")
    # A file's name keeps its case.
    return text if "." in text.split()[0] else text[0].upper() + text[1:]


def examine(paths: Sequence[Path]) -> list[Verdict]:
    """Return a verdict on every record at the paths, in order.

    Raises:
        UserError: a path does not exist.
    """
    views = [pair for path in paths for pair in _views(path)]
    records: dict[str, list[RecordView]] = defaultdict(list)
    for _, view in views:
        if isinstance(view, RecordView) and (run_id := _run_id(view)):
            records[run_id].append(view)
    confirmed = {name for name, views_of_run in records.items() if _confirmed(views_of_run)}
    verdicts = []
    for where, view in views:
        if isinstance(view, Verdict):
            verdicts.append(view)
        else:
            is_confirmed = _run_id(view) in confirmed
            verdicts.append(judge(where, replace(view, confirmed=is_confirmed)))
    return verdicts


def judge(where: str, view: RecordView) -> Verdict:
    """Apply every rule to a record. A record that breaks the first is not checked further."""
    record = view.record
    if record.get("schema") == run_folder.SCHEMA and record.get("outcome") not in run_folder.FINAL:
        reason = f": {record['reason']}" if record.get("reason") else ""
        return Verdict(where, none=f"no result: {record.get('outcome')}{reason}")
    verdict = Verdict(where)
    for rule in RULES:
        try:
            finding = rule(view)
        except (*DAMAGED, OSError) as error:
            # The rules can read every record that the harness writes, so this one was damaged.
            verdict.fails.append((sentence(rule), f"it cannot be checked: {error!r}"))
            continue
        except UserError as error:
            verdict.fails.append((sentence(rule), str(error)))
            continue
        if finding is None:
            continue
        if finding.kind == FAIL:
            verdict.fails.append((sentence(rule), finding.text))
        elif finding.kind == MARK:
            verdict.marks[finding.mark] = finding.text
        elif finding.kind == OPEN:
            verdict.opened.append((sentence(rule), finding.text))
        if verdict.fails and rule is RULES[0]:
            return verdict
    trial = f" trial {record['trial']}" if record["trial"] is not None else ""
    name = f"{view.key} {record['submission']} seed {record['seed']}{trial}: {record['outcome']}"
    verdict.name = f"{name}  {record['run_id']}"
    return verdict


def summary(verdicts: Sequence[Verdict]) -> list[str]:
    """Return how many records keep the rules, and how many have each mark, one line each."""
    statuses = Counter("none" if v.none else "fail" if v.fails else "pass" for v in verdicts)
    message = f"{len(verdicts)} records: {statuses['pass']} pass, {statuses['fail']} fail"
    lines = [message + (f", {statuses['none']} are no results" if statuses["none"] else "")]
    if marks := Counter(mark for v in verdicts for mark in v.marks):
        lines.append("marks: " + ", ".join(f"{mark} {n}" for mark, n in sorted(marks.items())))
    opened = Counter(rule_and_reason for v in verdicts for rule_and_reason in v.opened)
    lines += [f"not checkable here: {rule} ({why}): {n}" for (rule, why), n in opened.items()]
    return lines


def _run_id(view: RecordView) -> str:
    """Return a record's run id; "" if it has none, or if it is damaged and has something else."""
    run_id = view.record.get("run_id")
    return run_id if isinstance(run_id, str) else ""


def _confirmed(views: list[RecordView]) -> bool:
    """Return True if a second, verified record of a run, from another machine, confirms the first.

    A record that nobody has raced again may be made up like the first.
    """
    first, *rest = views
    return any(
        confirms(first.record, first.environment, second.record, second.environment)
        and bool(verified_by(first.record) or verified_by(second.record))
        for second in rest
    )


def _views(path: Path) -> Iterator[tuple[str, RecordView | Verdict]]:
    """Yield the records at a path; a verdict for each that cannot be read."""
    if not path.exists():
        raise UserError(f"there is no {path}", do=DO)
    require_compact(path)
    if path.is_file():
        yield from _lines(path)
        return
    inner = path / "runs" if (path / "runs").is_dir() else path
    # A run's folder may be up to three folders deep.
    begun = (
        inner.glob(f"{'*/' * depth}{name}") for name in run_folder.MARKERS for depth in range(4)
    )
    for folder in sorted({file.parent for files in begun for file in files}):
        yield str(folder), _folder(folder)
    for file in sorted((path / "board").glob("*.jsonl")):
        yield from _lines(file)


def _folder(folder: Path) -> RecordView | Verdict:
    """Return the record in a run's folder; a verdict if it cannot be read."""
    try:
        record = read_json(folder / "run.json")
    except FileNotFoundError:
        return Verdict(str(folder), none="no result: unfinished, there is no run.json")
    except (BadFile, OSError) as error:
        return Verdict(str(folder), fails=[("run.json can be read", str(error))])
    if not isinstance(record, dict):
        return Verdict(str(folder), fails=[("run.json can be read", "it is not a record")])
    return RecordView(record, folder, record.get("environment") or {})


def _lines(path: Path) -> Iterator[tuple[str, RecordView | Verdict]]:
    wrong: list[tuple[str, str]] = []
    for run in read_compact(path, wrong):
        yield run.where, RecordView(run.record, None, run.environment, checked=True)
    for where, why in wrong:
        yield where, Verdict(where, fails=[("A compact line is as it was written", why)])
