"""What every submission and workload must satisfy, tried in seconds on small workloads.

Imported by campaign and cli. It imports records, clock, train, catalog, system and the kit. Begin
reading in laws.py, then small_run.py.
"""
