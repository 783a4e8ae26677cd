"""TPE: short AdamW runs at points that a Parzen estimator proposes, then one long run at the best.

Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NIPS 2011, section 4; the estimator
is that of the package optuna.

    ten trials of a twentieth of the budget each, from the same first weights; the first four points
    are random, the others maximise the ratio of two densities, of the better and the worse trials
    then one run of half of the budget at the point of the least loss

Points are lr and wd within a factor of `spread`. A trial's loss is the mean training loss of its
last quarter. Evaluated is what trains at the moment.
State: the present run and the first weights, four words per parameter; the trials' points.
Departures from the paper: trials end after a twentieth of the budget, with a schedule of their own.
Before each proposal the estimator is made anew from the trials and a seed, so that a checkpoint
needs no more than these. It needs optuna (pip install optuna).
"""

import math

import torch

from harness import ops
from harness.errors import UserError
from submissions.first_order import adamw

TRIALS, SHARE, RANDOM = 10, 20, 4
SPACE = {**adamw.SPACE, "spread": {"log": [3.0, 30.0]}}


def propose(trials, ranges, seed):
    """Return the next point as {name: value}.

    Args:
        trials: finished ones, each a point and its "loss".
        ranges: the lower and upper end of each value, searched on a logarithmic scale.
    """
    try:
        import optuna
    except ImportError:
        raise UserError("tpe needs the package optuna", do="pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = {
        name: optuna.distributions.FloatDistribution(low, high, log=True)
        for name, (low, high) in ranges.items()
    }
    sampler = optuna.samplers.TPESampler(seed=seed + len(trials), n_startup_trials=RANDOM)
    study = optuna.create_study(sampler=sampler)
    for trial in trials:
        params = {name: trial[name] for name in ranges}
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=space, value=trial["loss"])
        )
    return study.ask(space).params


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.length = max(1, task.horizon // SHARE)
        seed = int(torch.randint(2**31, (), generator=task.rng))
        self.state = {"trials": [], "seed": seed, "first": ops.copies(task.params)}
        self.state["adam"] = adamw.init(task.params, hp)

    def begin(self):
        """Start a run from the first weights: a trial, or the long run once all trials are over."""
        state, hp = self.state, self.hp
        torch._foreach_copy_([p.data for p in self.task.params], state["first"])
        state["adam"] = adamw.init(self.task.params, hp)
        if len(state["trials"]) < TRIALS:
            ranges = {
                n: (getattr(hp, n) / hp.spread, getattr(hp, n) * hp.spread) for n in ("lr", "wd")
            }
            point = propose(state["trials"], ranges, state["seed"])
            state["trials"].append(point | {"loss": 0.0})
        else:
            state["best"] = min(state["trials"], key=lambda trial: trial["loss"])

    def step(self):
        task, state = self.task, self.state
        turn, at = divmod(task.step, self.length)
        searching, length = turn < TRIALS, self.length
        if not searching:
            at, length = task.step - TRIALS * self.length, task.horizon - TRIALS * self.length
        if at == 0:
            self.begin()
        point = state["trials"][-1] if searching else state["best"]
        loss = task.forward_backward(task.next_batch())
        mine = type(self.hp)(**vars(self.hp) | {"lr": point["lr"], "wd": point["wd"]})
        ops.apply(adamw.update, task.params, state["adam"], mine, (at + 0.5) / length)
        tail = max(1, length // 4)
        if searching and at >= length - tail:
            value = float(loss) / tail
            # A trial that diverged is worse than any other, and the estimator needs a number.
            point["loss"] += value if math.isfinite(value) else 1e9
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
