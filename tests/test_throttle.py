import asyncio
import itertools
from contextlib import asynccontextmanager

import pytest

from sutro_async import ConfigurationError
from sutro_async._http._throttle import Throttle

pytestmark = pytest.mark.usefixtures("fast_clock")


def now():
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def slot(throttle, **options):
    await throttle.acquire(**options)
    try:
        yield
    finally:
        throttle.release()


@pytest.mark.parametrize("value", [0, -1, 1.5, "3", True, None])
def test_a_bad_max_concurrency_is_refused(value):
    with pytest.raises(ConfigurationError, match="max_concurrency"):
        Throttle(value, None)


@pytest.mark.parametrize(
    "value", [0, -1.0, "3", True, float("nan"), float("inf"), 1_000_001, 10**400]
)
def test_a_bad_max_rate_is_refused(value):
    with pytest.raises(ConfigurationError, match="max_rate"):
        Throttle(1, value)


@pytest.mark.parametrize("max_rate", [None, 0.001, 10**6])
def test_the_least_and_the_most_are_accepted(max_rate):
    Throttle(1, max_rate)


async def test_no_more_than_max_concurrency_at_once():
    throttle = Throttle(3, None)
    running = most = 0

    async def use_slot():
        nonlocal running, most
        async with slot(throttle):
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1

    await asyncio.gather(*(use_slot() for _ in range(20)))
    assert most == 3


async def test_slots_that_were_given_back_can_be_taken_again():
    throttle = Throttle(3, None)
    for _ in range(2):
        async with asyncio.timeout(1), slot(throttle), slot(throttle), slot(throttle):
            pass


async def test_a_slot_is_given_back_after_an_error():
    throttle = Throttle(1, None)
    with pytest.raises(LookupError):
        async with slot(throttle):
            raise LookupError
    async with asyncio.timeout(1), slot(throttle):
        pass


@pytest.mark.parametrize("rate", [1, 5, 100])
async def test_the_rate_is_kept_and_made_use_of(rate):
    throttle = Throttle(1, rate)
    times = []
    for _ in range(2 * rate + 1):
        async with slot(throttle):
            times.append(now())
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(gaps) >= 0.95 / rate
    seconds = [later - earlier for earlier, later in zip(times, times[rate:], strict=False)]
    assert min(seconds) >= 0.999
    assert max(seconds) <= 1.1


async def test_the_rate_is_kept_without_a_burst_at_the_start():
    throttle = Throttle(100, 200)
    began = now()
    times = []

    async def use_slot():
        async with slot(throttle):
            times.append(now() - began)

    await asyncio.gather(*(use_slot() for _ in range(21)))
    # 200 a second come in pairs, and those count as well: no second sees more than 200.
    assert all(time >= (n - 2) / 199 - 0.001 for n, time in enumerate(times, start=1))
    assert times[-1] < 0.5


async def test_leave_that_stood_in_waiters_for_a_slot_makes_no_burst():
    throttle = Throttle(5, 50)
    times = []

    async def use_slot(seconds):
        async with slot(throttle):
            times.append(now())
            await asyncio.sleep(seconds)

    await asyncio.gather(*(use_slot(0.2) for _ in range(5)), *(use_slot(0) for _ in range(5)))
    # An event loop may be late, and so two may come close together, but not five.
    assert min(later - earlier for earlier, later in zip(times, times[4:], strict=False)) >= 0.06


async def test_a_pause_holds_back_new_requests():
    throttle = Throttle(5, None)
    began = now()
    throttle.pause(0.05)
    async with slot(throttle):
        assert now() - began >= 0.05


async def test_a_pause_holds_back_those_that_stand_in_waiters_already():
    throttle = Throttle(1, None)
    entered_at = []

    async def use_slot():
        async with slot(throttle):
            entered_at.append(now())

    async with slot(throttle):
        tasks = [asyncio.create_task(use_slot()) for _ in range(3)]
        await asyncio.sleep(0.01)
        throttle.pause(0.05)
        until = now() + 0.05
    await asyncio.gather(*tasks)
    assert min(entered_at) >= until


async def test_a_shorter_pause_does_not_shorten_a_longer_one():
    throttle = Throttle(1, None)
    began = now()
    throttle.pause(0.05)
    throttle.pause(0.01)
    async with slot(throttle):
        assert now() - began >= 0.05


async def test_a_pause_that_grows_while_it_is_slept_through_is_kept():
    throttle = Throttle(1, None)
    began = now()
    throttle.pause(0.03)
    asyncio.get_running_loop().call_later(0.01, throttle.pause, 0.05)
    async with slot(throttle):
        assert now() - began >= 0.06


async def test_the_last_chance_to_ask_passes_through_a_pause_even_where_others_wait():
    throttle = Throttle(1, None)
    throttle.pause(30)
    waiting = asyncio.create_task(throttle.acquire())
    await asyncio.sleep(0)
    async with asyncio.timeout(1), slot(throttle, send_by=0):
        pass
    waiting.cancel()


@pytest.mark.parametrize("max_rate", [None, 0.01], ids=["for a slot", "for the rate"])
async def test_who_is_cancelled_in_waiters_takes_no_slot_along(max_rate):
    throttle = Throttle(1, max_rate)
    if max_rate is None:
        await throttle.acquire()
    else:
        async with slot(throttle):
            pass
    tasks = [asyncio.create_task(throttle.acquire()) for _ in range(5)]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if max_rate is None:
        throttle.release()
    assert throttle._free_slots == 1
    assert not throttle._waiters


async def test_who_is_cancelled_in_waiters_leaves_it_at_once():
    throttle = Throttle(1, None)
    await throttle.acquire()
    tasks = [asyncio.create_task(throttle.acquire()) for _ in range(5)]
    await asyncio.sleep(0)
    for task in tasks[:4]:
        task.cancel()
    await asyncio.sleep(0)
    assert len(throttle._waiters) == 1
    throttle.release()
    async with asyncio.timeout(1):
        await tasks[4]


async def test_who_is_cancelled_as_a_slot_comes_free_is_passed_over():
    throttle = Throttle(1, None)
    await throttle.acquire()
    first, second = (asyncio.create_task(throttle.acquire()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    throttle.release()
    async with asyncio.timeout(1):
        await second
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_slot_that_comes_just_before_a_cancellation_is_passed_on():
    throttle = Throttle(1, None)
    await throttle.acquire()
    first, second = (asyncio.create_task(throttle.acquire()) for _ in range(2))
    await asyncio.sleep(0)
    throttle.release()
    first.cancel()
    async with asyncio.timeout(1):
        await second
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_slots_are_given_in_the_order_in_which_they_were_asked_for():
    throttle = Throttle(2, None)
    order = []

    async def use_slot(number):
        async with slot(throttle):
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(use_slot(number) for number in range(50)))
    assert order == list(range(50))
