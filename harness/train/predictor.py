"""A submission's own predictor: it gets inputs without labels, and the referee judges its scores.

Some methods cannot be evaluated as the workload's model with one set of weights, for example
supermasks and class means. Such a submission defines `predict(algorithm, inputs) -> scores`. The
referee calls it at every hand-over, with all validation examples at once, in an order that does not
depend on their classes. Of a stream, these are the examples of the tasks that are evaluated then.
The seconds of a call are charged, since they cannot be distinguished from training. Steps between
hand-overs are not evaluated. The record has the mark `own_predictor`.
"""

import base64
import math
from typing import TYPE_CHECKING

from harness.seeds import forked

if TYPE_CHECKING:
    from torch import Tensor

# The function's name in a submission's file.
NAME = "predict"


def pack(tensor: "Tensor") -> dict:
    """Return a tensor as part of a message."""
    import torch

    flat = tensor.detach().cpu().contiguous().flatten()
    data = base64.b64encode(flat.view(torch.uint8).numpy().tobytes()).decode()
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": [*tensor.shape],
        "data": data,
    }


def unpack(message: dict) -> "Tensor":
    """Return the tensor in a message from `pack`; raise ValueError if there is none."""
    import torch

    from harness.train.shared_weights import DTYPES

    try:
        if message["dtype"] not in DTYPES:
            raise ValueError(f"tensors of dtype {message['dtype']!r} are not allowed")
        dtype, shape = getattr(torch, message["dtype"]), [int(n) for n in message["shape"]]
        data = bytearray(base64.b64decode(message["data"], validate=True))
        if min(shape, default=0) < 0 or len(data) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{len(data)} bytes are not a tensor of {dtype} {shape}")
        return torch.frombuffer(data, dtype=dtype).view(shape) if data else torch.empty(shape)
    # torch raises the last where no tensor can have the shape.
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"not a tensor: {error!r}") from None


def ask(evaluator, runner, count: int | None = None) -> None:
    """Give the evaluator the scores of the submission's own predictor, if it has one.

    Args:
        count: ask for the first `count` groups of validation examples alone.

    Raises:
        ValueError: the answers are not scores of these examples.
    """
    if runner.predicts:
        evaluator.answer(runner.predict(evaluator.questions(count)))


def answers(submission, questions: "Tensor") -> "Tensor":
    """Return the submission's scores, on the CPU. Random draws here do not change its training."""
    task, algorithm = submission.task, submission.algorithm
    rng_state, training = task.rng.get_state(), task.model.training
    task.model.eval()
    with forked(task.meter.device):
        scores = submission.module.predict(algorithm, questions.to(task.meter.device))
    task.model.train(training)
    task.rng.set_state(rng_state)
    return scores.detach().float().cpu()
