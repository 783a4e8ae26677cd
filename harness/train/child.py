"""The process of a runner: it answers the referee's messages until it gets a stop message.

Modules are imported in functions here, so that the process imports little before it is confined.
"""

import faulthandler
import os
import signal
import socket
import sys
import traceback
from multiprocessing.process import current_process

from harness.train.runner import Runner


class Requests:
    """What passes between referee and runner while it trains: a wish to stop, and labels."""

    def __init__(self, channel):
        self._channel, self.stopped = channel, False

    def _heed(self, message: dict) -> None:
        from harness.system.messages import Disconnected

        if message["kind"] == "stop":
            raise Disconnected
        self.stopped = True

    def interrupted(self) -> bool:
        """Return True if the referee has sent a message: it wants the weights now."""
        if not self.stopped and self._channel.poll():
            self._heed(self._channel.receive())
        return self.stopped

    def labels_of(self, index):
        """Return labels that the referee sells; a wish to stop may come before them."""
        from harness.train import predictor

        self._channel.send("reveal", index=index.tolist())
        while (answer := self._channel.receive())["kind"] != "revealed":
            self._heed(answer)
        return predictor.unpack(answer)


def serve(channel, runner: Runner, message: dict) -> None:
    """Answer a message of the referee, and those after it, until it sends stop or is gone."""
    from harness.system.messages import Disconnected
    from harness.train.failure import failure

    requests = Requests(channel)
    runner.labels_of = requests.labels_of
    try:
        while (kind := message.pop("kind")) != "stop":
            try:
                if kind == "start":
                    channel.send("ready", **runner.start(message, channel.send))
                elif kind == "go":
                    channel.send(
                        "handover",
                        **runner.go(
                            message["until"],
                            requests.interrupted,
                            message["every"],
                            message["time_step"],
                            message["part"],
                        ),
                        paused=requests.stopped,
                    )
                elif kind == "save":
                    channel.send("saved", **runner.save())
                elif kind == "predict":
                    from harness.train import predictor

                    scores = predictor.answers(runner.submission, predictor.unpack(message))
                    channel.send("predicted", **predictor.pack(scores))
                message = channel.receive()
            except Disconnected:
                raise
            except BaseException as error:
                # Whatever the submission raises ends its trial.
                traceback.print_exc()
                channel.send("failed", **failure(error))
                return
    except Disconnected:
        return


def main() -> None:
    """Run as a program: descriptors of the channel and the weights, and the parent's pid."""
    from harness.system.messages import Channel, Disconnected
    from harness.system.processes import die_with_parent, keep_freed_memory

    die_with_parent(int(sys.argv[3]))
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Sockets of data loaders' workers go to the private folder by a relative path: an absolute one
    # may exceed the 107 bytes that a socket's name may have.
    current_process()._config["tempdir"] = "tmp"  # type: ignore[attr-defined]
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    # Programs that a submission starts must not inherit these descriptors.
    for handle in sys.argv[1:3]:
        os.set_inheritable(int(handle), False)
    channel, weights = Channel(socket.socket(fileno=int(sys.argv[1]))), int(sys.argv[2])
    try:
        message = channel.receive()
        if message.get("engine", {}).get("processes", 1) > 1:
            from harness.train import ranks

            ranks.lead(channel, weights, message)
        else:
            serve(channel, Runner(weights), message)
    except Disconnected:
        pass
    sys.stdout.flush()
    sys.stderr.flush()
    # Skip atexit functions, and do not wait for threads.
    os._exit(0)


if __name__ == "__main__":
    main()
