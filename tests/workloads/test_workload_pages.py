"""The pages of workloads say what YAML and results say, and all that they link to is there."""

import re

import pytest

from harness.catalog import discover
from scripts import workload_pages

LARGEST = 150_000  # bytes of a picture


@pytest.fixture(scope="module")
def written():
    return workload_pages.pages()


def test_pages_are_what_the_script_writes(written):
    for path, text in written.items():
        assert path.read_text() == text, f"{path} is old: run {workload_pages.COMMAND} --text"


def test_no_page_is_left_over(written):
    kept = set(workload_pages.PAGES.glob("*.md"))
    assert kept == written.keys() - {workload_pages.INDEX}


def test_every_workload_has_a_row_a_section_and_those_with_a_reference_a_picture(written):
    for name in discover.workloads():
        page = written[workload_pages.PAGES / f"{workload_pages.family_of(name)}.md"]
        for scale in workload_pages.scales_of(workload_pages.tree_of(name)):
            assert f"| `{name}` {scale} |" in written[workload_pages.INDEX], name
        assert f"\n## {name}\n" in page
        drawn = (workload_pages.PAGES / f"{name}.png").exists()
        assert (f"]({name}.png)" in page) == drawn
        assert (
            drawn or not (discover.ROOT / "results" / "reference" / f"{name}.mini.json").exists()
        ), name


def test_links_and_pictures_exist(written):
    for path, text in written.items():
        targets = re.findall(r"\]\(([^)#]+)\)", text)
        assert targets
        for target in targets:
            assert (path.parent / target).exists(), (path.name, target)


def test_pictures_are_small_and_each_belongs_to_a_workload():
    pictures = list(workload_pages.PAGES.glob("*.png"))
    assert {p.stem for p in pictures} <= set(workload_pages.names())
    for picture in pictures:
        content = picture.read_bytes()
        assert content.startswith(b"\x89PNG\r\n"), picture.name
        assert len(content) < LARGEST, picture.name


def test_a_changed_target_changes_the_pages(monkeypatch):
    real = workload_pages.tree_of

    def changed(name):
        tree = real(name)
        if name == "gpt2":
            tree["mini"]["goal"] = {"loss": {"at_most": 1.25}}
        return tree

    monkeypatch.setattr(workload_pages, "tree_of", changed)
    page = workload_pages.page("gpt2")
    row = next(line for line in page.splitlines() if line.startswith("| mini |"))
    assert "loss ≤ 1.25" in row
    assert row.endswith("| none yet | — | — |"), "a reference of another goal is no reference"


def test_numbers_are_written_as_people_do():
    words = workload_pages.goal_in_words
    assert words({"relative_error": {"at_most": 1e-6}}) == "relative error ≤ 1e-6"
    assert words({"loss": {"at_most": 3.91}, "memory": {"at_most": 2_000_000}}) == (
        "loss ≤ 3.91, memory ≤ 2 MB"
    )
    assert [workload_pages.counted(n) for n in (840, 268_416, 124_439_808)] == [
        "840", "0.27 M", "124 M",
    ]  # fmt: skip
    assert workload_pages.changed({"model": {"tied": False}, "goal": {}}) == "`model.tied: false`"
    assert workload_pages.changed({"goal": {}}) == "the goal"


def test_a_docstring_becomes_prose_and_code():
    text = workload_pages.described("matrix_sensing")
    fences = [i for i, line in enumerate(text) if line == "```"]
    assert len(fences) == 2
    assert text[fences[0] + 1].startswith("y_i = <A_i, M>"), "code keeps its characters"
    assert any("\\<A, S>" in line for line in text[fences[1] :]), "prose is no markup"
