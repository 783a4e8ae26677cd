"""The laws as tests of pytest, for a user's own continuous integration.

    pytest --pyargs harness.laws --submission my_idea.py --workload my_problem.py

Each law is a test of each file. pytest loads this module by the entry point group `pytest11`, so it
imports nothing heavy until an option is given. Both options may be repeated.
"""

import pytest

COLLECTED = "test_submissions_and_workloads.py"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that name the files."""
    group = parser.getgroup("training race")
    group.addoption(
        "--submission",
        action="append",
        default=[],
        metavar="FILE",
        help="with --pyargs harness.laws: a submission's file or name, whose laws are tried",
    )
    group.addoption(
        "--workload",
        action="append",
        default=[],
        metavar="FILE",
        help="with --pyargs harness.laws: a workload's file or name, whose laws are tried",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each law and each file that an option names.

    Raises:
        pytest.UsageError: no file is named, or one is not a submission or a workload.
    """
    if metafunc.definition.path.name != COLLECTED or "law" not in metafunc.fixturenames:
        return
    from harness.catalog import discover
    from harness.errors import UserError
    from harness.laws import laws, workload_laws

    submissions: list[str] = metafunc.config.getoption("--submission") or []
    workloads: list[str] = metafunc.config.getoption("--workload") or []
    if not submissions and not workloads:
        raise pytest.UsageError(
            "no file was named: pytest --pyargs harness.laws --submission FILE --workload FILE"
        )
    try:
        if "submission" in metafunc.fixturenames:
            names, every = submissions, laws.LAWS
            cards = [discover.read(discover.find(name)) for name in names]
            exempt = {name: laws.skips(card) for name, card in zip(names, cards, strict=True)}
        else:
            names, every = workloads, workload_laws.LAWS
            plugins = [discover.find_workload(name) for name in names]
            paths = {name: plugin.path for name, plugin in zip(names, plugins, strict=True)}
            exempt = {name: workload_laws.skips(path) for name, path in paths.items()}
    except UserError as error:
        raise pytest.UsageError(str(error)) from None
    fixture = "submission" if "submission" in metafunc.fixturenames else "workload"
    rows = [
        pytest.param(name, law, exempt[name].get(law), id=f"{name}-{law}")
        for name in names
        for law in every
    ]
    metafunc.parametrize((fixture, "law", "exemption"), rows)
