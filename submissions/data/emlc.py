"""EMLC: a teacher mixes each label with its own prediction, and learns from the student's loss.

Taraday and Baskin, "Enhanced Meta Label Correction for Coping with Label Corruption",
arXiv 2305.12961, with one step of the student for each of the teacher.

    ρ = σ(w·relu(A·[t(x), e(y)]));  q = ρ·onehot(y) + (1 − ρ)·softmax(t(x))
    student   a step of SGD on CE(q);  g: gradient of its trusted loss after the step
    teacher   descends  η·mean_b Σ_c q_bc·⟨∇ log p_bc, g⟩  with p of the student before the step,
              + CE(t) on trusted examples + BCE(ρ; is the label right) on these, where half of the
              labels are exchanged for the wrong class that the teacher likes best

The first term is the slope of the trusted loss in q; the derivative of log p along g is one
forward-mode pass. e(y) and the hidden layer have 128 units. Evaluated is the student.
State: the student's momentum, the teacher and its momentum, three words per parameter; ρ's network.
Departures from the paper: ρ reads the teacher's scores, not its features; the student's momentum is
left out of the slope, as there; no step of the student is unrolled further.
"""

import torch
import torch.nn.functional as F

from harness import ops
from harness.schedules import warmup_cosine
from submissions.data.trusted_mix import draw
from submissions.first_order import sgd

PASSES = {
    "forward": 1,
    "forward_backward": 2,
    "jvp": 1,
    "forward_backward@batch=2": 1,
}
SPACE = {**sgd.SPACE, "teacher_lr": {"log": [1e-3, 0.3], "default": 0.02}}
WIDTH = 128
# The teacher's momentum, and that of ρ's network.
MOMENTUM = 0.9


def start(classes, like, generator):
    """Return the network of ρ: embeddings, hidden matrix and bias, readout and bias."""
    fans = (1, classes + WIDTH, classes + WIDTH, WIDTH, WIDTH)
    shapes = ((classes, WIDTH), (WIDTH, classes + WIDTH), (WIDTH,), (1, WIDTH), (1,))
    drawn = [
        (2 * torch.rand(shape, generator=generator) - 1) / fan**0.5
        for shape, fan in zip(shapes, fans)
    ]
    return [w.to(like) for w in drawn]


def keeping(net, scores, labels):
    """Return the logit of ρ for each example, [B]."""
    embeddings, hidden, a, readout, b = net
    x = torch.cat([scores, embeddings[labels]], dim=1)
    return (torch.relu(x @ hidden.T + a) @ readout.T + b)[:, 0]


def mixed(logit, scores, labels):
    """Return the soft targets q, [B, C]."""
    rho = torch.sigmoid(logit)[:, None]
    return rho * F.one_hot(labels, scores.shape[1]).to(scores) + (1 - rho) * scores.softmax(dim=1)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = sgd.init(task.params, hp)
        teacher = ops.copies(task.params)
        self.teacher = {"params": teacher, "momentum": ops.zeros(teacher), "net": []}

    def step(self):
        task, hp = self.task, self.hp
        batch, params = task.next_batch(), [p.data for p in task.params]
        trusted = task.gather(draw(task.trusted, task.batch_size, task.rng))
        scores = task.logits_of(self.teacher["params"], batch)
        if not self.teacher["net"]:
            net = start(scores.shape[1], params[0], task.rng)
            self.teacher |= {"net": net, "net_momentum": ops.zeros(net)}
        logit = keeping(self.teacher["net"], scores, batch["targets"])
        targets = mixed(logit, scores, batch["targets"])

        def soft(*_):
            return -(targets * task.logits(batch).log_softmax(dim=1)).sum(dim=1).mean()

        before, loss = ops.copies(params), task.backward(batch, soft)
        ops.apply(sgd.update, task.params, self.state, hp, task.progress)
        after = ops.copies(params)
        task.forward_backward(trusted)
        direction = [p.grad.clone() for p in task.params]
        torch._foreach_copy_(params, before)
        logits, moved = task.jvp_logits(batch, direction)
        moved = moved - (logits.softmax(dim=1) * moved).sum(dim=1, keepdim=True)
        lr = hp.lr * warmup_cosine(task.progress, hp.warmup)
        self.teach(batch, trusted, lr * moved)
        torch._foreach_copy_(params, after)
        return loss

    def teach(self, batch, trusted, slope):
        """Take a step of the teacher: `slope` [B, C] is that of the trusted loss in q, times B."""
        task, state, lr = self.task, self.teacher, self.hp.teacher_lr
        params, count = [p.data for p in task.params], len(slope)
        both = {name: torch.cat([batch[name], trusted[name]]) for name in batch}
        net = [w.detach().requires_grad_() for w in state["net"]]
        right = torch.arange(count, device=slope.device) % 2 == 0

        def loss(*_):
            scores = task.logits(both)
            noisy, clean = scores[:count], scores[count:]
            q = mixed(keeping(net, noisy, batch["targets"]), noisy, batch["targets"])
            truth = trusted["targets"]
            wrong = clean.detach().scatter(1, truth[:, None], -torch.inf).argmax(dim=1)
            shown = torch.where(right, truth, wrong)
            logit = keeping(net, clean, shown)
            judged = F.binary_cross_entropy_with_logits(logit, right.to(logit))
            return (slope * q).sum(dim=1).mean() + F.cross_entropy(clean, truth) + judged

        torch._foreach_copy_(params, state["params"])
        task.backward(both, loss)
        with torch.no_grad():
            grads = [p.grad for p in task.params]
            ops.sgd_(params, grads, lr, 0.0, MOMENTUM, state["momentum"])
            grads = [w.grad for w in net]
            ops.sgd_([w.data for w in net], grads, lr, 0.0, MOMENTUM, state["net_momentum"])
        torch._foreach_copy_(state["params"], params)
        state["net"] = [w.detach() for w in net]

    def state_dict(self):
        return {"momentum": self.state, "teacher": self.teacher}

    def load_state_dict(self, state):
        self.state, self.teacher = state["momentum"], state["teacher"]
