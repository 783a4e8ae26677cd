"""Laws of fine-tuning methods: their start, what they train, exact merging, their formulas."""

import copy

import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import nn

from harness import surgery
from harness.catalog import discover, space
from harness.train.training_memory import training_memory
from submissions.peft import adalora, dora, head_only, lora, lora_xs, randlora, said, vera
from tests.kit.test_surgery import run, small_task, submitted

METHODS = sorted(name for name, p in discover.submissions().items() if p.family == "peft")
ADAPTERS = [
    ("lora", {}), ("lora", {"start": "pissa"}), ("lora", {"scale": "rank_stable"}), ("dora", {}),
    ("vera", {}), ("randlora", {}), ("randlora", {"pairing": "code"}), ("lora_xs", {"rank": 4}),
    ("svfit", {}), ("loldu", {"rank": 8}), ("adalora", {}), ("said", {"dimension": 64}),
    ("sft", {}),
]  # fmt: skip
# Methods that train all of the model, at once or in turn.
WHOLE = ("full", "lisa", "hft", "mesa_training", "wta_crs")
STARTS_EQUAL = [a for a in ADAPTERS if a[0] != "lora_xs"]  # its start is near zero, not zero


def shaken(task):
    """The task's model in float64 with noise on all that trains."""
    model = task.model.double()
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    return model


@pytest.mark.parametrize("name, settings", STARTS_EQUAL)
def test_start_is_the_pretrained_model(name, settings):
    task = small_task()
    submitted(name, task, **settings)
    for key, value in surgery.export(task.model).items():
        torch.testing.assert_close(value, task.start[key], atol=2e-6, rtol=1e-5)


def test_lora_xs_starts_within_its_deviation():
    task = small_task()
    submitted("lora_xs", task, rank=4)
    for key, value in surgery.export(task.model).items():
        torch.testing.assert_close(value, task.start[key], atol=1e-3, rtol=0)


@pytest.mark.parametrize("name, settings", [
    ("lora_xs", {"rank": 32}), ("lora", {"start": "pissa", "rank": 24}), ("lora_sb", {"rank": 32}),
    ("loldu", {"rank": 64}), ("svfit", {"rank": 64}),
])  # fmt: skip
def test_a_rank_above_the_smaller_side_is_that_side(name, settings):
    task = small_task()  # matrices of 16 x 48, 16 x 16, 16 x 64
    method = submitted(name, task, **settings)
    run(method, 2)
    for key, value in surgery.export(task.model).items():
        assert value.shape == task.start[key].shape
        assert bool(value.isfinite().all())


def test_a_row_of_zeros_stays_zero_under_dora():
    task = small_task()
    with torch.no_grad():
        for weight in surgery.weights(task.model):
            weight[3] = 0
    method = submitted("dora", task)
    run(method, 3)
    moved = surgery.export(task.model)
    assert all(bool(value.isfinite().all()) for value in moved.values())
    for module in surgery.matrices(task.model).values():
        assert bool((module.dense()[3] == 0).all())
        assert bool((module.dense()[2] != 0).any())


@pytest.mark.parametrize("name, settings", ADAPTERS)
def test_merging_is_the_same_map(name, settings):
    task = small_task()
    submitted(name, task, **settings)
    model = shaken(task)
    for module in surgery.matrices(model).values():
        x = torch.randn(5, module.weight.shape[1], dtype=torch.float64)
        merged = F.linear(x, module.dense(), module.bias)
        torch.testing.assert_close(module(x), merged, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_trains_learns_and_leaves_the_rest_alone(name):
    small = {
        "lora_xs": {"rank": 4},
        "lora_sb": {"rank": 4},
        "loldu": {"rank": 8},
        "said": {"dimension": 64},
    }
    small |= {
        "lisa": {"blocks": 1},
        "vera": {"rank": 8},
        "apet": {"share": 0.1},
        "svfit": {"rank": 8},
    }
    task = small_task(12)
    method = submitted(name, task, **small.get(name, {}))
    batch, before = task.next_batch(), copy.deepcopy(surgery.export(task.model))
    first = float(task.forward(batch))
    assert (
        surgery.trained(task.model) < 0.6 * sum(v.numel() for v in task.start.values())
        or name in WHOLE
    )
    run(method, 12)
    assert float(task.forward(batch)) < first
    assert not torch.equal(surgery.export(task.model)["readout.weight"], before["readout.weight"])
    if name not in (*WHOLE, "apet"):
        assert torch.equal(task.model.tokens.weight, task.start["tokens.weight"])


@pytest.mark.parametrize("name", [
    "adalora", "dora", "lora", "pissa", "lora_xs", "lora_sb", "said", "svfit", "vera", "loldu",
    "randlora", "ia3", "road",
])  # fmt: skip
def test_the_rank_shrinks_to_what_the_goal_allows(name):
    own = {"said": {"dimension": 400}, "vera": {"rank": 200}, "randlora": {"rank": 4}}
    large = own.get(name, {} if name in ("ia3", "road") else {"rank": 12})

    def trained(share):
        task = small_task()
        submitted(name, task, **large, share=share)
        return surgery.trained(task.model), sum(v.numel() for v in task.start.values())

    free, total = trained(1.0)
    half, _ = trained(0.5 * free / total)
    assert 0.2 * free < half <= 0.5 * free


def test_a_share_of_what_trains_is_the_goals():
    """Else a race with a bound on trained parameters has another share than its goal."""
    found = [n for n in METHODS if "share" in discover.read(discover.find(n)).literals["SPACE"]]
    for name in found:
        card = discover.read(discover.find(name))
        asked = space.asked(card.literals["SPACE"], {"trainable": {"at_most": 0.002}}, name)
        assert asked["share"] == 0.002, name
    assert {"lora", "sft", "apet", "ia3"} <= set(found)


def test_ia3_keeps_the_vectors_of_the_perceptrons_inner_layer_first():
    task = small_task()
    total = sum(p.numel() for p in task.model.parameters())
    narrow = sum(m.in_features for n, m in surgery.matrices(task.model).items() if "down" in n)
    submitted("ia3", task, share=(narrow + 0.5) / total)
    found = [n for n, m in surgery.matrices(task.model).items() if isinstance(m, surgery.Adapted)]
    assert found == [n for n in surgery.matrices(task.model) if n.endswith("down")]


def test_fitting_finds_the_largest_rank_that_is_allowed():
    task = small_task()
    total = sum(p.numel() for p in task.model.parameters())
    size = sum(sum(w.shape) for w in surgery.weights(task.model))
    for rank in (1, 2, 3):
        exact = rank * size / total
        assert surgery.fitting(task.model, 8, exact * (1 + 1e-9), lora.size) == rank
        assert surgery.fitting(task.model, 8, exact * (1 - 1e-9), lora.size) == max(1, rank - 1)
    assert surgery.fitting(task.model, 2, 1.0, lora.size) == 2


@pytest.mark.parametrize("name, expected", [("bitfit", "bias"), ("layernorm_tuning", "norm")])
def test_selective_tuning_changes_exactly_its_kind(name, expected):
    task = small_task()
    run(submitted(name, task), 3)
    for key, value in task.model.state_dict().items():
        mine = key.endswith("bias") if expected == "bias" else "norm" in key
        assert torch.equal(value, task.start[key]) != (mine or key == "readout.weight"), key


def test_dora_is_the_papers_formula_and_holds_the_norm_constant():
    torch.manual_seed(0)
    module = dora.DoRA(nn.Linear(5, 7), 2, 1.5).double()
    with torch.no_grad():
        module.B.normal_()
        module.m.mul_(1.3)
    v = module.weight + 1.5 * module.B @ module.A
    rows = [module.m[i] * v[i] / v[i].square().sum().sqrt() for i in range(7)]
    torch.testing.assert_close(module.dense(), torch.stack(rows))
    c = torch.randn(7, 5, dtype=torch.float64)
    (module.dense() * c).sum().backward()
    scaled = c * (module.m / v.norm(dim=1))[:, None].detach()
    torch.testing.assert_close(module.A.grad, 1.5 * module.B.detach().T @ scaled)


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (6, 6)])
@pytest.mark.parametrize("pairing", ["paper", "code"])
def test_randlora_is_the_sum_over_bases(shape, pairing):
    torch.manual_seed(0)
    out, inputs = shape
    small, rank = min(shape), 4
    bases = -(-small // rank)
    a, b = torch.randn(rank, 8), torch.randn(12, 3, rank)
    module = randlora.RandLoRA(nn.Linear(inputs, out), a, b, 2.0, pairing)
    with torch.no_grad():
        module.lam.normal_()
        module.gamma.normal_()
    total = torch.zeros(max(shape), small)
    for j in range(bases):
        for r in range(rank):
            k = j * rank + r  # place in the authors' bases-outer order of B, ranks-outer in A
            rank_of, base_of = (k // bases, k % bases) if pairing == "code" else (r, j)
            row = module.lam[rank_of, base_of] * a[rank_of, :small] * module.gamma[base_of]
            total += 2.0 * torch.outer(b[: max(shape), j, r], row)
    change = total.T if inputs > out else total
    torch.testing.assert_close(module.dense() - module.weight, change, atol=1e-5, rtol=1e-5)


def test_vera_and_lora_xs_are_products_of_diagonals_and_frames():
    torch.manual_seed(0)
    module = vera.VeRA(nn.Linear(5, 7), torch.rand(3, 9), torch.rand(9, 3), 0.1)
    with torch.no_grad():
        module.b.normal_()
    change = torch.diag(module.b) @ module.B @ torch.diag(module.d) @ module.A
    torch.testing.assert_close(module.dense() - module.weight, change, atol=1e-6, rtol=1e-5)
    r = torch.randn(2, 2)
    framed = lora_xs.Framed(nn.Linear(5, 7), 1.0, torch.randn(7, 2), r, torch.randn(2, 5))
    torch.testing.assert_close(
        framed.dense() - framed.weight, framed.B @ r @ framed.A, atol=1e-6, rtol=1e-5
    )


def test_pissa_holds_the_largest_singular_values():
    linear = nn.Linear(6, 9)
    values = torch.linalg.svdvals(linear.weight.detach())
    module = lora.LoRA(linear, 2, 4.0, "pissa")
    torch.testing.assert_close(torch.linalg.svdvals(4.0 * module.B @ module.A)[:2], values[:2])
    torch.testing.assert_close(torch.linalg.svdvals(module.weight)[:4], values[2:])


def test_lora_sb_starts_at_the_best_low_rank_sign_step():
    task = small_task()
    before = copy.deepcopy(task.model)
    submitted("lora_sb", task, rank=3, examples=8, first=1e-3)
    other = small_task()
    for i in range(2):
        other.forward_backward(other.next_batch(), accumulate=i > 0)
    for (key, module), dense in zip(
        surgery.matrices(task.model).items(), surgery.matrices(before).values()
    ):
        step = -1e-3 * other.model.get_submodule(key).weight.grad.sign()
        change = module.dense() - dense.weight
        assert torch.linalg.matrix_rank(change / 1e-3, rtol=1e-3) <= 3
        rest = torch.linalg.svdvals(step.double())[3:].square().sum()
        torch.testing.assert_close((step - change).double().square().sum(), rest, rtol=1e-3, atol=0)


def test_adalora_keeps_its_budget_and_scores_as_written():
    task = small_task(20)
    method = submitted("adalora", task, rank=4, keep=0.5)
    algorithm = method.algorithm
    task.step = 0
    assert algorithm.budget() == 4 * 8
    run(method, 1)
    p, mean = algorithm.factors[0].detach(), algorithm.mean[0]
    importance = (p * algorithm.factors[0].grad).abs().double()
    torch.testing.assert_close(mean.double(), 0.15 * importance, rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(
        algorithm.spread[0].double(), 0.15 * 0.85 * importance, rtol=1e-5, atol=1e-12
    )
    run(method, 19)
    live = sum(int((m.lam != 0).sum()) for m in algorithm.triplets)
    assert live == algorithm.budget() == 16


def test_hadamard_and_the_subspace_are_linear():
    torch.manual_seed(0)
    x = torch.randn(16, dtype=torch.float64)
    matrix = torch.tensor(scipy.linalg.hadamard(16), dtype=torch.float64)
    torch.testing.assert_close(said.hadamard(x), matrix @ x)
    z = nn.Parameter(torch.randn(6))
    module = said.Subspace(nn.Linear(5, 7), z)
    once = module.dense() - module.weight
    z.data.mul_(2)
    torch.testing.assert_close(module.dense() - module.weight, 2 * once, atol=1e-6, rtol=1e-4)


def test_lisa_moves_only_the_chosen_blocks():
    task = small_task(12)
    method = submitted("lisa", task, blocks=1, period=6)
    run(method, 6)
    (chosen,) = method.algorithm.chosen
    for i, block in enumerate(task.model.blocks):
        moved = any(
            not torch.equal(p, task.start[f"blocks.{i}.{n}"]) for n, p in block.named_parameters()
        )
        assert moved == (i == chosen)


def test_hft_trains_half_of_every_kind():
    task = small_task(16)
    method = submitted("hft", task, rounds=4)
    run(method, 1)
    for group in method.algorithm.groups.values():
        assert sum(p.requires_grad for p in group) == (len(group) + 1) // 2


def test_sft_changes_at_most_its_places():
    task = small_task(30)
    method = submitted("sft", task, share=0.02, period=10, window=2)
    run(method, 30)
    for key, module in surgery.matrices(task.model).items():
        changed = int((module.dense() != task.start[f"{key}.weight"]).sum())
        assert 0 < changed <= len(module.phi)
        assert len(set(module.places.tolist())) == len(module.phi)


def test_the_head_trains_alike():
    """Whatever the adapters' rate: one step of the head is the same."""
    after = []
    for settings in ({"base_lr": 0.01}, {"base_lr": 0.03}):
        task = small_task()
        run(submitted("lora", task, **settings), 1)
        after.append(task.model.readout.weight.detach().clone())
    assert torch.equal(*after)
    assert head_only.SPACE.items() <= lora.SPACE.items()
    assert adalora.SPACE["head_lr"] == head_only.SPACE["head_lr"]


class Doubled(torch.autograd.Function):
    """x·W with a copy of x kept for backward, in the open or as an attribute."""

    @staticmethod
    def forward(ctx, x, weight, bias, openly):
        copied = x.clone()
        if openly:
            ctx.save_for_backward(copied)
        else:
            ctx.kept = {"inputs": [copied]}
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError


class Saving(nn.Linear):
    openly = True

    def forward(self, x):
        return Doubled.apply(x, self.weight, self.bias, self.openly)


class Attributes(Saving):
    openly = False


class Keeping(nn.Linear):
    def forward(self, x):
        self.kept = [x.clone()]
        return super().forward(x)


def test_training_memory_is_parameters_gradients_state_and_what_backward_needs():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    batch = {"inputs": torch.randn(5, 4)}
    seen = []
    net[0].register_forward_hook(lambda *_: seen.append(1))

    def squares(model, batch):
        return model(batch["inputs"]).square().sum()

    whole, activations = 4 * (4 * 8 + 8 + 8 * 3 + 3), 4 * (5 * 8 + 5 * 3)
    assert training_memory(net, squares, batch, 100) == 2 * whole + 100 + activations
    net[0].requires_grad_(False)
    head = 4 * (8 * 3 + 3)
    assert training_memory(net, squares, batch, 0) == whole + head + activations
    net.requires_grad_(False)
    net[2].bias.requires_grad_(True)
    assert training_memory(net, squares, batch, 0) == whole + 4 * 3 + 4 * 5 * 3
    for keeps in (Saving, Attributes, Keeping):
        other = keeps(4, 8)
        assert training_memory(other, squares, batch, 0) == 4 * (2 * 40 + 5 * 4 + 5 * 8), keeps
    assert not seen  # a method's hooks do not hear of it
    assert all(p.grad is None for p in net.parameters())
