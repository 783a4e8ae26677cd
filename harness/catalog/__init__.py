"""What can be raced: submissions and workloads are found, read, defined and hashed. None is run.

Imported by train and the rooms above it. It imports system and the kit. Begin reading in
discover.py, then definition.py and identity.py.
"""
