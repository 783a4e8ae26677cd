"""Every command that a message, a hint, the README or a page prints can be typed as it is.

Commands are collected from the texts and run: races with dry=true, on a few records. What takes
minutes (measuring prices, racing a campaign) is replaced, so that only its arguments are tried.
"""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.catalog import discover
from harness.catalog.card import Plugin
from harness.catalog.definition import tree_of
from harness.cli import hints, overrides
from harness.cli.arguments import COMMANDS
from harness.race import configuration
from harness.records import run_folder
from tests.cli.test_cli import typed
from tests.support.racing import OWN, ROOT

NAMES = "|".join(COMMANDS)
COMMAND = re.compile(rf"(?:python -m harness|\bharness (?:{NAMES}))\b[^\n`;]*")
# a setting that a message asks for; what is in braces is filled in when it is printed
SETTING = re.compile(r"(?<![:\w.{}\"'+-])([a-z_]+(?:\.[a-z_]+)*)=([^\s;,:)\"']+)")
PROSE = re.compile(r"  |#| (?:writes|makes|says|sends|tries|shows)\b|\)(?!')|, |\]\(| \.\.\.")
# words of the texts that stand for something, and what they are replaced by
SAMPLES = {
    "NAME": "lion",
    "FILE": "my_idea.py",
    "A": "adamw",
    "B": "lion",
    "RUN_FOLDER": "results",
    "PLAN": "plan.yaml",
    "conf/plans/field.yaml": str(ROOT / "conf" / "plans" / "field.yaml"),
    "conf/plans/home.yaml": str(ROOT / "conf" / "plans" / "home.yaml"),
    "FOLDER": "results",
    "WORKLOAD": "gpt2",
    "workload=NAME": "workload=gpt2",
    "mine/results": "results",
    "adamw:lr=2e-3": "adamw:lr=0.00447214",  # a recorded one
    "theirs/results": "results",
}
PLACEHOLDERS = {
    "what": "submission",
    "stem": "my_idea",
    "name": "gpt2",
    "definition.track": "train",
    "workload": "gpt2",
}
# settings that a text only speaks about, and those that go with class=
NOT_SETTINGS = {"key", "class", "handles", "fallback", "inner", "keys"}
# commands that do something without arguments
ALONE = ("list", "doctor", "report", "comply")


def strings(node: ast.AST) -> Iterator[str]:
    """The texts of a tree that may be printed: no docstrings; placeholders in braces."""
    skipped = set()
    for each in ast.walk(node):
        body = getattr(each, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            skipped.add(id(body[0].value))
        if isinstance(each, ast.JoinedStr):
            skipped |= {id(part) for part in each.values}
    for each in ast.walk(node):
        if id(each) in skipped:
            continue
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value
        elif isinstance(each, ast.JoinedStr):
            yield "".join(
                part.value if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}"
                for part in each.values
                if isinstance(part, ast.Constant | ast.FormattedValue)
            )


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((ROOT / "harness").rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def advice() -> Iterator[tuple[str, str]]:
    """(file, text) of what errors allow and ask for."""
    for file, parsed in modules():
        for node in ast.walk(parsed):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("UserError"):
                for part in (*node.args[1:], *(keyword.value for keyword in node.keywords)):
                    yield from ((file, text) for text in strings(part))


def texts() -> Iterator[tuple[str, str]]:
    """(file, text) of everything that is printed or written for a reader."""
    for file, parsed in modules():
        yield from ((file, text) for text in strings(parsed))
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        yield path.relative_to(ROOT).as_posix(), path.read_text()


def words_of(command: str) -> list[str]:
    """A command of a text as words: without the prose behind it, names in place of samples."""
    for name, value in PLACEHOLDERS.items():
        command = command.replace(f"{{{name}}}", value)
    assert "{" not in command or "'" in command, f"no sample for the placeholder of {command}"
    command = re.sub(r"\[[^\]]*\]|\|\w+", "", command)
    words = shlex.split(PROSE.split(command, maxsplit=1)[0])
    return [SAMPLES.get(word, word) for word in words]


def commands() -> dict[str, str]:
    """Every command that is printed: the command line, and a file that prints it."""
    found = {}
    for file, text in texts():
        for match in COMMAND.finditer(text):
            words = words_of(match[0])
            found.setdefault(shlex.join(words), file)
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with what a user's has: a file of their own, records, a plan."""
    monkeypatch.chdir(tmp_path)
    assert typed("new", "submission", "my_idea")[0] == 0
    assert typed("new", "workload", "rings")[0] == 0
    board = tmp_path / "results" / "board"
    board.mkdir(parents=True)
    for name in ("gpt2.mini.jsonl", "matrix_asymmetric.mini.jsonl", "matrix_sensing.mini.jsonl"):
        (board / name).symlink_to(ROOT / "results" / "board" / name)
    (tmp_path / "results" / "reference").symlink_to(ROOT / "results" / "reference")
    (tmp_path / "plan.yaml").write_text("submissions: [adamw]\nworkloads: [gpt2]\n")
    return tmp_path


class Reached(Exception):
    """The work of a command that takes minutes was asked for: its arguments are right."""


def stop(*_, **__):
    raise Reached


def type_in(words: list[str], monkeypatch) -> tuple[int, str, str]:
    """Type a command: exit status, stdout, stderr."""
    if words[0] == "python":
        words = words[3:]
        if words and words[0] not in COMMANDS and "--cfg" not in words:
            words = [*words, "dry=true"]
    else:
        words = words[1:]
    if words[0] == "new":
        words = [*words[:2], "another"]
    if words in (["report"], ["comply"]):
        words = [*words, "results"]  # the project's own records take a minute
    if words[0] == "verify":
        monkeypatch.setattr("harness.race.rerun.again", stop)
        record = "results/board/matrix_sensing.mini.jsonl:13"
        words = [record if "RECORD" in w or w.startswith("results/") else w for w in words]
        if "--own" in words:  # it writes a list of the project
            return 0, "", ""
        if "--submission" in words:  # the record is of another method: it is refused
            words = words[: words.index("--submission")]
    if words[0] in ("target", "suggest"):
        words = ["gpt2" if word == "lion" else word for word in words]
    if words[0] == "compare":
        words = ["muon" if word == "my_idea" else word for word in words]
    monkeypatch.setattr("harness.cli.commands.calibrate.measure", stop)
    monkeypatch.setattr("harness.clock.measure.measure", stop)
    for command in ("campaign", "target"):
        done = lambda *_, **__: True  # noqa: E731
        monkeypatch.setattr(f"harness.cli.commands.{command}.run_pairs", done)
    try:
        return typed(*words)
    except Reached:
        return 0, "", ""


def test_commands_are_found_in_texts_of_every_kind():
    files = set(commands().values())
    assert {"README.md", "harness/cli/main.py", "docs/contributing.md"} <= files
    assert len(commands()) > 30


def marked() -> Iterator:
    """Every command; those that read many records or try all laws are slow."""
    for command in sorted(commands()):
        slow = command.startswith(("harness report", "harness comply", "harness check"))
        slow |= "engine.processes=" in command  # prices of several ranks are measured
        slow |= "home.yaml" in command  # it reads every method
        # What only the slow tests' environment has installed.
        slow |= any(f"launcher{s}{name}" in command for s in "= " for name in ("submitit", "ray"))
        yield pytest.param(command, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("command", list(marked()))
def test_a_printed_command_works(command, folder, monkeypatch):
    words = shlex.split(command)
    name = words[1] if words[0] == "harness" else ""
    if words[-1] in ("harness", "-m") or (words == ["harness", name] and name not in ALONE):
        return  # a command that a text only names
    code, out, err = type_in(words, monkeypatch)
    if name == "refine":
        assert "is not the record of a verified trial" in err  # the sample is not a run
    elif name == "target":
        assert "runs are missing; nothing was written" in out, err
    else:
        assert code == 0, (command, out, err)
    assert "Traceback" not in err


def test_settings_that_errors_name_exist():
    plugins = discover.submissions()
    found = 0
    for file, text in advice():
        if "train/rules/" in file:  # settings of as_optimizer, not of the command line
            continue
        for match in SETTING.finditer(re.sub(r"\{[^}]*\}", "{}", text)):
            key, value = match[1], match[2]
            if key in NOT_SETTINGS or "{" in key + value or "(" in value:
                continue
            found += 1
            words = [SAMPLES.get(match[0], f"{key}={SAMPLES.get(value, value)}")]
            if key.startswith("workload.mini.stream"):
                words.append("workload=stream_split")
            if "FOLDER" not in value and "LEVEL" not in value:
                overrides.check(words, plugins)
    assert found > 4


def trial(plugin: Plugin, number: int | None = None, place: str = "") -> SimpleNamespace:
    definition = SimpleNamespace(place=place)
    card = discover.read(plugin)
    return SimpleNamespace(card=card, trial=number, seed=3, definition=definition)


TYPED = {
    "name": ["submission=lion", "submission.lr=1e-3"],
    "file": ["submission=./a folder/my idea.py"],
    "class": ["submission=optimizer", "class=torch.optim.RAdam", "submission.lr=3e-3"],
}
OUTCOMES = (
    *run_folder.FINAL,
    "failed",
    "timeout",
    "interrupted",
    "killed",
    "oom",
    "disk_full",
    "refused",
)
OTHERS = ["workload=gpt2", "workload.mini.horizon=20", "seed=3", "tracker=none"]


@pytest.mark.parametrize("kind", TYPED)
def test_what_to_type_next_works_after_every_outcome(kind, folder, monkeypatch):
    """The same race with changes: every other setting is kept, and what is printed can be typed."""
    (folder / "a folder").mkdir()
    (folder / "a folder" / "my idea.py").write_text((OWN / "list_lion.py").read_text())
    typed = [*OTHERS, *TYPED[kind]]
    names = {"class": "torch.optim.RAdam", "name": "lion"}
    plugin = discover.find(names.get(kind, TYPED[kind][0].removeprefix("submission=")))
    tried = set()
    for outcome in OUTCOMES:
        for line in hints.next_lines(typed, trial(plugin), outcome, Path("results")):
            words = shlex.split(line, comments=True)
            if words[0] == "python":
                dropped = {"seed=3"} | ({"submission.lr=3e-3"} if "-m" in words[3:] else set())
                assert set(typed) - set(words) <= dropped, line
                assert ("-m" in words[3:]) == any("range" in word for word in words)
            else:
                assert words[1] in ("check", "comply", "show")
            if line.partition("  #")[0] not in tried and words[0] == "python":
                tried.add(line.partition("  #")[0])
                code, out, err = type_in(words, monkeypatch)
                assert code == 0, (line, out, err)
    assert len(tried) == 3  # the same again, the next seed, points of SPACE


def test_a_failed_trial_is_not_proposed_again_without_a_word(folder):
    plugin = discover.find("./my_idea.py")
    first, second = hints.next_lines(OTHERS, trial(plugin), "failed", Path("x"))
    assert first.startswith("harness check ./my_idea.py")
    assert second.endswith("# runs this trial again, once the cause is mended")


def test_after_a_failure_the_files_of_the_user_are_to_be_checked(folder):
    place = str(folder / "rings.py")
    shipped, own = discover.find("lion"), discover.find("./my_idea.py")
    first, _ = hints.next_lines(OTHERS, trial(shipped, place=place), "failed", Path("x"))
    assert first.startswith("harness check ./rings.py")
    lines = hints.next_lines(OTHERS, trial(own, place=place), "failed", Path("x"))
    assert [line.split()[2] for line in lines[:2]] == ["./rings.py", "./my_idea.py"]


def test_after_a_missed_point_the_next_points_are_proposed(folder):
    typed = ["submission=lion", "tuned=true", "trial=3", "dry=true"]
    (line,) = hints.next_lines(typed, trial(discover.find("lion"), 3), "out_of_budget", Path("x"))
    assert line == "python -m harness -m submission=lion 'trial=range(4,9)'"


def test_points_are_proposed_without_the_values_of_all_ranges(folder):
    """A class has one range, lr: five trials with lr typed would be one trial."""
    typed = TYPED["class"]
    plugin = discover.find("torch.optim.RAdam")
    (line,) = hints.next_lines(typed, trial(plugin), "out_of_budget", Path("x"))
    start = "python -m harness -m submission=optimizer class=torch.optim.RAdam"
    assert line == f"{start} 'trial=range(0,5)'"
    # lion has other ranges: a typed lr stays
    typed = ["submission=lion", "submission.lr=1e-3"]
    (line,) = hints.next_lines(typed, trial(discover.find("lion")), "out_of_budget", Path("x"))
    assert "submission.lr=1e-3" in line


def test_a_method_without_ranges_is_raced_with_another_seed():
    fixed = SimpleNamespace(
        card=SimpleNamespace(literals={"SPACE": {"lr": 0.1}}), trial=None, seed=0
    )
    (line,) = hints.next_lines(["workload=gpt2"], fixed, "out_of_budget", Path("x"))
    assert line == "python -m harness workload=gpt2 seed=1"


def test_the_first_line_of_a_race_says_which_point(tmp_path):
    from harness.race import plan

    def origin(submission, **changes):
        settings = configuration.settings(
            tree_of("gpt2"), {"name": "lion"} | submission, results=str(tmp_path), **changes
        )
        return plan.make(settings).point

    assert origin({}) == "tuned point of gpt2.mini"
    assert origin({}, tuned=False) == "defaults of SPACE"
    assert origin({}, trial=2) == "point 2 of SPACE"
    assert origin({}, trial=2, study=1) == "point 2 of SPACE in study 1"
    assert origin({"lr": 1e-3}) == "tuned point of gpt2.mini, with submission.lr=0.001"
    assert origin({}, variant="relu") == "defaults of SPACE: no tuned point is recorded"
    known = tmp_path / "tuned"
    known.mkdir()
    (known / "gpt2.mini.json").write_text(json.dumps({"lion": {"hp": {"lr": 3.0}}}))
    assert "the tuned point recorded does not fit (submission.lr=3.0" in origin({})
