"""`harness comply`: does a record keep the rules, and what must its reader know of it?"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.errors import UserError
from harness.records import run_folder
from harness.records.compact import read_compact
from harness.records.plausibility import confirms
from harness.records.rules import FAIL, MARK, OPEN, RULES, Case
from harness.system.files import BadFile, read_json

DO = "harness comply results, a run's folder, or results/board/NAME.jsonl"
HOLDS = ("run.json", "log.jsonl")  # of a run's folder: either, at most three folders down


@dataclass
class Verdict:
    """What the rules say of one record.

    Attributes:
        where: the record's place, and `name`: what it is a record of.
        fails, opened: (rule, why) of the rules it breaks, or that cannot be checked here.
        marks: its weaknesses by short name, with why.
        none: why it is no result at all, and so neither keeps nor breaks the rules.
    """

    where: str
    name: str = ""
    fails: list[tuple[str, str]] = field(default_factory=list)
    opened: list[tuple[str, str]] = field(default_factory=list)
    marks: dict[str, str] = field(default_factory=dict)
    none: str = ""

    def lines(self, why: bool = False) -> list[str]:
        """The record's line, and below it the rules it breaks and, with `why`, those of its marks.

        What a quarantine is for is always said.
        """
        word = "none" if self.none else "FAIL" if self.fails else "pass"
        marks = f"  [{', '.join(self.marks)}]" if self.marks else ""
        first = f"{word}  {self.name or self.where}{marks}" + f"  {self.none}" * bool(self.none)
        rest = [f"      breaks: {rule} ({text})" for rule, text in self.fails]
        told = [f"      {m}: {t}" for m, t in self.marks.items() if why or m == "quarantined"]
        return [first, *rest, *told]


def said(rule) -> str:
    """A rule in a sentence: the first line of its docstring."""
    return rule.__doc__.strip().split("\n")[0].rstrip(".")


def examine(paths: Sequence[Path]) -> list[Verdict]:
    """Every record at the paths, examined, in order.

    Raises:
        UserError: a path does not exist.
    """
    read = [one for path in paths for one in _cases(path)]
    records: dict[str, list[Case]] = defaultdict(list)
    for _, case in read:
        if isinstance(case, Case) and "run_id" in case.record:
            records[case.record["run_id"]].append(case)
    confirmed = {name for name, cases in records.items() if _confirmed(cases)}
    verdicts = []
    for where, case in read:
        if isinstance(case, Verdict):
            verdicts.append(case)
        else:
            sure = case.record.get("run_id") in confirmed
            verdicts.append(judge(where, replace(case, confirmed=sure)))
    return verdicts


def judge(where: str, case: Case) -> Verdict:
    """Put a record to every rule; a record that breaks the first is put to no other."""
    rec = case.record
    if rec.get("schema") == run_folder.SCHEMA and rec.get("outcome") not in run_folder.FINAL:
        reason = f": {rec['reason']}" if rec.get("reason") else ""
        return Verdict(where, none=f"no result: {rec.get('outcome')}{reason}")
    verdict = Verdict(where)
    for rule in RULES:
        try:
            finding = rule(case)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OSError) as error:
            # What is missing or of another type was damaged: our own rules read what we write.
            verdict.fails.append((said(rule), f"it cannot be checked: {error!r}"))
            continue
        except UserError as error:
            verdict.fails.append((said(rule), str(error)))
            continue
        if finding is None:
            continue
        if finding.kind == FAIL:
            verdict.fails.append((said(rule), finding.text))
        elif finding.kind == MARK:
            verdict.marks[finding.mark] = finding.text
        elif finding.kind == OPEN:
            verdict.opened.append((said(rule), finding.text))
        if verdict.fails and rule is RULES[0]:
            return verdict
    trial = f" trial {rec['trial']}" if rec["trial"] is not None else ""
    name = f"{case.key} {rec['submission']} seed {rec['seed']}{trial}: {rec['outcome']}"
    verdict.name = f"{name}  {rec['run_id']}"
    return verdict


def summary(found: Sequence[Verdict]) -> list[str]:
    """How many keep the rules, and how many have which mark."""
    words = Counter("none" if v.none else "fail" if v.fails else "pass" for v in found)
    told = f"{len(found)} records: {words['pass']} pass, {words['fail']} fail"
    lines = [told + (f", {words['none']} are no results" if words["none"] else "")]
    if marks := Counter(mark for v in found for mark in v.marks):
        lines.append("marks: " + ", ".join(f"{mark} {n}" for mark, n in sorted(marks.items())))
    opened = Counter(one for v in found for one in v.opened)
    lines += [f"not checkable here: {rule} ({why}): {n}" for (rule, why), n in opened.items()]
    return lines


def _confirmed(cases: list[Case]) -> bool:
    """Whether a second record of a run, from another machine, says what the first does."""
    first, *others = cases
    return any(
        confirms(first.record, first.environment, other.record, other.environment)
        for other in others
    )


def _cases(path: Path) -> Iterator[tuple[str, Case | Verdict]]:
    """The records at a path; a verdict at once of what cannot be read as one."""
    if not path.exists():
        raise UserError(f"there is no {path}", do=DO)
    if path.is_file():
        yield from _lines(path)
        return
    inner = path / "runs" if (path / "runs").is_dir() else path
    begun = (inner.glob(f"{'*/' * depth}{name}") for name in HOLDS for depth in range(4))
    for folder in sorted({file.parent for files in begun for file in files}):
        yield str(folder), _folder(folder)
    for file in sorted((path / "board").glob("*.jsonl")):
        yield from _lines(file)


def _folder(folder: Path) -> Case | Verdict:
    try:
        rec = read_json(folder / "run.json")
    except FileNotFoundError:
        return Verdict(str(folder), none="no result: unfinished, there is no run.json")
    except (BadFile, OSError) as error:
        return Verdict(str(folder), fails=[("run.json can be read", str(error))])
    if not isinstance(rec, dict):
        return Verdict(str(folder), fails=[("run.json can be read", "it is no record")])
    return Case(rec, folder, rec.get("environment") or {})


def _lines(path: Path) -> Iterator[tuple[str, Case | Verdict]]:
    wrong: list[tuple[str, str]] = []
    for run in read_compact(path, wrong):
        yield run.where, Case(run.record, None, run.environment)
    for where, why in wrong:
        yield where, Verdict(where, fails=[("A compact line is as it was written", why)])
