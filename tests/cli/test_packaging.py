"""Laws of the package: what is declared exists, starts fast, and is pinned."""

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import harness
from harness.system import sandbox
from tests.support.racing import SHORT

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


def test_what_is_imported_is_required_and_the_reverse():
    """Hydra finds its launchers by itself; extras are imported where they are installed."""
    places = importlib.metadata.packages_distributions()
    imported = set()
    for folder in ("harness", "submissions", "workloads"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    imported.add(str(node.module).partition(".")[0])
    imported -= {"harness", "submissions", "workloads", *sys.stdlib_module_names}
    required = {plain(name) for name in PROJECT["project"]["dependencies"]}
    extras = {plain(name) for names in OPTIONAL.values() for name in names}
    found = {name: {plain(d) for d in places.get(name, [name])} for name in imported}
    assert not {name for name, owners in found.items() if not owners & (required | extras)}
    used = set().union(*found.values()) | {"hydra-joblib-launcher"}
    assert not required - used


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


def test_types_are_checked_beside_the_packages_of_the_tests(tmp_path):
    """Pyright follows every import, also where `make types` is the first target that runs."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    command = ["make", "--dry-run", "types"]
    planned = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    extras = re.findall(r"-e '\.\[([\w,]+)\]'", planned)
    assert {"test", "dev"} <= {extra for group in extras for extra in group.split(",")}
    assert planned.index("[test") < planned.index("bin/pyright")


def test_the_licence_is_named_and_there():
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert PROJECT["project"]["license-files"] == ["LICENSE"]
    assert "Apache License\n" in (ROOT / "LICENSE").read_text()


def test_torch_is_of_the_release_that_the_prices_were_measured_with():
    (torch,) = [name for name in REQUIRED if name.startswith("torch>")]
    low, high = re.fullmatch(r"torch>=(\d+\.\d+),<(\d+\.\d+)", torch).groups()
    assert int(high.split(".")[1]) == int(low.split(".")[1]) + 1
    tables = list((ROOT / "results" / "reference" / "prices").glob("*.json"))
    assert tables
    releases = {json.loads(path.read_text())["machine"]["torch"] for path in tables}
    assert {release.rpartition(".")[0] for release in releases} == {low}


@pytest.fixture
def elsewhere(tmp_path):
    """A folder with packages of the names of ours, which break whoever imports them."""
    for name in ("workloads", "submissions", "conf", "results"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('not ours')\n")
    return tmp_path


def run(command, folder, **changes):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {key: str(value) for key, value in changes.items()}
    return subprocess.run(
        [str(word) for word in command], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_packages_of_the_current_folder_do_not_hide_ours(elsewhere):
    code = (
        "import runpy, sys; sys.argv = ['harness', '--version']\n"
        "try: runpy.run_module('harness', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "import workloads; print(workloads.__file__)"
    )
    done = run([sys.executable, "-c", code], elsewhere, PYTHONPATH=f"{elsewhere}:{ROOT}")
    assert "not ours" in done.stderr
    # as `python -m` has it: the current folder alone comes before ours
    code = f"import sys; sys.path[0] = {str(elsewhere)!r}; sys.path.append({str(ROOT)!r})\n" + code
    code = code.replace(
        "runpy.run_module('harness', run_name='__main__')",
        "import harness.__main__ as main; main.search_current_folder_last()",
    )
    done = run([sys.executable, "-c", code], elsewhere)
    assert done.stdout.splitlines()[-1] == str(ROOT / "workloads" / "__init__.py"), done.stderr


def test_files_of_the_current_folder_do_not_hide_the_library(elsewhere):
    for name in ("json", "random", "typing", "re", "pathlib", "hashlib", "argparse", "io"):
        (elsewhere / f"{name}.py").write_text("raise SystemExit('not ours')\n")
    command = [sys.executable, "-m", "harness", "list", "--like", "lion"]
    done = run(command, elsewhere, PYTHONPATH=ROOT)
    assert "Lion: the sign" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_sweep_in_a_folder_with_files_of_the_library_s_names(elsewhere):
    """Workers of a launcher start in the current folder, and import json, random and torch."""
    for name in ("json", "random", "torch", "hydra"):
        (elsewhere / f"{name}.py").write_text("raise SystemExit('not ours')\n")
    sweep = ["-m", "workload=matrix_sensing", "submission=sgd,lion", "tracker=none", "jobs=2"]
    numbers = ["workload.mini.horizon=4", "workload.mini.evaluate.points=2"]
    words = [*sweep, *numbers, "isolation=inline"]
    done = run([sys.executable, "-m", "harness", *words], elsewhere, PYTHONPATH=ROOT)
    assert done.returncode == 0, done.stderr
    assert "not ours" not in done.stderr
    assert done.stdout.count("out of budget") == 2


def test_another_package_of_our_names_is_named(elsewhere):
    command = [sys.executable, "-m", "harness", "list", "--like", "lion"]
    done = run(command, ROOT.parent, PYTHONPATH=f"{elsewhere}:{ROOT}")
    assert done.returncode == 2
    assert f"finds the package 'workloads' in {elsewhere}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["strict", "process"])
def test_a_copy_in_the_path_races_beside_an_installed_one(isolation, tmp_path):
    """The runner imports the copy that the referee runs."""
    if isolation == "strict" and not sandbox.offered():
        pytest.skip("this machine offers no strict isolation")
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns("__pycache__", "runs")
    for name in ("harness", "workloads", "submissions", "conf", "results"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    # a mark that only this copy's runner writes
    runner = copy / "harness" / "train" / "runner.py"
    runner.write_text(runner.read_text() + "\nprint('the copy', flush=True)\n")
    words = [f"isolation={isolation}", f"results={tmp_path}", "submission=lion", *SHORT]
    done = run([sys.executable, "-m", "harness", *words], tmp_path, PYTHONPATH=copy)
    assert done.returncode == 0, done.stderr
    (log,) = tmp_path.glob("runs/*/*/*/runner.log")
    assert "the copy" in log.read_text()


@pytest.mark.slow
def test_a_wheel_works_outside_of_the_checkout(elsewhere):
    """It sees the libraries of this environment, but not the checkout."""
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    copy = elsewhere / "copy"
    ignored = shutil.ignore_patterns(".*", "runs", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignored)
    done = run([*wheel, "--wheel-dir", elsewhere, copy], elsewhere)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(copy)
    venv.create(elsewhere / "venv", with_pip=False)
    site = next((elsewhere / "venv" / "lib").glob("python*")) / "site-packages"
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    with zipfile.ZipFile(next(elsewhere.glob("*.whl"))) as archive:
        archive.extractall(site)
    python, place = elsewhere / "venv" / "bin" / "python", f"results={elsewhere / 'mine'}"
    found = run([python, "-c", "import harness; print(harness.__file__)"], elsewhere)
    assert found.stdout.strip() == str(site / "harness" / "__init__.py"), found.stderr
    for words, expected in [
        (["list", "--like", "lion"], "first_order"),
        (["show", "lion"], "gpt2.mini: "),
        (["compare", "adamw", "lion", "workload=gpt2"], "lion"),
        (["-m", "submission=adamw,lion", "dry=true", place], "2 trials: 0 done, 2 to run"),
        (["submission=lion", place, *SHORT], "out of budget"),
    ]:
        done = run([python, "-m", "harness", *words], elsewhere)
        assert done.returncode == 0, (words, done.stderr)
        assert expected in done.stdout
    report = run([python, "-m", "harness", "report", "--out", elsewhere / "report"], elsewhere)
    assert report.returncode == 0, report.stderr
    assert (elsewhere / "report" / "LEADERBOARD.md").exists()
