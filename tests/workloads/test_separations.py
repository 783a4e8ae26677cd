"""What a workload is for is seen in its records: one idea reaches its goal, and others do not.

The records are those of results/board/, of points that were tuned (three trials), with fresh seeds.
"""

import math

import pytest

from scripts.raced_tables import by_workload, values

# Workload, what reaches its goal with most seeds, and what never does with any.
SEPARATED = [
    ("clean", "l2rw", ["adamw", "trusted_only", "trusted_mix", "gce"]),
    ("partial", "alim_one_hot", ["adamw", "cc"]),
    ("robust", "pgd", ["adamw"]),
    ("certified", "ibp", ["adamw", "pgd"]),
    ("active", "margin", ["adamw", "random_labels"]),
    ("private", "private_sgd", ["automatic_clipping"]),
    ("fed", "one_bit_adam", ["adamw", "fedavg_plain"]),
    ("gpt2_fed", "diloco", ["fedavg", "scaffold"]),
    ("vit_fed", "diloco", ["adamw", "fedavg"]),
    ("ft_gpt2.trainable_10", "lora", ["miss", "hira", "lora_plus", "hra", "oft", "road"]),
    ("ft_gpt2.delta", "shira", ["corda", "delora", "vera"]),
    ("ft_gpt2.memory_80", "lora_fa", ["layernorm_tuning", "mesa_training", "wta_crs"]),
    ("ft_greedy", "hyperfit", ["full"]),
    ("constrained", "frank_wolfe", ["sgd", "adam"]),
    ("game", "halpern", ["sgd", "adam"]),
    ("blackbox", "tpsgd", ["cbo"]),
    ("logreg", "svrg", ["adagrad"]),
    ("stream_relabelled", "continual_backprop", ["finetune", "redo"]),
    ("stream_split", "er", ["finetune", "ewc"]),
    ("stream_text.fomo", "er", ["merge"]),
    ("gpt2_moe", "loss_free_balance", ["adamw"]),
    ("compress_gpt2.sparse_50", "distil", ["synflow", "sqft", "sparse_soups"]),
    ("compress_gpt2.sparse_90", "magnitude", ["soft_threshold"]),
    ("compress_gpt2.two_four", "magnitude", ["maskllm"]),
    ("compress_gpt2.bits_4", "lsq", ["llm_qat", "comq", "adaround", "brecq", "cbq"]),
    ("compress_gpt2.size_60", "flap", ["cofi", "pela"]),
    ("compress_gpt2.bits_2", "lsq", ["llm_qat", "omniquant", "adaround"]),
    ("pinn_poisson64", "ssbroyden", ["adam", "variable_projection"]),
    ("vit", "infobatch", ["el2n_pruning", "grand_pruning"]),
]


@pytest.mark.parametrize("workload, special, plain", SEPARATED)
def test_the_records_separate(workload, special, plain):
    name, _, variant = workload.partition(".")
    raced = by_workload()[f"{name}.mini.{variant}".rstrip(".")]
    assert raced[special].tuned
    assert raced[special].cell.met
    for name in plain:
        assert raced[name].tuned
        assert len(raced[name].tuning) >= 3
        assert raced[name].runs
        assert all(math.isinf(run.time) for run in raced[name].runs), name


def test_the_range_of_transitions_decides_whether_a_sum_is_kept():
    whole, positive = (
        by_workload()[f"state_tracking.mini{variant}"]["adamw"] for variant in ("", ".positive")
    )
    assert whole.cell.met
    assert len(positive.runs) >= 5
    assert max(values(positive.runs, "long_accuracy")) < 0.05


@pytest.mark.parametrize(
    "workload, special", [("gpt2_fed", "diloco"), ("operator_burgers", "noisy_inputs")]
)
def test_a_plain_optimizer_pays_twice_or_misses(workload, special):
    raced = by_workload()[f"{workload}.mini"]
    slowest = max(run.time for run in raced[special].runs)
    assert sum(run.time > slowest for run in raced["adamw"].runs) >= 2
    assert raced["adamw"].cell.time > 1.8 * raced[special].cell.time
