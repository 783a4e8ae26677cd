"""Measure CPU time and state bytes of each gradient method, its peer and torch's fused AdamW.

    python benches/optimizers.py [--only lion muon] [--rounds 15] [--json OUT]

The parameters are those of workload gpt2, scale mini, with fixed gradients. Our side is what a race
runs: elementwise methods on one flat tensor, with the copy of the gradients into it. Peers are
pytorch_optimizer's classes with their defaults (several are torch's own, re-exported), else torch's
or the authors' package. A method for some roles is timed on those parameters alone, as is its peer.

Times are CPU times of the process with one thread. Each round has a block of steps of ours, of the
peer and of fused AdamW. A ratio is the median over rounds of the ratio within a round. Gradients
are restored before every block, outside the timed part, since some peers overwrite them. A method
with periodic work is timed over whole periods, as is its peer.

The exit status is 1 if a bound is broken: no method is slower than its peer; the geometric mean
speed-up over pytorch_optimizer's own classes is 1.5; Lion takes at most 1.2 times fused AdamW.
"""

import argparse
import importlib
import json
import math
import os
import statistics
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from harness import roles
from harness.catalog import discover, space
from harness.catalog.definition import namespace, tree_of
from harness.train.parameter_group import Group

# A learning rate that keeps parameters near their start over thousands of steps.
SMALL = 1e-5
# The median ratio of equal sides may differ from 1 by NOISE; the other two are the bounds above.
NOISE, MEAN_SPEEDUP, LION = 0.03, 1.5, 1.2
# After ENOUGH CPU seconds of a method, LEAST rounds are enough.
ENOUGH, LEAST = 5.0, 5

# Submission -> class (of pytorch_optimizer, of torch.optim, or a dotted path) and its arguments.
DECAY = {"weight_decay": 0.1}
# pytorch_optimizer's classes for matrices want to be told of them.
MUONS = ("Muon", "NorMuon")
LOW_RANK = {"rank": 16, "update_proj_gap": 50, "scale": 0.25, "projection_type": "std"}
PEERS = {
    "sgd": ("SGD", {"momentum": 0.9, "nesterov": True, **DECAY}),
    "signsgd": ("SignSGD", DECAY),
    "sgd_sai": ("SGDSaI", DECAY),
    "dog": ("dog.DoG", {}),
    "adagrad": ("Adagrad", DECAY),
    "rmsprop": ("RMSprop", {}),
    "adam": ("Adam", DECAY),
    "adamw": ("AdamW", DECAY),
    "linear_decay": ("AdamW", DECAY),
    "amsgrad": ("AdamW", {"amsgrad": True, **DECAY}),
    "nadamw": ("NAdam", {"decoupled_weight_decay": True, **DECAY}),
    "diffgrad": ("DiffGrad", DECAY),
    "lamb": ("Lamb", DECAY),
    "adafactor": ("AdaFactor", {"betas": (None, 0.999), "relative_step": False, **DECAY}),
    "lion": ("Lion", DECAY),
    "cautious_lion": ("Lion", {"cautious": True, **DECAY}),
    "schedule_free_adamw": ("ScheduleFreeAdamW", DECAY),
    "prodigy": ("Prodigy", {"lr": 1.0, **DECAY}),
    "muon": ("Muon", DECAY),
    "moonlight": ("Muon", {"use_adjusted_lr": True, **DECAY}),
    "polar_express": ("Muon", {"ns_coeffs": "polar_express", **DECAY}),
    "normuon": ("NorMuon", {"update_scale": "match_rms", **DECAY}),
    "scion": ("SCION", {"momentum": 0.1, "constraint": True}),
    "splus": ("SPlus", {"inverse_steps": 20, **DECAY}),
    "adopt": ("ADOPT", {"weight_decouple": True, **DECAY}),
    "ademamix": ("AdEMAMix", {"weight_decouple": True, **DECAY}),
    "mars": ("MARS", DECAY),
    "adan": ("Adan", DECAY),
    "came": ("CAME", DECAY),
    "radam": ("torch.optim.RAdam", {"decoupled_weight_decay": True, **DECAY}),
    "schedule_free_radam": ("ScheduleFreeRAdam", DECAY),
    "schedule_free_sgd": ("ScheduleFreeSGD", DECAY),
    "adabelief": ("AdaBelief", DECAY),
    "d_adaptation": ("DAdaptAdam", {"lr": 1.0, "weight_decouple": True, **DECAY}),
    "d_adaptation_sgd": ("DAdaptSGD", {"lr": 1.0, **DECAY}),
    "tiger": ("Tiger", DECAY),
    "stable_adamw": ("StableAdamW", DECAY),
    "laprop": ("LaProp", DECAY),
    "grokfast": ("GrokFastAdamW", DECAY),
    "lars": ("LARS", DECAY),
    "novograd": ("NovoGrad", DECAY),
    "yogi": ("Yogi", DECAY),
    "madgrad": ("MADGRAD", DECAY),
    "apollo": ("APOLLO", {**LOW_RANK, **DECAY}),
    "galore": ("GaLore", {**LOW_RANK, **DECAY}),
    "fira": ("Fira", {**LOW_RANK, **DECAY}),
    "soap": ("SOAP", {"precondition_frequency": 10, **DECAY}),
    "psgd_kron": ("Kron", DECAY),
    "shampoo": ("Shampoo", {"preconditioning_compute_steps": 20, **DECAY}),
}
# Hyperparameters of ours with which both sides do the same, and the period in steps.
OURS = {
    "galore": ({"rank": 16, "gap": 50}, 50),
    "fira": ({"rank": 16, "gap": 50}, 50),
    "natural_galore": ({"rank": 16, "gap": 50}, 50),
    "soap": ({"every": 10}, 10),
    "shampoo": ({"every": 20, "graft": False}, 20),
    "psgd_kron": ({"flat": 500}, 1),
    "splus": ({"every": 20}, 20),
    "apollo": ({"rank": 16, "gap": 50}, 50),
}


def methods():
    """Return the names of the gradient methods for the weights of a network."""
    cards = [discover.read(p) for p in discover.submissions().values() if not p.variant]
    return [
        c.plugin.name
        for c in cards
        if c.form == "b" and "adapt" not in c.functions and "train" in discover.tracks(c)
        and c.literals.get("HANDLES") != ["factor"]
    ]  # fmt: skip


def model():
    """Return the model of gpt2 mini, with random gradients."""
    from workloads.models.gpt import GPT

    torch.manual_seed(0)
    net = GPT(namespace(tree_of("gpt2")["mini"]["model"]))
    for p in net.parameters():
        p.grad = 0.01 * torch.randn_like(p)
    return net


def handled(name):
    """Return the parameters of a new model that the submission handles."""
    net, kinds = model(), discover.read(discover.find(name)).literals.get("HANDLES")
    roles_by_name = roles.of(net)
    return [p for n, p in net.named_parameters() if not kinds or roles_by_name[n].kind in kinds]


class Ours:
    """A submission as the race runs it."""

    def __init__(self, name):
        plugin = discover.find(name)
        point = space.default(discover.read(plugin).literals["SPACE"])
        point |= OURS.get(name, ({}, 1))[0] | ({"lr": SMALL} if "lr" in point else {})
        self.params = handled(name)
        self.group = Group(discover.load(plugin), space.namespace(point), self.params)

    @torch.no_grad()
    def step(self):
        self.group.update(0.5)

    def state_bytes(self):
        return tensor_bytes(self.group.state)


class Peer:
    """A class of another package on the same parameters."""

    def __init__(self, name, construct):
        self.params = handled(name)
        self.optimizer = construct(self.params)
        if hasattr(self.optimizer, "train"):
            self.optimizer.train()
        self.step = self.optimizer.step

    def state_bytes(self):
        return tensor_bytes(self.optimizer.state_dict()["state"])


def peer(name):
    """Return (title, constructor) of the submission's peer, or None."""
    if name not in PEERS:
        return None
    if name == "psgd_kron" and not torch.backends.opt_einsum.is_available():
        # Without opt_einsum, Kron contracts its five operands in an order that takes seconds.
        return None
    attribute, kwargs = PEERS[name]
    home, _, attribute = attribute.rpartition(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = importlib.import_module(home or "pytorch_optimizer")
    cls = getattr(package, attribute, None) or getattr(torch.optim, attribute)
    shared = kwargs.keys() - LOW_RANK.keys()
    kwargs = {"lr": SMALL} | kwargs

    def construct(params):
        group = {"params": params, **{k: v for k, v in kwargs.items() if k in LOW_RANK}}
        group |= {"use_muon": True} if attribute in MUONS else {}
        return cls([group], **{k: kwargs[k] for k in ("lr", *shared)})

    return f"{cls.__module__.split('.')[0]}.{attribute}", construct


def tensor_bytes(value):
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        value = list(value.values())
    return sum(tensor_bytes(v) for v in value) if isinstance(value, list | tuple) else 0


def block(side, steps):
    """Return the CPU milliseconds of a step, from one block of steps."""
    for p, g in zip(side.params, side.grads, strict=True):
        p.grad = g.clone()
    side.step()
    start = time.process_time_ns()
    for _ in range(steps):
        side.step()
    return (time.process_time_ns() - start) / 1e6 / steps


def race(sides, rounds, period):
    """Return the CPU milliseconds of a step: for each side a list over rounds."""
    for side in sides.values():
        side.grads = [p.grad.clone() for p in side.params]
    steps = {}
    for key, side in sides.items():
        # A block takes about 15 ms, in whole periods.
        count = max(3, min(60, int(15 / block(side, 3))))
        steps[key] = -(-count // period) * period
    times = {key: [] for key in sides}
    start = time.process_time()
    for i in range(rounds):
        if i >= LEAST and time.process_time() - start > ENOUGH:
            break
        for key, side in sides.items():
            times[key].append(block(side, steps[key]))
    return times


def ratio(times, above, below):
    return statistics.median(a / b for a, b in zip(times[above], times[below], strict=True))


def measure(name, rounds):
    known_peer = peer(name)
    sides = {"ours": Ours(name)}
    if known_peer:
        sides["peer"] = Peer(name, known_peer[1])
    sides["fused"] = Peer(name, lambda params: torch.optim.AdamW(params, lr=SMALL, fused=True))
    times = race(sides, rounds, OURS.get(name, ({}, 1))[1])
    count = sum(p.numel() for p in sides["ours"].params)
    row = {"method": name, "peer": known_peer[0] if known_peer else None, "parameters": count}
    for key, side in sides.items():
        row[f"{key}_ms"] = statistics.median(times[key])
        row[f"{key}_bytes"] = side.state_bytes()
    row["ours/fused"] = ratio(times, "ours", "fused")
    row["speedup"] = ratio(times, "peer", "ours") if known_peer else None
    return row


def show_heads():
    print("one thread, CPU ms a step, state in bytes for each parameter handled")
    heads = ("ours", "peer", "fused", "ours/fused", "speed-up", "state", "peer's")
    print(f"{'method':20}" + "".join(f"{h:>11}" for h in heads) + "  peer", flush=True)


def show(row):
    has_peer, count = row["peer"] is not None, row["parameters"]
    cells = [
        row["ours_ms"],
        row["peer_ms"] if has_peer else None,
        row["fused_ms"],
        row["ours/fused"],
    ]
    cells += [row["speedup"], row["ours_bytes"] / count]
    cells += [row["peer_bytes"] / count if has_peer else None]
    texts = "".join(f"{'-' if c is None else f'{c:.3f}':>11}" for c in cells)
    print(f"{row['method']:20}{texts}  {row['peer'] or '-'}", flush=True)


def mean_speedup(rows, prefix=""):
    """Return the geometric mean speed-up over a package's peers, and their number."""
    gains = [r["speedup"] for r in rows if r["peer"] and r["peer"].startswith(prefix)]
    return (statistics.geometric_mean(gains) if gains else math.nan), len(gains)


def breaches(rows):
    """Return the bounds that are broken, in words."""
    broken = [
        f"{r['method']} is slower than {r['peer']}: {1 / r['speedup']:.2f} times its time"
        for r in rows
        if r["peer"] and r["speedup"] < 1 - NOISE
    ]
    mean, _ = mean_speedup(rows, "pytorch_optimizer")
    # The bound is for the mean over all methods.
    if len(rows) == len(methods()) and mean < MEAN_SPEEDUP:
        broken.append(f"mean speed-up over pytorch_optimizer is {mean:.2f}, below {MEAN_SPEEDUP}")
    return broken + [
        f"lion takes {r['ours/fused']:.2f} times as long as fused AdamW, more than {LION}"
        for r in rows
        if r["method"] == "lion" and r["ours/fused"] > LION
    ]


def main():
    """Print the table, the means and the broken bounds. Return the exit status."""
    names = methods()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=sorted(names), default=names, metavar="METHOD")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    show_heads()
    for name in args.only:
        rows.append(measure(name, args.rounds))
        show(rows[-1])
    for title, prefix in (("all", ""), ("pytorch_optimizer's own", "pytorch_optimizer")):
        mean, count = mean_speedup(rows, prefix)
        print(f"geometric mean speed-up over {title} peers: {mean:.2f} ({count})")
    if args.json:
        args.json.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1))
    for breach in breaches(rows):
        print(f"BROKEN  {breach}")
    return int(bool(breaches(rows)))


if __name__ == "__main__":
    sys.exit(main())
