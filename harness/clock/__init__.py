"""Reference seconds: price tables, measuring them, and reading a trial's log by them.

Imported by records and the rooms above it. It imports train, catalog, system and the kit.
Begin reading in reading.py, then prices.py.
"""
