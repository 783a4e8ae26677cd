"""Adapters follow a second implementation of their rule, step by step.

On the network of tests/support/nets.py, in float64: PEERS are of the package peft, whose merged
weights are compared; FORMULAS are numpy loops written from the papers' rules, where peft computes
in float32 or not at all. What a method draws at random is copied to its second implementation.
"""

from functools import partial

import numpy as np
import pytest
import torch

from submissions.peft import oft
from tests.parity.test_parity import Row
from tests.parity.test_parity_peft import adapted, array, modules
from tests.support import nets
from tests.support.nets import HIDDEN, STEPS, rate

RATES = {"base_lr": 0.02, "base_wd": 0.0, "head_lr": 0.01}


def peft_run(submission, base_lr, base_wd, head_lr, config, options, pairs):
    """Return dense weights after torch's AdamW on peft's adapters and the readout.

    Args:
        config: name of the class of peft's settings; options: its arguments.
        pairs: (peft's module, our module) -> [(peft's parameter, our value)] to copy.
    """
    peft = pytest.importorskip("peft", reason="the peer peft is not installed")
    model = nets.task().model
    targets = [name.removesuffix(".weight") for name in HIDDEN]
    settings = getattr(peft, config)(target_modules=targets, **options)
    made = peft.get_peft_model(model, settings).base_model.model.double()
    for name, ours in modules(submission).items():
        theirs = made.get_submodule(name.removesuffix(".weight"))
        for parameter, value in pairs(theirs, ours):
            parameter.data = value.detach().clone().view(parameter.shape)
    head = list(made.readout.parameters())
    for p in head:
        p.requires_grad_(True)
    own = [p for p in made.parameters() if p.requires_grad and all(p is not q for q in head)]
    optimizer = torch.optim.AdamW(
        [{"params": own}, {"params": head}], betas=(0.9, 0.95), weight_decay=base_wd
    )
    stream = nets.task()
    for t in range(STEPS):
        for group, lr in zip(optimizer.param_groups, (base_lr, head_lr), strict=True):
            group["lr"] = lr * rate(t)
        optimizer.zero_grad()
        nets.WORKLOAD.loss(made, stream.next_batch()).backward()
        optimizer.step()
    dense = {}
    for name in nets.start():
        module = made.get_submodule(name.rpartition(".")[0])
        if name in HIDDEN:
            module.merge()
        base = getattr(module, "base_layer", module)
        dense[name] = array(getattr(base, name.rpartition(".")[2]))
    return dense


def named(attributes):
    """Return `pairs` that copies our attributes to peft's dictionaries of these names."""
    return lambda theirs, ours: [
        (getattr(theirs, name)["default"], getattr(ours, own)) for name, own in attributes.items()
    ]


def of_ia3(theirs, ours):
    return [(theirs.ia3_l["default"], ours.l)]


def of_lokr(theirs, ours):
    names = [["lokr_w1", "lokr_w1_a", "lokr_w1_b"], ["lokr_w2", "lokr_w2_a", "lokr_w2_b"]]
    return [
        (getattr(theirs, name)["default"], value)
        for (whole, *parts), own in zip(names, (ours.first, ours.second))
        for name, value in zip([whole] if len(own) == 1 else parts, own)
    ]


def of_oft(theirs, ours):
    return [(theirs.oft_R["default"].weight, ours.Q[0])]


def of_hra(theirs, ours):
    return [(theirs.hra_u["default"], ours.U.T.contiguous())]


def of_vb_lora(theirs, ours):
    theirs.vblora_vector_bank["default"].data = ours.bank.detach().clone()
    return [
        (theirs.vblora_logits_A["default"], ours.at_a),
        (theirs.vblora_logits_B["default"], ours.at_b.transpose(0, 1).contiguous()),
    ]


def peer(config, pairs, **options):
    return partial(peft_run, config=config, options=options, pairs=pairs)


MLP = [HIDDEN[1].removesuffix(".weight")]
FACTORS = named({"hada_w1_a": "B1", "hada_w1_b": "A1", "hada_w2_a": "B2", "hada_w2_b": "A2"})
PEERS = [
    Row("ia3", peer("IA3Config", of_ia3, feedforward_modules=MLP), {}, "peft"),
    Row("loha", peer("LoHaConfig", FACTORS, r=3, alpha=6), {"rank": 3, "alpha": 6.0}, "peft"),
    Row("lokr", peer("LoKrConfig", of_lokr, r=1, alpha=3), {"rank": 1, "alpha": 3.0}, "peft"),
    Row("lokr", peer("LoKrConfig", of_lokr, r=1, alpha=3, decompose_both=True),
        {"rank": 1, "alpha": 3.0, "both": True}, "peft", label="both"),
    Row("lokr", peer("LoKrConfig", of_lokr, r=4, alpha=3), {"rank": 4, "alpha": 3.0}, "peft",
        label="full"),
    Row("oft", peer("OFTConfig", of_oft, oft_block_size=4, r=0, use_cayley_neumann=False),
        {"block": 4}, "peft"),
    Row("hra", peer("HRAConfig", of_hra, r=4), {"pairs": 2}, "peft"),
    Row("miss", peer("MissConfig", named({"miss_block": "D"}), r=5), {"rank": 5}, "peft"),
    Row("delora", peer("DeloraConfig", named({"delora_A": "A", "delora_B": "B"}), r=3,
        delora_lambda=2.0), {"rank": 3, "bound": 2.0, "start": "zero"}, "peft"),
    Row("hira", peer("HiraConfig", named({"hira_A": "A", "hira_B": "B"}), r=3), {"rank": 3},
        "peft"),
    Row("vb_lora", peer("VBLoRAConfig", of_vb_lora, r=2, num_vectors=6, vector_length=4, topk=2),
        {"rank": 2, "bank": 6, "length": 4}, "peft"),
    Row("road", peer("RoadConfig", named({"road_theta": "theta", "road_alpha": "alpha"}),
        group_size=2), {}, "peft"),
]  # fmt: skip


@pytest.mark.parametrize("row", PEERS, ids=str)
def test_an_adapter_equals_its_peer(row):
    submission = nets.submitted(row.submission, **RATES, **row.hp)
    second = row.second(submission, **RATES)
    assert nets.difference(nets.run(submission), second) <= row.float64


# Formulas: a function of the submission (for what it drew) and hyperparameters to dense weights.


def fourierft(submission, count, scale, **hp):
    """W + s·Re of the inverse transform, coefficient by coefficient (arXiv 2405.03003)."""
    first, waves = nets.start(), {}
    for name, m in modules(submission).items():
        out, inputs = first[name].shape
        j, k = np.arange(out)[:, None], np.arange(inputs)
        places = m.places.tolist()
        assert len(set(places)) == count
        phases = [j * (p // inputs) / out + k * (p % inputs) / inputs for p in places]
        waves[name] = scale / 1e6 * np.cos(2 * np.pi * np.array(phases))

    def dense(name, p):
        return first[name] + np.einsum("n,noi->oi", p["c"], waves[name])

    def pull(name, p, g):
        return {"c": np.einsum("noi,oi->n", waves[name], g)}

    return adapted({n: {"c": np.zeros(count)} for n in HIDDEN}, dense, pull, **hp)


def c3a(submission, block, **hp):
    """Blocks whose rows are one kernel, turned (arXiv 2407.19342)."""
    first = nets.start()

    def entries(name):
        out, inputs = first[name].shape
        for a in range(out):
            for c in range(inputs):
                yield a, c, (a // block, c // block, (c - a) % block), inputs

    def dense(name, p):
        result = first[name].copy()
        for a, c, at, inputs in entries(name):
            result[a, c] += p["w"][at] / inputs
        return result

    def pull(name, p, g):
        w = np.zeros_like(p["w"])
        for a, c, at, inputs in entries(name):
            w[at] += g[a, c] / inputs
        return {"w": w}

    grids = {n: (first[n].shape[0] // block, first[n].shape[1] // block, block) for n in HIDDEN}
    return adapted({n: {"w": np.zeros(grids[n])} for n in HIDDEN}, dense, pull, **hp)


FORMULAS = [
    # A scale of 1e5 times the rounding of an inverse Fourier transform: processors differ in it.
    Row("fourierft", fourierft, {"count": 20, "scale": 1e5}, package="", float64=1e-10),
    Row("c3a", c3a, {"block": 4}, package=""),
]


@pytest.mark.parametrize("row", FORMULAS, ids=str)
def test_an_adapter_equals_its_formula(row):
    submission = nets.submitted(row.submission, **RATES, **row.hp)
    second = row.second(submission, **RATES, **row.hp)
    assert nets.difference(nets.run(submission), second) <= row.float64


def test_boft_is_a_product_of_permuted_blocks():
    """Two factors on eight inputs: (0 1 2 3)(4 5 6 7), then (0 1 4 5)(2 3 6 7)."""
    torch.manual_seed(0)
    module = oft.OFT(torch.nn.Linear(8, 3), 4, 2, True).double()
    with torch.no_grad():
        module.Q.normal_()
        module.s.normal_()
    turn = np.eye(8)
    for values, order in zip(module.Q, ([*range(8)], [0, 1, 4, 5, 2, 3, 6, 7])):
        factor = np.zeros((8, 8))
        for at, entries in zip((order[:4], order[4:]), values.detach().numpy()):
            q = np.zeros((4, 4))
            q[np.triu_indices(4, 1)] = entries
            q = q - q.T
            cayley = (np.eye(4) - q) @ np.linalg.inv(np.eye(4) + q)
            factor[np.ix_(at, at)] = cayley.T
        turn = turn @ factor
    expected = array(module.s)[:, None] * (array(module.weight) @ turn)
    assert np.abs(array(module.dense()) - expected).max() < 1e-12
    assert np.abs(turn @ turn.T - np.eye(8)).max() < 1e-12
