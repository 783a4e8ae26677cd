"""LoRA on streams and chosen replay follow a second implementation, step by step, in numpy."""

import numpy as np
import pytest
import torch

from harness import surgery
from harness.laws.small_workloads import small_workloads
from submissions.continual import etf_rotations, leverage_er, lora_stream, rmscl
from tests.parity.test_parity_continual import LENGTH, SGD, TASKS, Memory, Momentum
from tests.support import nets
from tests.support.nets import BATCH, HEAD, HIDDEN, STEPS, Adam, forward, gradients, softmax

LORA = {
    "lr": 0.02, "rank": 3, "alpha": 6.0, "penalty": 0.3, "kappa": 0.02,
    "beta1": 0.9, "beta2": 0.999,
}  # fmt: skip
PLAIN = {**SGD, "adaptive": False}


def adapted(first, draws, rule, lr, rank, alpha, penalty, kappa, beta1, beta2):
    """Train B·diag(g)·A beside each hidden matrix by the chain rule (2106.09685, 2310.14152)."""
    weights, adam, scale = nets.start(), Adam(beta1, beta2, 1e-8), alpha / rank
    a = {name: first[name] for name in HIDDEN}
    b = {name: np.zeros((len(weights[name]), rank)) for name in HIDDEN}
    gate = {name: np.ones(rank) for name in HIDDEN}
    old = {name: np.zeros((0, weights[name].shape[1])) for name in HIDDEN}

    def merged():
        return {**weights, **{n: weights[n] + scale * (b[n] * gate[n]) @ a[n] for n in HIDDEN}}

    for t, batch in zip(range(STEPS), nets.batches(TASKS)):
        if rule != "keep" and t and t % LENGTH == 0:
            weights = merged()
            for n in HIDDEN:
                old[n] = np.concatenate([old[n], a[n]])
                bound = a[n].shape[1] ** -0.5
                drawn = torch.rand(a[n].shape, dtype=torch.float64, generator=draws).numpy()
                a[n], b[n] = bound * (2 * drawn - 1), np.zeros_like(b[n])
                gate[n] = np.ones(rank)
            adam = Adam(beta1, beta2, 1e-8)
        full, grads, values = gradients(merged(), *batch), {}, {}
        for n in HEAD:
            grads[n], values[n] = full[n], weights[n]
        for n in HIDDEN:
            values |= {("A", n): a[n], ("B", n): b[n]}
            grads["A", n] = scale * (b[n] * gate[n]).T @ full[n]
            grads["B", n] = scale * full[n] @ a[n].T * gate[n]
            if rule == "orthogonal":
                grads["A", n] = grads["A", n] + penalty * np.sign(old[n] @ a[n].T).T @ old[n]
            if rule == "threshold":
                values["g", n] = gate[n]
                grads["g", n] = scale * np.diag(b[n].T @ full[n] @ a[n].T)
        adam.step(values, grads, lr)
        for n in HEAD:
            weights[n] = values[n]
        for n in HIDDEN:
            a[n], b[n] = values["A", n], values["B", n]
            if rule == "threshold":
                k = kappa * max(0.0, 2 * (t % LENGTH + 1) / LENGTH - 1)
                gate[n] = np.sign(values["g", n]) * np.maximum(np.abs(values["g", n]) - k, 0)
    return merged()


def streamed(rule):
    submission = nets.submitted("lora_stream", nets.task(tasks=TASKS), **LORA, rule=rule)
    products = surgery.matrices(submission.task.model)
    first = {f"{n}.weight": p.A.detach().numpy().copy() for n, p in products.items()}
    return submission, adapted(first, nets.draws(), rule, **LORA)


@pytest.mark.parametrize("rule", ["keep", "merge", "orthogonal", "threshold"])
def test_lora_stream_equals_its_formula(rule):
    submission, expected = streamed(rule)
    found = nets.run(submission)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("name", ["lora_merge", "lora_orthogonal", "lora_codyra"])
def test_a_variant_is_a_rule_of_lora_stream(name):
    rule = {"lora_merge": "merge", "lora_orthogonal": "orthogonal", "lora_codyra": "threshold"}
    found = nets.run(nets.submitted(name, nets.task(tasks=TASKS), **LORA))
    expected = nets.run(
        nets.submitted("lora_stream", nets.task(tasks=TASKS), **LORA, rule=rule[name])
    )
    assert all(np.array_equal(found[n], expected[n]) for n in expected)


def test_a_merge_leaves_the_network_as_it_was():
    submission = nets.submitted("lora_stream", nets.task(tasks=TASKS), **LORA, rule="merge")
    nets.run(submission, 3)
    x = torch.randn(5, 8, dtype=torch.float64)
    before = submission.task.model(x)
    submission.algorithm.merge()
    torch.testing.assert_close(submission.task.model(x), before)
    assert all((p.B == 0).all() for p in submission.algorithm.products)


def test_the_gate_of_a_rank_that_is_small_is_zero():
    gate = torch.tensor([0.3, -0.01, 0.02, -1.0])
    found = lora_stream.shrink_(gate, 0.02)
    torch.testing.assert_close(found, torch.tensor([0.28, 0.0, 0.0, -0.98]))


def unit(rows):
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def lasso(rows, goal, lam):
    """Return the weights a ≥ 0 by coordinate descent, until nothing moves."""
    a = np.zeros(len(rows))
    for _ in range(5000):
        before = a.copy()
        for i in range(len(a)):
            rest = goal - a @ rows + a[i] * rows[i]
            a[i] = max(0.0, (rows[i] @ rest - lam) / (rows[i] @ rows[i]))
        if np.abs(a - before).max() < 1e-15:
            break
    return a


def chosen_replay(lr, momentum, share, lam, candidates):
    """Draw replayed examples by the lasso that reconstructs the new ones (2309.15274)."""
    weights, optimizer = nets.start(), Momentum(lr, momentum)
    generator = nets.draws()
    memory, sparse = Memory(generator), 0
    for t, (x, y) in zip(range(STEPS), nets.batches(TASKS)):
        g = gradients(weights, x, y)
        if t:
            count = candidates * BATCH
            draw = torch.randperm if count <= len(memory.y) else None
            index = (
                draw(len(memory.y), generator=generator)[:count]
                if draw
                else torch.randint(len(memory.y), (count,), generator=generator)
            ).numpy()
            goal = unit(unit(forward(weights, x)[1][-1]).mean(0))
            rows = unit(forward(weights, memory.x[index])[1][-1])
            a = torch.from_numpy(lasso(rows, goal, lam))
            sparse += int((a == 0).sum())
            picked = torch.multinomial(a, BATCH, replacement=True, generator=generator).numpy()
            old = gradients(weights, memory.x[index[picked]], memory.y[index[picked]])
            g = {n: share * g[n] + (1 - share) * old[n] for n in g}
        optimizer.step(weights, g)
        memory.add(x, y)
    assert sparse
    return weights


def test_rmscl_equals_its_formula():
    hp = {"share": 0.4, "lam": 0.2, "candidates": 2}
    found = nets.run(nets.submitted("rmscl", nets.task(tasks=TASKS), **PLAIN, **hp))
    for name, value in chosen_replay(**SGD, **hp).items():
        np.testing.assert_allclose(found[name], value, atol=1e-7, err_msg=name)


def test_the_lasso_of_orthogonal_rows_has_a_closed_form():
    rows = torch.eye(3, dtype=torch.float64)
    goal = torch.tensor([0.9, 0.05, -0.5], dtype=torch.float64)
    found = rmscl.reconstruct(rows, goal, 0.1)
    torch.testing.assert_close(
        found, torch.tensor([0.8, 0.0, 0.0], dtype=torch.float64), atol=1e-8, rtol=0
    )


def scored(features, curvature, ridge):
    """Return leverage by the kernel matrix: the diagonal of K(K + ridge·I)⁻¹ of scaled rows."""
    rows = np.sqrt(curvature)[:, None] * features
    kernel = rows @ rows.T
    return np.diag(kernel @ np.linalg.inv(kernel + ridge * np.eye(len(rows))))


def kept_by_leverage(lr, momentum, share, ridge, room):
    """Keep at each boundary the examples with the largest leverage (2306.03566)."""
    weights, optimizer, generator = nets.start(), Momentum(lr, momentum), nets.draws()
    kept = [np.zeros((0, 8)), np.zeros(0, dtype=int)]
    present, dropped = Memory(generator), 0
    for t, (x, y) in zip(range(STEPS), nets.batches(TASKS)):
        every = [np.concatenate([kept[0], present.x]), np.concatenate([kept[1], present.y])]
        if t and t % LENGTH == 0:
            scores, inside = forward(weights, every[0])
            p = softmax(scores)
            s = scored(unit(inside[-1]), (p * (1 - p)).sum(1), ridge)
            best = np.sort(np.argsort(-s, kind="stable")[:room])
            dropped += len(s) - len(best)
            kept = [every[0][best], every[1][best]]
            every, present = kept, Memory(generator)
        g = gradients(weights, x, y)
        if len(every[1]):
            index = torch.randint(len(every[1]), (BATCH,), generator=generator).numpy()
            old = gradients(weights, every[0][index], every[1][index])
            g = {n: share * g[n] + (1 - share) * old[n] for n in g}
        optimizer.step(weights, g)
        present.add(x, y)
    assert dropped
    return weights


def test_leverage_er_equals_its_formula():
    # 72 bytes an example: the reservoir holds all 40 of a task, and 50 are kept.
    hp, room = {"share": 0.4, "ridge": 0.5}, 50
    task = nets.task(tasks=TASKS, memory=2 * 72 * room)
    found = nets.run(nets.submitted("leverage_er", task, **PLAIN, **hp))
    for name, value in kept_by_leverage(**SGD, **hp, room=room).items():
        np.testing.assert_allclose(found[name], value, atol=1e-9, err_msg=name)


def test_leverage_of_orthogonal_examples_is_their_share():
    features = 2.0 * torch.eye(4, dtype=torch.float64)[:3]
    found = leverage_er.leverage(features, torch.tensor([1.0, 0.25, 0.0]).double(), 1.0)
    torch.testing.assert_close(found, torch.tensor([4 / 5, 1 / 2, 0.0]).double())


def test_turns_of_an_image_are_classes_of_their_own():
    batch = {"inputs": torch.arange(4.0).view(1, 4), "targets": torch.tensor([2])}
    found = etf_rotations.turned(batch)
    assert found["targets"].tolist() == [8, 9, 10, 11]
    # 0 1 / 2 3 turned by quarters against the clock
    assert found["inputs"].tolist() == [[0, 1, 2, 3], [1, 3, 0, 2], [3, 2, 1, 0], [2, 0, 3, 1]]


def test_etf_rotations_equals_its_formula():
    workload = next(w for w in small_workloads() if w.name == "stream_fscil")
    task, mirror = workload.task(), workload.task()
    submission = nets.submitted("etf_rotations", task, lr=0.05, adaptive=False)
    model = mirror.model
    model.load_state_dict(task.model.state_dict())
    corners, velocity = submission.algorithm.corners, {}
    trained = {n: p for n, p in model.named_parameters() if not n.startswith("readout")}
    for _ in range(4):
        submission.step()
        task.step += 1
        batch = mirror.next_batch()
        mirror.step += 1
        images = batch["inputs"].numpy().reshape(-1, 6, 6)
        turns = [np.rot90(images, r, (1, 2)).reshape(len(images), 36) for r in range(4)]
        x = torch.from_numpy(np.concatenate(turns))
        y = torch.cat([4 * batch["targets"] + r for r in range(4)])
        f = mirror.features({"inputs": x})
        scores = 10.0 * (f / f.norm(dim=1, keepdim=True)) @ corners.T
        loss = -scores.log_softmax(1)[torch.arange(len(y)), y].mean()
        for (n, p), g in zip(
            trained.items(), torch.autograd.grad(loss, trained.values()), strict=True
        ):
            velocity[n] = 0.9 * velocity.get(n, 0) + g
            p.data -= 0.05 * velocity[n]
    rows = dict(task.model.named_parameters())
    torch.testing.assert_close(rows["readout.weight"].data, corners[::4])
    for n, p in trained.items():
        torch.testing.assert_close(rows[n], p, msg=n)
