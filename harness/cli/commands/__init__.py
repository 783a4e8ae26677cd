"""The commands beside racing: one module each, whose `run(arguments)` parses, calls and prints.

Only `harness.cli.main` imports a command, when it is asked for: `harness --help` stays instant.
"""
