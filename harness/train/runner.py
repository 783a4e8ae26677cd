"""Training in the child process: build the workload, load the submission, train when asked to.

A runner has no target, no validation data and no clock but its own CPU time. The referee decides
everything. With isolation=inline the same class runs inside the referee's process.

torch is imported in functions here: `strict` isolation must begin before the first thread, and
torch starts threads when it is imported.
"""

import gc
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.train.group import Group

# A reference step is timed about this many times during a trial.
ANCHORS = 5


class Runner:
    """One trial's training, driven by messages: start, then go and save until stop.

    Args:
        weights_fd: the shared memory that weights are handed over in.
        group: the processes that share the trial, or None if this is the only one.
        layers: the layers of isolation of a process of a group, which is confined already.
    """

    def __init__(self, weights_fd: int, group: "Group | None" = None, layers: Sequence[str] = ()):
        self._weights_fd, self._group, self._layers = weights_fd, group, list(layers)
        # Sum and number of the losses since the last evaluation.
        self._losses, self._count = 0.0, 0
        # Passes up to the last hand-over.
        self._counts_before: Counter[str] = Counter()
        # Seconds of the last reference step.
        self._step_seconds = 0.0
        # Largest values so far: scalars trained at once, bytes.
        self._most = {"trainable": 0, "training_memory": 0}
        self.labels_of: Callable | None = None  # asks the referee

    def start(self, message: dict, tell=lambda kind, **fields: None) -> dict:
        """Build everything and restore the newest checkpoint. Return the ready message.

        Args:
            message: the start message, from harness/race/runner_base.py.
            tell: sends a message. It sends what must not depend on the submission, before the
                submission is loaded.
        """
        from harness.system import sandbox
        from harness.system.paths import require_root

        require_root(message["root"])
        layers = self._layers
        if "policy" in message and not self._group:
            layers = sandbox.confine(message["policy"])
        import torch

        from harness.catalog import discover
        from harness.seeds import derive
        from harness.train import checkpoint, shared_weights
        from harness.train.opening import progress_file, workload_of
        from harness.train.submission import Submission

        if "submissions" in message:
            discover.restrict(message["submissions"])
        self.task, self._reference, self._names = workload_of(message, self._group)
        anchor = self._reference.seconds(5)
        card = discover.read(discover.find(message["submission"]))
        if card.plugin.target or any(
            b"torch.optim" in path.read_bytes() for path in discover.sources(card.plugin)
        ):
            # torch.optim imports this at its first use. It takes a second, which is not the
            # submission's work.
            import torch._dynamo
        start = self.task.meter.now()
        # Otherwise a full collection of the objects that imports have made, 50 ms, would happen at
        # some later step.
        gc.collect()
        gc.freeze()
        tell("built", anchor=anchor, cpu=time.process_time(), layers=layers)
        torch.manual_seed(derive(message["seed"], "setup"))
        self._sharded = message["engine"].get("shard", False)
        if self._sharded:
            from harness.train.sharded import ShardedSubmission as Submission
        self.submission = Submission(card, message["hp"], self.task)  # type: ignore[arg-type]
        setup, own = self.task.meter.now() - start, self.task.meter.own()
        # Passes in the set-up are counted as passes.
        setup -= sum(self.task.meter.inside().values())
        if not self._sharded:
            self.task.meter.hooked = self._reference.changed(self.task.model)

        self._seed, self._folder = message["seed"], Path(message["checkpoint"])
        with warnings.catch_warnings(record=True) as skipped:
            warnings.simplefilter("always")
            content = checkpoint.newest_content(self._folder) if self._leads else None
        if self._group:
            # Rank 0 has the checkpoint; other machines may not.
            content = self._group.broadcast(content)
        if content:
            self._restore(checkpoint.restored(content, str(self.task.meter.device)))
        self._progress = progress_file(Path(message["progress"]) if self._leads else None)
        with self.submission.evaluated():
            layout = shared_weights.layout(self._exported())
        if self._leads:
            self._shared = shared_weights.SharedWeights(self._weights_fd, layout, message["slots"])
        reply = {"layout": layout, "step": self.task.step, "anchor": anchor, "setup": setup}
        reply["warnings"] = [str(warning.message) for warning in skipped]
        reply |= self._hand_over(self.task.meter.now(), {}, time_step=True)
        return reply | {"own": start + self.task.meter.own() - own}

    def go(
        self, until: int, interrupted, every: int = 0, time_step: bool = False, part: str = ""
    ) -> dict:
        """Train up to a step, and hand over the weights. Return the hand-over's message.

        Args:
            until: the step to train to.
            interrupted: called before each step; training stops early if it returns True.
            every: also hand over the weights of each step that this divides, in slots of their
                own; 0 for none.
            time_step: time a reference step at the hand-over.
            part: the file of a stream's next task, if it begins now.
        """
        import torch

        from harness.seeds import derive

        task = self.task
        # Dropout draws from this generator only; torch.manual_seed takes fifty times as long.
        on_cpu = task.meter.device.type == "cpu"
        seed = torch.default_generator.manual_seed if on_cpu else torch.manual_seed
        if task.labels and self.labels_of:
            task.labels.ask = self.labels_of
        arriving = task.meter.own()
        if part:
            task.receive(Path(part))
        arriving = task.meter.own() - arriving
        start, before = task.meter.now(), task.meter.inside()
        # `passed` has the steps whose weights are in slots 1, 2, ...
        passed, copying = [], 0.0
        while task.step < until and not interrupted():
            seed(derive(self._seed, "step", task.step))
            loss = self.submission.step()
            if loss is not None:
                self._losses, self._count = self._losses + loss, self._count + 1
            task.step += 1
            self._progress[:] = task.step.to_bytes(len(self._progress), "little")
            if every and task.step % every == 0 and task.step < until:
                passed.append(task.step)
                copying += self._put(len(passed))
        reply = self._hand_over(start + copying, before, time_step)
        reply |= {
            "own": reply["own"] + copying + arriving,
            "passed": [step for step in passed if step < task.step],
        }
        if task.step == until:
            reply["train_loss"] = float(self._losses) / self._count if self._count else None
            self._losses, self._count = 0.0, 0
        return reply

    def _put(self, slot: int) -> float:
        """Copy the weights that are to be evaluated to a slot. Return the seconds of the copy.

        The seconds of the submission's own `export` do not count as the harness's.
        """
        with self.submission.evaluated():
            export = getattr(self.submission.module, "export", None)
            tensors = export(self.task.model) if export else None
            own = self.task.meter.own()
            self._handed_over = self._exported(tensors)
            if self._leads:
                self._shared.put(self._handed_over, slot)
            return self.task.meter.own() - own

    @property
    def _leads(self) -> bool:
        """Return True for the process that writes weights, steps and checkpoints."""
        return self._group is None or self._group.leads

    def _compare(self) -> float:
        """Check that all ranks have the same weights. Return the seconds of the check.

        Raises:
            UserError: they do not.
        """
        from harness.errors import UserError
        from harness.train import shared_weights

        assert self._group
        own = self.task.meter.own()
        digests = self._group.gathered(shared_weights.digest(self._handed_over))
        if other := [rank for rank, digest in enumerate(digests) if digest != digests[0]]:
            raise UserError(
                f"rank {other[0]} has other weights than rank 0 after step {self.task.step}",
                "a method that keeps what it saw of its own share of the batch, or draws "
                "different numbers on each rank, cannot train on several processes",
                "engine.processes=1",
            )
        return self.task.meter.own() - own

    def _hand_over(self, start: float, before: dict, time_step: bool) -> dict:
        """Put the weights into slot 0. Return the claims about the segment since `start`.

        Args:
            start: when the segment began, on the meter's clock.
            before: seconds inside each kind up to then.
            time_step: time a reference step now.
        """
        from harness import surgery
        from harness.train import arithmetic, depth

        task = self.task
        arithmetic.check(task.model, task._config)
        copying = self._put(0)
        if self._group:
            copying += self._compare()
        # The submission's work on the weights to be evaluated is part of the segment.
        total = task.meter.now() - start - copying
        own = task.meter.own()
        self._most["trainable"] = max(self._most["trainable"], surgery.trained(task.model))
        if time_step:
            self._step_seconds = self._reference.seconds(1)
            if task.start:
                memory = self._reference.training_memory(self.submission.state_bytes())
                self._most["training_memory"] = max(self._most["training_memory"], memory)
        passes = task.meter.counts - self._counts_before
        self._counts_before = task.meter.counts.copy()
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
            "passes": dict(passes),
            "anchor": self._step_seconds,
            "hooked": task.meter.hooked,
            "active": depth.depth(task.model),
            **({} if task.ledger is None else {"privacy": task.ledger.report()}),
            **({} if task.loss_scale is None else {"skipped": task.loss_scale.skipped}),
            "state_bytes": self.submission.state_bytes(),
            "merged": len(self._handed_over) != len(task.model.state_dict()),
            **self._most,
        }

    def save(self) -> dict:
        """Write a checkpoint of everything that training depends on. Return the seconds it took."""
        from harness.train import checkpoint

        state = {"task": self.task.state_dict(), "submission": self.submission.state_dict()}
        state |= {"losses": [self._losses, self._count], "most": self._most}
        own = self.task.meter.own()
        tensors = self._whole(dict(self.task.model.state_dict()))
        if self._leads:
            checkpoint.save(self._folder, self.task.step, tensors, state)
        return {"own": self.task.meter.own() - own}

    def _whole(self, tensors: dict) -> dict:
        """Return tensors of the model, put together where they are divided among ranks."""
        if not self._sharded:
            return tensors
        from harness.train.sharded import whole

        return whole(tensors)

    def _restore(self, saved) -> None:
        """Restore everything from a checkpoint."""
        step, tensors, state = saved
        if self._sharded:
            self.task.load(tensors)  # type: ignore[attr-defined]
        else:
            current = self.task.model.state_dict()
            for name, tensor in tensors.items():
                current[name].copy_(tensor)
        self.task.load_state_dict(state["task"])
        self.submission.load_state_dict(state["submission"])
        self._losses, self._count = state["losses"]
        self._most = state["most"]
        self._counts_before = self.task.meter.counts.copy()
        assert self.task.step == step

    def _exported(self, exported: dict | None = None) -> dict:
        """Return the tensors to hand over: those of the workload in its order, then any others.

        The referee refuses any others.
        """
        from harness import surgery

        export = getattr(self.submission.module, "export", surgery.export)
        tensors = export(self.task.model) if exported is None else exported
        tensors = self._whole(tensors)
        return {name: tensors[name] for name in self._names if name in tensors} | tensors
