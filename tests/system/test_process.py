"""Laws of processes: a frozen tree stands still, a killed tree is gone, and its time is counted."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from harness.race.limits import TreeClock
from harness.system import processes, procfs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="trees escape detection elsewhere")

SPIN = "while True: pass"

# A daemon as the textbook makes one: forked twice, with a session of its own.
DAEMON = """
    import os, sys, time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            print(os.getpid(), flush=True)
            while True:
                {work}
        os._exit(0)
    os.wait()
    {parent}
"""


@pytest.fixture(autouse=True)
def subreaper():
    """Be the subreaper for one test, as the referee is."""
    assert processes.become_subreaper()
    yield
    processes._prctl(processes.PR_SET_CHILD_SUBREAPER, 0)


@pytest.fixture
def start():
    """Start Python on some code; whatever is left of it is killed after the test."""
    started = []

    def run(code, **kwargs):
        command = [sys.executable, "-S", "-c", textwrap.dedent(code)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **kwargs)
        started.append((child, processes.stat_of(child.pid).start))
        return child

    yield run
    for child, since in started:
        processes.kill_tree(child.pid, since=since)
        child.wait()
        child.stdout.close()


def state_of(pid):
    return processes.stat_of(pid).state


def stands_still(pid, seconds=0.1):
    before = processes.cpu_seconds(pid)
    time.sleep(seconds)
    return processes.cpu_seconds(pid) == before


def goes_on(pid):
    before = processes.cpu_seconds(pid)
    eventually(lambda: processes.cpu_seconds(pid) > before + 0.01)
    return True


def is_running(pid):
    try:
        return state_of(pid) not in "ZX"
    except ProcessLookupError:
        return False


def eventually(condition, patience=5.0):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.005)


def test_cpu_time_of_a_spinning_process_grows_and_of_a_frozen_one_does_not(start):
    child = start(f"print(1, flush=True)\n{SPIN}")
    child.stdout.readline()
    assert goes_on(child.pid)
    assert processes.freeze(child.pid) == [child.pid]
    assert stands_still(child.pid)
    processes.thaw([child.pid])
    assert goes_on(child.pid)


def test_cpu_time_is_finer_than_a_tick_and_agrees_with_the_process_itself(start):
    child = start("import time\nprint(time.process_time_ns(), flush=True)\ntime.sleep(60)")
    stated = int(child.stdout.readline()) / 1e9
    seen = processes.cpu_seconds(child.pid)
    assert stated <= seen < stated + 0.05
    assert round(seen * 100, 6) % 1  # a tick is 10 ms


def test_cpu_time_of_an_ended_process_is_known_until_it_is_waited_for(start):
    child = start("import time\nwhile time.process_time() < 0.2: pass")
    eventually(lambda: state_of(child.pid) == "Z")
    assert processes.cpu_seconds(child.pid) >= 0.15
    child.wait()
    with pytest.raises(ProcessLookupError):
        processes.cpu_seconds(child.pid)


def test_tree_time_counts_children_that_live_and_those_that_are_gone(start):
    child = start("""
        import os, time
        for waited in (True, False):
            child = os.fork()
            if child == 0:
                while time.process_time() < 0.2: pass
                if waited: os._exit(0)
                print("ready", flush=True)
                time.sleep(60)
            if waited: os.waitpid(child, 0)
        time.sleep(60)
    """)
    child.stdout.readline()
    processes.freeze(child.pid)
    since = processes.stat_of(child.pid).start
    total = TreeClock(child.pid, since, ()).read()
    assert processes.cpu_seconds(child.pid) < 0.2
    assert 0.35 < total < 1.0
    assert TreeClock(child.pid, since, ()).read() == total


def test_freeze_stops_a_daemon_that_was_forked_twice(start):
    child = start(DAEMON.format(work="pass", parent="time.sleep(60)"))
    daemon = int(child.stdout.readline())
    eventually(lambda: processes.stat_of(daemon).parent == os.getpid())
    assert daemon in processes.descendants(child.pid)
    assert set(processes.freeze(child.pid)) == {child.pid, daemon}
    assert state_of(daemon) == "T"
    assert stands_still(daemon)
    processes.thaw([child.pid, daemon])
    assert goes_on(daemon)


def test_freeze_catches_up_with_a_process_that_keeps_forking(start):
    child = start("""
        import os, time
        print(1, flush=True)
        for _ in range(300):
            if os.fork() == 0:
                time.sleep(60)
            time.sleep(0.001)
    """)
    child.stdout.readline()
    time.sleep(0.05)
    frozen = processes.freeze(child.pid)
    before = processes.descendants(child.pid)
    time.sleep(0.05)
    assert len(before) > 2
    assert processes.descendants(child.pid) == before
    assert [state_of(pid) for pid in frozen] == ["T"] * len(frozen)


def test_freeze_stops_threads_whose_first_thread_has_ended(start):
    child = start(f"""
        import ctypes, threading
        def spin():
            print(1, flush=True)
            {SPIN}
        threading.Thread(target=spin).start()
        ctypes.CDLL(None).pthread_exit(None)
    """)
    child.stdout.readline()
    eventually(lambda: state_of(child.pid) == "Z")
    assert processes.freeze(child.pid) == [child.pid]
    assert stands_still(child.pid)
    processes.kill_tree(child.pid)
    assert procfs.is_over(child.pid, processes.stat_of(child.pid))


@pytest.mark.parametrize("grace", [0.0, 0.3])
def test_kill_leaves_no_orphan_even_of_the_deaf_and_the_frozen(start, grace):
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    child = start(deaf + textwrap.dedent(DAEMON.format(work="pass", parent="time.sleep(60)")))
    daemon = int(child.stdout.readline())
    processes.freeze(child.pid)
    assert set(processes.kill_tree(child.pid, grace)) == {child.pid, daemon}
    assert not is_running(daemon)
    assert not is_running(child.pid)
    assert child.wait() == -signal.SIGKILL  # its starter still learns how it ended


def test_kill_with_grace_lets_the_polite_end_by_themselves(start):
    child = start("""
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        print(1, flush=True)
        time.sleep(60)
    """)
    child.stdout.readline()
    begun = time.monotonic()
    processes.kill_tree(child.pid, grace=5.0)
    assert time.monotonic() - begun < 2.0
    assert child.wait() == 7


def test_kill_finds_what_a_dead_and_buried_process_left_behind(start):
    child = start(DAEMON.format(work="time.sleep(1)", parent=""))
    since = processes.stat_of(child.pid).start
    daemon = int(child.stdout.readline())
    child.wait()
    assert processes.kill_tree(child.pid, since=since) == [daemon]
    assert not Path(f"/proc/{daemon}").exists()  # reaped too


def test_our_other_children_are_left_alone(start):
    before = start("import time; time.sleep(60)")
    time.sleep(0.02)
    child = start("import time; time.sleep(60)")
    after = start("import time; time.sleep(60)")
    processes.freeze(child.pid, keep=[after.pid])
    assert state_of(child.pid) == "T"
    assert "T" not in (state_of(before.pid), state_of(after.pid))
    processes.kill_tree(child.pid, keep=[after.pid])
    assert is_running(before.pid)
    assert is_running(after.pid)


def test_a_tree_is_the_same_by_the_lists_of_children_and_by_everybodys_parents(start, monkeypatch):
    child = start("""
        import os, threading, time
        def work():
            if os.fork() == 0:
                if os.fork() == 0:
                    os.write(1, b"%d\\n" % os.getpid())
                    time.sleep(60)
                os._exit(0)
            if os.fork() == 0:
                os.write(1, b"%d\\n" % os.getpid())
            time.sleep(60)
        threading.Thread(target=work).start()
    """)
    made = {int(child.stdout.readline()) for _ in range(2)}
    since = processes.stat_of(child.pid).start
    found = []
    for tells in {procfs.TELLS_CHILDREN, False}:
        monkeypatch.setattr(procfs, "TELLS_CHILDREN", tells)
        found.append(set(processes.tree(child.pid, (), since)))
    assert all(members >= {child.pid, *made} for members in found)
    assert found[0] == found[-1]


def test_a_clock_keeps_the_time_of_a_member_that_a_list_lacked_once(start, monkeypatch):
    child = start(SPIN)
    clock = TreeClock(child.pid, processes.stat_of(child.pid).start, ())
    eventually(lambda: clock.read() > 0.02)
    before, whole = clock.read(), clock._tree
    clock._tree = dict
    assert clock.read() >= before
    clock._tree = whole
    os.kill(child.pid, signal.SIGSTOP)
    assert clock.read() == pytest.approx(processes.cpu_seconds(child.pid), abs=0.02)


def test_a_child_dies_with_its_parent(start):
    parent = start("""
        import os, subprocess, sys, time
        from harness.system.processes import die_with_parent
        parent = os.getpid()
        if os.fork() == 0:
            assert die_with_parent(parent)
            print(os.getpid(), flush=True)
        time.sleep(60)
    """)
    child = int(parent.stdout.readline())
    assert is_running(child)
    parent.kill()
    eventually(lambda: not is_running(child))


def test_a_child_whose_parent_was_faster_to_die_ends_at_once(start):
    child = start(
        "from harness.system.processes import die_with_parent; die_with_parent(); print('alive')",
        env={**os.environ, "HARNESS_PARENT": "1"},
    )
    assert child.wait() == -signal.SIGKILL


def test_a_clean_environment_holds_no_secret_and_nothing_writable_outside(tmp_path, monkeypatch):
    secrets = [
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "HF_TOKEN",
        "SSH_AUTH_SOCK",
        "GITHUB_TOKEN",
    ]
    for name in secrets:
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    environment = processes.clean_environment(tmp_path / "private", threads=3)
    assert "secret" not in environment.values()
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment["PATH"] == os.environ["PATH"]
    assert {environment[name] for name in environment if "THREADS" in name} == {"3"}
    code = """
        import os, pathlib, tempfile
        print(pathlib.Path.home(), tempfile.mkdtemp(), os.path.expanduser('~/.cache'), sep='\\n')
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    places = subprocess.check_output(command, env=environment, text=True).split("\n")[:-1]
    assert len(places) == 3
    assert all(Path(place).is_relative_to(tmp_path / "private") for place in places)


def test_peak_memory_is_at_least_what_was_touched(start):
    child = start("import time; x = b'x' * 50_000_000; print(1, flush=True); time.sleep(60)")
    child.stdout.readline()
    assert 50e6 < procfs.peak_memory(child.pid) < 200e6
    with pytest.raises(ProcessLookupError):
        procfs.peak_memory(2**22 + 1)


def test_a_clock_of_a_tree_keeps_the_time_of_children_that_nobody_waits_for(start):
    child = start("""
        import os, signal, time
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        child = os.fork()
        if child == 0:
            while time.process_time() < 0.5: pass
            os._exit(0)
        print(child, flush=True)
        time.sleep(60)
    """)
    since = processes.stat_of(child.pid).start
    clock = TreeClock(child.pid, since, ())
    worker = int(child.stdout.readline())
    while Path(f"/proc/{worker}").exists():
        clock.read()
        time.sleep(0.05)
    assert TreeClock(child.pid, since, ()).read() < 0.3
    assert 0.4 < clock.read() < 1.0
    assert clock.read() == clock.read()


def test_a_clock_of_a_tree_counts_children_that_were_waited_for_once(start):
    child = start("""
        import os, time
        for _ in range(2):
            child = os.fork()
            if child == 0:
                while time.process_time() < 0.3: pass
                os._exit(0)
            os.waitpid(child, 0)
        print(1, flush=True)
        time.sleep(60)
    """)
    clock = TreeClock(child.pid, processes.stat_of(child.pid).start, ())
    for _ in range(20):
        clock.read()
        time.sleep(0.05)
    child.stdout.readline()
    assert 0.55 < clock.read() < 1.0


def test_a_process_that_hides_its_memory_is_told_apart_from_what_it_starts(start):
    child = start("""
        import os, subprocess, sys, time
        from harness.system import processes
        assert processes.hide_memory()
        code = "import ctypes; print(ctypes.CDLL(None).prctl(3))"
        print(processes._prctl(3, 0), subprocess.check_output([sys.executable, "-c", code]))
    """)
    assert child.stdout.read() == "True b'1\\n'\n"


def test_layers_say_what_works_here():
    assert all(processes.layers().values())
    assert processes.load_average() >= 0
