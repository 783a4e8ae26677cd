"""A GPT whose perceptrons are experts: a router sends each token to one of them."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from workloads.models.gpt import GPT, Block


class Router(nn.Module):
    """Chooses an expert for each token: the largest of σ(u_e·x) + bias_e.

    The bias has no gradient; it is a rule of training that may move it (arXiv 2408.15664).

    Attributes:
        bias: buffer [experts], 0 at the start.
        load: tokens of the last pass by expert, [experts].
        share: mean over the last pass of each expert's σ over the sum of all, with gradient.
    """

    role = "router"

    def __init__(self, width: int, experts: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(experts, width) / width**0.5)
        self.register_buffer("bias", torch.zeros(experts))
        self.load, self.share = torch.zeros(experts), torch.zeros(experts)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return for tokens [N, width] the chosen expert and its σ, [N] each."""
        scores = torch.sigmoid(x @ self.weight.T)
        chosen = (scores.detach() + self.bias).argmax(dim=1)
        self.load = torch.bincount(chosen, minlength=len(self.bias))
        self.share = (scores / scores.sum(dim=1, keepdim=True)).mean(dim=0)
        return chosen, scores.gather(1, chosen[:, None])[:, 0]


class ExpertBlock(Block):
    """A block of attention, and `experts` perceptrons of `expert_width` in place of one."""

    def __init__(self, config: SimpleNamespace):
        super().__init__(config)
        del self.up, self.down
        width, inner = config.width, config.expert_width
        self.router = Router(width, config.experts)
        self.ups = nn.ModuleList(nn.Linear(width, inner) for _ in range(config.experts))
        self.downs = nn.ModuleList(nn.Linear(inner, width) for _ in range(config.experts))

    def transform(self, x: Tensor) -> Tensor:
        """Return 2σ of the chosen expert times its output; σ is 1/2 where the router is unsure."""
        tokens = x.flatten(0, 1)
        chosen, gate = self.router(tokens)
        out = torch.zeros_like(tokens)
        for e, (up, down) in enumerate(zip(self.ups, self.downs, strict=True)):
            where = (chosen == e).nonzero()[:, 0]
            out = out.index_copy(0, where, down(self.activation(up(tokens[where]))))
        return (2 * gate[:, None] * out).view_as(x)


class ExpertGPT(GPT):
    """GPT of the config's numbers, with experts and expert_width beside them."""

    def __init__(self, config: SimpleNamespace):
        super().__init__(config)
        self.blocks = nn.ModuleList(ExpertBlock(config) for _ in range(config.depth))
        deviation = 0.02 * config.init_scale
        with torch.no_grad():
            for block in self.blocks:
                for module in block.modules():
                    if isinstance(module, nn.Linear):
                        module.weight.normal_(std=deviation)
                        module.bias.zero_()
                for last in (block.project, *block.downs):
                    last.weight.div_((2 * config.depth) ** 0.5)
