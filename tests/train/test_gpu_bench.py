"""The rehearsal of benches/gpu.sh on a CPU: every part of the script runs and succeeds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.racing import ROOT, environment

RACES = ("adamw", "muon", "bf16", "fp16", "checkpointing")


@pytest.mark.slow
@pytest.mark.timeout(1500)  # three minutes of a quiet core
def test_the_script_for_a_gpu_runs_to_its_end_on_a_cpu(tmp_path):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    script = [str(ROOT / "benches" / "gpu.sh"), str(tmp_path), "--device", "cpu"]
    done = subprocess.run(
        script, capture_output=True, text=True, env=environment(PATH=path, OMP_NUM_THREADS="1")
    )
    files = {file.stem: file.read_text()[-2000:] for file in tmp_path.glob("*.txt")}
    assert done.returncode == 0, files
    lines = files["summary"].splitlines()
    assert {line.split(",")[0].split(": ")[1] for line in lines} == {"status 0"}
    parts = ["doctor", "data", "prices-gpt2", "prices-vit", "overhead", "tests"]
    assert {line.split(":")[0] for line in lines} == {*parts, *(f"race-{name}" for name in RACES)}
    races = {name: json.loads(files[f"race-{name}"].splitlines()[-1]) for name in RACES}
    for race in races.values():
        assert race["losses"][-1] < race["losses"][0]
        assert race["step_ms"] >= race["inside_ms"] > 0
    assert races["fp16"]["losses"][-1] == pytest.approx(races["adamw"]["losses"][-1], rel=0.02)
    assert json.loads(files["overhead"].splitlines()[-1])["ratio"] > 0
    for workload in ("gpt2", "vit"):
        table = json.loads((tmp_path / f"{workload}.mini.cpu.json").read_text())
        assert table["prices"]["forward_backward"]["seconds"] > 0
