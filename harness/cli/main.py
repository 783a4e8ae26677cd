"""The command line: a race by default, or a command; no traceback for what a user typed."""

import os
import sys
from importlib import import_module
from io import TextIOWrapper

from harness.cli.arguments import COMMANDS
from harness.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE, UserError
from harness.system import torchrun
from harness.system.files import NO_ROOM
from harness.system.paths import (
    children_import_this_copy,
    not_installed,
    require_own_packages,
)
from harness.system.terminal import printable

HELP = """\
harness: which training algorithm gets there first?

  python -m harness workload=gpt2 submission=nadamw
      race a shipped submission to the workload's target, on one CPU core, in about a minute
  python -m harness workload=gpt2 submission=./my_idea.py submission.lr=0.1 seed=1
      race your own file (harness new submission my_idea writes one to start from)
  python -m harness -m workload=gpt2 submission=adamw,lion 'seed=range(0,3)'
      a sweep: every combination once, two at a time; the same command again continues it

settings (python -m harness --cfg job shows all):
  workload= submission= scale=mini|small|base|full variant= seed= trial= study= tuned= hopeless=
  diagnose= until=goal|budget budget= isolation= engine=auto|cpu|gpu tracker=wandb|tensorboard|none
  results=FOLDER jobs=2 dry=true submission.KEY=VALUE

commands:
  harness list [submissions|workloads] [--like 'ada*'] [--track NAME]   what there is
  harness show NAME                                       one of them in full
  harness new submission|workload NAME                    files to start from
  harness check FILE                                      the laws, tried on your file
  harness report [RESULTS ...] [--out FOLDER]             a leaderboard: page, tables, figures
  harness compare A B [workload=NAME]                     which is faster, and how sure
  harness comply [RESULTS ...]                            check records against the rules
  harness verify RECORD ...                               race records again, list the confirmed
  harness sync [PATH ...]                                 bring W&B up to date with finished runs
  harness calibrate workload=gpt2                         measure the prices of its passes here
  harness audit workload=gpt2                             compare this machine with the prices
  harness refine RUN_FOLDER                               find a crossing on a finer grid
  harness campaign PLAN                                   tune and re-run many submissions
  harness suggest WORKLOAD                                learning rate and batch by published laws
  harness target WORKLOAD                                 set a workload's target by procedure
  harness doctor                                          what works on this machine

exit status: 0 reached or completed, 1 failed, 2 bad usage or a submission that is not for the
  workload, 3 disqualified, 75 interrupted (run it again to continue)
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command line; returns the exit status.

    Args:
        arguments: the words after the program's name; None for those that this process was
            started with.
    """
    if arguments is None:
        arguments = sys.argv[1:]
        children_import_this_copy()
        for stream in (sys.stdout, sys.stderr):
            # A terminal that lacks a letter shows its number.
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
    try:
        status = _command(arguments)
        # At exit Python would say in words of its own that the disk is full.
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"harness: {printable(str(error))}", file=sys.stderr)
        return EXIT_USAGE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if error.filename is None and error.errno not in NO_ROOM:
            raise
        if error.filename is None:
            # Otherwise Python raises again at exit, when it flushes what is still in the buffer.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        place = error.filename or "the output"
        print(f"harness: cannot use {printable(str(place))}: {error.strerror}", file=sys.stderr)
        return EXIT_USAGE
    except Exception as error:
        from harness.train.failure import in_file_of_the_user, in_one_line

        if not in_file_of_the_user(error):
            if missing := not_installed(error):
                print(f"harness: {missing}", file=sys.stderr)
                return EXIT_USAGE
            raise
        print(f"harness: {printable(in_one_line(error))}", file=sys.stderr)
        return EXIT_FAILED


def _command(arguments: list[str]) -> int:
    """Run a command or a race; returns the exit status."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if arguments[0] == "--version":
        from harness import __version__

        print(f"harness {__version__}")
        return 0
    require_own_packages()
    if arguments[0] in COMMANDS:
        return import_module(f"harness.cli.commands.{arguments[0]}").run(arguments[1:])
    from harness.cli import launch

    if place := torchrun.here():
        arguments = torchrun.with_processes(arguments, place)
        # Each machine has one process that starts its ranks, and one of them is the referee.
        return launch.launch(arguments, place) if place.local_rank == 0 else EXIT_OK
    return launch.launch(arguments)
