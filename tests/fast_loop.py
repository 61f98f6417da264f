"""An event loop that sleeps less than its clock says."""

import asyncio
import selectors
import time

SPEED = 100  # seconds of the clock in one of sleep


class _Selector(selectors.DefaultSelector):
    """Waits for a fraction of the time, and counts what it has slept through."""

    slept = 0.0

    def select(self, timeout=None):
        if not timeout:
            return super().select(timeout)
        events = super().select(timeout / SPEED)
        if not events:
            self.slept += timeout
        return events


class FastLoop(asyncio.SelectorEventLoop):
    """Its clock counts the time of its sleeps and the time for which the process computes.

    Time for which other processes hold up this one does not count, so that limits of time hold on
    a busy machine too. Not for tests that wait for threads or other processes.
    """

    def __init__(self):
        self._counter = _Selector()
        super().__init__(self._counter)

    def time(self):
        return self._counter.slept + time.process_time()
