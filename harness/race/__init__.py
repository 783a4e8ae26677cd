"""One trial, in the parent process: plans it, starts a runner, checks it, evaluates, decides.

Imported by `campaign` and `cli`. Begin reading in referee.py. The module is callable, since
`harness.race(...)` is a name of the public API: see `race` in harness/cli/api.py.
"""

import sys
from importlib import import_module
from types import ModuleType


class _Callable(ModuleType):
    """This module: calling it races one trial."""

    def __call__(self, *arguments, **settings):
        return import_module("harness.cli.api").race(*arguments, **settings)


sys.modules[__name__].__class__ = _Callable
