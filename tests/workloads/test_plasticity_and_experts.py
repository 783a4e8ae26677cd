"""Workloads whose question is plasticity, balance, a dictionary, an obstacle or a running sum."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness.catalog.definition import define, load_workload, tree_of
from harness.errors import UserError
from harness.laws import small_workloads
from harness.records import stream_metrics
from harness.report.run import stream_picture
from harness.surgery import routers
from tests.parity.test_parity import Row, gradient, ours, start
from tests.support import nets
from workloads import gpt2_moe, matrix_dictionary, pinn_obstacle, state_tracking, stream_relabelled
from workloads.models.experts import ExpertBlock, Router
from workloads.models.recurrent import Delta, Diagonal


def config_of(name, variant=None):
    return define(name, tree_of(name), "mini", variant).config


# Plasticity


def test_relabelled_images_stay_and_labels_are_new():
    data = stream_relabelled.data(config_of("stream_relabelled"), "train")
    images, labels = data["images"].view(40, 400, -1), data["labels"].view(40, 400)
    assert bool((images == images[0]).all())
    agree = (labels[1:] == labels[:-1]).double().mean()
    assert 0.08 < agree < 0.12
    held = stream_relabelled.data(config_of("stream_relabelled"), "val")
    assert all(torch.equal(data[key], held[key]) for key in data)


def relabelled_rows(accuracies):
    """Log rows at the ends of tasks: after task k, each task up to it has 100 images."""
    return [
        {"event": "evaluation", "step": 10 * (k + 1), "state_bytes": 5,
         "tasks": [[right[i], 100] for i in range(k + 1)]}
        for k, right in enumerate(accuracies)
    ]  # fmt: skip


def test_last_learning_is_the_mean_at_the_ends_of_the_last_quarter_of_tasks():
    block = {
        "goal": {"last_learning": {"at_least": 0.9}},
        "horizon": 80,
        "stream": {"tasks": 8, "recurring": False},
        "evaluate": {"every": 0},
    }
    ends = [90, 80, 70, 60, 50, 40, 30, 20]
    rows = relabelled_rows([[7] * k + [end] for k, end in enumerate(ends)])
    assert stream_metrics.running(block, rows) == {"last_learning": pytest.approx(0.25)}
    assert stream_metrics.running(block, rows, 30) == {"last_learning": pytest.approx(0.75)}
    assert stream_metrics.running(block, rows[:1], 5) == {"last_learning": 0.0}
    now, before = stream_metrics.goal_metrics(block, rows, 5)
    assert now == {"last_learning": pytest.approx(0.25), "memory": 5.0}
    assert before == {"last_learning": pytest.approx(0.35), "memory": 5.0}
    found = stream_metrics.report(block, rows)["strict"]
    assert found["last_learning"] == {"value": pytest.approx(0.25)}
    assert found["learning"] == {"value": pytest.approx(np.mean(ends) / 100)}
    other = block | {"goal": {"accuracy": {"at_least": 0.9}}}
    assert "last_learning" not in stream_metrics.report(other, rows)["strict"]


# Experts


def experts():
    numbers = {"width": 6, "heads": 2, "norm": "pre", "activation": "relu", "experts": 3,
               "expert_width": 4}  # fmt: skip
    torch.manual_seed(0)
    return ExpertBlock(SimpleNamespace(**numbers))


def test_a_token_goes_through_one_expert_and_its_gate():
    block, x = experts(), torch.randn(2, 5, 6)
    block.router.bias.copy_(torch.tensor([0.0, 0.4, 0.0]))
    found = block.transform(x).flatten(0, 1)
    load = [0, 0, 0]
    for token, out in zip(x.flatten(0, 1), found):
        gates = torch.sigmoid(block.router.weight @ token)
        e = int((gates + block.router.bias).argmax())
        second = block.downs[e](torch.relu(block.ups[e](token)))
        assert torch.allclose(out, 2 * gates[e] * second, atol=1e-6)
        load[e] += 1
    assert block.router.load.tolist() == load


def test_a_bias_moves_tokens_and_no_gradient():
    router, x = Router(6, 4), torch.randn(100, 6)
    router(x)
    before = router.load.clone()
    router.bias[0] = -2.0
    router(x)
    assert router.load[0] == 0
    assert router.load.sum() == before.sum() == 100
    assert [name for name, _ in router.named_parameters()] == ["weight"]


def test_max_violation_is_the_busiest_expert_over_the_mean():
    loads = {"load_0_0": 30, "load_0_1": 10, "load_1_0": 20, "load_1_1": 20}
    found = gpt2_moe.score({"nats": 80.0, "count": 40, "bytes": 100, **loads})
    assert found["max_violation"] == pytest.approx((0.5 + 0.0) / 2)
    assert found["loss"] == 2.0


def test_a_model_without_experts_is_refused_in_words():
    for name in ("loss_free_balance", "switch_aux"):
        with pytest.raises(UserError, match="no experts to balance"):
            nets.submitted(name)


class AdamW:
    """On a task's own parameters, in float64."""

    def __init__(self, task, lr, wd):
        self.task, self.lr, self.wd, self.t = task, lr, wd, 0
        self.p, self.m, self.v = ([p.detach().double() * k for p in task.params] for k in (1, 0, 0))

    def step(self, steps):
        self.t += 1
        for i, p in enumerate(self.task.params):
            g = p.grad.double()
            self.m[i] = 0.9 * self.m[i] + 0.1 * g
            self.v[i] = 0.99 * self.v[i] + 0.01 * g * g
            rate = self.lr * nets.rate(self.t - 1, steps)
            u = self.m[i] / (1 - 0.9**self.t)
            u = u / ((self.v[i] / (1 - 0.99**self.t)).sqrt() + 1e-3)
            self.p[i] = self.p[i] * (1 - rate * self.wd) - rate * u
            p.data.copy_(self.p[i])


BASE = {"lr": 0.01, "wd": 0.1, "beta2": 0.99, "eps": 1e-3}


@pytest.mark.parametrize("error", ["sign", "proportional", "diminishing"])
def test_loss_free_balance_equals_its_formula(error):
    made, second = (small_workloads.read("gpt2_moe").task() for _ in range(2))
    submission = nets.submitted("loss_free_balance", made, **BASE, rate=0.02, error=error)
    nets.run(submission, 6)
    adam = AdamW(second, 0.01, 0.1)
    biases = [np.zeros(4) for _ in routers(second.model)]
    for t in range(6):
        second.forward_backward(second.next_batch())
        adam.step(second.horizon)
        for b, router in zip(biases, routers(second.model)):
            load = router.load.numpy()
            short = load.mean() - load
            short = short / load.mean() if error == "proportional" else np.sign(short)
            b += 0.02 / (math.sqrt(t + 1) if error == "diminishing" else 1) * short
            router.bias.copy_(torch.from_numpy(b))
        second.step += 1
    for router, b in zip(routers(made.model), biases):
        assert np.abs(router.bias.numpy() - b).max() < 1e-6
        assert np.abs(b).max() > 0
    for p, q in zip(made.params, second.params):
        assert torch.allclose(p, q, atol=1e-4)


def test_switch_aux_equals_its_formula():
    made, second = (small_workloads.read("gpt2_moe").task() for _ in range(2))
    submission = nets.submitted("switch_aux", made, **BASE, alpha=0.5)
    nets.run(submission, 6)
    adam = AdamW(second, 0.01, 0.1)

    def loss(model, batch):
        value = gpt2_moe.loss(model, batch)
        for router in routers(model):
            f = router.load / router.load.sum()
            value = value + 0.5 * len(f) * sum(a * b for a, b in zip(f, router.share))
        return value

    for _ in range(6):
        second.backward(second.next_batch(), loss)
        adam.step(second.horizon)
        second.step += 1
    for p, q in zip(made.params, second.params):
        assert torch.allclose(p, q, atol=1e-4)
    even = submission.module.uneven(torch.full((4,), 25), torch.full((4,), 0.25))
    assert even == pytest.approx(1.0)
    assert submission.module.uneven(torch.tensor([100, 0, 0, 0]), torch.eye(4)[0]) == 4.0


# The dictionary


def small_dictionary():
    config = config_of("matrix_dictionary")
    config.horizon = 20
    return config


def test_the_true_dictionary_has_no_error_and_the_least_loss():
    config = small_dictionary()
    truth = matrix_dictionary.data(config, "val", 3)["truth"]
    batch = matrix_dictionary.data(config, "train", 3)
    model = matrix_dictionary.model(config)

    @torch.no_grad()
    def at(weight):
        model[0].weight.data.copy_(weight)
        sums = matrix_dictionary.metric(model, {"truth": truth})
        found = matrix_dictionary.score({k: float(v) for k, v in sums.items()})
        return found["error"], float(matrix_dictionary.loss(model, batch))

    random, atoms = model[0].weight.detach().clone(), truth[0].T
    signed = atoms[torch.randperm(64)] * torch.randint(2, (64, 1)).mul(2).sub(1)
    error, least = at(signed)
    assert error < 1e-6
    assert at(random)[0] > 0.3
    assert least < at(random)[1]
    assert at(5 * signed)[1] == pytest.approx(least, rel=1e-5)  # the ball bounds the loss
    assert at(0.5 * signed)[1] == pytest.approx(least / 8, rel=1e-5)


def frank_wolfe(params, lr, a, b):
    running = [0 * p for p in params]
    for t in range(30):
        for i, p in enumerate(params):
            rho, gamma = (t + 1) ** -a, lr * (t + 1) ** -b
            running[i] = (1 - rho) * running[i] + rho * gradient(p, 0, t, i)
            u, _, vt = np.linalg.svd(running[i], full_matrices=False)
            params[i] = (1 - gamma) * p - gamma * u @ vt
            # The first step of rate 1 ends in the ball, and no later one leaves it.
            assert lr < 1 or np.linalg.norm(params[i], 2) <= 1 + 1e-12


@pytest.mark.parametrize("lr", [1.0, 0.8])
def test_orthogonal_dictionary_equals_its_formula(lr):
    hp = {"lr": lr, "a": 0.6, "b": 0.7}
    row = Row("orthogonal_dictionary", frank_wolfe, hp, shapes=[(6, 4), (4, 6)])
    second = [p.numpy() for p in start(torch.float64, row.shapes)]
    frank_wolfe(second, **row.hp)
    for p, q in zip(ours(row, torch.float64), second):
        assert np.abs(p.numpy() - q).max() < 1e-11


# The obstacle


def test_the_string_lies_on_the_bump_and_is_straight_elsewhere():
    x = torch.linspace(0, 1, 4001, dtype=torch.float64)
    u, bump = pinn_obstacle.solution(x, 0.3), pinn_obstacle.obstacle(x, 0.3)
    assert (u - bump).min() > -1e-15
    second = (u[2:] - 2 * u[1:-1] + u[:-2]) * 4000**2
    inside = (x[1:-1] > pinn_obstacle.CONTACT + 1e-3) & (x[1:-1] < 0.999 - pinn_obstacle.CONTACT)
    outside = (x[1:-1] < pinn_obstacle.CONTACT - 1e-3) | (x[1:-1] > 1.001 - pinn_obstacle.CONTACT)
    assert torch.equal(u[1:-1][inside], bump[1:-1][inside])
    assert second[outside].abs().max() < 1e-6
    assert second.max() < 1e-6
    assert u[0] == u[-1] == 0
    slope = (u[1:] - u[:-1]) * 4000
    assert (slope[1:] - slope[:-1]).abs().max() < 2e-3  # u' is continuous


def test_the_obstacles_terms_are_derivatives_of_the_network():
    config = config_of("pinn_obstacle")
    torch.manual_seed(0)
    net = pinn_obstacle.model(config).double()
    x = torch.rand(7, 1, dtype=torch.float64, requires_grad=True)
    u, second = net.curvature(x)
    first = torch.autograd.grad(net(x).sum(), x, create_graph=True)[0]
    exact = torch.autograd.grad(first.sum(), x)[0][:, 0]
    assert torch.allclose(u, net(x))
    assert torch.allclose(second, exact, rtol=1e-9)
    data = pinn_obstacle.data(config, "train", 0)
    height = data["coefficient"]
    batch = pinn_obstacle.batch_of(data, x.detach().float(), config)
    assert "coefficient" not in batch
    found = pinn_obstacle.terms(net.float(), batch)
    over = u.float() - pinn_obstacle.obstacle(x.detach()[:, 0].float(), height)
    assert torch.allclose(found["residual"], exact.float() * over, atol=1e-5)
    assert torch.allclose(found["above"], 10 * (-over).relu(), atol=1e-5)
    assert torch.allclose(found["concave"], 10 * exact.float().relu(), atol=1e-5)


@torch.no_grad()
def test_violation_is_at_least_the_largest_and_not_much_more():
    config = config_of("pinn_obstacle")
    data, net = pinn_obstacle.data(config, "val", 0), pinn_obstacle.model(config)
    sums = {k: float(v) for k, v in pinn_obstacle.metric(net, data).items()}
    largest = float((data["bump"] - net(data["points"])).max())
    assert largest <= pinn_obstacle.score(sums)["violation"] <= largest * 1000 ** (1 / 16)


# The running sum


def test_a_diagonal_layer_and_a_delta_rule_are_their_recurrences():
    torch.manual_seed(0)
    x = torch.randn(2, 6, 4)
    layer = Diagonal(4, -1.0, 0.0)
    a, b, h = -1 + 2 * torch.sigmoid(layer.gate(x)), layer.value(x), torch.zeros(2, 4)
    found = layer(x)
    for t in range(6):
        h = a[:, t] * h + b[:, t]
        assert torch.allclose(found[:, t], h, atol=1e-6)
    rule = Delta(4, 0.0, 2.0)
    found, unit = rule(x), torch.nn.functional.normalize
    for i in range(2):
        state = torch.zeros(4, 4)
        for t in range(6):
            k, q = unit(rule.key(x[i, t]), dim=0), unit(rule.query(x[i, t]), dim=0)
            beta = 2 * torch.sigmoid(rule.rate(x[i, t]))
            move = torch.eye(4) - beta * torch.outer(k, k)
            state = state @ move + beta * torch.outer(rule.value(x[i, t]), k)
            assert torch.allclose(found[i, t], state @ q, atol=1e-5)


def test_positions_after_a_sequences_length_do_not_count():
    config = config_of("state_tracking", "mod3")
    config.data.train = 50
    data = state_tracking.data(config, "train", 0)
    batch = state_tracking.batch(data, torch.arange(50), config)
    running = np.cumsum(batch["inputs"].numpy(), axis=1) % 3
    assert np.array_equal(running, batch["targets"].numpy())
    assert batch["length"].min() >= 3
    assert set(batch["inputs"].unique().tolist()) == {0, 1, 2}
    scores = torch.zeros(50, 40, 3)
    after = torch.arange(40) >= batch["length"][:, None]
    scores[after] = torch.tensor([1e3, -1e3, 0.0])
    assert torch.allclose(state_tracking.nats(scores, batch), torch.full((50,), math.log(3)))


def test_accuracy_beyond_the_training_length_is_scaled_by_chance():
    config = config_of("state_tracking")
    config.data.validation = 20
    data = state_tracking.data(config, "val", 0)
    batch = state_tracking.batch(data, torch.arange(20), config)

    def scored(right):
        scores = torch.nn.functional.one_hot(batch["targets"], 2).float()
        answers = torch.where(right, scores, 1 - scores)
        sums = state_tracking.metric(lambda _: answers, batch)
        return state_tracking.score({k: float(v) for k, v in sums.items()})

    places = torch.arange(256)
    short = (places < 40)[None, :, None]
    assert scored(short) == {"long_accuracy": -1.0, "short_accuracy": 1.0}
    half = scored(((places < 40) | (places % 4 != 0))[None, :, None])
    assert half["long_accuracy"] == pytest.approx(0.5)
    assert load_workload(define("state_tracking", tree_of("state_tracking"), "mini", None))


def test_the_picture_of_plasticity_is_by_the_number_of_the_task(monkeypatch, tmp_path):
    drawn = {}

    def by_task(axes, past, labels):
        original(axes, past, labels)
        line = axes.lines[0]
        drawn.update(x=list(line.get_xdata()), y=list(line.get_ydata()))

    original = stream_picture.by_task
    monkeypatch.setattr(stream_picture, "by_task", by_task)
    block = {
        "goal": {"last_learning": {"at_least": 0.9}},
        "horizon": 40,
        "stream": {"tasks": 4, "recurring": False},
        "evaluate": {"every": 0},
    }
    rows = relabelled_rows([[90], [10, 80], [10, 10, 70], [10, 10, 10, 60]])
    metrics = stream_metrics.report(block, rows)["strict"]
    stream_picture.draw(block, rows, metrics, tmp_path / "p.png", "plasticity")
    assert drawn["x"] == [1, 2, 3, 4]
    assert drawn["y"] == pytest.approx([0.9, 0.8, 0.7, 0.6])
    assert (tmp_path / "p.png").stat().st_size > 1000
