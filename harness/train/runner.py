"""The child process: builds the workload, loads the submission, trains when told to.

It knows no target, no validation data and no clock but its own CPU; the referee decides everything.
The same class serves inside the referee's process for isolation=inline.
"""

import copy
import gc
import os
import statistics
import time
import warnings
from collections import Counter
from pathlib import Path

ANCHORS = 5  # times a reference step is timed during a trial
STEP_SLOT = 8  # bytes of the progress file: the number of finished steps


class Runner:
    """One trial's training, driven by messages: start, then go and save until stop."""

    def __init__(self, weights_fd: int):
        self._weights_fd = weights_fd
        self._losses, self._count = 0.0, 0  # of the steps since the last evaluation
        self._made: Counter[str] = Counter()  # passes up to then
        # Of the last reference step that was timed.
        self._step_seconds = 0.0
        self._most = {"trainable": 0, "training_memory": 0}  # scalars at once, bytes, so far

    def start(self, message: dict, tell=lambda kind, **fields: None) -> dict:
        """Build everything, restore the newest checkpoint; returns the ready message.

        What must not depend on the submission is told before it is loaded.
        """
        from harness.system import sandbox
        from harness.system.paths import require_root

        require_root(message["root"])
        layers = sandbox.confine(message["policy"]) if "policy" in message else []
        import torch

        from harness import surgery
        from harness.catalog import discover
        from harness.catalog.data import open_data
        from harness.catalog.definition import Definition, load_workload
        from harness.seeds import derive
        from harness.train import checkpoint, shared_weights, training_memory
        from harness.train.meter import changed
        from harness.train.submission import Submission
        from harness.train.task import Task

        engine = message["engine"]
        torch.set_num_threads(engine["threads"])
        # As torch.use_deterministic_algorithms, which imports torch.compile's machinery: a second.
        torch.set_deterministic_debug_mode("error" if engine["deterministic"] else "default")
        definition = Definition(**message["definition"])
        module, config = load_workload(definition), definition.config
        device = torch.device(engine["device"])
        data = open_data(Path(message["train"]), engine["device"])
        torch.manual_seed(derive(message["seed"], "init"))
        model = module.model(config).to(device)
        start_from = message["pretrained"] and open_data(
            Path(message["pretrained"]), engine["device"]
        )
        if start_from:
            start_from = surgery.begin(model, start_from)
        self._names = list(model.state_dict())
        self.task = Task(
            module, config, data, model, message["seed"], message["horizon"], message["kinds"]
        )
        self.task.start = start_from or None
        self._spare = copy.deepcopy(model)  # left untouched: its step is the measure of ours
        batch = self.task._gather(torch.arange(config.batch) % module.size(data, config))
        self._reference = lambda: module.loss(self._spare, batch).backward()
        self._footprint = lambda: training_memory.training_memory(
            self.task.model, module.loss, batch, self.submission.state_bytes()
        )
        anchor = self._anchor(5)

        card = discover.read(discover.find(message["submission"]))
        if any(b"torch.optim" in path.read_bytes() for path in discover.sources(card.plugin)):
            import torch._dynamo  # torch.optim does at its first use: a second of no method's work
        start = self.task.meter.now()
        # A full collection of the objects that imports have made takes 50 ms, at a step of chance.
        gc.collect()
        gc.freeze()
        tell("built", anchor=anchor, cpu=time.process_time(), layers=layers)
        torch.manual_seed(derive(message["seed"], "setup"))
        self.submission = Submission(card, message["hp"], self.task)
        setup, mine = self.task.meter.now() - start, self.task.meter.own()
        setup -= sum(self.task.meter.inside().values())  # passes made there are counted as passes
        self.task.meter.hooked = changed(self._spare, self.task.model)

        self._seed, self._folder = message["seed"], Path(message["checkpoint"])
        with warnings.catch_warnings(record=True) as skipped:
            warnings.simplefilter("always")
            saved = checkpoint.load(self._folder)
        if saved:
            self._restore(saved)
        self._progress = _progress_file(Path(message["progress"]))
        with self.submission.evaluated():
            rows = shared_weights.layout(self._exported())
        self._shelf = shared_weights.SharedWeights(self._weights_fd, rows, message["slots"])
        reply = {"layout": rows, "step": self.task.step, "anchor": anchor, "setup": setup}
        reply["warnings"] = [str(warning.message) for warning in skipped]
        reply |= self._hand_over(self.task.meter.now(), {}, time_step=True)
        return reply | {"own": start + self.task.meter.own() - mine}

    def go(self, until: int, interrupted, every: int = 0, time_step: bool = False) -> dict:
        """Train up to step `until`, or to the next one once `interrupted()`; hand the weights over.

        With `every`, those of each so many steps on the way come too, in slots of their own. With
        `time_step`, a reference step is timed at the hand-over.
        """
        import torch

        from harness.seeds import derive

        task = self.task
        # The one generator that dropout draws from; torch.manual_seed costs fifty times as much.
        on_cpu = task.meter.device.type == "cpu"
        seed = torch.default_generator.manual_seed if on_cpu else torch.manual_seed
        start, before = task.meter.now(), task.meter.inside()
        passed, copying = [], 0.0  # steps whose weights lie in slots 1, 2, ...
        while task.step < until and not interrupted():
            seed(derive(self._seed, "step", task.step))
            loss = self.submission.step()
            if loss is not None:
                self._losses, self._count = self._losses + loss, self._count + 1
            task.step += 1
            self._progress[:STEP_SLOT] = task.step.to_bytes(STEP_SLOT, "little")
            if every and task.step % every == 0 and task.step < until:
                passed.append(task.step)
                copying += self._put(len(passed))
        reply = self._hand_over(start + copying, before, time_step)
        reply |= {
            "own": reply["own"] + copying,
            "passed": [step for step in passed if step < task.step],
        }
        if task.step == until:
            reply["train_loss"] = float(self._losses) / self._count if self._count else None
            self._losses, self._count = 0.0, 0
        return reply

    def _put(self, slot: int) -> float:
        """Copy the weights to be evaluated to a slot; returns the seconds that are ours.

        Those that the submission's own `export` takes are not.
        """
        with self.submission.evaluated():
            export = getattr(self.submission.module, "export", None)
            given = export(self.task.model) if export else None
            own = self.task.meter.own()
            self._rows = self._exported(given)
            self._shelf.put(self._rows, slot)
            return self.task.meter.own() - own

    def _hand_over(self, start: float, before: dict, time_step: bool) -> dict:
        from harness import depth, surgery

        task = self.task
        copying = self._put(0)
        total = task.meter.now() - start - copying  # the evaluation view is the submission's work
        own = task.meter.own()
        self._most["trainable"] = max(self._most["trainable"], surgery.trained(task.model))
        if time_step:
            self._step_seconds = self._anchor(1)
            if task.start:
                memory = self._footprint()
                self._most["training_memory"] = max(self._most["training_memory"], memory)
        made, self._made = task.meter.counts - self._made, task.meter.counts.copy()
        inside = {
            kind: seconds - before.get(kind, 0.0) for kind, seconds in task.meter.inside().items()
        }
        return {
            "step": task.step,
            "counts": dict(task.meter.counts),
            "samples": task.meter.samples,
            "inside": inside,
            "outside": max(0.0, total - sum(inside.values())),
            "own": task.meter.own() - own + copying,
            "passes": dict(made),
            "anchor": self._step_seconds,
            "hooked": task.meter.hooked,
            "active": depth.depth(task.model),
            "state_bytes": self.submission.state_bytes(),
            "merged": len(self._rows) != len(task.model.state_dict()),
            **self._most,
        }

    def save(self) -> dict:
        """Write a checkpoint of everything that training depends on."""
        from harness.train import checkpoint

        state = {"task": self.task.state_dict(), "submission": self.submission.state_dict()}
        state |= {"losses": [self._losses, self._count], "most": self._most}
        own = self.task.meter.own()
        checkpoint.save(self._folder, self.task.step, dict(self.task.model.state_dict()), state)
        return {"own": self.task.meter.own() - own}

    def _restore(self, saved) -> None:
        step, tensors, state = saved
        own = self.task.model.state_dict()
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
        self.task.load_state_dict(state["task"])
        self.submission.load_state_dict(state["submission"])
        self._losses, self._count = state["losses"]
        self._most = state["most"]
        self._made = self.task.meter.counts.copy()
        assert self.task.step == step

    def _exported(self, given: dict | None = None) -> dict:
        """The workload's own tensors, in its order; others last, for the referee to refuse."""
        from harness import surgery

        export = getattr(self.submission.module, "export", surgery.export)
        tensors = export(self.task.model) if given is None else given
        return {name: tensors[name] for name in self._names if name in tensors} | tensors

    def _anchor(self, times: int) -> float:
        """Seconds of a reference step on this machine: the median of the last half of some."""
        from harness.train.meter import Meter

        meter, took = Meter(self.task.meter.device), []
        for _ in range(times):
            before = meter.inside().get("forward_backward", 0.0)
            with meter.kind("forward_backward"):
                self._reference()
            took.append(meter.inside()["forward_backward"] - before)
            self._spare.zero_grad(set_to_none=True)
        return statistics.median(took[times // 2 :])


def _progress_file(path: Path):
    """A small file mapped into memory: the step count survives the death of the process."""
    import mmap

    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    os.ftruncate(fd, STEP_SLOT)
    return mmap.mmap(fd, STEP_SLOT)
