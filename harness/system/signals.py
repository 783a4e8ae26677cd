"""How a trial is asked to stop."""

import signal


class Signals:
    """Catches SIGTERM, SIGINT, SIGUSR1 and SIGHUP: the first asks, a second SIGINT insists.

    What is ignored already stays so: `nohup` lets a race go on when its terminal is closed.
    """

    NAMES = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)

    def __init__(self):
        self.asked = self.insisted = False
        self.over = (
            False  # the trial has ended, its record is being written: nothing interrupts that
        )

    def __enter__(self):
        try:
            heard = [name for name in self.NAMES if signal.getsignal(name) != signal.SIG_IGN]
            self._kept = {name: signal.signal(name, self._note) for name in heard}
        except ValueError:  # not the main thread: signals are its business
            self._kept = {}
        return self

    def _note(self, number, frame):
        if self.asked and number == signal.SIGINT and not self.over:
            self.insisted = True  # a library in C may make another error of what follows
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_):
        for name, handler in self._kept.items():
            signal.signal(name, handler)
