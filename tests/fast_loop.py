"""An event loop that does not sleep: its clock jumps to the next timer."""

import asyncio
import selectors
import time


class _Selector(selectors.DefaultSelector):
    """Skips idle time, and counts it."""

    skipped = 0.0
    threads = 0

    def select(self, timeout=None):
        if not timeout:
            return super().select(timeout)
        if self.threads:
            # The run time of a thread cannot be skipped.
            wait = timeout
        elif timeout > 0.1:
            # Data between two sockets of this process arrives almost at once.
            wait = 0.001
        else:
            wait = 0
        events = super().select(wait)
        if not events:
            self.skipped += timeout
        return events


class FastLoop(asyncio.SelectorEventLoop):
    """Its clock counts the time that is skipped and the time for which the process computes.

    Time for which other processes hold up this one does not count, so that limits of time hold on
    a busy machine too. While functions run in its executor, nothing is skipped. Not for tests that
    wait for other threads or other processes.
    """

    def __init__(self):
        self._counter = _Selector()
        super().__init__(self._counter)

    def time(self):
        return self._counter.skipped + time.process_time()

    def run_in_executor(self, executor, func, *args):
        future = super().run_in_executor(executor, func, *args)
        self._counter.threads += 1
        future.add_done_callback(self._note_end_of_thread)
        return future

    async def shutdown_default_executor(self, *args):
        self._counter.threads += 1
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self._counter.threads -= 1

    def _note_end_of_thread(self, future):
        self._counter.threads -= 1
