"""The README is true: its commands run, its files exist, its targets are in the Makefile."""

import re
import shlex

import pytest

from harness.catalog import discover
from harness.catalog.discover import ROOT
from harness.report.board.figures import FIGURES
from tests.support.racing import typed

README = (ROOT / "README.md").read_text()
SHORT = [
    "workload.mini.horizon=4", "workload.mini.batch=2", "workload.mini.evaluate.points=1",
    "tracker=none", "isolation=inline",
]  # fmt: skip


def commands() -> list[list[str]]:
    """The commands of the README's sh blocks, in order, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = [words[1] for words in commands() if words[0] == "make"]
    assert "race" in targets
    assert "test" in targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_every_other_command_runs(tmp_path, monkeypatch):
    """Races are shortened by their horizon and run without a runner's process.

    They run in this process, one after the other, in a folder of their own. The report draws one
    figure of each board: tests/report/ draws them all, of fewer records.
    """
    monkeypatch.chdir(tmp_path)
    for name in list(FIGURES)[1:]:
        monkeypatch.delitem(FIGURES, name)
    ran = 0
    for words in (w for w in commands() if w[0] != "make"):
        arguments = words[1:] if words[0] == "harness" else words[3:]
        assert words[0] == "harness" or words[:3] == ["python", "-m", "harness"], words
        if words[0] == "python":
            arguments += SHORT + ["hydra/launcher=basic"] * ("-m" in arguments)
        code, out, err = typed(*arguments)
        assert code == 0, (words, out, err)
        ran += 1
    assert ran >= 5
    races = sum(words[0] == "python" for words in commands())
    assert len(list(tmp_path.glob("results/runs/*/*/*/run.json"))) >= races


def examples() -> dict[str, str]:
    """The submissions on docs/submissions.md, by the first words of their docstrings."""
    page = (ROOT / "docs" / "submissions.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    return {block[3:].partition("\n")[0]: block for block in blocks if block.startswith('"""')}


def test_the_page_has_an_example_of_each_form(tmp_path):
    forms = []
    for number, text in enumerate(examples().values()):
        path = tmp_path / f"example{number}.py"
        path.write_text(text)
        forms.append(discover.read(discover.find(str(path))))
    assert [card.form for card in forms].count("c") == 3
    assert {card.form for card in forms} == {"a", "b", "c"}
    assert {track for card in forms for track in discover.tracks(card)} >= {"train", "continual"}
    assert any("adapt" in card.functions for card in forms)


@pytest.mark.slow
@pytest.mark.parametrize("name", examples())
def test_examples_of_the_page_keep_the_laws(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "example.py").write_text(examples()[name])
    code, out, err = typed("check", "./example.py")
    assert code == 0, out + err


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
