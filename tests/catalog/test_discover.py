"""Laws of discovery: a file is read without being run, and a wrong one is refused in words."""

import subprocess
import sys
import textwrap

import pytest

from harness.catalog import discover
from harness.cli.commands import new
from harness.errors import UserError
from harness.system import sandbox
from tests.support.racing import ROOT, environment

GOOD = {
    "SPACE": 'SPACE = {"lr": {"log": [1e-3, 1.0]}}',
    "init": "def init(params, hp):\n    return {}",
    "update": "def update(params, grads, state, hp, progress):\n    return hp.lr",
}


def card(tmp_path, text=None, name="mine", **parts):
    text = text or "\n\n".join(part for part in (GOOD | parts).values() if part)
    path = tmp_path / f"{name}.py"
    path.write_text(textwrap.dedent(text))
    return discover.read(discover.Plugin(name, path, "", None))


def test_every_shipped_submission_can_be_read():
    for plugin in discover.submissions().values():
        read = discover.read(plugin)
        assert read.summary
        assert read.form in "abc"


def test_reading_a_file_does_not_run_it(tmp_path):
    ran = tmp_path / "ran"
    card(tmp_path, first=f"open({str(ran)!r}, 'w')")
    assert not ran.exists()


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"SPACE": "SPCAE = {}"}, "has no SPACE"),
        ({"SPACE": ""}, "has no SPACE"),
        ({"SPACE": "SPACE = 3"}, "SPACE is 3"),
        ({"SPACE": "SPACE = dict(lr=1)"}, "SPACE is not a literal"),
        ({"SPACE": 'SPACE = {"lr": 1.0, "unread": 2}'}, "nothing reads hp.unread"),
        ({"more": "ELEMENTWIES = True"}, "did you mean ELEMENTWISE"),
        ({"more": 'FALBACK = "adamw"'}, "did you mean FALLBACK"),
        ({"update": "", "init": ""}, "it defines none of"),
        ({"init": ""}, "defines update but no init"),
        ({"more": "def optimizer(params, hp): ..."}, "it defines several of"),
        ({"more": "class Algorithm: ..."}, "it defines several of"),
        (
            {"update": "def update(params, grads, state, hp): hp.lr"},
            r"update\(params, grads, state, hp, progress\)",
        ),
        (
            {"init": "def init(params): return {}"},
            r"mine.py:\d+: init\(params\) is called with 2 arguments",
        ),
        ({"init": "def init(params, hp, *, more): return {}"}, "is called with 2 arguments"),
        ({"more": "def evaluate_view(params): ..."}, r"evaluate_view\(params, state\)"),
        ({"more": "def broken(:"}, "is not valid Python"),
        ({"more": "from . import other"}, "there is no file for `from . import"),
        ({"more": "from ..up import other"}, "there is no file for `from ..up import"),
        ({"more": "STATE = 2"}, "STATE is no longer read; the state .* is measured"),
        ({"more": 'BADGE = "formula"'}, "BADGE is no longer read; .* remove the line"),
    ],
)
def test_a_wrong_file_is_refused_in_words(changed, said, tmp_path):
    with pytest.raises(UserError, match=said):
        card(tmp_path, **changed)


@pytest.mark.parametrize(
    "update",
    [
        "def update(params, grads, state, hp, progress, extra=None): hp.lr",
        "def update(*arguments): arguments[3].lr",
        "def update(p, g, s, h, t): h.lr",
        "from submissions.first_order import lion\nupdate = lion.update",
    ],
)
def test_any_signature_that_can_be_called_is_taken(update, tmp_path):
    assert card(tmp_path, update=update).form == "b"


def test_a_space_may_build_on_another_submission(tmp_path):
    text = "from submissions.first_order import lion"
    made = card(
        tmp_path,
        first=text,
        SPACE='SPACE = {**lion.SPACE, "lr": 3.0}\nupdate = lion.update',
        update="",
    )
    shipped = discover.read(discover.find("lion")).literals["SPACE"]
    assert made.literals["SPACE"] == shipped | {"lr": 3.0}


def test_the_sources_of_a_file_are_what_it_imports(tmp_path):
    alone = card(tmp_path, name="alone").plugin
    leaning = card(tmp_path, name="leaning", first="from submissions.first_order import sam").plugin
    assert [p.name for p in discover.sources(alone)] == ["alone.py"]
    assert {p.name for p in discover.sources(leaning)} >= {"leaning.py", "sam.py", "adamw.py"}


def test_a_file_of_the_project_is_found_by_path_as_by_name():
    path = discover.find("lion").path
    assert discover.find(str(path)) is discover.find("lion")


def test_two_plugins_of_one_name_are_refused(tmp_path):
    for family in ("here", "there"):
        (tmp_path / family).mkdir()
        (tmp_path / family / "same.py").touch()
    with pytest.raises(UserError, match="two plugins are named 'same'"):
        discover._folder(tmp_path, "x")


# Packages that bring submissions


def package(tmp_path, value="mypackage.methods", files=("shiny",)):
    """An installed distribution with the entry point group harness.submissions, by hand."""
    methods = tmp_path / "mypackage" / "methods"
    methods.mkdir(parents=True)
    (tmp_path / "mypackage" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    for name in files:
        (methods / f"{name}.py").write_text(
            '"""A method from afar."""\n' + "\n".join(GOOD.values())
        )
    info = tmp_path / "mypackage-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mypackage\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[harness.submissions]\nmine = {value}\n")
    return tmp_path


def listed(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "harness", *arguments], capture_output=True, text=True,
        env=environment(PYTHONPATH=f"{ROOT}:{folder}"), cwd=folder,
    )  # fmt: skip


def test_a_package_brings_submissions_without_being_imported(tmp_path):
    found = listed(package(tmp_path), "list", "--like", "shin*")
    assert found.returncode == 0, found.stderr
    assert "A method from afar" in found.stdout
    planned = listed(tmp_path, "submission=shiny", "dry=true")
    assert planned.returncode == 0, planned.stderr


@pytest.mark.parametrize(
    "given, said",
    [
        ({"files": ("lion",)}, "package 'mine' brings a submission 'lion' that exists already"),
        ({"value": "mypackage.nothing"}, ": no package"),
        ({"value": "absent.methods"}, ": no package"),
    ],
)
def test_a_wrong_package_is_told_in_one_line(given, said, tmp_path):
    found = listed(package(tmp_path, **given), "list")
    assert found.returncode == 2
    assert said in found.stderr
    assert len(found.stderr.splitlines()) == 1


# Packages that bring workloads


def workload_package(tmp_path, name="rings2"):
    """A distribution with both entry point groups, as a source tree; return its folder."""
    source = tmp_path / "source"
    problems = source / "raceplus" / "problems"
    methods = source / "raceplus" / "methods"
    for folder in (problems, methods):
        folder.mkdir(parents=True)
    (source / "raceplus" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    texts = {suffix: path.read_text() for suffix, path in new.TEMPLATES["workload"].items()}
    for suffix, text in texts.items():
        (problems / f"{name}{suffix}").write_text(text.replace(new.NAME, name))
    # a module without numbers is no workload
    (problems / "helpers.py").write_text("")
    shiny = new.TEMPLATES["submission"][".py"].read_text().replace(new.NAME, "shiny")
    (methods / "shiny.py").write_text(shiny)
    (source / "pyproject.toml").write_text(
        textwrap.dedent("""
            [build-system]
            requires = ["setuptools"]
            build-backend = "setuptools.build_meta"
            [project]
            name = "raceplus"
            version = "1.0"
            [project.entry-points."harness.submissions"]
            mine = "raceplus.methods"
            [project.entry-points."harness.workloads"]
            mine = "raceplus.problems"
            [tool.setuptools]
            packages = ["raceplus", "raceplus.methods", "raceplus.problems"]
            package-data = {"*" = ["*.yaml"]}
        """)
    )
    return source


def unpacked(source):
    """Give a source tree the metadata of an installed distribution; return the folder."""
    info = source / "raceplus-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: raceplus\nVersion: 1.0\n")
    points = "[harness.submissions]\nmine = raceplus.methods\n"
    (info / "entry_points.txt").write_text(
        f"{points}[harness.workloads]\nmine = raceplus.problems\n"
    )
    return source


def test_a_package_brings_workloads_without_being_imported(tmp_path):
    site = unpacked(workload_package(tmp_path))
    found = listed(site, "list", "workloads", "--like", "*")
    assert found.returncode == 0, found.stderr
    names = [line.split()[1] for line in found.stdout.splitlines()]
    assert "rings2" in names
    assert "helpers" not in names
    shown = listed(site, "show", "rings2")
    assert "width: 64" in shown.stdout, shown.stderr
    planned = listed(site, "workload=rings2", "submission=shiny", "dry=true")
    assert "rings2" in planned.stdout, planned.stderr


def test_a_package_with_a_workload_of_a_shipped_name_is_named(tmp_path):
    found = listed(unpacked(workload_package(tmp_path, "gpt2")), "list")
    assert found.returncode == 2
    assert "package 'mine' brings a workload 'gpt2' that exists" in found.stderr
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["strict", "process", "inline"])
def test_an_installed_package_races_its_submission_on_its_workload(isolation, tmp_path):
    if isolation == "strict" and not sandbox.offered():
        pytest.skip("this machine offers no strict isolation")
    source, site = workload_package(tmp_path), tmp_path / "site"
    # in a race the package is imported, for its own __init__.py may hold what its files use
    (source / "raceplus" / "__init__.py").write_text("")
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [sys.executable, *install, "--target", site, source], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    words = ["workload=rings2", "submission=shiny", "tracker=none", f"isolation={isolation}"]
    raced = listed(site, *words)
    assert raced.returncode == 0, raced.stderr
    assert "reached accuracy >= 0.98" in raced.stdout
    checked = listed(site, "comply", "results")
    assert checked.stdout.startswith("pass  rings2.mini shiny"), checked.stdout
