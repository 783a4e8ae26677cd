"""Laws of the package: what is declared exists, starts fast, and is pinned."""

import importlib.util
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

import harness

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = dict(
    re.findall(r"^([\w.-]+)==([\w.+-]+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
)
OPTIONAL = PROJECT["project"]["optional-dependencies"]
REQUIRED = [*PROJECT["project"]["dependencies"], *OPTIONAL["test"], *OPTIONAL["dev"]]


def plain(name):
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()


def test_the_version_is_one_and_well_formed():
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "harness.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", harness.__version__)
    assert f"## {harness.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_console_script_is_there():
    module, _, function = PROJECT["project"]["scripts"]["harness"].partition(":")
    found = importlib.util.find_spec(module)
    assert found
    assert re.search(rf"^def {function}\(", Path(found.origin).read_text(), re.MULTILINE)


@pytest.mark.parametrize("package", ["harness", "workloads", "submissions", "conf"])
def test_every_declared_package_is_a_folder_and_the_reverse(package):
    assert (ROOT / package).is_dir()
    assert f"{package}*" in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]


def test_what_is_required_is_pinned():
    pinned = {plain(name) for name in PINS}
    assert not [name for name in REQUIRED if plain(name) not in pinned]
    assert next(iter(PINS)) == "torch"


def test_pins_name_public_versions():
    """A local version ("+cpu") exists on one machine only."""
    assert not [name for name, version in PINS.items() if "+" in version]


def test_the_reliability_modules_import_without_torch_or_any_other_library():
    """They run in the referee before anything else, and in every child."""
    code = """
        import sys
        from harness import errors
        from harness.records import log
        from harness.system import files, processes, procfs
        from harness.train import checkpoint
        heavy = {"torch", "numpy", "safetensors", "pandas", "wandb", "hydra"} & set(sys.modules)
        sys.exit(", ".join(heavy) or None)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_ci_script_runs_what_the_makefile_has():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"race", "test", "test-slow", "check", "clean"} <= set(targets)
    assert set(re.findall(r"\bmake ([\w-]+)", script.read_text())) <= set(targets)
