"""Two gloo processes that train one small model, for tests of DDP, FSDP2 and their checkpoints."""

import copy
import os
import socket
import traceback

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from harness.optim import as_optimizer

STEPS = 4


def model():
    """Rows that two processes cannot share evenly, and a head."""
    torch.manual_seed(0)
    result = nn.Sequential(
        nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 1, bias=False)
    )
    result[4].role = "readout"
    return result


def train(net, optimizer, steps, first=0, rank=0, ranks=1):
    """Train on a fixed regression, each process on its share of the batch."""
    for step in range(first, first + steps):
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))[rank::ranks]
        loss = (net(x) - x[:, :1].sin()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def whole(net):
    """The parameters, gathered."""
    return [p.full_tensor() if hasattr(p, "full_tensor") else p.detach() for p in net.parameters()]


def difference(net, other):
    pairs = zip(whole(net), whole(other), strict=True)
    return max(float((a - b).abs().max().detach()) for a, b in pairs)


def sharded(mesh):
    from torch.distributed.fsdp import fully_shard

    net = model()
    for part in (net[0], net[2], net[4], net):
        fully_shard(part, mesh=mesh)
    return net


def fsdp(name, rank, folder):
    """Return how far FSDP2 is from one process, and a resumed run from one that went on."""
    import torch.distributed.checkpoint as dcp
    import torch.distributed.checkpoint.state_dict as states
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (2,))
    net, alone = sharded(mesh), model()
    optimizer, single = as_optimizer(name, net), as_optimizer(name, alone)
    train(net, optimizer, STEPS)
    train(alone, single, STEPS)
    apart = difference(net, alone)
    place = f"{folder}/{name}"
    saved = {
        "model": states.get_model_state_dict(net),
        "optimizer": states.get_optimizer_state_dict(net, optimizer),
    }
    dcp.save(saved, checkpoint_id=place)
    dist.barrier()
    again = sharded(mesh)
    second = as_optimizer(name, again)
    loaded = {
        "model": states.get_model_state_dict(again),
        "optimizer": states.get_optimizer_state_dict(again, second),
    }
    dcp.load(loaded, checkpoint_id=place)
    states.set_model_state_dict(again, loaded["model"])
    states.set_optimizer_state_dict(again, second, loaded["optimizer"])
    train(net, optimizer, 2, STEPS)
    train(again, second, 2, STEPS)
    return apart, difference(net, again)


def ddp(name, rank, folder):
    """Return how far the two copies of DDP are from each other, and from one process."""
    net, alone = nn.parallel.DistributedDataParallel(model()), model()
    optimizer, single = as_optimizer(name, net), as_optimizer(name, alone)
    # What a process draws itself must not move the copies apart.
    torch.manual_seed(rank)
    train(net, optimizer, STEPS, rank=rank, ranks=2)
    train(alone, single, STEPS)
    mine = torch.cat([p.detach().flatten() for p in net.parameters()])
    other = copy.deepcopy(mine)
    dist.broadcast(other, 0)
    return difference(net, alone), float((mine - other).abs().max())


def _work(rank, function, names, port, folder, results):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for name in names:
        try:
            results[f"{name} {rank}"] = function(name, rank, folder)
        except Exception:
            results[f"{name} {rank}"] = traceback.format_exc()
    dist.destroy_process_group()


def run(function, names, folder):
    """Run a function for every name on two processes; returns results of the second process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_work, args=(function, names, port, str(folder), results), nprocs=2)
        return {name: results[f"{name} 1"] for name in names}
