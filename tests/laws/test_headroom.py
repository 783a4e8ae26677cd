"""Fine-tuning has room: the head alone misses the target, and training everything reaches it."""

import pytest

from harness.catalog.definition import tree_of
from harness.catalog.goal import primary
from harness.records import run_folder
from tests.support.racing import harness, log_of


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["ft_gpt2", "ft_vit"])
def test_head_only_is_worse_than_the_target_and_full_fine_tuning_better(name, tmp_path):
    metric, direction, target = primary(tree_of(name)["mini"]["goal"])
    sign = 1 if direction == "at_least" else -1
    best = {}
    for submission in ("head_only", "full"):  # the target was set on the tuned point of full
        done = harness(
            f"workload={name}", f"submission={submission}", "until=budget", "tracker=none",
            f"results={tmp_path}", f"tuned={str(submission == 'full').lower()}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (folder,) = (tmp_path / "runs" / name / submission).iterdir()
        found = [row["metrics"][metric] for row in run_folder.evaluations(log_of(folder))]
        best[submission] = max(sign * value for value in found)
    print(name, {key: sign * value for key, value in best.items()}, "target", target)
    assert best["head_only"] < sign * target < best["full"]
