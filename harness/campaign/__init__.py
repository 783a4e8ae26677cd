"""Many trials: plans, their jobs, the committed records of them, and how a target is set.

Imported by cli only. It may import every room below cli. Begin reading in plan.py, then pairs.py.
"""
