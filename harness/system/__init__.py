"""What the operating system does for the harness: files, processes, sandbox, machine, messages.

Every other room may import it; it imports only the kit.
It does not know workloads, submissions or trials.
Begin reading in processes.py, then sandbox.py.
"""
