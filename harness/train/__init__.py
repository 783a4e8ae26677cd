"""The child process of a trial: task, submission, meter, runner, checkpoint.

Imported by clock and the rooms above it. It imports catalog, system and the kit, so a runner cannot
reach the clock, a target or a record. Begin reading in runner.py, then task.py and submission.py.
"""
