"""What tests share: one thread a process, no network trackers, repeatable examples, bad disks."""

import errno
import itertools
import os
import resource

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import pytest
from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("repeatable")


class FailingDisk:
    """Counts the calls of `harness.files` that write, and fails the one numbered `fail_at`."""

    def __init__(self, patch, fail_at=0, code=errno.EIO):
        self.calls, self.fail_at, self.code = 0, fail_at, code
        for name in ("open", "write", "fsync", "replace"):
            patch.setattr(f"harness.system.files.os.{name}", self._wrap(getattr(os, name)))

    def _wrap(self, real):
        def call(*args, **kwargs):
            self.calls += 1
            if self.calls == self.fail_at:
                raise OSError(self.code, os.strerror(self.code))
            return real(*args, **kwargs)

        return call


@pytest.fixture
def every_failure(monkeypatch):
    """A function that runs `write` once for each of its writing calls, with that call failing.

    It yields each error, for the caller to look at what is left; SQLite is tested this way.
    """

    def failures(write, code=errno.EIO):
        from harness.system.files import DiskFull

        for k in itertools.count(1):
            caught = None
            with monkeypatch.context() as patch:
                disk = FailingDisk(patch, k, code)
                try:
                    write()
                except (OSError, DiskFull) as error:
                    caught = error
            if disk.calls < k:  # every call has failed once
                return
            assert caught, f"the failure of call {k} was not reported"
            yield caught

    return failures


@pytest.fixture
def small_files():
    """Let no file of this process grow beyond 1,000 bytes, as a quota would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
