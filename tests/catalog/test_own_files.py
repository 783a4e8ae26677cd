"""Submissions of several files and workloads from anywhere: read, hashed, imported, raced."""

import pytest

from harness.catalog import discover, identity, places
from harness.catalog.definition import define, split_variant, tree_of
from harness.cli.commands import new
from harness.errors import UserError
from harness.records.log import rows
from tests.support.racing import ROOT, harness, typed

FILES = {
    "idea.py": '''"""Momentum in several files."""
import torch
import constants
from helpers.rule import move as step
from . import constants as same
assert same is constants
SPACE = {**constants.SPACE, "wd": 0.0}
VARIANTS = {"slow": {"beta": 0.99}}
def init(params, hp):
    return {"m": [torch.zeros_like(p) for p in params]}
def update(params, grads, state, hp, progress):
    import helpers.deep.more
    assert helpers.deep.more.NAME == "more"
    step(params, grads, state["m"], hp.lr, hp.beta, hp.wd)
''',
    "constants.py": 'SPACE = {"lr": {"log": [0.01, 10.0]}, "beta": 0.9}\n',
    "helpers/__init__.py": "",
    "helpers/deep/more.py": 'NAME = "more"\n',
    "helpers/rule.py": """from .arithmetic import decay
def move(params, grads, moments, lr, beta, wd):
    for p, g, m in zip(params, grads, moments):
        m.lerp_(g, 1 - beta)
        p.mul_(decay(lr, wd)).add_(m, alpha=-lr)
""",
    "helpers/arithmetic.py": "def decay(lr, wd):\n    return 1 - lr * wd\n",
    "unused.py": "raise RuntimeError\n",
}


@pytest.fixture
def folder(tmp_path):
    """A user's folder with a submission of several files, and the workload of the template."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for suffix, template in new.TEMPLATES["workload"].items():
        (tmp_path / f"rings{suffix}").write_text(template.read_text().replace("@NAME@", "rings"))
    return tmp_path


def read_again(folder):
    discover.read.cache_clear()
    return discover.find(str(folder / "idea.py"))


def test_the_hash_follows_every_file_that_is_imported_and_no_other(folder):
    plugin = read_again(folder)
    where = {places.inside(plugin, path).as_posix() for path in discover.sources(plugin)}
    assert where == set(FILES) - {"unused.py"}
    before = identity.source_hash(plugin)
    (folder / "unused.py").write_text("1\n")
    assert identity.source_hash(plugin) == before
    (folder / "helpers" / "arithmetic.py").write_text("def decay(lr, wd):\n    return 1.0\n")
    assert identity.source_hash(plugin) != before


def test_the_hash_does_not_depend_on_the_place_of_the_folder(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("zz") / "elsewhere"
    folder.rename(other)
    moved = identity.source_hash(discover.find(str(other / "idea.py")))
    other.rename(folder)
    assert moved == identity.source_hash(read_again(folder))


def test_two_plugins_may_have_files_of_one_name(folder, tmp_path_factory):
    second = tmp_path_factory.mktemp("second")
    (second / "constants.py").write_text('SPACE = {"rate": 0.5}\n')
    (second / "other.py").write_text(
        "import constants\nSPACE = {**constants.SPACE}\ndef init(params, hp): return {}\n"
        "def update(params, grads, state, hp, progress): hp.rate\n"
    )
    first = discover.load(read_again(folder))
    other = discover.load(discover.find(str(second / "other.py")))
    assert first.constants.SPACE != other.constants.SPACE


def test_a_file_that_has_the_name_of_a_library_module_is_refused(folder):
    (folder / "random.py").write_text("")
    (folder / "idea.py").write_text("import random\n" + FILES["idea.py"])
    with pytest.raises(UserError, match="rename the file beside it"):
        discover.read(read_again(folder))


def test_a_folder_is_the_file_of_its_name(folder, tmp_path):
    inner = tmp_path / "folder" / "mine"
    inner.mkdir(parents=True)
    (inner / "mine.py").write_text(FILES["idea.py"])
    assert discover.find(str(inner)).path == inner / "mine.py"
    with pytest.raises(UserError, match="is a folder without"):
        discover.find(str(inner.parent))


def test_a_variant_of_a_file_is_named_after_a_colon(folder):
    slow = discover.find(f"{folder}/idea.py:slow")
    assert discover.read(slow).literals["SPACE"]["beta"] == 0.99
    assert discover.find(slow.place) == slow
    assert identity.source_hash(slow) != identity.source_hash(read_again(folder))
    with pytest.raises(UserError, match="did you mean slow"):
        discover.find(f"{folder}/idea.py:slwo")


@pytest.mark.parametrize(
    "isolation",
    [
        pytest.param("inline", marks=pytest.mark.slow),
        pytest.param("process", marks=pytest.mark.slow),
        "strict",
    ],
)
def test_several_files_race_alike_in_every_isolation(isolation, folder, monkeypatch):
    """Inline, the files' modules are imported into an interpreter of its own."""
    words = [
        "workload=./rings.py", "submission=./idea.py:slow", "submission.lr=1.0",
        f"isolation={isolation}", "tracker=none", "workload.mini.horizon=8",
        "workload.mini.evaluate.points=2", "until=budget",
    ]  # fmt: skip
    if isolation != "process":
        done = harness(*words, cwd=folder)
        code, err = done.returncode, done.stderr
    else:
        monkeypatch.chdir(folder)
        code, _, err = typed(*words)
    assert code == 0, err
    (log,) = (folder / "results" / "runs" / "rings" / "slow").glob("*/log.jsonl")
    kept = {p.relative_to(log.parent / "source").as_posix() for p in log.parent.rglob("*.py")}
    assert kept == set(FILES) - {"unused.py"}
    last = [row for row in rows(log) if row["event"] == "evaluation"][-1]
    reference = folder.parent / "weights"
    digest = str(last["weights"])
    if reference.exists():
        assert reference.read_text() == digest
    reference.write_text(digest)


def test_a_workload_of_a_user_is_defined_beside_its_file(folder):
    name = str(folder / "rings.py")
    definition = define(name, tree_of(name), "mini", "wide")
    assert definition.key == "rings.mini.wide"
    assert definition.frozen == folder / "rings.reference"
    assert split_variant(f"{name}:wide") == (name, "wide")
    assert split_variant("gpt2.relu") == ("gpt2", "relu")
    (folder / "gpt2.py").write_text("")
    with pytest.raises(UserError, match="has the name of another workload"):
        discover.find_workload(str(folder / "gpt2.py"))
    (folder / "rings.yaml").write_text("mini: {batch: 1}\n")
    with pytest.raises(UserError, match="mini has no horizon"):
        define(name, tree_of(name), "mini", None)


def test_the_example_of_the_page_is_the_template():
    page = (ROOT / "docs" / "own_workload.md").read_text()
    for template in new.TEMPLATES["workload"].values():
        assert template.read_text().replace("@NAME@", "rings") in page
