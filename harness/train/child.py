"""The process that runs a submission: it answers the referee's messages."""

import faulthandler
import os
import signal
import socket
import sys
import traceback

from harness.train.runner import Runner


def serve(link, runner: Runner) -> None:
    """Answer the referee's messages until it says stop or goes away."""
    from harness.system.messages import Closed
    from harness.train.failure import failure

    stopped = False

    def interrupted() -> bool:
        nonlocal stopped
        if not stopped and link.poll():
            if link.receive()["kind"] == "stop":
                raise Closed
            stopped = True
        return stopped

    try:
        while (message := link.receive())["kind"] != "stop":
            kind = message.pop("kind")
            try:
                if kind == "start":
                    link.send("ready", **runner.start(message, link.send))
                elif kind == "go":
                    link.send(
                        "handover",
                        **runner.go(message["until"], interrupted, message["every"]),
                        paused=stopped,
                    )
                elif kind == "save":
                    link.send("saved", **runner.save())
                elif kind == "predict":
                    from harness.train import predictor

                    scores = predictor.answers(runner.submission, predictor.unpack(message))
                    link.send("predicted", **predictor.pack(scores))
            except Closed:
                raise
            except BaseException as error:  # whatever the submission raises is its outcome
                traceback.print_exc()
                link.send("failed", **failure(error))
                return
    except Closed:
        return


def main() -> None:
    from harness.system.messages import Link
    from harness.system.processes import die_with_parent, keep_freed_memory

    die_with_parent(int(sys.argv[3]))
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    for handle in sys.argv[1:3]:  # ours alone: no program that a submission starts has them
        os.set_inheritable(int(handle), False)
    serve(Link(socket.socket(fileno=int(sys.argv[1]))), Runner(int(sys.argv[2])))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # no atexit work, no waiting for threads


if __name__ == "__main__":
    main()
