"""Methods that remove structure, or act on a block's maps, follow a second implementation.

On the language model of tests/support/transformer.py, in float64, with gradients of its own loss.
"""

import math

import numpy as np
import pytest
import torch

from harness import structure
from harness.errors import UserError
from harness.race import reduction
from submissions.sparse import trp
from tests.support import transformer as t
from tests.support.nets import draws, rate

STEPS = 4
BASE = {"base_lr": 0.01, "base_wd": 0.1}
OWN = {"lr": 0.01, "wd": 0.1, "beta2": 0.95}
HEAD_COST = t.EACH * (3 * (t.WIDTH + 1) + t.WIDTH)
NEURON_COST = 2 * t.WIDTH + 1
WHOLE = sum(w.numel() for w in t.start().values())


def units(w):
    """Yield (block, kind, index, {name: mask of the unit's weights}) of every head and neuron."""
    for i in range(t.DEPTH):
        b = f"blocks.{i}"
        for h in range(t.HEADS):
            rows = torch.zeros(3 * t.WIDTH, dtype=torch.bool)
            for j in range(3):
                rows[j * t.WIDTH + h * t.EACH :][: t.EACH] = True
            columns = rows[: t.WIDTH]
            yield (
                i,
                "head",
                h,
                {
                    f"{b}.qkv.weight": rows[:, None].expand(-1, t.WIDTH),
                    f"{b}.qkv.bias": rows,
                    f"{b}.project.weight": columns.expand(t.WIDTH, -1),
                },
            )
        for n in range(t.INNER):
            one = torch.zeros(t.INNER, dtype=torch.bool)
            one[n] = True
            yield (
                i,
                "neuron",
                n,
                {
                    f"{b}.up.weight": one[:, None].expand(-1, t.WIDTH),
                    f"{b}.up.bias": one,
                    f"{b}.down.weight": one.expand(t.WIDTH, -1),
                },
            )


def without(w, scored, size):
    """Zero units in the order of their scores until the model is as small as asked."""
    w, left = {n: v.clone() for n, v in w.items()}, WHOLE
    for _, kind, masks in sorted(scored, key=lambda s: s[0]):
        if left <= size * WHOLE + 1e-6:
            break
        left -= HEAD_COST if kind == "head" else NEURON_COST
        for name, mask in masks.items():
            w[name][mask] = 0.0
    return w


def first_batches(count):
    stream = t.task()
    return [stream.next_batch() for _ in range(count)]


def adapted(name, **hp):
    return t.run(t.submitted(name, t.task(), **hp), 0)


def test_taylor_equals_its_formula():
    """(Σ w·g)² of each unit, averaged over batches (1906.10771)."""
    w = t.start()
    seen = [t.gradients(w, batch) for batch in first_batches(2)]
    scored = []
    for _, kind, _, masks in units(w):
        sums = [sum(float((w[n] * g[n])[m].sum()) for n, m in masks.items()) for g in seen]
        scored.append((np.mean(np.square(sums)), kind, masks))
    found = adapted("taylor", size=0.7, batches=2, form="vector", scope="global")
    assert t.difference(found, without(w, scored, 0.7)) < 1e-12


def test_llm_pruner_equals_its_formula():
    """Σ|w·g| of the mean gradient; the same share of every block's units (2305.11627)."""
    w = t.start()
    seen = [t.gradients(w, batch) for batch in first_batches(2)]
    g = {n: (seen[0][n] + seen[1][n]) / 2 for n in w}
    raw = {
        (i, kind, k): (sum(float((w[n] * g[n]).abs()[m].sum()) for n, m in masks.items()), masks)
        for i, kind, k, masks in units(w)
    }
    scored = []
    for (i, kind, _), (score, masks) in raw.items():
        alike = [s for (j, other, _), (s, _) in raw.items() if (j, other) == (i, kind)]
        scored.append((sum(s <= score for s in alike) / len(alike), kind, masks))
    found = adapted("llm_pruner", size=0.7, batches=2)
    assert t.difference(found, without(w, scored, 0.7)) < 1e-12


def test_flap_equals_its_formula():
    """Variance times squared columns, standardised; the mean goes into the bias (2312.11983)."""
    w, inputs = t.start(), {}
    x = t.task().calibration(8)
    t.forward(w, x, inputs)
    scores = {}
    for i in range(t.DEPTH):
        for kind, name in (("head", "project"), ("neuron", "down")):
            key = f"blocks.{i}.{name}.weight"
            each = inputs[key].var(0) * (w[key] ** 2).sum(0)
            each = (each - each.mean()) / each.std()
            scores[i, kind] = each.view(t.HEADS, t.EACH).mean(1) if kind == "head" else each
    scored = [(float(scores[i, kind][k]), kind, masks) for i, kind, k, masks in units(w)]
    expected = without(w, scored, 0.6)
    for name in (n for n in t.HIDDEN if "project" in n or "down" in n):
        lost = (w[name] - expected[name]) @ inputs[name].mean(0)
        expected[name.replace("weight", "bias")] += lost
    found = adapted("flap", size=0.6, examples=8)
    assert t.difference(found, expected) < 1e-12
    # Of a removed unit only the fluctuation is lost: outputs agree in the mean.
    key = "blocks.0.down"
    old = inputs[f"{key}.weight"] @ w[f"{key}.weight"].T + w[f"{key}.bias"]
    new = inputs[f"{key}.weight"] @ found[f"{key}.weight"].T + found[f"{key}.bias"]
    torch.testing.assert_close(old.mean(0), new.mean(0))


def test_shortgpt_equals_its_formula():
    """1 - cos(input, output) of a block, over tokens; the lowest goes (2403.03853)."""
    w, seen = t.start(), {}
    t.forward(w, t.task().calibration(8), seen)
    influence = []
    for i in range(t.DEPTH):
        a, b = seen[f"blocks.{i}"], seen[f"blocks.{i}.out"]
        cosine = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
        influence.append(float((1 - cosine).mean()))
    lowest = int(np.argmin(influence))
    expected = {
        n: torch.zeros_like(v) if n.startswith(f"blocks.{lowest}.") and "norm" not in n else v
        for n, v in w.items()
    }
    assert t.difference(adapted("shortgpt", size=0.9, examples=8), expected) < 1e-12


@pytest.mark.parametrize("block", range(t.DEPTH))
def test_owl_equals_its_formula_in_blocks_of_several_matrices(block):
    """Outliers are above M times the mean of their block's scores, not of their matrix's."""
    made, x = t.task(), t.task().calibration(8)
    sparsity, outlier, width = 0.6, 2.0, 0.1
    with torch.no_grad():
        made.model.blocks[block].down.weight.mul_(30.0)
    w = {n: p.detach().clone() for n, p in made.model.named_parameters()}

    def scores(w, i):
        seen = {}
        t.forward(w, x, seen)
        return {n: w[n].abs() * seen[n].norm(dim=0) for n in t.HIDDEN if f"blocks.{i}." in n}

    flat = [torch.cat([s.flatten() for s in scores(w, i).values()]) for i in range(t.DEPTH)]
    d = np.array([float((s > outlier * s.mean()).double().mean()) for s in flat])
    each = scores(w, block).values()
    above = sum(float((s > outlier * s.mean()).sum()) for s in each)
    # The means of its matrices would give another share.
    assert abs(above / sum(s.numel() for s in each) - d[block]) > 0.001
    scaled = (d - d.min()) * 2 * width / (d.max() - d.min())
    for i in range(t.DEPTH):
        share = sparsity - (scaled[i] - scaled.mean())
        for name, score in scores(w, i).items():
            w = w | {name: w[name].clone()}
            count = math.ceil(round(share * score.shape[1], 6))
            for row, values in enumerate(score):
                w[name][row, values.argsort()[:count]] = 0.0
    method = t.submitted("owl", made, sparsity=sparsity, examples=8, outlier=outlier, width=width)
    assert t.difference(t.run(method, 0), w) < 1e-12


@pytest.mark.parametrize("name", ["taylor", "flap", "shortgpt"])
def test_a_share_is_met_as_the_referee_counts_it(name):
    made, x = t.task(), t.task().calibration(2)
    t.submitted(name, made, size=1.0, flops=0.7)
    assert 0.35 < reduction.shares(made.model, lambda m: m(x))["flops"] <= 0.7
    t.submitted(name, made := t.task(), size=0.7)
    assert reduction.shares(made.model, lambda m: m(x))["size"] <= 0.7


def test_a_share_below_what_can_be_removed_is_an_error():
    with pytest.raises(UserError, match="not possible"):
        adapted("taylor", size=0.05)


def cut(weights, size):
    """The least energy of all thresholds between two singular values at which the size holds."""
    spectra = {n: np.linalg.svd(weights[n].numpy(), full_matrices=False) for n in t.HIDDEN}
    lost = {}
    for n, (_, s, _) in spectra.items():
        lost[n] = np.append(1 - np.cumsum(s**2) / np.sum(s**2), 0.0)
    budget = sum(weights[n].numel() for n in t.HIDDEN) - (1 - size) * WHOLE
    for energy in sorted({0.0, *np.concatenate(list(lost.values()))}):
        ranks, cost = {}, 0
        for n in t.HIDDEN:
            out, inputs = weights[n].shape
            r = int((lost[n][:-1] > energy + 1e-12).sum()) + 1
            ranks[n] = r if r * (out + inputs) < out * inputs else min(out, inputs)
            cost += min(out * inputs, r * (out + inputs))
        if cost <= budget:
            break
    low = {}
    for n, (u, s, v) in spectra.items():
        r = ranks[n]
        low[n] = torch.from_numpy(u[:, :r] * s[:r] @ v[:r]), torch.from_numpy(u[:, :r] @ v[:r])
    return low


def test_trp_equals_its_formula():
    """Cut by one energy every second step, with the slope of the nuclear norm (2004.14566)."""
    weights, optimizer, size = t.start(), t.AdamW(), 0.75
    for step, batch in enumerate(first_batches(STEPS)):
        slopes = {}
        if step % 2 == 0:
            low = cut(weights, size)
            weights |= {n: value for n, (value, _) in low.items()}
            slopes = {n: slope for n, (_, slope) in low.items()}
        g = t.gradients(weights, batch)
        g |= {n: g[n] + 3e-4 * slope for n, slope in slopes.items()}
        optimizer.step(weights, g, 0.01 * rate(step, 12), 0.1)
    weights |= {n: value for n, (value, _) in cut(weights, size).items()}
    submission = t.submitted("trp", t.task(), size=size, period=2, **OWN)
    assert t.difference(t.run(submission, STEPS), weights) < 1e-9


def test_trp_hands_over_what_the_goal_asks():
    made = t.task()
    submission = t.submitted("trp", made, size=0.8)
    t.run(submission, 1)
    with submission.evaluated():
        x = made.calibration(2)
        assert reduction.shares(made.model, lambda m: m(x))["size"] <= 0.8
    assert trp.ranks([torch.tensor([2.0, 1.0, 0.5])], [(3, 3)], 1.0) == [1]


def test_hard_concrete_equals_its_formula():
    """Gates by 1712.01312; the constraint's multipliers ascend (2204.00408)."""
    weights, optimizer, gates, noise = t.start(), t.AdamW(), {}, draws()
    start, size, warm = 1.0, 0.8, 0.25
    names = [f"blocks.{i}.{m}.weight" for i in range(t.DEPTH) for m in ("project", "down")]
    cost = {n: float(HEAD_COST if "project" in n else NEURON_COST) for n in names}
    for n in names:
        count = t.HEADS if "project" in n else t.INNER
        gates[n] = torch.full((count,), start, dtype=torch.float64)
    total = sum(cost[n] * len(gates[n]) for n in names)
    one, two = 0.0, 0.0

    def spread(n, z):
        return z.repeat_interleave(t.EACH) if "project" in n else z

    for step, batch in enumerate(first_batches(STEPS)):
        u = {n: torch.rand(len(a), generator=noise).clamp(1e-6, 1 - 1e-6) for n, a in gates.items()}
        shift = {n: (v.log() - (1 - v).log()).double() for n, v in u.items()}
        both = weights | {("a", n): a for n, a in gates.items()}

        def gated(w, shift=shift):
            z = {n: (1.2 * torch.sigmoid((shift[n] + w["a", n]) * 1.5) - 0.1) for n in names}
            return w | {n: w[n] * spread(n, z[n].clamp(0, 1)) for n in names}

        g = t.gradients(both, batch, gated)
        on = {n: torch.sigmoid(gates[n] + 2 / 3 * math.log(11)) for n in names}
        target = 1 - min(1.0, (step + 0.5) / 12 / warm) * (1 - size) * WHOLE / total
        gap = sum(cost[n] * float(on[n].sum()) for n in names) / total - target
        for n in names:
            slope = (one + 2 * two * gap) * cost[n] * on[n] * (1 - on[n]) / total
            g["a", n] = g["a", n] + slope
        one, two = one + 0.5 * gap, two + 0.5 * gap**2
        lr = {n: (0.05 if n[0] == "a" else 0.01) * rate(step, 12) for n in both}
        optimizer.step(both, g, lr, 0.0)
        gates = {n: both["a", n] for n in names}
        weights = {n: v for n, v in both.items() if n[0] != "a"}
    share = min(1.0, STEPS / 12 / warm)
    rank = sorted((float(a), names.index(n), k) for n in names for k, a in enumerate(gates[n]))
    left, off = WHOLE, set()
    for _, place, k in rank:
        if left <= (1 - share * (1 - size)) * WHOLE + 1e-6:
            break
        left -= cost[names[place]]
        off.add((place, k))
    for place, n in enumerate(names):
        z = torch.sigmoid(0.8 * gates[n] * 1.5)
        z[[k for p, k in off if p == place]] = 0.0
        weights[n] = weights[n] * spread(n, z)
    assert off
    hp = {"lr": 0.01, "wd": 0.0, "beta2": 0.95, "head_lr": 0.05, "multiplier_lr": 0.5}
    made = t.submitted("hard_concrete", t.task(), size=size, start=start, warm=warm, **hp)
    assert t.difference(t.run(made, STEPS), weights) < 1e-6  # float32 of the noise's logarithm


@pytest.mark.parametrize("draw", ["sandwich", "sorted"])
def test_sortednet_equals_its_formula(draw):
    """The mean gradient of two nested sub-networks (2309.00255)."""
    weights, optimizer, drawn = t.start(), t.AdamW(), draws()
    for step, batch in enumerate(first_batches(STEPS)):
        shares = [1.0, 0.5]
        if draw == "sorted":
            shares = [1 - k / 8 for k in torch.randint(5, (2,), generator=drawn).tolist()]
        parts = []
        for share in shares:

            def nested(w, share=share):
                kept = {}
                for n in (n for n in t.HIDDEN if "project" in n or "down" in n):
                    units, each = (t.HEADS, t.EACH) if "project" in n else (t.INNER, 1)
                    mask = torch.arange(units * each) < math.ceil(share * units) * each
                    kept[n] = w[n] * mask
                return w | kept

            parts.append(t.gradients(weights, batch, nested))
        g = {n: (parts[0][n] + parts[1][n]) / 2 for n in weights}
        optimizer.step(weights, g, 0.01 * rate(step, 12), 0.1)
    submission = t.submitted("sortednet", t.task(), draw=draw, **OWN)
    assert t.difference(t.run(submission, STEPS), weights) < 1e-9


def steps_of(weights, change=lambda w: w, before=lambda x: x):
    """AdamW of BASE, with gradients through a change of weights and inputs."""
    optimizer = t.AdamW()
    for step, batch in enumerate(first_batches(STEPS)):
        g = t.gradients(weights, batch, change, before)
        optimizer.step(weights, g, BASE["base_lr"] * rate(step, 12), BASE["base_wd"])
    return weights


def through(value, rounded):
    return value + (rounded - value).detach()


def scaled_norms(w, of):
    """Fold a scale of every norm's outputs into it and its reader, block after block."""
    x = t.task().calibration(8)
    for i in range(t.DEPTH):
        inputs = {}
        t.forward(w, x, inputs)
        for norm, name in (("norm1", "qkv"), ("norm2", "up")):
            key = f"blocks.{i}.{name}.weight"
            s = of(w[key], inputs[key])
            w[key] = w[key] * s
            for part in ("weight", "bias"):
                w[f"blocks.{i}.{norm}.{part}"] = w[f"blocks.{i}.{norm}.{part}"] / s
    return w


def test_smoothquant_equals_its_formula():
    """max|x|^α/max|w|^(1-α), then training through symmetric rows (2211.10438)."""
    weights = scaled_norms(t.start(), lambda w, x: x.abs().amax(0) ** 0.6 / w.abs().amax(0) ** 0.4)

    def rounded(w):
        step = {n: w[n].detach().abs().amax(1, keepdim=True) / 7 for n in t.HIDDEN}
        return w | {n: through(w[n], step[n] * (w[n] / step[n]).round()) for n in t.HIDDEN}

    expected = rounded(steps_of(weights, rounded))
    made = t.submitted("smoothquant", t.task(), bits=4, alpha=0.6, examples=8, **BASE)
    assert t.difference(t.run(made, STEPS), expected) < 1e-9


def test_dorefa_equals_its_formula():
    """Weights through tanh to 2^b levels, inputs by token (1606.06160)."""

    def rounded(w):
        result = dict(w)
        for n in t.HIDDEN:
            m = w[n].tanh().abs().max().detach()
            level = ((w[n].tanh() / (2 * m) + 0.5) * 7).round() / 7
            result[n] = through(w[n].tanh(), m * (2 * level - 1))
        return result

    def before(x):
        step = x.abs().amax(-1, keepdim=True).detach() / 15
        return through(x, step * (x / step).round())

    expected = rounded(steps_of(t.start(), rounded, before))
    made = t.submitted("dorefa", t.task(), bits=3, activation_bits=5, **BASE)
    assert t.difference(t.run(made, STEPS), expected) < 1e-9


def on_grids(w, bits, share=1.0):
    """Rows, cut to a share of their largest magnitude, to the nearest of 2^b even points."""
    result = w.clone()
    for i, row in enumerate(w):
        reach = float(row.abs().max()) * (share if isinstance(share, float) else float(share[i]))
        row = row.clamp(-reach, reach)
        points = torch.linspace(float(row.min()), float(row.max()), 2**bits, dtype=row.dtype)
        result[i] = points[(row[:, None] - points).abs().argmin(1)]
    return result


def test_awq_equals_its_formula():
    """Every power and every cut of the range tried, by brute force (2306.00978)."""
    w, x = t.start(), t.task().calibration(4)

    def best(weight, x):
        tried = []
        for k in range(20):
            s = x.abs().mean(0) ** (k / 20)
            s = s / (s.max() * s.min()).sqrt()
            gap = x @ weight.T - (x / s) @ on_grids(weight * s, 4).T
            tried.append((float(gap.square().mean()), k, s))
        return min(tried)[2]

    for i in range(t.DEPTH):
        inputs, b = {}, f"blocks.{i}"
        t.forward(w, x, inputs)
        values, project = slice(2 * t.WIDTH, None), f"{b}.project.weight"
        s = best(w[project], inputs[project])
        w[f"{b}.qkv.weight"][values] /= s[:, None]
        w[f"{b}.qkv.bias"][values] /= s
        w[project] = w[project] * s
        inputs[project] = inputs[project] / s
        for norm, name in (("norm1", "qkv"), ("norm2", "up")):
            key = f"{b}.{name}.weight"
            s = best(w[key], inputs[key])
            w[key], inputs[key] = w[key] * s, inputs[key] / s
            for part in ("weight", "bias"):
                w[f"{b}.{norm}.{part}"] = w[f"{b}.{norm}.{part}"] / s
        for name in t.MAPS:
            key = f"{b}.{name}.weight"
            shares = []
            for o, row in enumerate(w[key]):
                gaps = [
                    float(
                        (inputs[key] @ (row - on_grids(row[None], 4, 1 - k / 20)[0])).square().sum()
                    )
                    for k in range(10)
                ]
                free = name != "qkv" or o >= 2 * t.WIDTH
                shares.append(1 - int(np.argmin(gaps)) / 20 if free else 1.0)
            w[key] = on_grids(w[key], 4, shares)
    found = adapted("awq", stored=4.6, examples=4, tokens=10_000)
    assert t.difference(found, w) < 1e-9


@pytest.mark.parametrize("name", ["smoothquant", "awq"])
def test_scales_alone_change_no_output(name, monkeypatch):
    """Without the rounding the function stays the same."""
    made, x = t.task(), t.task().calibration(3)
    before = made.model(x)
    if name == "awq":
        monkeypatch.setattr("submissions.quantized.awq.rounded", lambda w, *rest: w)
        monkeypatch.setattr(
            "submissions.quantized.awq.best_scale", lambda w, x, b: 0.5 + x[0].abs()
        )
        monkeypatch.setattr(
            "submissions.quantized.awq.best_shares", lambda w, x, b: w.new_ones(len(w), 1)
        )
    else:
        monkeypatch.setattr("submissions.quantized.int8_ste.adapt", lambda *rest: None)
    t.submitted(name, made)
    assert not torch.equal(made.model.blocks[0].qkv.weight, made.start["blocks.0.qkv.weight"])
    torch.testing.assert_close(made.model(x), before)


def test_the_second_transformer_is_the_first():
    made, x = t.task(), t.task().calibration(3)
    torch.testing.assert_close(t.forward(t.start(), x), made.model(x), atol=1e-12, rtol=1e-10)
    assert structure.share_of_head(made.model.blocks[0]) == HEAD_COST
    assert structure.share_of_neuron(made.model.blocks[0]) == NEURON_COST
