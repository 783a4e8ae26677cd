"""The laws as a pytest plugin, as a user's continuous integration runs them."""

import subprocess
import sys

import pytest

from harness.cli.commands import new
from tests.laws.test_laws import GOOD
from tests.support.racing import environment


def pytest_run(folder, *arguments):
    """Run pytest in a user's folder, with the plugin as the entry point would load it.

    pytest looks for asserts in every file of a package that has an entry point: seconds, each time
    where nothing keeps compiled code. So it is given the plugin's name alone.
    """
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "harness.laws.plugin", "-p", "no:cacheprovider",
         "--pyargs", "harness.laws", "-q", *arguments],
        capture_output=True, text=True, cwd=folder,
        env=environment(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"),
    )  # fmt: skip


def test_a_users_pytest_tries_the_laws(tmp_path):
    bad = GOOD.replace("m.lerp_(g,", "m.lerp_(g.mul_(0.5),") + 'SKIPS = {"masks": "a trial"}\n'
    (tmp_path / "mine.py").write_text(bad)
    for suffix, template in new.TEMPLATES["workload"].items():
        (tmp_path / f"problem{suffix}").write_text(template.read_text())
    done = pytest_run(tmp_path, "--submission", "mine.py", "--workload", "problem.py", "-rfs")
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert "update() overwrites the gradients" in done.stdout
    assert "skipped: a trial" in done.stdout
    assert "1 failed" in done.stdout


@pytest.mark.parametrize(
    "words, said",
    [
        pytest.param([], "no file was named", marks=pytest.mark.slow),
        (["--submission", "absent.py"], "submission file absent.py does not exist"),
    ],
)
def test_a_wrong_or_missing_file_is_named(words, said, tmp_path):
    done = pytest_run(tmp_path, *words)
    assert said in done.stdout
    assert done.returncode != 0
