"""Signals that ask a trial to stop."""

import signal


class Signals:
    """Handlers of SIGTERM, SIGINT, SIGUSR1 and SIGHUP, as a context manager.

    The first signal asks the trial to stop and save. A second SIGINT stops it at once. A signal
    that is ignored already stays ignored: `nohup` lets a race continue when its terminal closes.

    Attributes:
        asked: True after the first signal.
        insisted: True after a second SIGINT. Code that catches KeyboardInterrupt should test this
            too, since a library in C may raise another exception instead.
        over: set to True when the trial has ended and its record is being written. Nothing
            interrupts that.
    """

    NAMES = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)

    def __init__(self):
        self.asked = self.insisted = False
        self.over = False

    def __enter__(self):
        try:
            handled = [name for name in self.NAMES if signal.getsignal(name) != signal.SIG_IGN]
            self._previous = {name: signal.signal(name, self._note) for name in handled}
        except ValueError:
            # This is not the main thread, and only the main thread may set handlers.
            self._previous = {}
        return self

    def _note(self, number, frame):
        """Handle a signal."""
        if self.asked and number == signal.SIGINT and not self.over:
            # Set first, since a library in C may turn the exception below into another one.
            self.insisted = True
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_):
        for name, handler in self._previous.items():
            signal.signal(name, handler)
