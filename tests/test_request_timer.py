import asyncio
import random
import time

import pytest

from sutro_async import ClientStateError
from sutro_async._http._lifecycle import Lifecycle
from sutro_async._http._request_timer import RequestTimer


def now():
    return asyncio.get_running_loop().time()


def timers():
    return [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]


async def expire(timer, seconds):
    """Return how many seconds it took until the timeout expired."""
    began = now()
    with pytest.raises(TimeoutError), timer.timeout_at(now() + seconds):
        await asyncio.sleep(60)
    return now() - began


def running_timeouts(timer):
    return list(timer.in_flight)


async def test_timeout_expires_on_time_and_restores_task():
    assert 0.05 <= await expire(RequestTimer(), 0.05) < 0.15
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert not timers()


async def test_deadline_is_not_rounded():
    timer = RequestTimer()
    with timer.timeout_at(now() + 7.25):
        (handle,) = timers()
        assert handle.when() - now() == pytest.approx(7.25, abs=0.05)


async def test_each_timeout_expires_at_its_own_time_in_any_order():
    timer = RequestTimer()
    lengths = [n / 100 for n in range(1, 21)]
    random.Random(1).shuffle(lengths)
    taken = await asyncio.gather(*(expire(timer, seconds) for seconds in lengths))
    delays = [took - length for took, length in zip(taken, lengths, strict=True)]
    assert min(delays) > -0.001
    assert max(delays) < 0.1
    assert not timers()


async def test_one_timer_serves_all_and_is_released():
    timer = RequestTimer()
    release = asyncio.Event()

    async def wait_for_release():
        with timer.timeout_at(now() + 60):
            await release.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(100):
            group.create_task(wait_for_release())
        await asyncio.sleep(0)
        assert len(running_timeouts(timer)) == 100
        assert len(timers()) == 1
        release.set()
    assert not timers()
    assert not running_timeouts(timer)


async def test_timer_is_reset_after_idle_time():
    timer = RequestTimer()
    with timer.timeout_at(now() + 0.01):
        pass
    assert not timers()
    assert 0.02 <= await expire(timer, 0.02) < 0.12


async def test_finished_request_does_not_delay_next_timeout():
    timer = RequestTimer()

    async def end_early():
        with timer.timeout_at(now() + 0.02):
            await asyncio.sleep(0)

    _, took = await asyncio.gather(end_early(), expire(timer, 0.04))
    assert 0.04 <= took < 0.14
    assert not timers()


async def test_shorter_timeout_is_not_delayed_by_longer_one():
    timer = RequestTimer()
    with timer.timeout_at(now() + 60):
        assert 0.02 <= await expire(timer, 0.02) < 0.12
        assert len(timers()) == 1


async def test_all_due_timeouts_expire_together_on_busy_loop():
    timer = RequestTimer()
    tasks = [asyncio.create_task(expire(timer, n / 1000)) for n in range(1, 21)]
    await asyncio.sleep(0)
    time.sleep(0.05)  # noqa: ASYNC251 - blocks the event loop
    for _ in range(3):
        await asyncio.sleep(0)
    assert all(task.done() for task in tasks)


async def test_timer_that_fires_early_is_not_set_again(monkeypatch):
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "_clock_resolution", 0.05)
    loop.call_later(0.04, lambda: None)  # and what is due within the resolution
    timer = RequestTimer()
    fired = []
    on_timer = timer._on_timer
    monkeypatch.setattr(timer, "_on_timer", lambda: (fired.append(now()), on_timer()))
    took = await expire(timer, 0.08)
    assert 0.02 < took < 0.08
    assert len(fired) == 1


async def test_slow_cleanup_does_not_delay_others_or_busy_loop(monkeypatch):
    timer = RequestTimer()
    fired = []
    on_timer = timer._on_timer
    monkeypatch.setattr(timer, "_on_timer", lambda: (fired.append(now()), on_timer()))

    async def clean_up_slowly():
        with pytest.raises(TimeoutError), timer.timeout_at(now() + 0.01):
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.1)

    task = asyncio.create_task(clean_up_slowly())
    await asyncio.sleep(0.02)
    assert 0.03 <= await expire(timer, 0.03) < 0.09
    await task
    assert len(fired) == 2
    assert not timers()


@pytest.mark.parametrize("is_first", [True, False], ids=["before", "after"])
async def test_external_cancellation_takes_precedence_over_timeout(is_first):
    timer = RequestTimer()
    task = asyncio.create_task(expire(timer, 60))
    await asyncio.sleep(0)
    (timeout,) = running_timeouts(timer)
    steps = [task.cancel, lambda: timeout.interrupt(TimeoutError)]
    for step in steps if is_first else reversed(steps):
        step()
    await asyncio.wait({task})
    assert task.cancelled()
    assert task.cancelling() == 1
    assert not timers()


@pytest.mark.parametrize("is_first", [True, False], ids=["before", "after"])
async def test_close_during_timeout_leaves_no_pending_cancellation(is_first):
    timer, lifecycle = RequestTimer(), Lifecycle()

    async def run():
        with lifecycle.operation(), timer.timeout_at(now() + 60):
            await asyncio.sleep(60)

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    (timeout,), (operation,) = running_timeouts(timer), lifecycle.running
    steps = [
        lambda: operation.interrupt(ClientStateError),
        lambda: timeout.interrupt(TimeoutError),
    ]
    for step in steps if is_first else reversed(steps):
        step()
    with pytest.raises(ClientStateError):
        await task
    assert task.cancelling() == 0
    assert not timers()


async def test_timeout_expires_in_task_handling_cancellation():
    took = None

    async def clean_up():
        nonlocal took
        try:
            await asyncio.sleep(60)
        finally:
            took = await expire(RequestTimer(), 0.02)

    task = asyncio.create_task(clean_up())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert took is not None
    assert 0.02 <= took < 0.12


async def test_result_that_arrives_as_timeout_expires_is_kept():
    timer = RequestTimer()

    async def request():
        with timer.timeout_at(now() + 60):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return "a result"

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    (timeout,) = running_timeouts(timer)
    timeout.interrupt(TimeoutError)
    timeout.interrupt(TimeoutError)  # once more does nothing
    assert await task == "a result"
    assert task.cancelling() == 0
