"""The process that runs a submission: it answers the referee's messages."""

import faulthandler
import os
import signal
import socket
import sys
import traceback

from harness.train.runner import Runner


def serve(channel, runner: Runner) -> None:
    """Answer the referee's messages until it says stop or goes away."""
    from harness.system.messages import Disconnected
    from harness.train.failure import failure

    stopped = False

    def interrupted() -> bool:
        nonlocal stopped
        if not stopped and channel.poll():
            if channel.receive()["kind"] == "stop":
                raise Disconnected
            stopped = True
        return stopped

    try:
        while (message := channel.receive())["kind"] != "stop":
            kind = message.pop("kind")
            try:
                if kind == "start":
                    channel.send("ready", **runner.start(message, channel.send))
                elif kind == "go":
                    channel.send(
                        "handover",
                        **runner.go(
                            message["until"], interrupted, message["every"], message["time_step"]
                        ),
                        paused=stopped,
                    )
                elif kind == "save":
                    channel.send("saved", **runner.save())
                elif kind == "predict":
                    from harness.train import predictor

                    scores = predictor.answers(runner.submission, predictor.unpack(message))
                    channel.send("predicted", **predictor.pack(scores))
            except Disconnected:
                raise
            except BaseException as error:  # whatever the submission raises is its outcome
                traceback.print_exc()
                channel.send("failed", **failure(error))
                return
    except Disconnected:
        return


def main() -> None:
    from harness.system.messages import Channel
    from harness.system.processes import die_with_parent, keep_freed_memory

    die_with_parent(int(sys.argv[3]))
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    for handle in sys.argv[1:3]:  # ours alone: no program that a submission starts has them
        os.set_inheritable(int(handle), False)
    serve(Channel(socket.socket(fileno=int(sys.argv[1]))), Runner(int(sys.argv[2])))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # no atexit work, no waiting for threads


if __name__ == "__main__":
    main()
