"""Laws of a report on crafted records: what a record says is text, never markup, code or a path."""

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from harness.cli import main
from harness.records.collect import collect
from harness.records.compact import signed
from harness.report.board.page import report
from harness.system.paths import ROOT

SOURCE = ROOT / "results" / "board" / "matrix_sensing.mini.jsonl"
EVIL = {
    "script": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "quotes": '" onmouseover="alert(1)" x=\'</template></svg></style>',
    "markdown": "a|b\\|c `x` ![i](http://evil.example/a.png) [l](javascript:alert(1)) <b>",
    "newlines": "one\n| two | three |\n\n# title\r\n```\n{{ 7 * 7 }} {% raw %}",
    "formula": "=cmd|' /C calc'!A0",
    "formulas": "\t@SUM(1+1)*cmd|' /C calc'!A0\n-1+1",
    "escapes": "\x1b]0;title\x07\x1b[2J\x9b31m\r\x08",
}
ANY = " ".join(EVIL.values())
SCRIPTED = ("script", "img", "iframe", "object", "embed", "link", "base", "form")
IMAGE = re.compile(r"!\[[\w -]+\]\(figures/[\w.-]+\)")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Page(HTMLParser):
    """Collects a page's tags and attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.links = [], set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links |= {value for name, value in attrs if name in ("href", "src", "action")}


def crafted(folder, text):
    """Write a compact file, each record of which has `text` in every field that takes text."""
    rows = [json.loads(line) for line in SOURCE.read_text().splitlines()]
    for row in rows:
        row.pop("digest", None)
        if "run_id" not in row:
            environment = row["environment"]
            environment |= {"machine": text, "python": text, text: text}
            environment["packages"] = {text: text}
            continue
        row |= {"reason": text, text: text, "note": [text, {text: text}], "prices": text}
        row["about"] = {"summary": text, "title": text}
        row["hp"] = row["hp"] | {text: text}
    board = folder / "results" / "board"
    board.mkdir(parents=True)
    file = board / "matrix_sensing.mini.jsonl"
    named = json.loads(SOURCE.read_text().splitlines()[-1]) | {"submission": text}
    named.pop("digest")
    failed = json.loads(json.dumps(named)) | {"outcome": text, "submission": "x", "run_id": "y"}
    lines = [signed(row) for row in [*rows, named, failed]]
    file.write_text("\n".join([*lines, text.replace("\n", " ")]) + "\n")
    pair = {"reason": text, "source": text, "training_hash": [text]}
    atomic = json.dumps({text: pair, "sgd": pair})
    (board / "matrix_sensing.mini.failed.json").write_text(atomic)
    shutil.copy(file, board / "<img src=x>=1|`b`.jsonl")
    return folder / "results"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The page of the records as they are."""
    out = tmp_path_factory.mktemp("plain")
    report([str(SOURCE)], out)
    return Page((out / "index.html").read_text())


@pytest.mark.parametrize(
    "kind", ["all", *(pytest.param(kind, marks=pytest.mark.slow) for kind in EVIL)]
)
def test_no_text_of_a_record_is_markup_or_code_in_a_report(kind, tmp_path, plain):
    results, out = crafted(tmp_path, EVIL.get(kind, ANY)), tmp_path / "out"
    report([str(results)], out)
    assert len(collect([results]).runs) > 10
    page = Page((out / "index.html").read_text())
    assert (
        [tag for tag in page.tags if tag in SCRIPTED]
        == ["script"]
        == [tag for tag in plain.tags if tag in SCRIPTED]
    )
    # The list of what was left out is open.
    assert page.attributes <= plain.attributes | {"open"}
    assert all(link.startswith(("https://arxiv.org/", "#")) for link in page.links)
    written = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.parts[0] for path in written} == {"results", "out"}
    for path in (out / place for place in out.rglob("*") if place.is_file()):
        assert re.fullmatch(r"[\w.-]+", path.name)
        assert path.suffix == ".parquet" or not CONTROL.search(path.read_text())
    for path in out.rglob("*.svg"):
        tags = {node.tag.split("}")[-1] for node in ElementTree.parse(path).iter()}
        assert not tags & {"script", "foreignObject", "a", "image"}
    for path in out.rglob("*.csv"):
        with open(path, newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        texts = [cell for cell in cells if not re.fullmatch(r"-?[\d.]+(e-?\d+)?|-inf", cell)]
        assert not [cell for cell in texts if cell.lstrip()[:1] in set("=+-@")]


def test_no_text_of_a_record_is_markup_in_markdown(tmp_path):
    out = tmp_path / "out"
    report([str(crafted(tmp_path, ANY))], out)
    text = (out / "LEADERBOARD.md").read_text()
    lines = text.splitlines()
    assert not re.search(r"<[a-z/!]", text)
    bare = [re.sub(r"\\.|`harness report`", "", line) for line in lines]
    assert not any("`" in line for line in bare)
    tables = [line for line in bare if line.startswith("|")]
    assert len({line.count("|") for line in tables}) == 1
    links = [line for line in bare[3:] if "[" in line and not line.startswith("|")]
    assert [line for line in links if not IMAGE.fullmatch(line)] == []
    assert "# title" not in lines
    assert "evil.example" in text
    assert "http://" not in text


def test_no_text_of_a_record_reaches_the_terminal_raw(tmp_path, capsys):
    results = crafted(tmp_path, ANY)
    for words in (["comply", "--why"], ["report", "--out", str(tmp_path / "out")]):
        assert main.main([words[0], str(results), *words[1:]]) in (0, 3)
        told = capsys.readouterr()
        assert not CONTROL.search(told.out + told.err)
        assert told.out
