"""What a runner builds before it loads a submission: the task, and the reference step beside it."""

import mmap
import os
from pathlib import Path

import torch

from harness import surgery
from harness.catalog import discover
from harness.catalog.data import open_data
from harness.catalog.definition import Definition, load_workload
from harness.seeds import derive
from harness.train import arithmetic, arrival, labels, loss_scale, offered
from harness.train.group import Group
from harness.train.reference_step import ReferenceStep
from harness.train.task import Task

STEP_SLOT = 8  # bytes of the step count
# Options of an engine that change the passes.
OPTIONS = {"precision", "compile", "checkpointing"}


def workload_of(message: dict, group: Group | None) -> tuple[Task, ReferenceStep, list[str]]:
    """Return the task, the reference step, and the names of the model's tensors.

    Args:
        message: the referee's start message.
        group: the processes that share the trial, or None if this is the only one.
    """
    engine = message["engine"]
    set_torch(engine)
    definition = Definition(**message["definition"])
    module, config = load_workload(definition), definition.config
    place = group.device(engine["device"]) if group else engine["device"]
    device = torch.device(place)
    part = Path(message["part"]) if message.get("part") else None
    if part:
        arrival.wait(part)
    if message.get("labels"):
        arrival.wait(Path(message["labels"]))
    data = open_data(Path(message["train"]), place)
    torch.manual_seed(derive(message["seed"], "init"))
    model = module.model(config).to(device)
    arithmetic.impose(model, config)
    pretrained = message["pretrained"] and open_data(Path(message["pretrained"]), place)
    if pretrained:
        pretrained = surgery.begin(model, pretrained)
    names = list(model.state_dict())
    functions = module
    if engine.keys() & OPTIONS:
        from harness.train.engine import prepared

        functions = prepared(module, model, engine, device.type)
    values = functions, config, data, model, message["seed"], message["horizon"]
    task = task_of(values, message["kinds"], part, engine, group)
    task.start = pretrained or None
    if task.labels and "policy" in message:
        task.labels.ask = labels.refuse
    task.pinned = engine.get("pinned", False)
    reference = ReferenceStep(task, functions, config, data)
    if "policy" in message:
        # With isolation=inline the module is the referee's as well.
        offered.conceal(discover.sources(definition.plugin))
    return task, reference, names


def set_torch(engine: dict) -> None:
    """Set torch's threads and determinism in this process, as the engine says."""
    torch.set_num_threads(engine["threads"])
    if engine["deterministic"] and engine["device"].startswith("cuda"):
        # Without it, torch refuses products of matrices on a GPU. cuBLAS reads it at its start.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # torch.use_deterministic_algorithms does the same, but imports torch.compile, for a second.
    torch.set_deterministic_debug_mode("error" if engine["deterministic"] else "default")


def task_of(
    values: tuple, kinds: list[str] | None, part: Path | None, engine: dict, group: Group | None
) -> Task:
    """Return a task of one process, or of one of several.

    Args:
        values: the workload's functions, its numbers and data, the model, seed and horizon.
        kinds: the kinds of passes that are allowed; None allows all.
        part: the file of a stream's first task, if the workload is one.
    """
    if group is None:
        task = Task(*values, kinds=kinds, part=part)
    else:
        if engine.get("shard"):
            from harness.train.sharded import ShardedTask as RankTask
        else:
            from harness.train.rank_task import RankTask
        task = RankTask(*values, kinds=None, part=part)
        task.join(group, kinds)
    if engine.get("precision") == "fp16":
        loss_scale.check_numbers(task._config)
        task.loss_scale = loss_scale.LossScale(task.meter.device.type)
    return task


def progress_file(path: Path | None) -> mmap.mmap | bytearray:
    """Return the bytes of the step count.

    Args:
        path: of the file to keep them in, which survives the end of the process; None for a rank
            that does not report steps.
    """
    if path is None:
        return bytearray(STEP_SLOT)
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    os.ftruncate(fd, STEP_SLOT)
    return mmap.mmap(fd, STEP_SLOT)
