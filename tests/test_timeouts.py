import asyncio
import random
import time

import pytest

from sutro_async._timeouts import RequestTimeout, SharedTimer

pytestmark = pytest.mark.usefixtures("autojump_clock")


def now():
    return asyncio.get_running_loop().time()


def timers():
    return [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]


async def hang(timer, seconds, *, until=60.0):
    """Return for how long it lasted until its time-out struck."""
    began = now()
    with pytest.raises(TimeoutError), RequestTimeout(timer, seconds):
        await asyncio.sleep(until)
    return now() - began


async def test_it_strikes_on_time_and_leaves_the_task_as_it_was():
    assert 3 <= await hang(SharedTimer(), 3) < 3.5
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert not timers()


async def test_each_strikes_at_its_own_time_whatever_their_order():
    timer = SharedTimer()
    lengths = [n / 4 for n in range(1, 21)]
    random.Random(1).shuffle(lengths)
    lasted = await asyncio.gather(*(hang(timer, seconds) for seconds in lengths))
    delays = [took - length for took, length in zip(lasted, lengths, strict=True)]
    assert min(delays) >= 0
    assert max(delays) < 0.5
    assert not timers()


async def test_there_is_one_timer_however_many_there_are_and_none_afterwards():
    timer = SharedTimer()
    release = asyncio.Event()

    async def wait_for_release():
        with RequestTimeout(timer, 60):
            await release.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(100):
            group.create_task(wait_for_release())
        await asyncio.sleep(0)
        assert len(timer.running) == 100
        assert len(timers()) == 1
        release.set()
    assert not timers()
    assert not timer.running


async def test_one_that_ends_in_time_does_not_make_the_next_one_late():
    timer = SharedTimer()

    async def end_early():
        with RequestTimeout(timer, 2):
            await asyncio.sleep(0.01)

    early, took = await asyncio.gather(end_early(), hang(timer, 2.5))
    assert early is None
    assert 2.5 <= took < 3
    assert not timers()


async def test_all_that_are_due_strike_together_after_the_event_loop_was_busy():
    timer = SharedTimer()
    tasks = [asyncio.create_task(hang(timer, n / 1000)) for n in range(1, 21)]
    await asyncio.sleep(0)
    time.sleep(0.05)  # noqa: ASYNC251 - holds the event loop up
    for _ in range(5):
        await asyncio.sleep(0)
    assert all(task.done() for task in tasks)


async def test_one_that_cleans_up_after_its_end_does_not_hold_up_the_next(monkeypatch):
    timer = SharedTimer()
    starts = []
    start = timer.start
    monkeypatch.setattr(timer, "start", lambda deadline: (starts.append(deadline), start(deadline)))

    async def clean_up_slowly():
        with pytest.raises(TimeoutError), RequestTimeout(timer, 0.5):
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(9)

    task = asyncio.create_task(clean_up_slowly())
    await asyncio.sleep(1)
    assert 2 <= await hang(timer, 2) < 2.5
    await task
    assert len(starts) == 2  # nor does it keep the event loop busy
    assert not timers()


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "afterwards"])
async def test_a_cancellation_from_outside_at_the_same_moment_wins(is_first):
    timer = SharedTimer()
    task = asyncio.create_task(hang(timer, 60))
    await asyncio.sleep(0)
    (timeout,) = timer.running
    for cancel in (
        (task.cancel, timeout.interrupt) if is_first else (timeout.interrupt, task.cancel)
    ):
        cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not timers()


async def test_it_strikes_in_a_task_that_cleans_up_after_a_cancellation():
    took = None

    async def clean_up():
        nonlocal took
        try:
            await asyncio.sleep(60)
        finally:
            took = await hang(SharedTimer(), 0.02)

    task = asyncio.create_task(clean_up())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert took is not None
    assert took >= 0.02


async def test_a_result_that_comes_as_it_strikes_is_kept():
    timer = SharedTimer()
    answer = asyncio.get_running_loop().create_future()

    async def ask():
        with RequestTimeout(timer, 60):
            try:
                await answer
            except asyncio.CancelledError:
                return "a result"

    task = asyncio.create_task(ask())
    await asyncio.sleep(0)
    (timeout,) = timer.running
    timeout.interrupt()
    timeout.interrupt()  # once more does nothing
    assert await task == "a result"
    assert task.cancelling() == 0
