"""A benchmark harness for training algorithms: time to result in reference seconds.

From Python (docs/api.md; each is imported when it is first used):

    harness.race("gpt2", "lion", seed=1)        race one trial, as the command line does
    harness.results("results")                  the runs of a folder as a pandas DataFrame
    harness.curves("results")                   their evaluations, one row each
    harness.compare("adamw", "lion")            which is faster, and how sure
    harness.as_optimizer("lion", parameters)    a submission as a torch.optim.Optimizer
    harness.BOARD                               the folder of the project's own records

The kit is what lies directly in this folder; submissions and workloads import it:

    contract      the functions of a submission and of a workload, as typed stubs
    errors        UserError: what was wrong, what is allowed, what to type
    ops           update arithmetic on lists of tensors
    schedules     learning rates over a race's progress
    surgery       freezing, adapters, masks, shapes of a model
    structure     heads, neurons and blocks that can be removed whole
    activations   rounding of what hidden matrices are multiplied with
    roles         hidden matrix, embedding, readout, norm, bias, convolution, factor
    memory        examples that a continual method keeps
    derivatives   Jacobian and Hessian products, per-example gradients
    stream, seeds, optim

Every folder is the harness's own: cli, campaign, race, report, laws, records, clock, train,
catalog, system. Nobody else imports them.
"""

from importlib import import_module

# Type checkers read True. `typing` is not imported here: the current folder may have a typing.py.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from harness.cli.api import BOARD, compare, curves, race, results
    from harness.optim import as_optimizer

__version__ = "0.1.0"

# public name -> the module that has it
_PUBLIC = {
    "BOARD": "harness.cli.api",
    "as_optimizer": "harness.optim",
    "compare": "harness.cli.api",
    "curves": "harness.cli.api",
    "results": "harness.cli.api",
}

__all__ = ["BOARD", "as_optimizer", "compare", "curves", "race", "results"]


def __getattr__(name: str):
    """Import a public name when it is first used: `import harness` alone stays instant."""
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name == "race":
        # the room is a callable module, so that `harness.race(...)` works whoever imported it
        return import_module("harness.race")
    raise AttributeError(f"module 'harness' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
