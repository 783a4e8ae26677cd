"""The command line: one module for each command in commands/, and the public Python API in api.py.

No other room imports it. Only this room parses arguments, prints, and knows exit codes. Begin
reading in main.py, then config.py and launch.py.
"""
