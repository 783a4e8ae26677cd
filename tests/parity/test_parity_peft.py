"""Fine-tuning methods follow a second implementation of their rule, step by step.

On the network of tests/support/nets.py, in float64: PEERS are of the package peft, whose dense
weights are compared; FORMULAS are numpy loops written from the papers' rules. What a method
draws at random is taken over; where that is by the task's own stream of numbers, it is drawn again.
"""

from functools import partial

import numpy as np
import pytest
import scipy.linalg
import torch

from harness import surgery
from tests.parity.test_parity import Row
from tests.support import nets
from tests.support.nets import HEAD, HIDDEN, STEPS, Adam, gradients, rate

BASE = {"base_lr": 0.02, "base_wd": 0.1, "head_lr": 0.01}
OWN = {"lr": 0.02, "wd": 0.1, "beta2": 0.95, "head_lr": 0.01}


def modules(submission):
    """The adapters in the places of the hidden matrices, by the weight's name."""
    return {f"{n}.weight": m for n, m in surgery.matrices(submission.task.model).items()}


def array(tensor):
    return tensor.detach().numpy().copy()


# Peers


def with_peft(submission, **config):
    """The network with peft's adapters in it, given our adapters' first values."""
    peft = pytest.importorskip("peft", reason="the peer peft is not installed")
    model = nets.task().model
    targets = [name.removesuffix(".weight") for name in HIDDEN]
    pissa = "init_lora_weights" in config
    made = peft.inject_adapter_in_model(
        peft.LoraConfig(target_modules=targets, lora_dropout=0.0, **config),
        model.float() if pissa else model,  # which peft does not split in float64
    ).double()
    for name, ours in modules(submission).items():
        theirs = made.get_submodule(name.removesuffix(".weight"))
        if pissa:
            continue
        theirs.lora_A["default"].weight.data.copy_(ours.A)
        theirs.lora_B["default"].weight.data.copy_(ours.B)
    for p in made.readout.parameters():
        p.requires_grad_(True)
    return made


def peft_run(submission, base_lr, base_wd, head_lr, **config):
    """Dense weights after torch's AdamW on peft's adapters and the readout."""
    model = with_peft(submission, **config)
    head = list(model.readout.parameters())
    own = [p for p in model.parameters() if p.requires_grad and all(p is not q for q in head)]
    rates = [base_lr, head_lr]
    optimizer = torch.optim.AdamW(
        [{"params": own}, {"params": head}], betas=(0.9, 0.95), weight_decay=base_wd
    )
    stream = nets.task()
    for t in range(STEPS):
        for group, lr in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = lr * rate(t)
        optimizer.zero_grad()
        nets.WORKLOAD.loss(model, stream.next_batch()).backward()
        optimizer.step()
    dense = {}
    for name in nets.start():
        module = model.get_submodule(name.rpartition(".")[0])
        if name in HIDDEN:
            module.merge()
            dense[name] = array(module.base_layer.weight)
        else:
            base = getattr(module, "base_layer", module)
            dense[name] = array(getattr(base, name.rpartition(".")[2]))
    return dense


PEERS = [
    Row("lora", partial(peft_run, r=3, lora_alpha=6.0), {"rank": 3, "alpha": 6.0}, "peft"),
    Row("lora", partial(peft_run, r=4, lora_alpha=6.0, use_rslora=True),
        {"rank": 4, "alpha": 6.0, "scale": "rank_stable"}, "peft", label="rslora"),
    Row("lora", partial(peft_run, r=3, lora_alpha=6.0, init_lora_weights="pissa"),
        {"rank": 3, "alpha": 6.0, "start": "pissa"}, "peft", label="pissa", float64=1e-5),
    Row("dora", partial(peft_run, r=3, lora_alpha=6.0, use_dora=True),
        {"rank": 3, "alpha": 6.0}, "peft"),
]  # fmt: skip


@pytest.mark.parametrize("row", PEERS, ids=str)
def test_adapter_equals_its_peer(row):
    submission = nets.submitted(row.submission, **BASE, **row.hp)
    second = row.second(submission, **BASE)
    assert nets.difference(nets.run(submission), second) <= row.float64


# Formulas: a function of the submission (for what it drew) and hyperparameters to dense weights.


def trained(names, base_lr, base_wd, head_lr):
    """AdamW on some of the parameters and, at its own rate, the readout."""
    weights, optimizer = nets.start(), Adam()
    for t, batch in zip(range(STEPS), nets.batches()):
        g = gradients(weights, *batch)
        lr = {n: (head_lr if n in HEAD else base_lr) * rate(t) for n in names}
        optimizer.step(weights, {n: g[n] for n in names}, lr, base_wd)
    return weights


def full(submission, **hp):
    return trained(list(nets.start()), **hp)


def head_only(submission, **hp):
    return trained(HEAD, base_lr=0.0, **hp)


def bitfit(submission, **hp):
    return trained([n for n in nets.start() if n.endswith("bias") and n not in HEAD] + HEAD, **hp)


def layernorm_tuning(submission, **hp):
    return trained([n for n in nets.start() if ".norm." in n] + HEAD, **hp)


def adapted(theta, dense, pull, base_lr, base_wd, head_lr):
    """AdamW on θ of each hidden matrix and on the readout.

    Args:
        theta: {matrix: {part: array}}; parts shared by matrices are under the matrix "".
        dense: (matrix's name, its θ) -> W'.
        pull: (matrix's name, its θ, ∂L/∂W') -> {part: ∂L/∂part}.
    """
    weights, optimizer = nets.start(), Adam()
    flat = {(m, k): v for m, parts in theta.items() for k, v in parts.items()}

    def part(name):
        return {k: v for (m, k), v in flat.items() if m in (name, "")}

    for t, batch in zip(range(STEPS), nets.batches()):
        weights |= {name: dense(name, part(name)) for name in HIDDEN}
        g = gradients(weights, *batch)
        own = dict.fromkeys(flat, 0.0)
        for name in HIDDEN:
            for k, value in pull(name, part(name), g[name]).items():
                own[(name, k) if (name, k) in flat else ("", k)] += value
        optimizer.t += 1  # one clock for both
        for values, grads, lr in (
            (flat, own, base_lr),
            (weights, {n: g[n] for n in HEAD}, head_lr),
        ):
            optimizer.t -= 1
            optimizer.step(values, grads, lr * rate(t), base_wd)
    return weights | {name: dense(name, part(name)) for name in HIDDEN}


def lora_xs(submission, rank, alpha, **hp):
    """W + (α/r)·U_r R S_r V_rᵀ, R from 0 here."""
    frames = {}
    for name in HIDDEN:
        u, s, v = np.linalg.svd(nets.start()[name], full_matrices=False)
        frames[name] = u[:, :rank], s[:rank, None] * v[:rank]
    first = nets.start()

    def dense(name, p):
        return first[name] + alpha / rank * frames[name][0] @ p["R"] @ frames[name][1]

    def pull(name, p, g):
        return {"R": alpha / rank * frames[name][0].T @ g @ frames[name][1].T}

    return adapted({n: {"R": np.zeros((rank, rank))} for n in HIDDEN}, dense, pull, **hp)


def lora_sb(submission, rank, first, examples, **hp):
    """B·R·A from the best rank-r approximation of −η·sign(ΣG) over the first examples.

    The submission has taken its batches when training begins.
    """
    begin, stream = nets.start(), nets.batches()
    total = dict.fromkeys(HIDDEN, 0.0)
    for _ in range(examples // nets.BATCH):
        g = gradients(begin, *next(stream))
        total = {name: total[name] + g[name] for name in HIDDEN}
    frames, theta = {}, {}
    for name in HIDDEN:
        u, s, v = np.linalg.svd(-first * np.sign(total[name]))
        frames[name], theta[name] = (u[:, :rank], v[:rank]), {"R": np.diag(s[:rank])}

    def dense(name, p):
        return begin[name] + frames[name][0] @ p["R"] @ frames[name][1]

    def pull(name, p, g):
        return {"R": frames[name][0].T @ g @ frames[name][1].T}

    kept = nets.batches
    try:
        nets.batches = lambda: stream
        return adapted(theta, dense, pull, **hp)
    finally:
        nets.batches = kept


def svfit(submission, rank, **hp):
    """Σ_{k≤r} σ_k u_k v_kᵀ with σ trained, and the rest as it was."""
    parts = {name: np.linalg.svd(nets.start()[name], full_matrices=False) for name in HIDDEN}

    def dense(name, p):
        u, s, v = parts[name]
        return (u * np.concatenate([p["sigma"], s[rank:]])) @ v

    def pull(name, p, g):
        u, _, v = parts[name]
        return {"sigma": np.array([u[:, k] @ g @ v[k] for k in range(rank)])}

    return adapted({n: {"sigma": parts[n][1][:rank].copy()} for n in HIDDEN}, dense, pull, **hp)


def loldu(submission, rank, alpha, **hp):
    """W_rest + s·P L_r diag(z) U_r with z and the scalar s trained (arXiv 2410.13618)."""
    first, frames, theta = nets.start(), {}, {}
    for name in HIDDEN:
        p, lower, upper = scipy.linalg.lu(first[name])
        d = np.diag(upper)[:rank].copy()
        frames[name] = (p @ lower)[:, :rank], upper[:rank] / d[:, None]
        theta[name] = {"z": d, "s": np.array(alpha / rank)}
    at_first = {n: theta[n]["s"] * (frames[n][0] * theta[n]["z"]) @ frames[n][1] for n in HIDDEN}

    def dense(name, p):
        left, right = frames[name]
        return first[name] - at_first[name] + p["s"] * (left * p["z"]) @ right

    def pull(name, p, g):
        left, right = frames[name]
        inner = np.array([left[:, k] @ g @ right[k] for k in range(rank)])
        return {"z": p["s"] * inner, "s": inner @ p["z"]}

    return adapted(theta, dense, pull, **hp)


def vera(submission, rank, d_initial, **hp):
    """W + diag(b) B diag(d) A."""
    first = nets.start()
    drawn = {name: (array(m.A), array(m.B)) for name, m in modules(submission).items()}
    theta = {n: {"b": np.zeros(first[n].shape[0]), "d": np.full(rank, d_initial)} for n in HIDDEN}

    def dense(name, p):
        a, b = drawn[name]
        return first[name] + np.diag(p["b"]) @ b @ np.diag(p["d"]) @ a

    def pull(name, p, g):
        a, b = drawn[name]
        return {
            "b": (g * (b @ np.diag(p["d"]) @ a)).sum(1),
            "d": np.array([(p["b"] * b[:, k]) @ g @ a[k] for k in range(rank)]),
        }

    return adapted(theta, dense, pull, **hp)


def randlora(submission, rank, scale, pairing, **hp):
    """W + s·Σ_j B_j Λ_j A Γ_j, transposed where the matrix is wider than tall."""
    first, drawn, theta = nets.start(), {}, {}
    for name, module in modules(submission).items():
        small = min(first[name].shape)
        count = -(-small // rank)
        columns = array(module.B)  # [large, count·rank], in the order in which they meet A's rows
        order = [(k // count, k % count) for k in range(rank * count)]  # (rank, base) of a row
        bases = {ij: columns[:, k] for k, ij in enumerate(order)}
        drawn[name] = array(module.A), bases
        theta[name] = {
            "lam": np.zeros((rank, count)),
            "gamma": np.full((count, small), 1 / max(count, small)),
        }

    def tall(name, value):
        return value.T if first[name].shape[1] > first[name].shape[0] else value

    def dense(name, p):
        a, bases = drawn[name]
        change = np.zeros(sorted(first[name].shape)[::-1])
        for (i, j), b in bases.items():
            change += scale * np.outer(b, p["lam"][i, j] * a[i] * p["gamma"][j])
        return first[name] + tall(name, change)

    def pull(name, p, g):
        a, bases = drawn[name]
        lam, gamma = np.zeros_like(p["lam"]), np.zeros_like(p["gamma"])
        for (i, j), b in bases.items():
            row = scale * b @ tall(name, g)
            lam[i, j] = row @ (a[i] * p["gamma"][j])
            gamma[j] += row * p["lam"][i, j] * a[i]
        return {"lam": lam, "gamma": gamma}

    return adapted(theta, dense, pull, **hp)


def said(submission, dimension, **hp):
    """W + λ·F z, F the Fastfood transform of arXiv 2012.13255 written as a matrix."""
    first, transforms = nets.start(), {}
    for name, module in modules(submission).items():
        n, size, d = len(module.G), first[name].size, len(module.signs)
        h = scipy.linalg.hadamard(n).astype(float)
        gaussian, permuted = array(module.G), np.eye(n)[array(module.order)]
        assert (gaussian**2).sum() == pytest.approx(1 / size)  # G over √(D·ΣG²)
        spread = np.zeros((n, d))
        spread[:d] = np.diag(array(module.signs))
        transforms[name] = (h @ np.diag(gaussian) @ permuted @ h @ spread)[:size]
    theta = {name: {"lam": np.array(1.0)} for name in HIDDEN}
    theta[""] = {"z": np.zeros(dimension - len(HIDDEN))}

    def dense(name, p):
        return first[name] + p["lam"] * (transforms[name] @ p["z"]).reshape(first[name].shape)

    def pull(name, p, g):
        f, flat = transforms[name], g.ravel()
        return {"z": p["lam"] * f.T @ flat, "lam": flat @ f @ p["z"]}

    return adapted(theta, dense, pull, **hp)


def adalora(submission, rank, alpha, gamma, keep, smooth, settle, lr, wd, beta2, head_lr):
    """Triplets, their orthogonality and their budget (arXiv 2303.10512, sections 3.1 to 3.3)."""
    weights, first, optimizer = nets.start(), nets.start(), Adam(beta2=beta2)
    own = {}
    for name, m in modules(submission).items():
        own |= {(name, "P"): array(m.P), (name, "E"): np.zeros((rank, 1)), (name, "Q"): array(m.Q)}
    mean, spread = dict.fromkeys(own, 0.0), dict.fromkeys(own, 0.0)

    def dense(name):
        p, e, q = (own[name, k] for k in "PEQ")
        return first[name] + alpha / rank * p @ np.diag(e[:, 0]) @ q

    for t, batch in zip(range(STEPS), nets.batches()):
        weights |= {name: dense(name) for name in HIDDEN}
        g, grads = gradients(weights, *batch), {}
        for name in HIDDEN:
            p, e, q = (own[name, k] for k in "PEQ")
            c = alpha / rank * g[name]
            grads[name, "P"] = c @ q.T * e[:, 0]
            grads[name, "Q"] = e * (p.T @ c)
            grads[name, "E"] = np.einsum("or,oi,ri->r", p, c, q)[:, None]
            for k, a in (("P", p.T), ("Q", q)):
                gap = a @ a.T - np.eye(rank)
                pull = gamma / (2 * len(HIDDEN)) * 2 * gap @ a / np.sqrt((gap**2).sum())
                grads[name, k] = grads[name, k] + (pull.T if k == "P" else pull)
        optimizer.step(own, grads, lr * rate(t), wd)
        optimizer.t -= 1
        optimizer.step(weights, {n: g[n] for n in HEAD}, head_lr * rate(t), wd)
        done = (t / STEPS - settle) / (1 - 2 * settle)
        if done < 1:
            for k in own:
                importance = np.abs(own[k] * grads[k])
                mean[k] = smooth * mean[k] + (1 - smooth) * importance
                spread[k] = smooth * spread[k] + (1 - smooth) * np.abs(importance - mean[k])
        s = {k: mean[k] * spread[k] for k in own}
        scores = {
            (name, r): s[name, "E"][r, 0] + s[name, "P"][:, r].mean() + s[name, "Q"][r].mean()
            for name in HIDDEN
            for r in range(rank)
        }
        total = rank * len(HIDDEN)
        budget = int(total * (keep + (1 - keep) * (1 - min(max(done, 0), 1)) ** 3))
        for name, r in sorted(scores, key=scores.get)[: total - budget]:
            own[name, "E"][r] = 0.0
    return weights | {name: dense(name) for name in HIDDEN}


def lisa(submission, blocks, period, lr, wd, beta2, head_lr):
    """Blocks drawn every period, AdamW anew at each draw."""
    weights, generator = nets.start(), nets.draws()
    for t, batch in zip(range(STEPS), nets.batches()):
        if t % period == 0:
            chosen = torch.randperm(2, generator=generator)[:blocks].tolist()
            optimizer = Adam(beta2=beta2)
        names = [n for n in weights if any(n.startswith(f"blocks.{i}.") for i in chosen)] + HEAD
        g = gradients(weights, *batch)
        lrs = {n: (head_lr if n in HEAD else lr) * rate(t) for n in names}
        optimizer.step(weights, {n: g[n] for n in names}, lrs, wd)
    return weights


def hft(submission, rounds, lr, wd, beta2, head_lr):
    """One of each pair of a block's tensors of a kind, drawn anew every round."""
    weights, generator = nets.start(), nets.draws()
    kinds = [["linear.weight"], ["linear.bias", "norm.bias"], ["norm.weight"]]
    for t, batch in zip(range(STEPS), nets.batches()):
        if t % (STEPS // rounds) == 0:
            names, optimizer = list(HEAD), Adam(beta2=beta2)
            for i in range(2):
                for pair in kinds:
                    coin = int(torch.randint(2, (1,), generator=generator))
                    names += [f"blocks.{i}.{n}" for n in pair[coin : coin + 1]]
        g = gradients(weights, *batch)
        lrs = {n: (head_lr if n in HEAD else lr) * rate(t) for n in names}
        optimizer.step(weights, {n: g[n] for n in names}, lrs, wd)
    return weights


def sft(submission, share, period, window, lr, wd, beta2, head_lr):
    """φ at K places; every period the smallest go where |Σ∇W| is largest (arXiv 2401.16405)."""
    first, weights, generator = nets.start(), nets.start(), nets.draws()
    total = sum(w.size for w in weights.values())
    inside = sum(weights[n].size for n in HIDDEN)
    places, phi, optimizer = {}, {}, Adam(beta2=beta2)
    for name in HIDDEN:
        count = int(share * total / inside * weights[name].size)
        places[name] = torch.randperm(weights[name].size, generator=generator)[:count].tolist()
        phi[name] = np.zeros(count)

    def dense(name):
        flat = first[name].ravel().copy()
        flat[places[name]] += phi[name]
        return flat.reshape(first[name].shape)

    for t, batch in zip(range(STEPS), nets.batches()):
        weights |= {name: dense(name) for name in HIDDEN}
        g = gradients(weights, *batch)
        if t % period == 0:
            seen = dict.fromkeys(HIDDEN, 0.0)
        if t % period < window:
            seen = {name: seen[name] + g[name].ravel() for name in HIDDEN}
        own = {name: g[name].ravel()[places[name]] for name in HIDDEN}
        optimizer.step(phi, own, lr * rate(t), wd)
        optimizer.t -= 1
        optimizer.step(weights, {n: g[n] for n in HEAD}, head_lr * rate(t), wd)
        if t % period != window - 1:
            continue
        for name in HIDDEN:
            part = 1.0 if t < period else 0.2 * (1 - t / STEPS)
            out = np.argsort(np.abs(phi[name]))[: int(part * len(phi[name]))].tolist()
            leave = {places[name][k] for k in out}
            stay = set(places[name]) - leave
            ranked = np.argsort(-np.abs(seen[name])).tolist()
            take = [j for j in ranked if j not in stay][: len(out)]
            new = [j for j in take if j not in leave]
            for k in [k for k in out if places[name][k] not in take]:
                places[name][k] = new.pop(0)
                phi[name][k] = optimizer.m[name][k] = optimizer.v[name][k] = 0.0
            assert not new
    return weights | {name: dense(name) for name in HIDDEN}


def apet(submission, share, rank, base_lr, base_wd, head_lr):
    """Half of the budget to LoRA pairs, half to whole tensors, both drawn at random."""
    weights, first, generator = nets.start(), nets.start(), nets.draws()
    budget = int(share * sum(w.size for w in weights.values()))
    left, pairs, whole = budget // 2, {}, []
    drawn = modules(submission)
    for i in torch.randperm(len(HIDDEN), generator=generator).tolist():
        cost = rank * sum(first[HIDDEN[i]].shape)
        if cost <= left:
            left -= cost
            pairs[HIDDEN[i]] = {"A": array(drawn[HIDDEN[i]].A), "B": array(drawn[HIDDEN[i]].B)}
    left += budget - budget // 2
    names = [n for n in weights if n not in HEAD]
    for i in torch.randperm(len(names), generator=generator).tolist():
        if first[names[i]].size <= left and names[i] not in pairs:
            left -= first[names[i]].size
            whole.append(names[i])
    assert pairs
    assert whole
    own = {(n, k): v for n, parts in pairs.items() for k, v in parts.items()}
    optimizer = Adam()
    for t, batch in zip(range(STEPS), nets.batches()):
        weights |= {n: first[n] + 8.0 * own[n, "B"] @ own[n, "A"] for n in pairs}
        g = gradients(weights, *batch)
        grads = {(n, "A"): 8.0 * own[n, "B"].T @ g[n] for n in pairs}
        grads |= {(n, "B"): 8.0 * g[n] @ own[n, "A"].T for n in pairs}
        optimizer.step(own, grads, base_lr * rate(t), base_wd)
        optimizer.t -= 1
        lr = {n: (head_lr if n in HEAD else base_lr) * rate(t) for n in whole + HEAD}
        optimizer.step(weights, {n: g[n] for n in whole + HEAD}, lr, base_wd)
    return weights | {n: first[n] + 8.0 * own[n, "B"] @ own[n, "A"] for n in pairs}


FORMULAS = [
    Row("apet", apet, {**BASE, "share": 0.3, "rank": 1}, package=""),
    Row("full", full, BASE, package=""),
    Row("head_only", head_only, {"base_wd": 0.1, "head_lr": 0.01}, package=""),
    Row("bitfit", bitfit, BASE, package=""),
    Row("layernorm_tuning", layernorm_tuning, BASE, package=""),
    Row("lora_xs", lora_xs, {**BASE, "rank": 3, "alpha": 6.0}, package=""),
    Row("lora_sb", lora_sb, {**BASE, "rank": 3, "first": 1e-2, "examples": 24}, package=""),
    Row("svfit", svfit, {**BASE, "rank": 4}, package=""),
    Row("loldu", loldu, {**BASE, "rank": 4, "alpha": 8.0}, package=""),
    Row("vera", vera, {**BASE, "rank": 5, "d_initial": 0.3}, package=""),
    Row("randlora", randlora, {**BASE, "rank": 4, "scale": 2.0, "pairing": "paper"}, package=""),
    Row("said", said, {**BASE, "dimension": 12}, package=""),
    Row("adalora", adalora, {**OWN, "rank": 3, "alpha": 6.0, "gamma": 0.3, "keep": 0.5,
        "smooth": 0.8, "settle": 0.2}, package=""),
    Row("lisa", lisa, {**OWN, "blocks": 1, "period": 5}, package=""),
    Row("hft", hft, {**OWN, "rounds": 4}, package=""),
    Row("sft", sft, {**OWN, "share": 0.1, "period": 5, "window": 2}, package=""),
]  # fmt: skip


@pytest.mark.parametrize("row", FORMULAS, ids=str)
def test_fine_tuning_method_equals_its_formula(row):
    extra = {"deviation": 0.0} if row.submission == "lora_xs" else {}
    submission = nets.submitted(row.submission, **row.hp, **extra)
    second = row.second(submission, **row.hp)
    assert nets.difference(nets.run(submission), second) <= row.float64
