"""Cheat: work in threads, a child, a daemon, or a child that nobody waits for."""

import os
import signal
import threading
import time

import torch

SPACE = {
    "lr": 0.1,
    "way": {"choice": ["honest", "thread", "pool", "child", "daemon", "unreaped"]},
}
BURNED = 0.6  # CPU seconds, of the worker


def init(params, hp):
    return {"step": 0}


def update(params, grads, state, hp, progress):
    for p, g in zip(params, grads, strict=True):
        p.sub_(g, alpha=hp.lr)
    state["step"] += 1
    if state["step"] == 2 and hp.way != "honest":
        begin(hp.way)


def begin(way):
    if way == "thread":
        threading.Thread(target=burn, args=[time.thread_time], daemon=True).start()
        return
    if way == "pool":
        torch.set_num_threads(2)
        big = torch.ones(400, 400)
        burn(time.process_time, lambda: big @ big)
        torch.set_num_threads(1)  # or the reference step shows it
        return
    if way == "unreaped":
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        child = os.fork()
    except PermissionError:
        os.write(1, b"REFUSED\n")
        return
    if child == 0:
        if way == "daemon":
            os.setsid()
            if os.fork():
                os._exit(0)
        burn(time.process_time)
        os._exit(0)
    os.write(1, b"GOT a process\n")
    if way == "child":
        os.waitpid(child, 0)
    time.sleep(2.0)  # while it works


def burn(clock, work=lambda: None):
    until = clock() + BURNED
    while clock() < until:
        work()
