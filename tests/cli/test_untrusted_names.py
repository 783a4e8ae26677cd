"""Names and texts of unknown origin: refused with a message, or shown without being obeyed."""

from pathlib import Path

import pytest

from harness.cli import main

BODY = '"""{doc}"""\nimport torch\nSPACE = {{"lr": {value}}}\n'
BODY += "def optimizer(params, hp):\n    return torch.optim.SGD(params, lr=hp.lr)\n"


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A function that writes a submission's file into the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(name, doc="Plain descent.", value="0.1"):
        (tmp_path / name).write_text(BODY.format(doc=doc, value=value))
        return f"./{name}"

    return write


@pytest.mark.parametrize("name", ["...py", "a..b.py", "a|b.py", "=1.py", "<b>.py", "-x.py"])
def test_a_file_whose_name_no_record_can_have_is_refused(written, name, capsys):
    written(name)
    assert main.main(["show", f"./{name}"]) == 2
    error = capsys.readouterr().err
    assert "cannot be the name of a record" in error
    assert "rename the file" in error


def test_an_ordinary_name_is_taken(written, capsys):
    for name in ("my_idea.py", "my idea.py", "lion-2.py"):
        assert main.main(["show", written(name)]) == 0
    assert "Plain descent." in capsys.readouterr().out


@pytest.mark.parametrize("value", ["-" * 3000 + "1", "[" * 3000 + "]" * 3000, "1+" * 5000 + "1"])
def test_a_deep_literal_is_a_message(written, value, capsys):
    assert main.main(["show", written("deep.py", value=value)]) == 2
    assert "deep.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    "value",
    [
        "0x" + "f" * 5000, "1e999", "{'log': [-1, 1]}", "{'choice': [1, 1e999]}",
        "{'goal': 'bits'}", "1j", "b'x'", "{0.1, 0.2}", "0.1, 1: 0.2",
    ],
)  # fmt: skip
def test_a_value_that_no_race_takes_is_a_message_of_show_too(written, value, capsys):
    assert main.main(["show", written("odd.py", value=value)]) == 2
    assert "odd.py: SPACE[" in capsys.readouterr().err


def test_tracks_that_are_no_names_and_a_mark_of_the_encoding(written, capsys):
    mine = written("mine.py")
    Path("mine.py").write_text(Path("mine.py").read_text() + "TRACKS = ['train', 3]\n")
    assert main.main(["show", mine]) == 2
    assert "TRACKS is ['train', 3]" in capsys.readouterr().err
    assert main.main(["show", written("marked.py", doc="Marked.")]) == 0
    plain = capsys.readouterr().out
    Path("marked.py").write_text(Path("marked.py").read_text(), encoding="utf-8-sig")
    assert main.main(["show", "./marked.py"]) == 0
    assert capsys.readouterr().out == plain


def test_null_bytes_are_a_message(written, capsys):
    assert main.main(["show", written("null.py", doc="a\0b")]) == 2
    assert "null.py is not valid Python" in capsys.readouterr().err


def test_escape_sequences_of_a_docstring_do_not_reach_the_terminal(written, capsys):
    doc = "\x1b[31mred\x9b5m\x07 \u202eyp.b\u2028 \\ud800"
    assert main.main(["show", written("red.py", doc=doc)]) == 0
    out = capsys.readouterr().out
    assert "\\u202eyp.b\\u2028 \\ud800" in out
    assert "\x1b" not in out
    assert "\x9b" not in out
    assert "\\x1b[31mred" in out


@pytest.mark.parametrize("folder", ["${oc.env:HOME}/x", "${hydra.job.name}", "'${x}'"])
def test_a_results_folder_is_never_interpolated(written, folder, capsys):
    words = ["workload=gpt2", f"submission={written('mine.py')}", f"results={folder}", "dry=true"]
    assert main.main(words) == 2
    assert "cannot have ${" in capsys.readouterr().err
