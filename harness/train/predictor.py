"""A predictor of the submission's own: inputs without labels go to it, and its scores are judged.

A submission whose file defines `predict(algorithm, inputs) -> scores` answers for itself, where the
workload's model with one set of weights could not (supermasks, class means). It is asked at every
hand-over, of all validation examples at once in an order that tells nothing of their classes. The
seconds it takes are charged, for nothing tells them from training; steps between hand-overs are not
evaluated. The record says `own_predictor`.
"""

import base64
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

NAME = "predict"  # of the function in a submission's file


def pack(tensor: "Tensor") -> dict:
    """A tensor as a part of a message."""
    import torch

    flat = tensor.detach().cpu().contiguous().flatten()
    data = base64.b64encode(flat.view(torch.uint8).numpy().tobytes()).decode()
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": [*tensor.shape],
        "data": data,
    }


def unpack(message: dict) -> "Tensor":
    """The tensor that `pack` made; ValueError for what is none."""
    import torch

    from harness.train.shared_weights import DTYPES

    try:
        if message["dtype"] not in DTYPES:
            raise ValueError(f"no tensor of {message['dtype']!r} is handed over")
        dtype, shape = getattr(torch, message["dtype"]), [int(n) for n in message["shape"]]
        data = bytearray(base64.b64decode(message["data"], validate=True))
        if min(shape, default=0) < 0 or len(data) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{len(data)} bytes are no {dtype} {shape}")
        return torch.frombuffer(data, dtype=dtype).view(shape) if data else torch.empty(shape)
    except (KeyError, TypeError) as error:
        raise ValueError(f"no tensor: {error!r}") from None


def ask(evaluator, runner) -> None:
    """Let a submission with a predictor of its own answer for the model; else do nothing.

    Raises:
        ValueError: the answers are no scores of these examples.
    """
    if runner.predicts:
        evaluator.answer(runner.predict(evaluator.questions()))


def answers(submission, questions: "Tensor") -> "Tensor":
    """The submission's scores, on the CPU; the draws it makes leave no trace in its training."""
    import torch

    task, algorithm = submission.task, submission.algorithm
    kept, training = task.rng.get_state(), task.model.training
    task.model.eval()
    with torch.random.fork_rng():
        scores = submission.module.predict(algorithm, questions.to(task.meter.device))
    task.model.train(training)
    task.rng.set_state(kept)
    return scores.detach().float().cpu()
