"""What further pruning methods hand over meets the goal, at the bound that the goal sets."""

import pytest

from harness.race import weight_metrics
from submissions.sparse import owl
from tests.kit.test_surgery import run, small_task, submitted
from tests.parity.test_sparse import handed_over

SPARSE = [
    "gmp", "woodfisher", "obd", "soft_threshold", "ac_dc", "spp", "distil", "sparse_evolution",
    "ria", "owl", "dsnot", "wanda_plus",
]  # fmt: skip
PATTERN = ["ac_dc", "spp", "distil", "ria", "wanda_plus"]
ALWAYS = ["maskllm", "progressive_mask", "stepwise_mask", "geometric_mask"]


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_sparsity_is_met_by_what_is_handed_over(name, sparsity):
    task = small_task(12)
    method = submitted(name, task, sparsity=sparsity)
    run(method, 12)
    with method.evaluated():
        # Rows of 16 round up, and a matrix's own share of positive and negative weights does.
        assert sparsity <= weight_metrics.sparsity(handed_over(task)) < sparsity + 0.05


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.97])
def test_owl_shares_keep_the_whole_at_any_sparsity(sparsity):
    """One block with fewer outliers than the others would need more zeros than it has weights."""
    outliers, sizes, width = [0.01, 0.05, 0.05, 0.045], [100, 300, 100, 200], 0.08
    found = owl.shares(outliers, sizes, sparsity, width)
    zeros = sum(share * n for share, n in zip(found, sizes))
    assert zeros == pytest.approx(sparsity * 700, abs=1e-9)
    assert max(found) <= 1
    for i, j in ((1, 2), (2, 3)):
        apart = (outliers[i] - outliers[j]) / 0.04 * 2 * width
        assert found[j] - found[i] == pytest.approx(apart)
    if max(found) < 1:
        assert found[0] - found[1] == pytest.approx(2 * width)


@pytest.mark.parametrize("name", PATTERN + ALWAYS)
def test_two_of_four_is_met_by_what_is_handed_over(name):
    task = small_task(12)
    method = submitted(name, task, **({} if name in ALWAYS else {"two_four": True}))
    run(method, 12)
    with method.evaluated():
        assert weight_metrics.two_four(handed_over(task)) == 1.0


@pytest.mark.parametrize(
    "name, bits",
    [("ternary", 2), ("binary", 1), ("bitnet", 2), ("lsq", 3), ("llm_qat", 4), ("adaround", 3),
     ("brecq", 3), ("cbq", 3), ("omniquant", 3), ("pv_tuning", 3)],
)  # fmt: skip
def test_bits_are_met_by_what_is_handed_over(name, bits):
    task = small_task(12)
    own = {} if bits < 3 else {"bits": bits}
    method = submitted(name, task, **own)
    run(method, 12)
    with method.evaluated():
        assert 0 < weight_metrics.bits(handed_over(task)) <= bits
