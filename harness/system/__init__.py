"""What the operating system does for the harness: files, processes, sandbox, machine, messages.

Every other room may import it; it imports only the kit. It knows no workload, submission or trial.
Begin reading in processes.py, then sandbox.py.
"""
