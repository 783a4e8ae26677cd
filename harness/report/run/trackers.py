"""The trackers: W&B and TensorBoard behind start(run), log(row) and finish(result).

A tracker gets the rows of a run's log.jsonl in order: the `started` row, each evaluation, and the
result of the `ended` row (an empty dict when the run was left unfinished). It is made from the
run's folder, the tracker's config, the number of evaluations it has had before and, in a sweep, the
settings that the sweep changes.
"""

import json
import netrc
import os
import shutil
import struct
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness.records import stream_metrics
from harness.records.log import rows

UPLOAD_SECONDS = 600  # an upload that hangs must not leave a process behind for ever
RENAMED = {"metrics": "eval", "train_loss": "train/loss"}
DONE = "mirrored"  # the file that marks a W&B folder as whole
FINISHED = {"reached", "out of budget", "hopeless", "diverged"}  # the race was run to its end


class WandB:
    """A W&B run with reference seconds as its x-axis; files under RUN/wandb.

    A row's number is its W&B step: rows the server already has are dropped there. Rows are safe
    only once `finish` returns, so rows that a killed mirror sent are sent again; its offline files,
    which lack the DONE mark, are removed first. Offline files cannot be continued: `wandb sync` of
    a second folder of a run replaces the first on the server. So a run has one offline folder, and
    a resumed run gets a new one with all its rows.
    """

    durable = False

    def __init__(self, folder: Path, config, rows: int, settings: str = ""):
        self.folder, self.config, self.rows, self.settings = folder, config, rows, settings
        self.run: Any = None

    @classmethod
    def anew(cls, config) -> bool:
        """Return True if a run that was mirrored in part must be mirrored from its first row."""
        return cls.place(config).startswith("offline:")

    @staticmethod
    def place(config) -> str:
        """Return the name of where rows go; another place starts with the first row again."""
        mode = os.environ.get("WANDB_MODE") or ("online" if has_wandb_key() else "offline")
        return f"{mode}:{getattr(config, 'entity', None) or ''}/{config.project}"

    def start(self, run: dict) -> None:
        import wandb

        mode = self.place(self.config).partition(":")[0]
        if mode == "disabled":
            raise RuntimeError("WANDB_MODE=disabled, so nothing is kept (tracker=none is silent)")
        for files in self.folder.glob("wandb/offline-run-*"):
            if mode == "offline" or not (files / DONE).exists():
                shutil.rmtree(files)
        streaming = "stream" in (run.get("config") or {})
        name = " ".join(filter(None, [run["submission"], self.settings, f"seed {run['seed']}"]))
        options = {"console": "off", "silent": True, "disable_git": True, "disable_code": True}
        options |= {"x_disable_stats": True, "x_disable_machine_info": True}
        options |= {"finish_timeout": UPLOAD_SECONDS, "finish_timeout_raises": True}
        tags = [run["workload"], run["scale"], run["variant"], run["engine"].get("device")]
        self.run = wandb.init(
            project=self.config.project,
            entity=getattr(self.config, "entity", None),
            id=run["run_id"],
            resume="allow",
            name=name,
            group=f"{run['workload']}.{run['scale']}/{run['submission']}",
            job_type="trial",
            tags=[str(tag) for tag in tags if tag],
            config={key: value for key, value in run.items() if key not in ("event", "chain")},
            dir=str(self.folder),
            reinit="create_new",
            mode=mode,  # type: ignore[arg-type]
            settings=wandb.Settings(**options),
        )
        self.run.define_metric("step")
        self.run.define_metric("reference_seconds")
        self.run.define_metric("eval/*", step_metric="reference_seconds", summary="min")
        self.run.define_metric("train/*", step_metric="step")
        self.run.define_metric("task/*", step_metric="step")
        for metric, rule in run["goal"].items():
            large = "at_least" in rule
            best, worst = ("max", "min") if large else ("min", "max")
            # The goal of a stream is about its end, so its best value says nothing.
            summary = f"last,{worst}" if streaming else best
            place = f"eval/{metric}"
            self.run.define_metric(place, step_metric="reference_seconds", summary=summary)

    def log(self, row: dict) -> None:
        self.run.log(scalars(row), step=self.rows, commit=True)
        self.rows += 1

    def finish(self, result: dict) -> None:
        import wandb

        outcome = result.get("outcome", "interrupted")
        if result and (self.folder / "curve.png").exists():
            image = wandb.Image(str(self.folder / "curve.png"))
            self.run.log({"curve": image}, step=self.rows, commit=True)
        if "continual" in result:
            self._stream(result)
        summary = {"outcome": outcome, "time_to_goal": result.get("time")}
        self.run.summary.update(summary | {"best": result.get("best")})
        self.run.finish(exit_code=0 if outcome.replace("_", " ") in FINISHED else 1)
        (Path(self.run.dir).parent / DONE).touch()

    def _stream(self, result: dict) -> None:
        """Send a stream's metrics, and the curve of each task at every evaluation."""
        import wandb

        for convention in stream_metrics.CONVENTIONS:
            metrics = result["continual"][convention].items()
            self.run.summary.update(
                {f"{convention}/{name}": m["value"] for name, m in metrics if "value" in m}
            )
        past = stream_metrics.history(result["config"], rows(self.folder / "log.jsonl"))
        xs = [[past.steps[n] for n, _ in points] for points in past.groups]
        ys = [[past.sign * value for _, value in points] for points in past.groups]
        keys = [f"task {i}" for i in range(1, len(ys) + 1)]
        plot = wandb.plot.line_series(xs, ys, keys=keys, title=result["metric"], xname="step")
        self.run.log({"tasks": plot}, step=self.rows + 1, commit=True)


class TensorBoard:
    """Event files under RUN/tensorboard, written without torch or tensorflow.

    An event's wall time is its reference seconds: choose "Relative" as the x-axis to see them.
    """

    durable = True  # each row is on the disk when `log` returns

    def __init__(self, folder: Path, config, rows: int, settings: str = ""):
        self.folder, self.rows, self.step = folder, rows, 0
        self.writer: Any = None

    @classmethod
    def anew(cls, config) -> bool:
        """Return False: event files are continued by further files."""
        return False

    @staticmethod
    def place(config) -> str:
        return "tensorboard"

    def start(self, run: dict) -> None:
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.writer = EventFileWriter(str(self.folder / "tensorboard"))
        if not self.rows:
            names = {key: run[key] for key in ("workload", "scale", "submission", "seed")}
            plain = {key: _plain(value) for key, value in (names | run["hp"]).items()}
            self._write(hparams_pb(plain, trial_id=run["run_id"]), 0.0)

    def log(self, row: dict) -> None:
        self.step = row["step"]
        values = {key: value for key, value in scalars(row).items() if key != "step"}
        self._scalars(values, row["reference_seconds"])
        self.rows += 1

    def finish(self, result: dict) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore

        self.step, seconds = result.get("step", self.step), result.get("time")
        if seconds is not None:
            self._scalars({"time_to_goal": seconds}, seconds)
        if result and (self.folder / "curve.png").exists():
            png = (self.folder / "curve.png").read_bytes()
            width, height = struct.unpack(">II", png[16:24])  # of the PNG's first chunk
            image = Summary.Image(
                width=width, height=height, colorspace=4, encoded_image_string=png
            )
            self._write(Summary(value=[Summary.Value(tag="curve", image=image)]), seconds or 0.0)
        self.writer.close()

    def _scalars(self, values: dict[str, float], seconds: float) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore

        items = [Summary.Value(tag=key, simple_value=value) for key, value in values.items()]
        self._write(Summary(value=items), seconds)

    def _write(self, summary, seconds: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore

        self.writer.add_event(Event(step=self.step, wall_time=seconds, summary=summary))
        self.writer.flush()


TRACKERS = {"wandb": WandB, "tensorboard": TensorBoard}


def scalars(row: dict[str, Any]) -> dict[str, float]:
    """Return an evaluation row as flat scalars: eval/<metric>, train/loss, ..."""
    flat: dict[str, float] = {}

    def put(name: str, value) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                put(f"{name}/{key}", item)
        elif isinstance(value, list):
            put(name, dict(enumerate(value)))
        elif isinstance(value, int | float):
            flat[name] = float(value) if isinstance(value, bool) else value

    for key, value in row.items():
        if key == "tasks":  # of a stream: [sum, count] of each; its `trace` is too long for scalars
            put("task", {i: total / count for i, (total, count) in enumerate(value, start=1)})
        elif key != "trace":
            put(RENAMED.get(key, key), value)
    return flat


def _plain(value) -> bool | float | str:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)


def has_wandb_key() -> bool:
    """Return True if a W&B key is in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, RuntimeError, netrc.NetrcParseError):
        return False
