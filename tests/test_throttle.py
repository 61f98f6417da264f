"""The queue of all requests of a client. The clock is the event loop's, so times are short."""

import asyncio
import itertools
import logging
import random
from contextlib import asynccontextmanager

import pytest

from sutro_async import APITimeoutError
from sutro_async._http._pacer import Pacer, Permit
from sutro_async._http._throttle import HeldBack, Priority, Throttle
from sutro_async._wire import parse_error

CALL = Priority.CALL
POLL = Priority.POLL

each_priority = pytest.mark.parametrize("priority", Priority, ids=lambda priority: priority.name)


class RecordingPacer(Pacer):
    """Records when requests were sent."""

    def __init__(self, *args):
        super().__init__(*args)
        self.sent = []

    def note_sent(self, now, **options):
        self.sent.append(now)
        return super().note_sent(now, **options)


def make_throttle(max_concurrency=20, max_rate=None, uniform=max):
    return Throttle(RecordingPacer(max_concurrency, max_rate, uniform))


pytestmark = pytest.mark.usefixtures("fast_clock")


def now():
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def slot(throttle, priority=CALL, **options):
    permit = await throttle.acquire(priority, **options)
    try:
        yield permit
    finally:
        throttle.release(permit)


def start(throttle, priority, count=1, **options):
    return [asyncio.create_task(throttle.acquire(priority, **options)) for _ in range(count)]


async def steps(count=5):
    """Run the tasks until all of them are waiting."""
    for _ in range(count):
        await asyncio.sleep(0)


def fail(throttle, error, permit=None):
    throttle.note_error(now(), error, permit or Permit(now(), 0), max_pause=60)


def succeed(throttle, permit=None):
    """Note a good response to a request, by default to one sent just before."""
    throttle.note_success(now(), permit or Permit(now(), throttle._pacer._restarts))


def pause(throttle, seconds):
    fail(throttle, parse_error("a", 503, {"retry-after": str(seconds)}, b""))


def close_gate(throttle, failures=5):
    """Close it; within a minute of an outage that takes ten failures."""
    for job_id in itertools.islice(itertools.cycle("aabbb"), failures):
        fail(throttle, APITimeoutError(f"job {job_id!r}: no response", job_id=job_id))
    assert throttle.service_is_unavailable


async def resume_after(cause, throttle):
    """Let sending resume after a pause or an outage."""
    if cause == "pause":
        pause(throttle, 0.02)
        await asyncio.sleep(0.03)
    else:
        close_gate(throttle)
        succeed(throttle)


def throttle_at_once(**options):
    """Return a throttle whose gate allows the next probe as soon as the last has ended."""
    return make_throttle(uniform=lambda *_: 0.0, **options)


def check_no_leaks(throttle, in_flight=0):
    assert throttle.in_flight == in_flight
    assert not throttle._has_waiters()
    assert throttle._timer is None
    timers = [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]
    assert not [timer for timer in timers if "Throttle" in repr(timer._callback)]


async def cancel(*tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# ---- slots


@each_priority
async def test_max_concurrency_is_respected(priority):
    throttle = make_throttle(3)
    assert throttle.max_concurrency == 3
    running = most = 0

    async def use_slot():
        nonlocal running, most
        async with slot(throttle, priority):
            running += 1
            most = max(most, running)
            assert running <= throttle.in_flight <= 3
            await asyncio.sleep(0.001)
            running -= 1

    await asyncio.gather(*(use_slot() for _ in range(20)))
    assert most == 3
    check_no_leaks(throttle)


async def test_released_slots_can_be_taken_again():
    throttle = make_throttle(3)
    for _ in range(2):
        async with asyncio.timeout(1), slot(throttle), slot(throttle), slot(throttle):
            pass


async def test_slot_is_released_after_error():
    throttle = make_throttle(1)
    with pytest.raises(LookupError):
        async with slot(throttle):
            raise LookupError
    async with asyncio.timeout(1), slot(throttle):
        pass


async def test_permit_has_time():
    throttle = make_throttle(1)
    async with slot(throttle) as permit:
        assert permit.sent_at <= now()
        (waiting,) = start(throttle, CALL)
        await asyncio.sleep(0.02)
        released_at = now()
    assert (await waiting).sent_at >= released_at
    assert not (await waiting).is_probe


# ---- the order


@each_priority
async def test_slots_are_granted_in_fifo_order(priority):
    throttle = make_throttle(2)
    order = []

    async def use_slot(number):
        async with slot(throttle, priority):
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(use_slot(number) for number in range(50)))
    assert order == list(range(50))


async def order_of(throttle, *priorities):
    """Queue requests while a slot is taken, and return the order in which they are sent."""
    order = []

    async def use_slot(number, priority):
        async with slot(throttle, priority):
            order.append(number)

    async with slot(throttle):
        tasks = [asyncio.create_task(use_slot(*each)) for each in enumerate(priorities)]
        await steps()
    async with asyncio.timeout(2):
        await asyncio.gather(*tasks)
    return order


async def test_calls_are_sent_before_queued_polls():
    order = await order_of(make_throttle(1), POLL, CALL, POLL, POLL, CALL, CALL)
    assert order == [1, 4, 5, 0, 2, 3]


async def test_calls_do_not_starve_polls():
    order = await order_of(make_throttle(1), *[POLL] * 3, *[CALL] * 100)
    assert [order.index(poll) for poll in range(3)] == [4, 9, 14]
    assert [number for number in order if number >= 3] == list(range(3, 103))


async def test_overlapping_calls_do_not_starve_polls_after_pause():
    """The window stays at one as long as no call succeeds."""
    throttle = make_throttle()
    pause(throttle, 0.001)

    async def call_repeatedly(seconds):
        while True:
            async with slot(throttle) as permit:
                await asyncio.sleep(seconds)
                fail(throttle, parse_error("a", 500, {}, b""), permit)

    callers = [asyncio.create_task(call_repeatedly(0.002 + n / 1000)) for n in range(3)]
    await asyncio.sleep(0.02)
    async with asyncio.timeout(1), slot(throttle, POLL):
        pass
    await cancel(*callers)
    check_no_leaks(throttle)


# ---- the rate


@each_priority
@pytest.mark.parametrize("rate", [20, 100, 1000])
async def test_rate_is_respected_and_used(rate, priority):
    throttle = make_throttle(5, rate)
    count = rate // 5

    async def use_slot():
        async with slot(throttle, priority):
            pass

    began = now()
    await asyncio.gather(*(use_slot() for _ in range(count + 1)))
    sent = throttle._pacer.sent
    at_once = 1 + rate // 100
    for earlier, later in zip(sent, sent[at_once:], strict=False):
        assert later - earlier >= 1 / rate - 1e-6
    assert count / rate - 0.01 <= now() - began < 1  # 0.2 s on a machine that is not busy


async def test_slots_freed_together_cause_no_burst():
    throttle = make_throttle(5, 50)

    async def use_slot(seconds):
        async with slot(throttle):
            await asyncio.sleep(seconds)

    await asyncio.gather(*(use_slot(0.2) for _ in range(5)), *(use_slot(0) for _ in range(5)))
    gaps = [later - earlier for earlier, later in itertools.pairwise(throttle._pacer.sent)]
    assert min(gaps) >= 0.02 - 1e-6


# ---- pauses


@each_priority
async def test_pause_holds_back_new_requests(priority):
    throttle = make_throttle(5)
    began = now()
    pause(throttle, 0.05)
    async with slot(throttle, priority):
        assert 0.05 <= now() - began < 0.2


@each_priority
async def test_pause_holds_back_queued_requests(priority):
    throttle = make_throttle(1)
    async with slot(throttle):
        tasks = start(throttle, priority)
        await steps()
        until = now() + 0.05
        pause(throttle, 0.05)
    assert (await tasks[0]).sent_at >= until


async def test_pause_extended_while_requests_are_queued():
    throttle = make_throttle(1)
    began = now()
    pause(throttle, 0.03)
    asyncio.get_running_loop().call_later(0.01, pause, throttle, 0.05)
    async with slot(throttle):
        assert now() - began >= 0.06


async def test_resumption_after_pause_is_gradual():
    throttle = make_throttle(20)
    pause(throttle, 0.02)
    polls = start(throttle, POLL, 40)
    await asyncio.sleep(0.03)
    in_flight = [throttle.in_flight]
    sent = []
    while not all(poll.done() for poll in polls):
        permit = next(poll.result() for poll in polls if poll.done() and poll not in sent)
        sent.append(next(poll for poll in polls if poll.done() and poll not in sent))
        succeed(throttle)
        throttle.release(permit)
        await steps()
        in_flight.append(throttle.in_flight)
    assert in_flight[:7] == [1, 2, 4, 8, 16, 20, 20]


async def test_call_does_not_wait_for_one_poll_after_pause():
    throttle = make_throttle(20)
    pause(throttle, 0.01)
    (poll,) = start(throttle, POLL)
    await poll
    waiting = start(throttle, POLL, 2)
    async with asyncio.timeout(1), slot(throttle):
        second = start(throttle, CALL)
        await steps()
        assert throttle.in_flight == 2
        assert not second[0].done()
    async with asyncio.timeout(1):
        await second[0]
    assert not any(task.done() for task in waiting)
    await cancel(*waiting)


# ---- the outage gate


async def test_closing_gate_removes_polls_from_queue():
    throttle = make_throttle(1)
    async with slot(throttle):
        polls = start(throttle, POLL, 5)
        (call,) = start(throttle, CALL)
        (overdue,) = start(throttle, POLL, send_by=now())
        await steps()
        close_gate(throttle)
        outcomes = await asyncio.gather(*polls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [HeldBack] * 5
        assert not overdue.done()
        assert not call.done()
    for task in (overdue, call):
        async with asyncio.timeout(1):
            throttle.release(await task)
    check_no_leaks(throttle)


async def test_closed_gate_holds_back_polls():
    throttle = make_throttle()
    close_gate(throttle)
    assert throttle.holds_back(now())
    with pytest.raises(HeldBack):
        await throttle.acquire(POLL)
    with pytest.raises(HeldBack):
        await throttle.acquire(POLL, send_by=now() + 1)
    check_no_leaks(throttle)


async def test_call_passes_closed_gate():
    throttle = make_throttle()
    close_gate(throttle)
    async with asyncio.timeout(1), slot(throttle) as permit:
        assert not permit.is_probe
    check_no_leaks(throttle)


async def test_call_passes_closed_gate_while_probe_is_in_flight():
    throttle = throttle_at_once()
    close_gate(throttle)
    async with slot(throttle, POLL), asyncio.timeout(1), slot(throttle):
        assert throttle.in_flight == 2


async def test_one_probe_at_a_time():
    throttle = throttle_at_once()
    close_gate(throttle)
    for _ in range(3):
        assert not throttle.holds_back(now())
        async with slot(throttle, POLL) as permit:
            assert permit.is_probe
            assert throttle.holds_back(now())
            for _ in range(3):
                with pytest.raises(HeldBack):
                    await throttle.acquire(POLL)
            fail(throttle, APITimeoutError("no response", job_id="a"), permit)
    check_no_leaks(throttle)


@pytest.mark.parametrize("ending", ["failed", "cancelled in flight", "cancelled in the queue"])
async def test_finished_call_does_not_allow_second_probe(ending):
    throttle = throttle_at_once(max_concurrency=2)
    close_gate(throttle)
    async with slot(throttle, POLL) as probe:
        assert probe.is_probe
        call = await throttle.acquire(CALL)
        if ending == "cancelled in the queue":
            (queued,) = start(throttle, CALL)
            await steps()
            await cancel(queued)
        elif ending == "failed":
            fail(throttle, APITimeoutError("no response", job_id="a"), call)
        throttle.release(call)
        assert throttle.holds_back(now())
        with pytest.raises(HeldBack):
            await throttle.acquire(POLL)
    assert not throttle.holds_back(now())


async def test_closing_gate_stops_poll_timer():
    throttle = make_throttle()
    pause(throttle, 30)
    polls = start(throttle, POLL, 3)
    await steps()
    close_gate(throttle)
    check_no_leaks(throttle)
    outcomes = await asyncio.gather(*polls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [HeldBack] * 3


async def test_probe_honours_pause():
    throttle = throttle_at_once()
    close_gate(throttle)
    pause(throttle, 0.05)
    began = now()
    async with slot(throttle, POLL) as permit:
        assert permit.is_probe
        assert now() - began >= 0.04


async def test_successful_probe_opens_gate():
    throttle = throttle_at_once()
    close_gate(throttle)
    assert throttle.available_since < now()
    async with slot(throttle, POLL):
        succeed(throttle)
    assert not throttle.service_is_unavailable
    assert throttle.available_since == pytest.approx(now(), abs=0.1)
    async with asyncio.timeout(1), slot(throttle, POLL) as permit:
        assert not permit.is_probe


async def test_resumption_after_outage_is_gradual():
    throttle = throttle_at_once()
    close_gate(throttle)
    async with slot(throttle, POLL):
        succeed(throttle)
    polls = start(throttle, POLL, 10)
    await steps()
    assert throttle.in_flight == 1
    succeed(throttle)
    throttle.release(await polls[0])
    await steps()
    assert throttle.in_flight == 2
    await cancel(*polls)


async def test_hanging_request_after_pause_delays_others_by_two_seconds(fast_clock):
    throttle = make_throttle(5)
    pause(throttle, 0.02)
    began = now()
    hanging, *polls = start(throttle, POLL, 4)
    await hanging
    times = [(await poll).sent_at - began for poll in polls]
    assert times == pytest.approx([2.02, 4.02, 6.02], abs=0.1)
    assert throttle.in_flight == 4


@pytest.mark.parametrize("cause", ["pause", "outage"])
async def test_hanging_requests_do_not_delay_resumption(cause):
    throttle = throttle_at_once(max_concurrency=5)
    hanging = [await throttle.acquire(POLL) for _ in range(3)]
    await resume_after(cause, throttle)
    polls = start(throttle, POLL, 10)
    in_flight = []
    for number in range(3):
        await steps()
        in_flight.append(throttle.in_flight)
        succeed(throttle)
        throttle.release(await polls[number])
    assert in_flight == [4, 5, 5]
    for permit in hanging:
        throttle.release(permit)
    await steps()
    assert throttle.in_flight == 5
    await cancel(*polls)
    assert throttle.in_flight == 5
    for poll in polls[3:8]:
        throttle.release(poll.result())
    assert throttle.in_flight == 0
    assert throttle._pacer.in_window == 0


@pytest.mark.parametrize("cause", ["pause", "outage"])
async def test_responses_to_requests_from_before_resumption_cause_no_burst(cause):
    throttle = throttle_at_once(max_concurrency=100)
    earlier = [await throttle.acquire(POLL) for _ in range(40)]
    await resume_after(cause, throttle)
    polls = start(throttle, POLL, 100)
    await steps()
    assert throttle.in_flight == 41
    for permit in earlier:
        succeed(throttle, permit)
        throttle.release(permit)
    await steps()
    assert throttle.in_flight == 1
    permit = await polls[0]
    succeed(throttle, permit)
    throttle.release(permit)
    await steps()
    assert throttle.in_flight == 2
    await cancel(*polls)


async def test_overdue_polls_do_not_delay_call_behind_hanging_requests():
    throttle = make_throttle(20)
    pause(throttle, 0.02)
    await asyncio.sleep(0.03)
    permits = [await throttle.acquire(POLL), await throttle.acquire(CALL)]
    began = now()
    (call,) = start(throttle, CALL)
    for _ in range(5):
        await asyncio.sleep(0.5)
        permits.append(await throttle.acquire(POLL, send_by=now()))
    permits.append(await call)
    assert permits[-1].sent_at - began == pytest.approx(2, abs=0.1)
    for permit in permits:
        throttle.release(permit)
    check_no_leaks(throttle)


@pytest.mark.parametrize("moment", ["in flight", "waiting for a slot", "in a pause"])
async def test_cancelled_probe_allows_next_probe(moment):
    throttle = throttle_at_once(max_concurrency=1)
    close_gate(throttle)
    call = None
    if moment == "waiting for a slot":
        call = await throttle.acquire(CALL)
    elif moment == "in a pause":
        pause(throttle, 0.05)

    async def probe():
        async with slot(throttle, POLL):
            await asyncio.sleep(30)

    task = asyncio.create_task(probe())
    await steps()
    assert throttle.holds_back(now())
    await cancel(task)
    assert not throttle.holds_back(now())
    if call is not None:
        throttle.release(call)
    async with asyncio.timeout(1), slot(throttle, POLL) as permit:
        assert permit.is_probe
    check_no_leaks(throttle)


async def test_queued_probe_removed_by_next_outage_allows_next_probe():
    throttle = throttle_at_once(max_concurrency=1)
    close_gate(throttle)
    async with slot(throttle):
        (probe,) = start(throttle, POLL)
        await steps()
        succeed(throttle)
        close_gate(throttle, failures=10)
        with pytest.raises(HeldBack):
            await probe
    async with asyncio.timeout(1), slot(throttle, POLL) as permit:
        assert permit.is_probe


async def test_probe_that_is_still_queued_when_gate_opens_is_sent():
    throttle = throttle_at_once(max_concurrency=1)
    close_gate(throttle)
    async with slot(throttle):
        (probe,) = start(throttle, POLL)
        await steps()
        succeed(throttle)
    async with asyncio.timeout(1):
        throttle.release(await probe)
    check_no_leaks(throttle)


async def test_closing_and_opening_are_logged_once(caplog):
    caplog.set_level(logging.DEBUG, "sutro_async")
    throttle = make_throttle(1)
    began = now()
    async with slot(throttle):
        polls = start(throttle, POLL, 5)
        await steps()
        close_gate(throttle)
        await asyncio.gather(*polls, return_exceptions=True)
    fail(throttle, parse_error("c", 503, {}, b"<title>Down</title>"))
    await asyncio.sleep(0.16)
    fail(throttle, parse_error("c", 404, {}, b""))  # a response, if not a good one
    succeed(throttle)
    length = now() - began
    warning, info = caplog.records
    assert warning.levelno == logging.WARNING
    assert warning.name == info.name == "sutro_async"
    assert warning.message == (
        "the service is unavailable, polls are held back: job 'b': no response"
    )
    assert info.levelno == logging.INFO
    assert info.message in {
        f"the service is available again after {seconds:.1f} s" for seconds in (0.2, length)
    }
    caplog.clear()
    close_gate(throttle, failures=10)
    succeed(throttle)
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.INFO]


async def test_single_failures_are_not_logged_by_throttle(caplog):
    throttle = make_throttle()
    for job_id in "abcd":
        fail(throttle, APITimeoutError("no response", job_id=job_id))
    succeed(throttle)
    assert not caplog.records


# ---- overdue polls


@pytest.mark.parametrize("obstacle", ["pause", "outage", "pause and outage", "probe", "window"])
@pytest.mark.parametrize("others", [0, 3])
async def test_overdue_poll_is_sent_at_once(obstacle, others):
    throttle = throttle_at_once() if obstacle == "probe" else make_throttle()
    if "pause" in obstacle:
        pause(throttle, 30)
    if "outage" in obstacle or obstacle == "probe":
        close_gate(throttle)
    if obstacle == "probe":
        await throttle.acquire(POLL)
    if obstacle == "window":
        pause(throttle, 0.001)
        await throttle.acquire(POLL)
    waiting = start(throttle, CALL, others) if "pause" in obstacle else []
    await steps()
    in_flight = throttle.in_flight
    async with asyncio.timeout(1), slot(throttle, POLL, send_by=now()) as permit:
        assert not permit.is_probe
        assert throttle.in_flight == in_flight + 1
        assert not any(task.done() for task in waiting)
    await cancel(*waiting)
    check_no_leaks(throttle, in_flight)


@pytest.mark.parametrize("obstacle", ["pause", "window", "pause as a probe"])
async def test_poll_that_becomes_overdue_in_queue_is_sent_then(obstacle):
    throttle = throttle_at_once() if "probe" in obstacle else make_throttle()
    if "probe" in obstacle:
        close_gate(throttle)
    if "pause" in obstacle:
        pause(throttle, 30)
    else:
        pause(throttle, 0.001)
        await throttle.acquire(POLL)
    others = start(throttle, POLL, 2) if "probe" not in obstacle else []
    send_by = now() + 0.05
    async with asyncio.timeout(1), slot(throttle, POLL, send_by=send_by) as permit:
        assert send_by <= permit.sent_at < send_by + 0.1
        assert permit.is_probe is ("probe" in obstacle)
        assert not any(task.done() for task in others)
    await cancel(*others)
    check_no_leaks(throttle, in_flight=1 if obstacle == "window" else 0)


async def test_overdue_polls_are_sent_before_calls():
    throttle = make_throttle(1)
    async with slot(throttle):
        (call,) = start(throttle, CALL)
        (overdue,) = start(throttle, POLL, send_by=now() + 0.01)
        await asyncio.sleep(0.02)
        assert throttle.in_flight == 1
    await steps()
    assert overdue.done()
    assert not call.done()
    throttle.release(await overdue)
    throttle.release(await call)
    check_no_leaks(throttle)


async def test_overdue_polls_respect_rate():
    throttle = make_throttle(5, 20)
    pause(throttle, 30)
    for task in start(throttle, POLL, 3, send_by=now()):
        throttle.release(await task)
    gaps = [later - earlier for earlier, later in itertools.pairwise(throttle._pacer.sent)]
    assert min(gaps) >= 0.05 - 1e-6


async def test_poll_sent_in_time_leaves_no_timer():
    throttle = make_throttle(1)
    async with slot(throttle):
        (poll,) = start(throttle, POLL, send_by=now() + 30)
        await steps()
    throttle.release(await poll)
    check_no_leaks(throttle)


async def test_poll_that_is_cancelled_as_it_becomes_overdue_takes_no_slot():
    throttle = make_throttle()
    pause(throttle, 30)
    (poll,) = start(throttle, POLL, send_by=now() + 0.01)
    await steps()
    (waiter,) = throttle._polls
    poll.cancel()
    throttle._promote(waiter)
    throttle._promote(waiter)
    await cancel(poll)
    check_no_leaks(throttle)


# ---- cancellation


@each_priority
@pytest.mark.parametrize("max_rate", [None, 0.01], ids=["for a slot", "for the rate"])
async def test_cancellation_in_queue(max_rate, priority):
    throttle = make_throttle(1, max_rate)
    permit = await throttle.acquire(CALL)
    if max_rate is not None:
        throttle.release(permit)
    tasks = start(throttle, priority, 5)
    await asyncio.sleep(0.01)
    await cancel(*tasks)
    if max_rate is None:
        throttle.release(permit)
    check_no_leaks(throttle)


async def test_cancelled_waiter_leaves_queue_at_once():
    throttle = make_throttle(1)
    permit = await throttle.acquire(CALL)
    tasks = [*start(throttle, CALL, 2), *start(throttle, POLL, 3)]
    await steps()
    for task in tasks[:4]:
        task.cancel()
    await steps()
    assert len(throttle._calls) + len(throttle._polls) == 1
    throttle.release(permit)
    async with asyncio.timeout(1):
        await tasks[4]


@pytest.mark.parametrize("has_slot", [False, True])
async def test_closed_coroutine_leaves_queue_at_once(has_slot):
    throttle = make_throttle(1)
    permit = await throttle.acquire(CALL)
    waiting = throttle.acquire(CALL)
    waiting.send(None)
    if has_slot:
        throttle.release(permit)
    assert throttle.queued == (not has_slot)
    waiting.close()
    if not has_slot:
        throttle.release(permit)
    check_no_leaks(throttle)


async def test_waiter_cancelled_as_slot_is_released_is_skipped():
    throttle = make_throttle(1)
    permit = await throttle.acquire(CALL)
    first, second = start(throttle, CALL, 2)
    await steps()
    first.cancel()
    throttle.release(permit)
    async with asyncio.timeout(1):
        await second
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_slot_granted_just_before_cancellation_is_released():
    throttle = make_throttle(1)
    permit = await throttle.acquire(CALL)
    first, second = start(throttle, CALL, 2)
    await steps()
    throttle.release(permit)
    first.cancel()
    async with asyncio.timeout(1):
        await second
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_probe_cancelled_just_after_slot_was_granted_allows_next_probe():
    throttle = throttle_at_once(max_concurrency=1)
    close_gate(throttle)
    permit = await throttle.acquire(CALL)
    (probe,) = start(throttle, POLL)
    await steps()
    throttle.release(permit)
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert not throttle.holds_back(now())
    check_no_leaks(throttle)


async def test_poll_cancelled_just_after_it_was_held_back():
    throttle = make_throttle(1)
    async with slot(throttle):
        (poll,) = start(throttle, POLL)
        await steps()
        close_gate(throttle)
        poll.cancel()
        with pytest.raises(asyncio.CancelledError):
            await poll
    check_no_leaks(throttle)


async def test_poll_cancelled_just_before_gate_closes():
    throttle = make_throttle(1)
    async with slot(throttle):
        first, second = start(throttle, POLL, 2)
        await steps()
        first.cancel()
        close_gate(throttle)
        with pytest.raises(asyncio.CancelledError):
            await first
        with pytest.raises(HeldBack):
            await second
    check_no_leaks(throttle)


@pytest.mark.parametrize("seed", range(8))
async def test_random_operations_leak_nothing(seed):
    """Requests of all kinds succeed, fail, and are cancelled at any moment."""
    draw = random.Random(seed)
    throttle = make_throttle(
        draw.choice([1, 2, 5]), draw.choice([None, 2000]), lambda *_: draw.choice([0.0, 0.002])
    )
    probes = 0

    async def request(job_id):
        nonlocal probes
        send_by = draw.choice([0.0, 0.003, 30.0])
        permit = await throttle.acquire(draw.choice([CALL, POLL]), send_by=now() + send_by)
        probes += permit.is_probe
        try:
            assert throttle.in_flight <= throttle.max_concurrency
            assert probes <= 1
            await asyncio.sleep(draw.choice([0, 0, 0.001, 0.003]))
            outcome = draw.random()
            if outcome < 0.15:
                succeed(throttle)
            elif outcome < 0.9:
                fail(throttle, parse_error(job_id, draw.choice([500, 500, 404]), {}, b""), permit)
            elif outcome < 0.95:
                pause(throttle, 0.002)
        finally:
            probes -= permit.is_probe
            throttle.release(permit)

    tasks = []
    for number in range(300):
        tasks.append(asyncio.create_task(request(f"job-{number % 7}")))
        if draw.random() < 0.5:
            draw.choice(tasks).cancel()
        await asyncio.sleep(draw.choice([0, 0, 0, 0.001]))
    async with asyncio.timeout(10):
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    kinds = {*map(type, outcomes)}
    assert kinds - {HeldBack} == {type(None), asyncio.CancelledError}
    check_no_leaks(throttle)
    assert not throttle._pacer.gate._is_probing
