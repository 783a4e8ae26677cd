"""A tuner's trials follow a second loop in float64, and its engine is the package that it names."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import norm, truncnorm
from torch.func import functional_call

from submissions.tuners import asha, bohb, hyperband
from submissions.tuners.tpe import propose
from tests.parity.test_parity_labels import ADAMW, TRUSTED, labelled_task, nats
from tests.support import nets
from tests.support.nets import Adam, gradients, rate

optuna = pytest.importorskip("optuna")
STEPS = 120


def test_tpe_equals_its_second_loop():
    """Ten trials of six steps and a run of sixty, points from a study that is told the losses."""
    spread, hp = 4.0, {**ADAMW, "spread": 4.0}
    seed = int(torch.randint(2**31, (), generator=nets.draws()))
    stream, losses, points = nets.batches(), [], []
    space = {
        name: optuna.distributions.FloatDistribution(hp[name] / spread, hp[name] * spread, log=True)
        for name in ("lr", "wd")
    }

    def run(point, steps):
        weights, optimizer, seen = nets.start(), Adam(beta2=hp["beta2"]), []
        for t in range(steps):
            x, y = next(stream)
            seen.append(nats(weights, x, y).mean())
            optimizer.step(
                weights, gradients(weights, x, y), point["lr"] * rate(t, steps), point["wd"]
            )
        return weights, seen

    for number in range(10):
        sampler = optuna.samplers.TPESampler(seed=seed + number, n_startup_trials=4)
        study = optuna.create_study(sampler=sampler)
        for point, loss in zip(points, losses, strict=True):
            study.enqueue_trial(point)
            study.tell(study.ask(space), loss)
        points.append(study.ask(space).params)
        losses.append(run(points[-1], 6)[1][-1])
    best = points[int(np.argmin(losses))]
    second = run(best, STEPS - 60)[0]
    submission = nets.submitted("tpe", nets.task(STEPS), **hp)
    assert nets.difference(nets.run(submission, STEPS), second) <= 1e-9


def test_tpe_proposes_where_trials_were_good():
    """After many trials on a parabola in log lr the proposals gather at its minimum."""
    random = np.random.default_rng(0)
    trials = [
        {"lr": lr, "wd": 0.1, "loss": np.log10(lr / 1e-2) ** 2}
        for lr in 10 ** random.uniform(-4, 0, 40)
    ]
    ranges = {"lr": (1e-4, 1.0), "wd": (0.01, 1.0)}
    proposed = [propose(trials, ranges, seed)["lr"] for seed in range(20)]
    assert np.mean([abs(np.log10(lr / 1e-2)) for lr in proposed]) < 0.5


def runs_of(hp):
    """Return functions that draw a random run of AdamW, and that train one for a step."""
    generator, stream = nets.draws(), nets.batches()

    def drawn():
        u = (2 * torch.rand(2, generator=generator) - 1).tolist()
        own = {n: hp[n] * hp["spread"] ** a for n, a in zip(("lr", "wd"), u)}
        return own | {"weights": nets.start(), "adam": Adam(beta2=hp["beta2"]), "steps": 0}

    def train(run, most):
        x, y = next(stream)
        loss = nats(run["weights"], x, y).mean()
        own = run["lr"] * rate(run["steps"], most)
        run["adam"].step(run["weights"], gradients(run["weights"], x, y), own, run["wd"])
        run["steps"] += 1
        return loss

    return drawn, train, generator


def asha_loop(hp, horizon, runs_of):
    """Return the best weights: rungs of 3, 12 and 48 steps, a job at a time."""
    drawn, train, _ = runs_of(hp)
    runs, rungs, gone, left = [], [{}, {}, {}], [set(), set()], horizon
    while left:
        for level in (1, 0):
            best = sorted(rungs[level], key=rungs[level].get)[: len(rungs[level]) // 4]
            free = [i for i in best if i not in gone[level]]
            if free:
                i, level = free[0], level + 1
                gone[level - 1].add(i)
                break
        else:
            runs.append(drawn())
            i, level = len(runs) - 1, 0
        end, losses = 3 * 4**level, []
        while left and runs[i]["steps"] < end:
            losses.append(train(runs[i], 48))
            left -= 1
        if runs[i]["steps"] == end:
            count = max(1, (end - (end // 4 if level else 0)) // 4)
            rungs[level][i] = np.mean(losses[-count:])
    best = next(rung for rung in reversed(rungs) if rung)
    assert rungs[2]
    assert 14 <= len(runs) <= 20
    return runs[min(best, key=best.get)]["weights"]


def test_asha_equals_its_second_loop():
    hp, horizon = {**ADAMW, "spread": 4.0}, 126
    second = asha_loop(hp, horizon, runs_of)
    submission = nets.submitted("asha", nets.task(horizon), **hp)
    assert nets.difference(nets.run(submission, horizon), second) <= 1e-9


def test_asha_promotes_what_the_package_would_not_prune():
    """A run goes on where optuna's pruner of the same rule lets it."""
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=4)
    study, losses = optuna.create_study(pruner=pruner), {}
    for number, loss in enumerate(np.random.default_rng(0).permutation(40).tolist()):
        trial = study.ask()
        trial.report(loss, 1)
        lets = not trial.should_prune()
        study.tell(trial, loss)
        losses[number] = float(loss)
        known = sorted(losses, key=losses.get)[: max(1, len(losses) // 4)]
        assert lets == (number in known)
        job = asha.next_job([losses, {}], [[], []])
        assert (job is None) == (len(losses) < 4)
        if job:
            assert job == (known[0], 1)


def kernels(points, x, h):
    """Return the density of points at x, one kernel at a time."""
    return np.mean([np.prod(norm.pdf(x, p, h)) for p in points])


def widths(points):
    return np.maximum(1e-3, 1.06 * points.std(0) * len(points) ** (-1 / 6))


def bohb_loop(hp, horizon, runs_of):
    """Hyperband with proposals from normal kernels of scipy, drawn by their quantiles."""
    drawn, train, generator = runs_of(hp)
    rungs, most = hyperband.plan(horizon)
    seen, best, runs, left, proposals = {}, drawn(), [], horizon, 0
    best["loss"] = np.inf

    def place(run):
        return [0.5 + 0.5 * np.log(run[n] / hp[n]) / np.log(4.0) for n in ("lr", "wd")]

    def proposed():
        nonlocal proposals
        run = drawn()
        for steps in sorted(seen, reverse=True):
            ordered = [p for p, _ in sorted(seen[steps], key=lambda pair: pair[1])]
            if len(ordered) <= 3:
                continue
            good = np.array(ordered[: max(3, int(0.15 * len(ordered)))])
            bad = np.array(ordered[-max(3, len(ordered) - len(good)) :])
            if float(torch.rand(1, generator=generator)) < 1 / 3:
                break
            proposals += 1
            around = good[torch.randint(len(good), (64,), generator=generator).numpy()]
            u = torch.rand(64, 2, generator=generator, dtype=torch.float64).numpy()
            h = 3 * widths(good)
            x = truncnorm.ppf(u, -around / h, (1 - around) / h, around, h)
            below = [max(kernels(bad, p, widths(bad)), 1e-32) for p in x]
            ratio = [kernels(good, p, widths(good)) / g for p, g in zip(x, below)]
            spot = x[int(np.argmax(ratio))]
            run |= {n: hp[n] * 4.0 ** (2 * s - 1) for n, s in zip(("lr", "wd"), spot)}
            break
        return run

    for _, count, first, last in rungs:
        runs = [proposed() for _ in range(count)] if first == 0 else (
            sorted(runs, key=lambda run: run["loss"])[:count]
        )  # fmt: skip
        for run in runs:
            losses = [train(run, most) for _ in range(last - first)]
            left -= last - first
            run["loss"] = np.mean(losses[-max(1, (last - first) // 4) :])
            seen.setdefault(last, []).append((place(run), run["loss"]))
            if (-last, run["loss"]) <= (-best["steps"], best["loss"]):
                best = copy.deepcopy(run)
    for _ in range(left):
        best["steps"] = most - 1
        train(best, most)
    assert proposals
    return best["weights"]


def test_bohb_equals_its_second_loop():
    hp, horizon = {**ADAMW, "spread": 4.0}, 400
    second = bohb_loop(hp, horizon, runs_of)
    submission = nets.submitted("bohb", nets.task(horizon), **hp)
    assert nets.difference(nets.run(submission, horizon), second) <= 1e-8


def test_bohb_proposes_where_trials_were_good():
    """After many points on a parabola the proposals gather at its minimum."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(60, 2, generator=generator, dtype=torch.float64)
    losses = (points - torch.tensor([0.3, 0.7])).square().sum(dim=1)
    good, bad = bohb.divided(points, losses)
    assert len(good) == 9
    assert losses[:60].kthvalue(9).values == (good - torch.tensor([0.3, 0.7])).square().sum(1).max()
    assert len(bad) == 51
    drawn = torch.stack([bohb.proposed(good, bad, generator) for _ in range(30)])
    assert float((drawn - torch.tensor([0.3, 0.7])).abs().mean()) < 0.12
    assert bohb.divided(points[:3], losses[:3]) is None


def test_self_tuning_equals_its_second_loop():
    """The network with its weights in effect, by autograd through them."""
    hp = {"lr": 0.05, "tuner_lr": 0.05, "penalty": 1e-2, "entropy": 1e-2}
    submission = nets.submitted("self_tuning", labelled_task(), **hp)
    stream = labelled_task()
    model, generator, names = stream.model, nets.draws(), nets.HIDDEN
    torch.manual_seed(1)
    raw = {n: p.detach().clone() for n, p in model.named_parameters()}
    for name in names:
        stem = name.removesuffix("weight")
        raw |= {stem + "V": raw[name].clone(), stem + "c": raw[stem + "bias"].clone()}
        raw[stem + "U"] = 0.01 * torch.randn(2 * len(raw[name]), 2).double()
    h = torch.zeros(2, dtype=torch.float64)
    sigma = torch.full((2,), float(np.log(np.expm1(0.5))), dtype=torch.float64)
    speed, m, v, turns = {n: torch.zeros_like(p) for n, p in raw.items()}, [0, 0], [0, 0], 0

    def effective(raw, moved):
        shown = {n: p for n, p in raw.items() if n.rpartition(".")[2] not in ("V", "U", "c")}
        for name in names:
            stem = name.removesuffix("weight")
            s_w, s_b = (raw[stem + "U"] @ moved).chunk(2)
            shown[name] = raw[name] + torch.diag(s_w) @ raw[stem + "V"]
            shown[stem + "bias"] = raw[stem + "bias"] + s_b * raw[stem + "c"]
        return shown

    def nats_of(shown, batch):
        return F.cross_entropy(functional_call(model, shown, (batch["inputs"],)), batch["targets"])

    for t in range(nets.STEPS):
        if t % 3 == 2:
            places = torch.randint(16, (nets.BATCH,), generator=generator)
            batch = stream.gather(torch.from_numpy(TRUSTED)[places])
            noise = torch.randn(2, generator=generator)
            own = [h.clone().requires_grad_(), sigma.clone().requires_grad_()]
            width = torch.log1p(own[1].exp())
            total = nats_of(effective(raw, own[0] + width * noise), batch)
            total = total - hp["entropy"] * width.log().sum()
            turns += 1
            for i, (p, g) in enumerate(zip((h, sigma), torch.autograd.grad(total, own))):
                m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.999 * v[i] + 0.001 * g**2
                step = (m[i] / (1 - 0.9**turns)) / ((v[i] / (1 - 0.999**turns)).sqrt() + 1e-8)
                p.sub_(hp["tuner_lr"] * step)
            continue
        noise = torch.randn(2, generator=generator)
        moved = h + torch.log1p(sigma.exp()) * noise
        leaves = {n: p.clone().requires_grad_() for n, p in raw.items()}
        shown, batch = effective(leaves, moved), stream.next_batch()
        penalty = sum(
            0.5 * hp["penalty"] * k.exp() * shown[n].square().sum() for k, n in zip(moved, names)
        )
        grads = torch.autograd.grad(nats_of(shown, batch) + penalty, list(leaves.values()))
        for (n, p), g in zip(raw.items(), grads):
            speed[n] = 0.9 * speed[n] + g
            p.sub_(hp["lr"] * rate(t) * speed[n])
    second = {n: p.numpy() for n, p in effective(raw, h).items()}
    assert nets.difference(nets.run(submission), second) <= 1e-8
    assert float(h.abs().max()) > 0.1
