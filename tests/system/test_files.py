"""Laws of files: whatever fails, and whenever, there is the old content or the new one."""

import errno
import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.records.log import Log, rows, verify
from harness.system import files
from harness.system.files import BadFile, DiskFull, append_line, atomic_json, atomic_write, locked


def run_python(code, *args, **kwargs):
    """Start a Python process on `code`, its output piped."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **kwargs)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_any_failing_write_leaves_old_or_new_and_no_litter(tmp_path, every_failure, code):
    path, after = tmp_path / "state.json", []
    path.write_text("old")
    for error in every_failure(lambda: atomic_write(path, "new"), code):
        assert isinstance(error, DiskFull if code == errno.ENOSPC else OSError)
        assert [p.name for p in tmp_path.iterdir()] == ["state.json"]
        after.append(path.read_text())
        path.write_text("old")
    # open, write, fsync, replace; then the folder is opened and synced, with the new in place
    assert after == ["old"] * 4 + ["new"] * 2


def test_disk_full_names_the_file_and_the_bytes_and_keeps_the_old(tmp_path, small_files):
    path = tmp_path / "state"
    atomic_write(path, b"old")
    with pytest.raises(DiskFull, match="5,000 bytes") as caught:
        atomic_write(path, b"x" * 5000)
    assert (caught.value.path, caught.value.needed) == (path, 5000)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("state", b"old")]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_full_device_is_disk_full():
    with pytest.raises(DiskFull):
        append_line("/dev/full", "row")


def test_a_line_that_does_not_fit_leaves_nothing_behind(tmp_path, small_files):
    path = tmp_path / "log"
    append_line(path, "a" * 900)
    with pytest.raises(DiskFull):
        append_line(path, "b" * 900)
    append_line(path, "c")
    assert path.read_text() == "a" * 900 + "\nc\n"


def test_lines_of_many_processes_are_never_torn(tmp_path):
    path = tmp_path / "log"
    code = """
        import sys
        from harness.system.files import append_line
        for _ in range(200):
            append_line(sys.argv[1], sys.argv[2] * 300)
    """
    writers = [run_python(code, path, letter) for letter in "abc"]
    assert [writer.communicate()[0] for writer in writers] == ["", "", ""]
    assert sorted(path.read_text().split()) == sorted(letter * 300 for letter in "abc" * 200)


def test_errors_survive_the_way_to_another_process():
    import pickle

    for error in (DiskFull("a", 3), BadFile("a", "it is empty")):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


@given(st.data())
def test_a_damaged_json_file_is_named(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("json") / "run.json"
    atomic_json(path, {"score": 1.5, "name": "é"})
    assert files.read_json(path) == {"score": 1.5, "name": "é"}
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 3))])
    with pytest.raises(BadFile, match=r"run\.json"):
        files.read_json(path)


def test_a_missing_json_file_is_not_a_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.read_json(tmp_path / "none.json")


HOLD = """
    import os, subprocess, sys, time
    from harness.system.files import locked
    with locked(sys.argv[1]) as got:
        {inside}
        print(got, flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize(
    "inside",
    [
        "pass",
        "r, w = os.pipe();"
        "os.fork() or (os.close(1), os.write(w, b'x'), time.sleep(2), os._exit(0));"
        "os.read(r, 1)",
        "subprocess.Popen(['sleep', '2'], stdout=subprocess.DEVNULL)",
    ],
    ids=["alone", "forked child", "started child"],
)
def test_a_lock_excludes_and_kill_9_frees_it_whatever_children_live(tmp_path, inside):
    holder = run_python(HOLD.format(inside=inside), tmp_path)
    assert holder.stdout.readline() == "True\n"
    with locked(tmp_path) as got:
        assert not got
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with locked(tmp_path) as got:
        assert got


def test_a_lock_excludes_within_a_process_and_ends_with_its_block(tmp_path):
    for _ in range(2):
        with locked(tmp_path / "new") as first, locked(tmp_path / "new") as second:
            assert (first, second) == (True, False)


def test_a_forked_child_that_leaves_the_block_frees_nothing(tmp_path):
    code = """
        import os, sys
        from harness.system.files import locked
        with locked(sys.argv[1]):
            child = os.fork()
            if child:
                os.waitpid(child, 0)
                print("child has left", flush=True)
                input()
    """
    holder = run_python(code, tmp_path, stdin=subprocess.PIPE)
    assert holder.stdout.readline() == "child has left\n"
    with locked(tmp_path) as got:
        assert not got
    holder.communicate("\n")
    with locked(tmp_path) as got:
        assert got


def test_waiting_for_a_lock_gets_it(tmp_path):
    code = """
        import sys, time
        from harness.system.files import locked
        with locked(sys.argv[1], wait=True) as got:
            print(got, flush=True)
            time.sleep(0.2)
    """
    waiters = [run_python(code, tmp_path) for _ in range(2)]
    assert [waiter.communicate()[0] for waiter in waiters] == ["True\n", "True\n"]


# ---- the log of records ------------------------------------------------------------------------

ROWS = [{"step": 1, "loss": 0.1}, {"step": 2, "name": "é\n", "loss": float("inf")}, {"at": [1, 2]}]


def write_log(path):
    log = Log(path)
    for row in ROWS:
        log.append(row)
    return log


def test_a_log_returns_its_rows_and_verifies(tmp_path):
    log = write_log(tmp_path / "log.jsonl")
    read = rows(log.path)
    assert [{k: v for k, v in row.items() if k != "chain"} for row in read] == ROWS
    assert read[-1]["chain"] == log.chain
    assert verify(log.path, last=log.chain) == []


def test_a_reopened_log_continues_the_chain(tmp_path):
    whole = write_log(tmp_path / "whole.jsonl")
    for row in ROWS:
        Log(tmp_path / "parts.jsonl").append(row)
    assert (tmp_path / "parts.jsonl").read_bytes() == whole.path.read_bytes()


@given(cut=st.integers(min_value=0, max_value=400))
def test_a_log_cut_anywhere_reads_as_its_whole_rows_and_goes_on(tmp_path_factory, cut):
    log = write_log(tmp_path_factory.mktemp("log") / "log.jsonl")
    content = log.path.read_bytes()[:cut]
    log.path.write_bytes(content)
    whole = content.count(b"\n")
    assert len(rows(log.path)) == whole
    again = Log(log.path)
    again.append({"step": "next"})
    assert len(rows(log.path)) == whole + 1
    assert verify(log.path, last=again.chain) == []


@given(data=st.data())
def test_an_edited_removed_or_moved_row_shows(tmp_path_factory, data):
    log = write_log(tmp_path_factory.mktemp("log") / "log.jsonl")
    lines = log.path.read_text().splitlines()
    match data.draw(st.sampled_from(["edit", "remove", "swap", "cut"])):
        case "edit":
            i = data.draw(st.integers(0, 2))
            lines[i] = json.dumps({**json.loads(lines[i]), "loss": 0.05})
        case "remove":
            lines.pop(data.draw(st.integers(0, 2)))
        case "swap":
            lines[0], lines[1] = lines[1], lines[0]
        case "cut":
            lines.pop()
    log.path.write_text("\n".join(lines) + "\n")
    assert verify(log.path, last=log.chain)


def test_a_log_broken_in_the_middle_is_an_error_not_a_shorter_log(tmp_path):
    log = write_log(tmp_path / "log.jsonl")
    lines = log.path.read_text().splitlines()
    log.path.write_text("\n".join([lines[0], "garbage", lines[2]]) + "\n")
    for use in (rows, Log):
        with pytest.raises(BadFile, match="line 2"):
            use(log.path)
    assert verify(log.path)


def test_a_row_that_finds_no_room_is_not_in_the_log(tmp_path, small_files):
    log = write_log(tmp_path / "log.jsonl")
    with pytest.raises(DiskFull):
        log.append({"long": "x" * 1000})
    log.append({"step": 4})
    assert len(rows(log.path)) == 4
    assert verify(log.path, last=log.chain) == []


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0], ids=["before", "within", "after"])
def test_an_interrupt_in_a_row_leaves_a_log_that_goes_on(part, tmp_path, monkeypatch):
    """A second Ctrl-C may come between the writing of a row and our knowing of it."""
    log = write_log(tmp_path / "log.jsonl")

    def interrupted(path, line, durable):
        with open(path, "a") as file:
            file.write(f"{line}\n"[: int(part * (len(line) + 1))])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("harness.records.log.append_line", interrupted)
        with pytest.raises(KeyboardInterrupt):
            log.append({"step": 4})
    log.append({"event": "ended"})
    assert verify(log.path, last=log.chain) == []
    assert len(rows(log.path)) == (5 if part == 1 else 4)
