"""L2P: the trained transformer stays; prompts out of a pool are chosen by its own features.

Wang et al., "Learning to Prompt for Continual Learning", arXiv 2112.08654.

    q = the features of the trained model;  s_i = cos(q, k_i) for the `pool` keys k_i
    the `top` prompts of largest s, `length` tokens each, stand before the tokens; the readout gets
    the mean of the tokens that they become
    L = cross-entropy over the classes of the present task − pull·(sum of the chosen s); Adam on
    prompts, keys and readout, gradients clipped to norm 1

State: prompts, keys and readout, and Adam's m and v of them; the classes of the present task.
Departures from the paper: keys and prompts start uniform in ±1, as recalled from a later port,
where the authors' code has 0 to 0.01; each example has its own prompts, where the authors'
configuration gives those of most examples to the whole batch; the model has no class token, so q is
the mean over tokens. The rule was compared with the authors' code, not with the paper's text.
"""

from contextlib import contextmanager

import torch
import torch.nn.functional as F

from harness import ops, surgery
from harness.errors import UserError
from harness.memory import labels

TRACKS = ["continual"]
PASSES = {"forward_backward": 1, "forward": 1}
SPACE = {
    "lr": {"log": [1e-3, 0.1], "default": 0.01},
    "pool": {"choice": [10, 20]},
    "top": {"choice": [5, 3, 1]},
    "length": {"choice": [5, 2]},
    "pull": {"choice": [0.1, 0.5, 1.0]},
    "clip": 1.0,
    "beta1": 0.9,
    "beta2": 0.999,
}


def chosen(query, keys, top):
    """Return the numbers of the `top` most similar keys, [B, top], and all similarities."""
    alike = F.normalize(query, dim=1) @ F.normalize(keys, dim=1).T
    return alike.topk(top, dim=1).indices, alike


def adapt(model, task, hp):
    if not hasattr(model, "blocks"):
        raise UserError(
            "l2p puts tokens before a transformer's", "a model with blocks", "stream_vit"
        )
    surgery.freeze(model)
    for block in model.blocks:
        block.requires_grad_(False)
    return model


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.blocks = task.model.blocks
        self.readout = surgery.readout(task.model)
        shape, like = (hp.pool, hp.length, self.readout.in_features), self.readout.weight
        parts = [torch.rand(size, generator=task.rng) for size in (shape, (shape[0], shape[2]))]
        prompts, keys = ((2 * part - 1).to(like) for part in parts)
        moved = [prompts, keys, *task.params]
        self.state = {"prompts": prompts, "keys": keys, "m": ops.zeros(moved),
                      "v": ops.zeros(moved), "step": 0, "classes": []}  # fmt: skip

    @contextmanager
    def prompted(self, prompts):
        """Within the block the model sees prompts [B, tokens, d] first, and answers by them."""
        count = prompts.shape[1]
        before = lambda block, x: (torch.cat([prompts, x[0]], dim=1),)  # noqa: E731
        after = lambda block, x, y: y[:, :count]  # noqa: E731
        hooks = [
            self.blocks[0].register_forward_pre_hook(before),
            self.blocks[-1].register_forward_hook(after),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def step(self):
        task, hp, state = self.task, self.hp, self.state
        if task.boundary:
            state["classes"] = []
        batch = task.next_batch()
        known = {*state["classes"], *labels(batch).unique().tolist()}
        state["classes"] = sorted(known)
        query = task.features_of([p.data for p in task.params], batch)
        own = [state["prompts"].requires_grad_(), state["keys"].requires_grad_()]
        for tensor in own:
            tensor.grad = None

        def loss(model, batch):
            index, alike = chosen(query, own[1], hp.top)
            with self.prompted(own[0][index].flatten(1, 2)):
                scores = task.logits(batch)
            others = torch.ones(scores.shape[1], dtype=torch.bool, device=scores.device)
            others[state["classes"]] = False
            nats = task.nats(scores.masked_fill(others, -1e9), batch).mean()
            return nats - hp.pull * alike.gather(1, index).sum(1).mean()

        value = task.backward(batch, loss)
        moved = [*own, *task.params]
        grads = [p.grad for p in moved]
        norm = torch.stack([g.norm() for g in grads]).norm()
        grads = torch._foreach_mul(grads, float((hp.clip / (norm + 1e-6)).clamp(max=1)))
        state["step"] += 1
        state["prompts"], state["keys"] = own[0].detach(), own[1].detach()
        values = [state["prompts"], state["keys"], *(p.data for p in task.params)]
        betas = (hp.beta1, hp.beta2)
        ops.adam_(values, grads, state["m"], state["v"], state["step"], hp.lr, betas, 1e-8)
        return value

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


@torch.no_grad()
def predict(algorithm, inputs):
    """Return scores [B, C]: each example with the prompts that its own features choose."""
    a, state = algorithm, algorithm.state
    query = a.task.features({"inputs": inputs})
    index, _ = chosen(query, state["keys"], a.hp.top)
    with a.prompted(state["prompts"][index].flatten(1, 2)):
        return a.task.model(inputs)
