"""Cheat: hand over something else than the workload's weights."""

import torch

SPACE = {"lr": 0.1, "way": {"choice": ["honest", "nan", "shape", "extra"]}}


def adapt(model, task, hp):
    name, parameter = next(iter(model.named_parameters()))
    if hp.way == "shape":
        owner = model.get_submodule(name.rpartition(".")[0])
        wide = torch.cat([parameter.data, parameter.data], dim=-1)
        setattr(owner, name.rpartition(".")[2], torch.nn.Parameter(wide))
    if hp.way == "extra":
        model.register_parameter("hidden", torch.nn.Parameter(torch.zeros(1000)))


def init(params, hp):
    return {"step": 0}


def update(params, grads, state, hp, progress):
    for p, g in zip(params, grads, strict=True):
        p.sub_(g, alpha=hp.lr)
    state["step"] += 1
    if state["step"] == 4 and hp.way == "nan":
        params[0].fill_(float("nan"))
