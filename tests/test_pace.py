"""The pace of a wait, as pure logic: all times are passed in, and nothing sleeps."""

import heapq
import itertools
import math
import random

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sutro_async._waits._pace import FailureKind, Pace, PaceSettings, Verdict
from sutro_async.policies import PollPolicy

OUTAGE = FailureKind.OUTAGE
RATE_LIMITED = FailureKind.RATE_LIMITED
REFUSED = FailureKind.REFUSED
FINAL = FailureKind.FINAL

POLL_AGAIN = Verdict.POLL_AGAIN
GIVE_UP = Verdict.GIVE_UP
TIME_OUT = Verdict.TIME_OUT

# Any start time except 0, which would hide a missing one.
START = 5000.0

# Far above rounding errors, far below any time in these tests.
TOLERANCE = 1e-7

SLOW = {"initial": 100, "maximum": 100}  # no interval ends before the timeouts used here

each_retryable_kind = pytest.mark.parametrize(
    "kind", [OUTAGE, RATE_LIMITED, REFUSED], ids=lambda kind: kind.name
)


def lowest(low, high):
    return low


def middle(low, high):
    return (low + high) / 2


def highest(low, high):
    return high


def make_pace(*, timeout=None, batch_size=0, max_retry_after=60, uniform=middle, **policy):
    return Pace(
        PaceSettings(
            policy=PollPolicy(**policy),
            max_retry_after=max_retry_after,
            uniform=uniform,
            timeout=timeout,
            deadline=START + timeout if timeout else None,
            batch_size=batch_size,
        ),
        START,
    )


def about(seconds):
    """Return a time this many seconds after the start, or infinity."""
    return pytest.approx(START + seconds, abs=TOLERANCE)


def seconds_after(now, pace):
    return pytest.approx(pace.next_poll_at - now, abs=TOLERANCE)


def report(pace, seconds, *, poll_seconds=0.0, is_changed=False):
    """Report a good poll that ended this many seconds after the start."""
    pace.note_report(START + seconds, poll_seconds=poll_seconds, is_changed=is_changed)


def fail(pace, seconds, kind=OUTAGE, **details):
    """Report a poll that failed this many seconds after the start."""
    return pace.note_failure(START + seconds, kind, **details)


# ---- the interval


@pytest.mark.parametrize("timeout", [None, 0, 0.01, 60])
def test_first_poll_is_due_at_once(timeout):
    pace = make_pace(timeout=timeout)
    assert pace.next_poll_at == START
    assert not pace.has_failed


@pytest.mark.parametrize(
    ("policy", "intervals"),
    [
        ({}, [1, 1.5, 2.25, 3.375, 5.0625, 7.59375, 11.390625, 15, 15]),
        ({"initial": 2, "factor": 2, "maximum": 20}, [2, 4, 8, 16, 20, 20]),
        ({"initial": 0.25, "factor": 1}, [0.25, 0.25, 0.25]),
        ({"initial": 15, "factor": 10}, [15, 15]),
    ],
    ids=str,
)
def test_interval_grows_by_factor_up_to_maximum(policy, intervals):
    pace = make_pace(**policy)
    for poll, interval in enumerate(intervals):
        now = pace.next_poll_at
        pace.note_report(now, poll_seconds=0, is_changed=poll == 0)
        assert seconds_after(now, pace) == interval


def test_interval_is_counted_from_response():
    pace = make_pace(initial=2)
    report(pace, 30, poll_seconds=30, is_changed=True)
    assert pace.next_poll_at == about(32)


@pytest.mark.parametrize("unchanged_polls", [0, 1, 2, 5, 50])
def test_changed_report_resets_interval(unchanged_polls):
    pace = make_pace()
    for _ in range(unchanged_polls):
        report(pace, 0)
    report(pace, 0, is_changed=True)
    assert pace.next_poll_at == about(1)
    report(pace, 0)
    assert pace.next_poll_at == about(1.5)


def test_interval_stays_at_maximum_beyond_float_range():
    pace = make_pace(factor=1e9)
    for _ in range(40):  # 1e9**40 overflows
        report(pace, 0)
    assert pace.next_poll_at == about(15)


def test_failures_do_not_reset_interval():
    pace = make_pace()
    report(pace, 0, is_changed=True)
    report(pace, 0)
    fail(pace, 0)
    report(pace, 0)
    assert pace.next_poll_at == about(2.25)


@pytest.mark.parametrize(
    ("jitter", "uniform", "interval"),
    [
        (0, lowest, 10),
        (0, highest, 10),
        (0.1, lowest, 9),
        (0.1, middle, 10),
        (0.1, highest, 11),
        (1, lowest, 0),
        (1, highest, 20),
    ],
)
def test_jitter_bounds(jitter, uniform, interval):
    pace = make_pace(initial=10, jitter=jitter, uniform=uniform)
    report(pace, 0, is_changed=True)
    assert pace.next_poll_at == about(interval)


def test_jitter_applies_to_longest_interval():
    pace = make_pace(initial=15, uniform=highest)
    report(pace, 0)
    assert pace.next_poll_at == about(16.5)


# ---- the back-off after failures


@pytest.mark.parametrize(
    ("policy", "bounds"),
    [
        ({}, [0.5, 1, 2, 4, 8, 15, 15]),
        ({"initial": 10, "factor": 9}, [0.5, 1, 2, 4, 8, 15, 15]),
        ({"initial": 0.5, "maximum": 0.5}, [0.5, 0.5]),
        ({"initial": 0.1, "maximum": 0.7}, [0.1, 0.2, 0.4, 0.7, 0.7]),
        ({"initial": 0.001, "maximum": 0.001}, [0.001, 0.001]),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("uniform", "share"), [(lowest, 0.5), (highest, 1)], ids=["lowest", "highest"]
)
@each_retryable_kind
def test_backoff_doubles_up_to_maximum(policy, bounds, uniform, share, kind):
    pace = make_pace(uniform=uniform, not_found_grace=300, **policy)
    for bound in bounds:
        now = pace.next_poll_at
        assert pace.note_failure(now, kind) is POLL_AGAIN
        assert seconds_after(now, pace) == bound * share


@each_retryable_kind
def test_backoff_starts_small_for_any_interval(kind):
    pace = make_pace(uniform=highest)
    for _ in range(20):
        report(pace, 0)
    fail(pace, 0, kind)
    assert pace.next_poll_at == about(0.5)


@each_retryable_kind
def test_good_poll_resets_backoff(kind):
    pace = make_pace(uniform=highest)
    for _ in range(4):
        fail(pace, 0, kind)
    assert pace.has_failed
    report(pace, 0)
    assert not pace.has_failed
    fail(pace, 0, kind)
    assert pace.has_failed
    assert pace.next_poll_at == about(0.5)


def test_backoff_counts_failures_of_all_kinds():
    pace = make_pace(uniform=highest)
    for kind in (OUTAGE, RATE_LIMITED, REFUSED, OUTAGE):
        fail(pace, 0, kind)
    assert pace.next_poll_at == about(4)


# ---- Retry-After


@pytest.mark.parametrize(
    ("retry_after", "max_retry_after", "initial", "delay"),
    [
        (0, 60, 1, 0.5),
        (0.4, 60, 1, 0.5),
        (0.6, 60, 1, 0.6),
        (30, 60, 1, 30),
        (60, 60, 1, 60),
        (61, 60, 1, 60),
        (299, math.inf, 1, 299),
        (30, 0, 1, 1),
        (30, 0, 0.001, 0.001),
        (30, 5, 20, 20),
        (15, 5, 20, 15),
    ],
)
@pytest.mark.parametrize("kind", [OUTAGE, RATE_LIMITED], ids=lambda kind: kind.name)
def test_retry_after_is_minimum_delay(retry_after, max_retry_after, initial, delay, kind):
    pace = make_pace(initial=initial, maximum=20, max_retry_after=max_retry_after, uniform=highest)
    fail(pace, 0, kind, retry_after=retry_after)
    assert pace.next_poll_at == about(delay)


def test_retry_after_up_to_current_interval_is_honoured():
    pace = make_pace(max_retry_after=0)
    report(pace, 0, is_changed=True)
    for _ in range(3):
        report(pace, 0)
    fail(pace, 0, retry_after=30)
    assert pace.next_poll_at == about(3.375)


def test_retry_after_is_bounded_by_timeout():
    pace = make_pace(timeout=20)
    fail(pace, 0, retry_after=30)
    assert pace.next_poll_at == about(19.9)


# ---- giving up


# Each failure: seconds after the start of the wait, of which seconds in the client's own queues.
@pytest.mark.parametrize(
    ("failures", "verdict"),
    [
        ([(0, 0)], POLL_AGAIN),
        ([(100, 0)], POLL_AGAIN),
        ([(100, 50)], POLL_AGAIN),
        ([(0, 0), (9.99, 0)], POLL_AGAIN),
        ([(0, 0), (10, 0)], GIVE_UP),
        ([(0, 0), (10.01, 0)], GIVE_UP),
        ([(100, 0), (109.99, 0)], POLL_AGAIN),
        ([(100, 0), (110, 0)], GIVE_UP),
        ([(0, 0), (5, 0), (9.99, 0)], POLL_AGAIN),
        ([(0, 0), (5, 0), (10, 0)], GIVE_UP),
        # Queueing before the first failure precedes the outage.
        ([(100, 100), (109.99, 0)], POLL_AGAIN),
        ([(100, 100), (110, 0)], GIVE_UP),
        # Queueing after it does not count.
        ([(0, 0), (10, 0.01)], POLL_AGAIN),
        ([(0, 0), (1000, 990.01)], POLL_AGAIN),
        ([(0, 0), (1000, 990)], GIVE_UP),
        ([(0, 0), (5, 2), (11.99, 0)], POLL_AGAIN),
        ([(0, 0), (5, 2), (12, 0)], GIVE_UP),
        # More time in the queue than has passed has no further effect.
        ([(0, 0), (5, 50), (14.99, 0)], POLL_AGAIN),
        ([(0, 0), (5, 50), (15, 0)], GIVE_UP),
    ],
)
@pytest.mark.parametrize(
    ("kind", "name", "other"),
    [(OUTAGE, "max_outage", "not_found_grace"), (REFUSED, "not_found_grace", "max_outage")],
    ids=["OUTAGE", "REFUSED"],
)
def test_wait_gives_up_when_failures_have_lasted_long_enough(failures, verdict, kind, name, other):
    pace = make_pace(**{name: 10, other: 1})
    *earlier, (seconds, queued) = failures
    for when, in_queue in earlier:
        assert fail(pace, when, kind, queued=in_queue) is POLL_AGAIN
    assert fail(pace, seconds, kind, queued=queued) is verdict


@pytest.mark.parametrize(
    ("kind", "limit"),
    [(OUTAGE, "max_outage"), (REFUSED, "not_found_grace")],
    ids=["OUTAGE", "REFUSED"],
)
@pytest.mark.parametrize("failures", [[0], [7], [0, 6], [0, 3, 9.9]], ids=str)
def test_last_poll_is_made_when_wait_gives_up(kind, limit, failures):
    pace = make_pace(**{limit: 10})
    for seconds in failures:
        assert fail(pace, seconds, kind, retry_after=60) is POLL_AGAIN
    end = failures[0] + 10
    assert pace.next_poll_at == about(end)
    assert pace.send_by == about(end)
    assert pace.note_failure(pace.next_poll_at, kind) is GIVE_UP


@pytest.mark.parametrize("step", [0.1, 0.2, 0.3, 0.7])
def test_rounding_does_not_change_when_wait_gives_up(step):
    pace = make_pace(max_outage=1000 * step)
    for failures in range(1000):
        assert fail(pace, failures * step) is POLL_AGAIN
    assert fail(pace, 1000 * step - 1e-9) is GIVE_UP


@pytest.mark.parametrize(
    ("kind", "limit", "verdict"),
    [
        (OUTAGE, "max_outage", GIVE_UP),
        (REFUSED, "not_found_grace", GIVE_UP),
        (OUTAGE, "not_found_grace", POLL_AGAIN),
        (REFUSED, "max_outage", POLL_AGAIN),
    ],
)
@pytest.mark.parametrize("after_report", [False, True])
def test_limit_of_zero_gives_up_at_once(kind, limit, verdict, after_report):
    pace = make_pace(**{limit: 0})
    if after_report:
        report(pace, 5)
    assert fail(pace, 10, kind) is verdict


def test_infinite_max_outage_never_gives_up():
    pace = make_pace(max_outage=math.inf)
    for seconds in (0, 1, 1e3, 1e6, 1e9):
        assert fail(pace, seconds) is POLL_AGAIN
        assert START + seconds < pace.next_poll_at < START + seconds + 16
        assert pace.send_by == math.inf


@pytest.mark.parametrize("is_changed", [False, True])
@pytest.mark.parametrize(
    ("kind", "limit"),
    [(OUTAGE, "max_outage"), (REFUSED, "not_found_grace")],
    ids=["OUTAGE", "REFUSED"],
)
def test_good_report_resets_clock(kind, limit, is_changed):
    pace = make_pace(**{limit: 10})
    assert fail(pace, 0, kind) is POLL_AGAIN
    report(pace, 9, is_changed=is_changed)
    assert fail(pace, 12, kind) is POLL_AGAIN
    assert fail(pace, 21.99, kind) is POLL_AGAIN
    assert fail(pace, 22, kind) is GIVE_UP


def test_rate_limiting_is_not_an_outage():
    pace = make_pace(max_outage=10)
    assert fail(pace, 0) is POLL_AGAIN
    for seconds in (9, 18, 100):
        assert fail(pace, seconds, RATE_LIMITED) is POLL_AGAIN
    assert fail(pace, 105) is POLL_AGAIN
    assert fail(pace, 114.99) is POLL_AGAIN
    assert fail(pace, 115) is GIVE_UP
    assert fail(make_pace(max_outage=0), 0, RATE_LIMITED) is POLL_AGAIN


def test_queue_time_of_other_failures_does_not_count():
    pace = make_pace(max_outage=10, not_found_grace=60)
    assert fail(pace, 0) is POLL_AGAIN
    assert fail(pace, 9.5, REFUSED, queued=9) is POLL_AGAIN
    assert fail(pace, 18.99) is POLL_AGAIN
    assert fail(pace, 19) is GIVE_UP


def test_rate_limiting_does_not_reset_refusal():
    pace = make_pace(not_found_grace=10)
    assert fail(pace, 0, REFUSED) is POLL_AGAIN
    assert fail(pace, 5, RATE_LIMITED) is POLL_AGAIN
    assert fail(pace, 10, REFUSED) is GIVE_UP


def test_outage_does_not_start_refusal_clock():
    pace = make_pace(not_found_grace=10)
    assert fail(pace, 0) is POLL_AGAIN
    assert fail(pace, 50, REFUSED) is POLL_AGAIN
    assert fail(pace, 59.99, REFUSED) is POLL_AGAIN
    assert fail(pace, 60, REFUSED) is GIVE_UP


def test_refusal_does_not_reset_outage_clock():
    pace = make_pace(max_outage=10)
    assert fail(pace, 0) is POLL_AGAIN
    assert fail(pace, 6, REFUSED) is POLL_AGAIN
    assert fail(pace, 10) is GIVE_UP


@pytest.mark.parametrize("timeout", [None, 0, 60])
@pytest.mark.parametrize("after", [None, OUTAGE, REFUSED])
def test_final_failure_gives_up_at_once(timeout, after):
    pace = make_pace(timeout=timeout, max_outage=math.inf)
    if after:
        fail(pace, 0, after)
    assert fail(pace, 1, FINAL, retry_after=1) is GIVE_UP


def test_time_of_latest_poll():
    pace = make_pace()
    assert pace.poll_ended_at == START
    for seconds, kind in [(1, REFUSED), (2, OUTAGE), (3, OUTAGE), (4, RATE_LIMITED)]:
        fail(pace, seconds, kind)
        assert pace.poll_ended_at == START + seconds
    report(pace, 5)
    assert pace.poll_ended_at == START + 5


# ---- the timeout


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [(OUTAGE, TIME_OUT), (RATE_LIMITED, TIME_OUT), (REFUSED, GIVE_UP), (FINAL, GIVE_UP)],
    ids=["OUTAGE", "RATE_LIMITED", "REFUSED", "FINAL"],
)
def test_zero_timeout_ends_with_first_failure(kind, verdict):
    assert fail(make_pace(timeout=0), 1, kind) is verdict


def test_zero_timeout_gives_up_if_no_outage_is_allowed():
    assert fail(make_pace(timeout=0, max_outage=0), 1) is GIVE_UP


@pytest.mark.parametrize(
    ("timeout", "lead"),
    [(None, 0), (0, 0), (0.001, 0.0005), (0.1, 0.05), (0.2, 0.1), (0.3, 0.1), (3600, 0.1)],
)
def test_shortest_lead(timeout, lead):
    pace_settings = PaceSettings(
        policy=PollPolicy(), max_retry_after=60, uniform=middle, timeout=timeout
    )
    assert pace_settings.shortest_lead == pytest.approx(lead)


def test_settings_are_immutable():
    pace_settings = PaceSettings(policy=PollPolicy(), max_retry_after=60, uniform=middle)
    assert pace_settings.timeout is None
    assert pace_settings.deadline is None
    assert pace_settings.batch_size == 0
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        pace_settings.timeout = 1


@pytest.mark.parametrize(
    ("timeout", "poll_seconds", "lead"),
    [
        # One and a half times as long as a poll takes, and 0.1 s.
        (60, 0, 0.1),
        (60, 0.2, 0.4),
        (60, 1, 1.6),
        (60, 10, 15.1),
        # No sooner than after half of the time that is left.
        (60, 30, 15),
        (0.2, 0.01, 0.1),
        (1, 0.5, 0.25),
        # Never later than 0.1 s, or half of the timeout, before the deadline.
        (1, 0.85, 0.1),
        (0.1, 0, 0.05),
        (0.1, 0.04, 0.05),
        (0.001, 0, 0.0005),
    ],
)
def test_last_poll_before_deadline(timeout, poll_seconds, lead):
    pace = make_pace(timeout=timeout, **SLOW)
    report(pace, poll_seconds, poll_seconds=poll_seconds)
    assert pace.next_poll_at == about(timeout - lead)
    assert pace.send_by == about(timeout - lead)


def test_lead_follows_latest_good_poll():
    pace = make_pace(timeout=60, **SLOW)
    report(pace, 10, poll_seconds=10)
    assert pace.send_by == about(44.9)
    report(pace, 11, poll_seconds=1)
    assert pace.send_by == about(58.4)
    fail(pace, 12)
    assert pace.send_by == about(58.4)


def test_interval_that_ends_before_last_poll_is_not_shortened():
    pace = make_pace(timeout=60, initial=10)
    report(pace, 1, poll_seconds=1, is_changed=True)
    assert pace.next_poll_at == about(11)
    assert pace.send_by == about(58.4)


@pytest.mark.parametrize(
    ("timeout", "poll_seconds"), [(60, 0), (60, 0.01), (60, 1), (60, 10), (60, 30), (0.1, 0.01)]
)
@pytest.mark.parametrize("kind", [None, OUTAGE, RATE_LIMITED], ids=str)
def test_only_one_last_poll_is_made(timeout, poll_seconds, kind):
    pace = make_pace(timeout=timeout, **SLOW)
    report(pace, poll_seconds, poll_seconds=poll_seconds)
    now = pace.next_poll_at + min(poll_seconds, 0.04)
    if kind is None:
        pace.note_report(now, poll_seconds=poll_seconds, is_changed=True)
    else:
        assert pace.note_failure(now, kind) is POLL_AGAIN  # the timeout comes next
    assert pace.next_poll_at == math.inf


@pytest.mark.parametrize("grace", [5, 3600])
def test_refusal_by_last_poll_gives_up(grace):
    pace = make_pace(timeout=60, not_found_grace=grace, **SLOW)
    report(pace, 1)
    assert pace.note_failure(pace.next_poll_at, REFUSED) is GIVE_UP


def test_refusal_before_last_poll_is_polled_again():
    pace = make_pace(timeout=60, not_found_grace=3600)
    assert fail(pace, 59.7, REFUSED) is POLL_AGAIN
    assert pace.next_poll_at == about(59.9)


@pytest.mark.parametrize("seconds", [59.9, 59.95, 60, 61])
def test_poll_that_ends_after_last_poll_was_due_is_the_last(seconds):
    pace = make_pace(timeout=60)
    report(pace, seconds)
    assert pace.next_poll_at == math.inf


def test_last_poll_that_was_faster_than_expected_is_followed_by_another():
    pace = make_pace(timeout=60, **SLOW)
    report(pace, 10, poll_seconds=10)
    report(pace, 44.9 + 0.1, poll_seconds=0.1)
    assert pace.next_poll_at == about(59.75)
    report(pace, 59.75 + 0.1, poll_seconds=0.1)
    assert pace.next_poll_at == math.inf


def test_poll_at_end_of_outage_is_not_last_before_deadline():
    pace = make_pace(timeout=60, max_outage=10)
    fail(pace, 0, retry_after=60)
    assert pace.send_by == about(10)
    report(pace, 10, is_changed=True)
    assert pace.next_poll_at == about(11)
    assert pace.send_by == about(59.9)


@pytest.mark.parametrize(
    ("batch_size", "uniform", "lead"),
    [
        (0, highest, 0.1),
        (1, highest, 0.102),
        (1000, lowest, 0.1),
        (1000, middle, 1.1),
        (1000, highest, 2.1),
        (10_000, highest, 20.1),
        (100_000, highest, 30),  # half of the time that is left
    ],
)
def test_last_polls_of_batch_are_spread(batch_size, uniform, lead):
    pace = make_pace(timeout=60, batch_size=batch_size, uniform=uniform, jitter=0, **SLOW)
    report(pace, 0)
    assert pace.next_poll_at == about(60 - lead)


@pytest.mark.parametrize("uniform", [lowest, middle, highest])
def test_each_wait_of_batch_makes_one_last_poll(uniform):
    pace = make_pace(timeout=60, batch_size=1000, uniform=uniform, **SLOW)
    report(pace, 0)
    pace.note_report(pace.next_poll_at, poll_seconds=0, is_changed=True)
    assert pace.next_poll_at == math.inf


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [(None, math.inf), (0, math.inf), (60, 59.9), (0.1, 0.05)],
)
def test_first_poll_is_sent_by(timeout, seconds):
    assert make_pace(timeout=timeout).send_by == about(seconds)


@pytest.mark.parametrize(
    ("timeout", "kind", "seconds"),
    [
        (None, None, math.inf),
        (None, OUTAGE, 301),
        (None, RATE_LIMITED, math.inf),
        (None, REFUSED, 6),
        (60, None, 59.9),
        (60, OUTAGE, 59.9),
        (60, REFUSED, 6),
        (3, REFUSED, 2.9),
    ],
)
def test_next_poll_is_sent_by(timeout, kind, seconds):
    pace = make_pace(timeout=timeout, initial=0.5)
    if kind is None:
        report(pace, 1)
    else:
        assert fail(pace, 1, kind) is POLL_AGAIN
    assert pace.send_by == about(seconds)


# ---- polls that are held back in an outage


def hold_back(pace, seconds):
    pace.hold_back(START + seconds)


def resume(pace, seconds, *, available_since, outage_seconds=math.inf):
    """Resume so many seconds after the start; the outage was longer than any interval."""
    return pace.resume(
        START + seconds, available_since=START + available_since, outage_seconds=outage_seconds
    )


@pytest.mark.parametrize(
    ("interval", "uniform", "delay"),
    [
        (1, lowest, 0.5),
        (1, middle, 1),
        (1, highest, 1.5),
        (0.01, highest, 0.015),
        (2, lowest, 1),
        (2, highest, 3),
        # However long the interval, the poll is due soon after the outage, or it would not probe.
        (15, lowest, 1),
        (15, highest, 3),
        (500, highest, 3),
    ],
)
def test_held_back_poll_is_due_again_soon(interval, uniform, delay):
    pace = make_pace(initial=interval, maximum=500, uniform=uniform, jitter=0)
    report(pace, 0, is_changed=True)
    hold_back(pace, interval)
    assert pace.next_poll_at == about(interval + delay)


def test_first_poll_is_held_back_for_first_interval():
    pace = make_pace(initial=0.5)
    hold_back(pace, 0)
    assert pace.next_poll_at == about(0.5)


def test_holding_back_is_neither_failure_nor_report():
    pace = make_pace()
    report(pace, 0, is_changed=True)
    report(pace, 0)
    for seconds in (2, 4, 6):
        hold_back(pace, seconds)
    assert not pace.has_failed
    assert pace.poll_ended_at == START
    report(pace, 8)
    assert pace.next_poll_at == about(8 + 2.25)


@pytest.mark.parametrize("kind", [None, OUTAGE, RATE_LIMITED, REFUSED], ids=str)
def test_poll_is_held_back_until_it_has_been_made(kind):
    pace = make_pace()
    assert not pace.is_held_back
    hold_back(pace, 0)
    hold_back(pace, 1)
    assert pace.is_held_back
    if kind is None:
        report(pace, 2)
    else:
        fail(pace, 2, kind)
    assert not pace.is_held_back


def test_poll_that_gives_up_is_no_longer_held_back():
    pace = make_pace()
    hold_back(pace, 0)
    assert fail(pace, 2, FINAL) is GIVE_UP
    assert not pace.is_held_back


@pytest.mark.parametrize("retry_after", [0, 1, 10, 60])
@pytest.mark.parametrize("held_after", [0, 0.5])
def test_held_back_poll_honours_retry_after(retry_after, held_after):
    pace = make_pace()
    fail(pace, 0, retry_after=retry_after)
    hold_back(pace, held_after)
    assert pace.next_poll_at == about(max(retry_after, held_after + 1))


def test_retry_after_is_reset_after_next_poll():
    pace = make_pace()
    fail(pace, 0, retry_after=30)
    fail(pace, 30)
    hold_back(pace, 31)
    assert pace.next_poll_at == about(32)
    fail(pace, 32, retry_after=30)
    report(pace, 62, is_changed=True)
    hold_back(pace, 63)
    assert pace.next_poll_at == about(64)


@pytest.mark.parametrize("held_at", [[7], [7, 9, 11], [7, 16.9]], ids=str)
def test_outage_counts_from_first_poll_that_is_held_back(held_at):
    pace = make_pace(max_outage=10, **SLOW)
    report(pace, 5)
    for seconds in held_at:
        hold_back(pace, seconds)
        assert pace.send_by == about(17)
        assert pace.next_poll_at <= pace.send_by
    assert fail(pace, 16.99) is POLL_AGAIN
    assert fail(pace, 17) is GIVE_UP


def test_outage_counts_from_earlier_failure_of_job_itself():
    pace = make_pace(max_outage=10)
    fail(pace, 0)
    hold_back(pace, 7)
    assert pace.send_by == about(10)
    assert fail(pace, 10) is GIVE_UP


def test_overdue_poll_is_due_at_once():
    pace = make_pace(max_outage=5)
    fail(pace, 0)
    hold_back(pace, 6)
    assert pace.next_poll_at == about(6)
    assert pace.send_by == about(5)


def test_max_outage_0_holds_nothing_back():
    pace = make_pace(max_outage=0)
    hold_back(pace, 6)
    assert pace.next_poll_at == pace.send_by == about(6)


def test_poll_after_refusal_in_outage_is_due_at_once_after_grace():
    pace = make_pace(max_outage=10, not_found_grace=60)
    hold_back(pace, 0)
    assert fail(pace, 9, REFUSED) is POLL_AGAIN
    hold_back(pace, 13)
    assert pace.next_poll_at == pace.send_by == about(13)


def test_good_report_ends_outage_that_holding_back_began():
    pace = make_pace(max_outage=10)
    hold_back(pace, 0)
    report(pace, 9)
    assert fail(pace, 12) is POLL_AGAIN
    assert fail(pace, 21.99) is POLL_AGAIN
    assert fail(pace, 22) is GIVE_UP


def test_infinite_max_outage_holds_back_forever():
    pace = make_pace(max_outage=math.inf)
    for seconds in (0, 1e3, 1e9):
        hold_back(pace, seconds)
        assert pace.next_poll_at == about(seconds + 1)
        assert pace.send_by == math.inf


@pytest.mark.parametrize(
    ("held_at", "due_at"),
    [(10, 12), (57, 59), (58, 59.8), (59.5, 59.8), (59.8, 59.8), (59.9, 59.9)],
)
def test_last_poll_before_deadline_is_not_held_back(held_at, due_at):
    pace = make_pace(timeout=60, **SLOW)
    report(pace, 1, poll_seconds=1 / 15)
    assert pace.send_by == about(59.8)
    hold_back(pace, held_at)
    assert pace.next_poll_at == about(due_at)


def test_last_poll_dequeued_as_gate_closes_is_due_at_once():
    """It is held back at the time when it has to be sent."""
    pace = make_pace(timeout=60, max_outage=300, **SLOW)
    report(pace, 1)
    now = pace.send_by + 0.01
    pace.hold_back(now)
    assert pace.next_poll_at == now >= pace.send_by
    assert pace.note_failure(now, OUTAGE) is POLL_AGAIN
    assert pace.next_poll_at == math.inf


def test_last_polls_of_held_back_batch_stay_spread():
    """Held back for the whole timeout, they are due in its last 20 s."""
    draw = random.Random(1)
    waits = 500
    last_polls = []
    for _ in range(waits):
        pace = make_pace(timeout=60, batch_size=10_000, uniform=draw.uniform)
        while pace.next_poll_at < pace.send_by:
            pace.hold_back(pace.next_poll_at)
        last_polls.append(pace.next_poll_at)
    for seconds in (40, 45, 50, 55):
        begin = START + seconds
        assert sum(begin - 0.1 <= now < begin + 4.9 for now in last_polls) > waits / 6


def test_held_back_time_does_not_count_towards_refusal():
    """A proxy may respond with 404 before and after the outage, during one deployment."""
    pace = make_pace(not_found_grace=5, max_outage=300)
    assert fail(pace, 0, REFUSED) is POLL_AGAIN
    hold_back(pace, 1)  # until 2
    hold_back(pace, 2)
    hold_back(pace, 3)
    assert fail(pace, 4, REFUSED) is POLL_AGAIN
    assert fail(pace, 7.99, REFUSED) is POLL_AGAIN
    assert fail(pace, 8, REFUSED) is GIVE_UP


def test_time_until_polls_resume_does_not_count_towards_refusal():
    pace = make_pace(not_found_grace=5, max_outage=300, initial=4)
    assert fail(pace, 0, REFUSED) is POLL_AGAIN
    hold_back(pace, 1)  # until 3
    assert resume(pace, 3, available_since=3)  # until 5
    assert pace.next_poll_at == about(5)
    assert fail(pace, 8.99, REFUSED) is POLL_AGAIN
    assert fail(pace, 9, REFUSED) is GIVE_UP


@pytest.mark.parametrize(
    ("interval", "uniform", "available_since", "now", "due_at"),
    [
        # From when the end of the outage is noticed, at most three seconds later.
        (10, highest, 20, 20, 30),
        (10, middle, 20, 20, 25),
        (10, middle, 20, 22, 27),
        (10, middle, 20, 24.9, 28),
        (500, middle, 20, 21, 271),
        (0.5, highest, 20, 21, 21.25),
        # A poll that is later than that is made now.
        (10, lowest, 20, 20, None),
        (10, middle, 20, 28, None),
        (0.5, highest, 20, 21.3, None),
    ],
)
def test_held_back_polls_resume_within_interval(interval, uniform, available_since, now, due_at):
    pace = make_pace(initial=interval, maximum=500, uniform=uniform, jitter=0)
    report(pace, 0, is_changed=True)
    hold_back(pace, 1)
    due_before = pace.next_poll_at
    assert resume(pace, now, available_since=available_since) is (due_at is not None)
    assert pace.next_poll_at == (due_before if due_at is None else about(due_at))
    assert not pace.is_held_back


@pytest.mark.parametrize(
    ("outage_seconds", "now", "due_at"),
    [
        # An interval after the poll was held back, one second after the start.
        (0, 3, 11),
        (4, 3, 11),
        (9.99, 10.9, 11),
        # A poll that is later than that is made now.
        (9.99, 11, None),
        (9.99, 12, None),
        # Longer: spread at random, from when the end is known.
        (10, 3, 8),
        (60, 3, 8),
    ],
)
def test_held_back_poll_keeps_order_after_short_outage(outage_seconds, now, due_at):
    pace = make_pace(initial=10, jitter=0)
    report(pace, 0, is_changed=True)
    hold_back(pace, 1)
    hold_back(pace, 2)
    is_postponed = resume(pace, now, available_since=now, outage_seconds=outage_seconds)
    assert is_postponed is (due_at is not None)
    if is_postponed:
        assert pace.next_poll_at == about(due_at)
    assert not pace.is_held_back


def test_poll_after_short_outage_honours_retry_after_and_max_outage():
    pace = make_pace(initial=10)
    fail(pace, 0, retry_after=20)
    hold_back(pace, 0)
    assert resume(pace, 3, available_since=3, outage_seconds=3)
    assert pace.next_poll_at == about(20)

    pace = make_pace(initial=10, max_outage=7)
    hold_back(pace, 0)
    assert resume(pace, 3, available_since=3, outage_seconds=3)
    assert pace.next_poll_at == about(7)


def test_interval_after_outage_is_that_of_latest_report():
    pace = make_pace(uniform=highest, jitter=0)
    report(pace, 0, is_changed=True)
    for _ in range(3):
        report(pace, 0)
    for seconds in range(1, 9):
        fail(pace, seconds)
    hold_back(pace, 9)
    assert resume(pace, 10, available_since=10)
    assert pace.next_poll_at == about(10 + 3.375)


def test_polls_resume_no_later_than_last_poll():
    pace = make_pace(max_outage=10, uniform=highest, **SLOW)
    hold_back(pace, 0)
    assert resume(pace, 3, available_since=3)
    assert pace.next_poll_at == about(10)
    assert pace.send_by == about(10)

    pace = make_pace(timeout=60, uniform=highest, **SLOW)
    hold_back(pace, 0)
    assert resume(pace, 3, available_since=3)
    assert pace.next_poll_at == about(59.9)


def test_overdue_poll_is_not_postponed():
    pace = make_pace(max_outage=10, uniform=highest, **SLOW)
    hold_back(pace, 0)
    assert not resume(pace, 10, available_since=3)


@pytest.mark.parametrize(("retry_after", "due_at"), [(10, 15), (15.1, 18), (18.1, None)])
def test_resumed_poll_honours_retry_after(retry_after, due_at):
    pace = make_pace(initial=10)
    fail(pace, 0, retry_after=retry_after)
    hold_back(pace, 0)
    now = pace.next_poll_at - START
    assert now == pytest.approx(retry_after)
    assert resume(pace, now, available_since=10) is (due_at is not None)
    if due_at is not None:
        assert pace.next_poll_at == about(due_at)


@pytest.mark.parametrize(
    ("interval", "outage"), [(1, 20), (4, 20), (15, 20), (4, 3), (15, 3), (15, 14)]
)
def test_reopening_causes_no_burst(interval, outage):
    """Polls that were held back come back within their interval, evenly."""
    waits = 1000
    draw = random.Random(1)
    pace_settings = PaceSettings(
        policy=PollPolicy(initial=interval, maximum=interval),
        max_retry_after=60,
        uniform=draw.uniform,
    )
    order = itertools.count()
    due = []
    for _ in range(waits):
        pace = Pace(pace_settings, START - 60)
        pace.note_report(START - draw.uniform(0, interval), poll_seconds=0, is_changed=True)
        due.append((pace.next_poll_at, next(order), pace))
    heapq.heapify(due)
    available_since = START + outage
    polled_at = []
    polled = set()
    while due[0][0] < available_since + interval + 4:
        now, _, pace = heapq.heappop(due)
        if START <= now < available_since:
            pace.hold_back(now)
        elif not pace.is_held_back or not pace.resume(
            now, available_since=available_since, outage_seconds=outage
        ):
            pace.note_report(now, poll_seconds=0, is_changed=False)
            if now >= available_since:
                polled_at.append(now)
                polled.add(pace)
        heapq.heappush(due, (pace.next_poll_at, next(order), pace))
    assert len(polled) == waits
    for second in itertools.count(int(available_since)):
        if second > available_since + interval + 2:
            break
        assert sum(second <= now < second + 1 for now in polled_at) <= 1.5 * waits / interval


# ---- hints of list-jobs


def cover(pace, seconds):
    pace.cover(START + seconds)


def uncover(pace, seconds):
    return pace.uncover(START + seconds)


def poll_now(pace, seconds):
    return pace.poll_now(START + seconds)


@pytest.mark.parametrize(("uniform", "delay"), [(lowest, 240), (middle, 270), (highest, 300)])
def test_covered_job_is_polled_within_five_minutes(uniform, delay):
    pace = make_pace(uniform=uniform)
    report(pace, 0, is_changed=True)
    cover(pace, 0.5)
    assert pace.is_covered
    assert pace.next_poll_at == about(0.5 + delay)


def test_repeated_sweep_does_not_postpone_poll_of_covered_job():
    pace = make_pace()
    report(pace, 0, is_changed=True)
    for seconds in (0.5, 100, 269):
        cover(pace, seconds)
        assert pace.next_poll_at == about(270.5)


def test_covered_job_is_polled_before_deadline():
    pace = make_pace(timeout=60)
    report(pace, 0, is_changed=True)
    cover(pace, 0.5)
    assert pace.is_covered
    assert pace.next_poll_at == pace.send_by == about(59.9)


@pytest.mark.parametrize("seconds", [59.9, 59.95, 60, 61])
def test_job_is_not_covered_at_its_last_poll(seconds):
    pace = make_pace(timeout=60)
    report(pace, 59.5)
    cover(pace, seconds)
    assert not pace.is_covered
    assert pace.next_poll_at == about(59.9)


@each_retryable_kind
def test_failing_job_is_not_covered(kind):
    pace = make_pace()
    report(pace, 0, is_changed=True)
    cover(pace, 0)
    fail(pace, 1, kind)
    due_at = pace.next_poll_at
    cover(pace, 1.1)
    assert not pace.is_covered
    assert pace.next_poll_at == due_at
    assert not poll_now(pace, 1.1)
    assert pace.next_poll_at == due_at
    report(pace, 2)
    cover(pace, 2)
    assert pace.is_covered


def test_held_back_job_is_not_covered():
    pace = make_pace()
    report(pace, 0, is_changed=True)
    hold_back(pace, 1)
    due_at = pace.next_poll_at
    cover(pace, 1.1)
    assert not pace.is_covered
    assert not poll_now(pace, 1.1)
    assert pace.next_poll_at == due_at


def test_covered_job_is_uncovered_when_held_back():
    pace = make_pace()
    report(pace, 0, is_changed=True)
    cover(pace, 0)
    hold_back(pace, 270)
    assert not pace.is_covered
    assert not uncover(pace, 270.1)
    assert pace.next_poll_at == about(271.5)


@pytest.mark.parametrize(
    ("sweeps", "uniform", "delay"),
    [
        (1, lowest, 0),
        # Within the interval that its own polls would have reached.
        (1, highest, 1.5),
        (2, highest, 2.25),
        (100, middle, 7.5),
        (100, highest, 15),
    ],
)
def test_uncovered_job_is_polled_within_its_interval(sweeps, uniform, delay):
    pace = make_pace(uniform=uniform, jitter=0)
    report(pace, 0, is_changed=True)
    for _ in range(sweeps):
        cover(pace, 0.5)
    assert uncover(pace, 10)
    assert not pace.is_covered
    assert pace.next_poll_at == about(10 + delay)


def test_uncovering_never_postpones_poll():
    pace = make_pace(timeout=60, uniform=highest)
    report(pace, 0, is_changed=True)
    for _ in range(10):
        cover(pace, 0.5)
    assert uncover(pace, 59)
    assert pace.next_poll_at == about(59.9)


def test_uncovering_uncovered_job_has_no_effect():
    pace = make_pace()
    report(pace, 0, is_changed=True)
    assert not uncover(pace, 0.5)
    assert pace.next_poll_at == about(1)
    cover(pace, 0.5)
    report(pace, 0.7, is_changed=True)  # a report ends it, too
    assert not uncover(pace, 0.8)
    assert pace.next_poll_at == about(1.7)


@pytest.mark.parametrize("is_covered", [False, True])
def test_changed_job_is_polled_at_once(is_covered):
    pace = make_pace()
    report(pace, 0, is_changed=True)
    if is_covered:
        cover(pace, 0)
    assert poll_now(pace, 0.5)
    assert not pace.is_covered
    assert pace.next_poll_at == about(0.5)


@pytest.mark.parametrize("seconds", [1, 1.5])
def test_due_poll_is_not_brought_forward(seconds):
    pace = make_pace()
    report(pace, 0, is_changed=True)
    assert not poll_now(pace, seconds)
    assert pace.next_poll_at == about(1)


def test_no_poll_follows_last_one_after_any_hint():
    pace = make_pace(timeout=60)
    report(pace, 59.95)
    assert not poll_now(pace, 59.96)
    cover(pace, 59.96)
    assert not uncover(pace, 59.97)
    assert pace.next_poll_at == math.inf


# ---- properties of whole waits

reproducible = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=36,
    suppress_health_check=[HealthCheck.too_slow],
)

MAX_POLLS = 60  # of one simulated wait


@attrs.frozen
class Event:
    """The outcome of one poll; a kind of None is a good report."""

    kind: FailureKind | None
    is_changed: bool
    retry_after: float
    queued: float
    seconds: float
    held: int


@attrs.frozen
class Hold:
    """One postponement of a poll: in an outage, or after one that ended at `available_since`."""

    now: float
    next_poll_at: float
    send_by: float
    available_since: float | None = None


@attrs.frozen
class Step:
    """One poll of a simulated wait, and the state of the pace after it."""

    event: Event
    holds: list[Hold]
    due_at: float
    sent_at: float
    sent_by: float
    now: float
    verdict: Verdict | None
    next_poll_at: float
    send_by: float


@attrs.frozen
class Simulation:
    settings: PaceSettings
    steps: list[Step]

    @property
    def policy(self):
        return self.settings.policy


def hold_back_polls(pace, times):
    """Hold the next poll back a number of times, and then let it resume."""
    holds = []
    for _ in range(times):
        now = pace.next_poll_at
        if now >= pace.send_by:
            break  # it passes the gate
        pace.hold_back(now)
        holds.append(Hold(now, pace.next_poll_at, pace.send_by))
    if holds:
        now = pace.next_poll_at
        available_since = (holds[-1].now + now) / 2
        outage_seconds = available_since - holds[0].now
        if pace.resume(now, available_since=available_since, outage_seconds=outage_seconds):
            holds.append(Hold(now, pace.next_poll_at, pace.send_by, available_since))
    return holds


def simulate(pace_settings, events):
    """Poll until the wait is over, at the latest after `MAX_POLLS`."""
    pace = Pace(pace_settings, START)
    deadline = math.inf if pace_settings.deadline is None else pace_settings.deadline
    steps = []
    is_first_report = True
    for event in itertools.islice(itertools.cycle(events), MAX_POLLS):
        holds = hold_back_polls(pace, event.held if pace_settings.timeout != 0 else 0)
        due_at, sent_by = pace.next_poll_at, pace.send_by
        sent_at = due_at + event.queued
        now = sent_at + event.seconds
        if now >= deadline:
            break  # the timeout expires first, or there was a last poll
        verdict = None
        if event.kind is None:
            is_changed = event.is_changed or is_first_report
            is_first_report = False
            pace.note_report(now, poll_seconds=now - due_at, is_changed=is_changed)
        else:
            verdict = pace.note_failure(
                now, event.kind, queued=event.queued, retry_after=event.retry_after
            )
        steps.append(
            Step(
                event,
                holds,
                due_at,
                sent_at,
                sent_by,
                now,
                verdict,
                pace.next_poll_at,
                pace.send_by,
            )
        )
        if verdict in {GIVE_UP, TIME_OUT} or pace_settings.timeout == 0:
            break
        if pace.next_poll_at == math.inf:
            break
    return Simulation(pace_settings, steps)


def draws(shares):
    """Return a source of randomness that cycles through these shares of each range."""
    shares = itertools.cycle(shares)
    return lambda low, high: min(low + (high - low) * next(shares), high)


def make_policy(ratio, **options):
    return PollPolicy(maximum=options["initial"] * ratio, **options)


def make_settings(timeout, shares, **options):
    return PaceSettings(
        timeout=timeout,
        deadline=START + timeout if timeout else None,
        uniform=draws(shares),
        **options,
    )


def scaled(events, scale):
    return [
        attrs.evolve(
            event,
            retry_after=event.retry_after * scale,
            queued=event.queued * scale,
            seconds=event.seconds * scale,
        )
        for event in events
    ]


# Few draws for each wait, to keep these tests fast: one float scales all times of its events.
scales = st.floats(0.1, 10)
positive_timeouts = st.sampled_from([0.01, 0.15, 1, 20]) | st.floats(0.01, 600)


def policies(outages=(0, 0.05, 3, 10, 300, math.inf)):
    return st.builds(
        make_policy,
        ratio=st.sampled_from([1, 1.7, 30]),
        initial=st.floats(0.001, 30),
        factor=st.sampled_from([1, 1.5, 4]),
        jitter=st.sampled_from([0, 0.1, 1]),
        max_outage=st.sampled_from(outages),
        not_found_grace=st.sampled_from([0, 0.05, 5, 60]),
    )


def all_settings(policies, timeouts):
    return st.builds(
        make_settings,
        timeout=timeouts,
        shares=st.lists(st.sampled_from([0, 1]) | st.floats(0, 1), min_size=1, max_size=2),
        policy=policies,
        max_retry_after=st.sampled_from([0, 5, 60, math.inf]),
        batch_size=st.sampled_from([0, 1, 300, 10_000]),
    )


def event_lists(kinds, queued=(0.0, 0.01, 0.3, 7.0), seconds=(0.003, 0.0, 0.2, 4.0)):
    retry_after = (0.0, 0.7, 20.0, 1000.0)
    fields = itertools.product(kinds, [True, False], retry_after, queued, seconds, (0, 1, 4))
    events = [Event(*values) for values in fields]
    # By index: the message of a failed test would list all events of `sampled_from`.
    several = st.lists(
        st.integers(0, len(events) - 1).map(lambda index: events[index]), min_size=1, max_size=8
    )
    return st.builds(scaled, several, scales)


lasting_kinds = [None, OUTAGE, RATE_LIMITED]
every_kind = [None, *FailureKind]

any_wait = st.builds(
    simulate,
    all_settings(policies(), st.sampled_from([None, 0]) | positive_timeouts),
    event_lists(lasting_kinds) | event_lists(every_kind),
)
# Neither the timeout nor giving up cuts many of these delays.
long_wait = st.builds(
    simulate,
    all_settings(policies(outages=(300, math.inf)), st.sampled_from([None, 3600])),
    event_lists(lasting_kinds),
)
wait_with_timeout = st.builds(
    simulate, all_settings(policies(), positive_timeouts), event_lists(lasting_kinds)
)
wait_with_equal_polls = st.builds(
    simulate,
    all_settings(policies(outages=(math.inf,)), positive_timeouts),
    st.one_of(
        event_lists(lasting_kinds, queued=(queued,), seconds=(seconds,))
        for queued, seconds in [(0, 0), (0, 0.003), (0, 0.3), (0.5, 0.1), (7, 0.02)]
    ),
)
wait_with_failures = st.builds(
    simulate,
    all_settings(policies(), st.sampled_from([None, 0, 20, 600])),
    event_lists([OUTAGE, OUTAGE, OUTAGE, None, RATE_LIMITED, FINAL])
    | event_lists([OUTAGE])
    | event_lists([REFUSED, REFUSED, REFUSED, None])
    | event_lists(every_kind),
)


@reproducible
@given(any_wait)
def test_no_poll_is_scheduled_too_late_for_deadline(wait):
    latest = math.inf
    if wait.settings.timeout:
        latest = wait.settings.deadline - min(0.1, wait.settings.timeout / 2) + TOLERANCE
    for step in wait.steps:
        assert step.send_by <= latest
        if step.verdict is not GIVE_UP:
            assert step.next_poll_at <= step.send_by or step.next_poll_at == math.inf


@reproducible
@given(any_wait | long_wait)
def test_next_poll_is_neither_in_past_nor_far_away(wait):
    policy = wait.policy
    longest = max(policy.maximum * (1 + policy.jitter), wait.settings.max_retry_after)
    for step in wait.steps:
        if step.verdict is not GIVE_UP and step.next_poll_at < math.inf:
            assert 0 <= step.next_poll_at - step.now <= longest + TOLERANCE


@reproducible
@given(wait_with_timeout)
def test_polling_stops_exactly_with_last_poll_before_deadline(wait):
    lead = 0.1
    rush = 0.002 * wait.settings.batch_size
    for step in wait.steps:
        if step.event.kind is None:
            lead = 1.5 * (step.now - step.due_at) + 0.1
        left = wait.settings.deadline - step.now
        is_last = step.now >= step.sent_by and left < lead + rush + 0.1
        if step.verdict is not GIVE_UP:
            assert (step.next_poll_at == math.inf) == is_last


@reproducible
@given(wait_with_equal_polls)
def test_waits_whose_polls_take_equally_long_make_at_most_one_last_poll(wait):
    last = [step for step in wait.steps if step.sent_at >= step.sent_by]
    assert len(last) <= 1
    assert all(step.next_poll_at == math.inf for step in last)


@reproducible
@given(any_wait | long_wait)
def test_interval_after_good_report_follows_policy(wait):
    policy = wait.policy
    interval = None
    for step in wait.steps:
        if step.event.kind is not None:
            continue
        if step.event.is_changed or interval is None:
            interval = policy.initial
        else:
            interval = min(interval * policy.factor, policy.maximum)
        delay = step.next_poll_at - step.now
        if step.next_poll_at == math.inf:
            continue
        assert delay <= interval * (1 + policy.jitter) + TOLERANCE
        if step.next_poll_at < step.send_by:
            assert delay >= interval * (1 - policy.jitter) - TOLERANCE


def note_holds(holds, began_at, queued_since):
    for hold in holds:
        if OUTAGE not in began_at:  # it is one of the job, too
            began_at[OUTAGE] = hold.now
            queued_since[OUTAGE] = 0.0
        if REFUSED in began_at:
            queued_since[REFUSED] += hold.next_poll_at - hold.now


@reproducible
@given(wait_with_failures)
def test_wait_gives_up_exactly_when_failures_have_lasted_long_enough(wait):
    policy = wait.policy
    began_at = {}
    queued_since = {}
    for step in wait.steps:
        note_holds(step.holds, began_at, queued_since)
        kind = step.event.kind
        if kind is None:
            began_at.clear()
            continue
        if kind is FINAL:
            assert step.verdict is GIVE_UP
            continue
        for clock in began_at:
            queued_since[clock] += step.event.queued
        if kind is RATE_LIMITED:
            began_at.pop(OUTAGE, None)
            assert step.verdict is (TIME_OUT if wait.settings.timeout == 0 else POLL_AGAIN)
            continue
        clock = REFUSED if kind is REFUSED else OUTAGE
        if clock not in began_at:
            began_at[clock] = step.now
            queued_since[clock] = 0.0
        allowed = policy.not_found_grace if clock is REFUSED else policy.max_outage
        left = allowed - (step.now - began_at[clock] - queued_since[clock])
        no_more = step.next_poll_at == math.inf or wait.settings.timeout == 0
        if left <= TOLERANCE or (kind is REFUSED and no_more):
            assert step.verdict is GIVE_UP
        else:
            assert step.verdict is (TIME_OUT if wait.settings.timeout == 0 else POLL_AGAIN)
            assert step.next_poll_at <= step.now + left + TOLERANCE or no_more


@reproducible
@given(any_wait | long_wait | wait_with_failures)
def test_poll_is_not_held_back_beyond_send_by(wait):
    policy = wait.policy
    unchanged_polls = 0
    earliest = -math.inf
    is_first_report = True
    for step in wait.steps:
        interval = min(policy.initial * policy.factor**unchanged_polls, policy.maximum)
        for hold in step.holds:
            assert hold.now <= hold.next_poll_at <= hold.send_by + TOLERANCE
            if hold.available_since is not None:
                known_at = hold.available_since + 1.5 * min(interval, 2)
                assert hold.next_poll_at <= known_at + interval + TOLERANCE
            elif hold.next_poll_at < hold.send_by:
                delay = hold.next_poll_at - hold.now
                usual = min(interval, 2)
                assert delay >= max(0.5 * usual, earliest - hold.now) - TOLERANCE
                assert delay <= max(1.5 * usual, earliest - hold.now) + TOLERANCE
        if step.due_at < step.sent_by:
            assert step.due_at >= earliest - TOLERANCE
        if step.event.kind is None:
            earliest = -math.inf
            is_changed = step.event.is_changed or is_first_report
            unchanged_polls = 0 if is_changed else unchanged_polls + 1
            is_first_report = False
        else:
            longest = max(wait.settings.max_retry_after, interval)
            earliest = step.now + min(step.event.retry_after, longest)


@reproducible
@given(any_wait | wait_with_failures)
def test_send_by_is_constant_while_held_back(wait):
    for step in wait.steps:
        assert len({hold.send_by for hold in step.holds}) <= 1
        assert all(hold.send_by == step.sent_by for hold in step.holds)


# ---- properties of waits with hints of list-jobs


@attrs.frozen
class Hinted:
    """The state after a hint, a poll or a postponement."""

    name: str
    now: float
    next_poll_at: float
    before: float
    is_covered: bool
    was_failing: bool
    was_held_back: bool


def follow_hints(pace_settings, names, shares):
    """Give hints between polls, each at a share of the time until the next poll."""
    pace = Pace(pace_settings, START)
    now = START
    steps = []
    for name, share in zip(names, itertools.cycle(shares)):
        before = pace.next_poll_at
        if before == math.inf:
            break
        was_failing, was_held_back = pace.has_failed, pace.is_held_back
        if name in HINTS:
            now += max(0.0, before - now) * share
            getattr(pace, name)(now)
        else:
            now = max(now, before)
            if name == "hold_back":
                pace.hold_back(now)
            elif name == "fail":
                if pace.note_failure(now, OUTAGE) is not POLL_AGAIN:
                    break
            else:
                pace.note_report(now, poll_seconds=0.01, is_changed=name == "change")
        steps.append(
            Hinted(
                name, now, pace.next_poll_at, before, pace.is_covered, was_failing, was_held_back
            )
        )
    return Simulation(pace_settings, steps)


HINTS = {"cover", "uncover", "poll_now"}

hinted_wait = st.builds(
    follow_hints,
    all_settings(policies(), st.sampled_from([None, 60, 900]) | positive_timeouts),
    st.lists(
        st.sampled_from(
            [*("stay", "change", "cover", "cover"), *("uncover", "poll_now", "hold_back", "fail")]
        ),
        min_size=5,
        max_size=40,
    ).map(lambda names: ["change", "cover", *names]),
    st.lists(st.floats(0, 1), min_size=1, max_size=4),
)


@settings(reproducible, max_examples=2 * settings().max_examples)
@given(hinted_wait)
def test_hints_schedule_no_poll_after_send_by(wait):
    latest = math.inf
    if wait.settings.deadline is not None:
        latest = wait.settings.deadline - wait.settings.shortest_lead + TOLERANCE
    for step in wait.steps:
        if step.next_poll_at < math.inf:
            # A poll that was late when its wait began is still made.
            assert step.next_poll_at <= max(latest, step.now)


@settings(reproducible, max_examples=2 * settings().max_examples)
@given(hinted_wait)
def test_hints_postpone_polls_by_five_minutes_at_most(wait):
    covered_at = None
    for step in wait.steps:
        if not step.is_covered:
            covered_at = None
            continue
        covered_at = step.now if covered_at is None else covered_at
        assert step.next_poll_at <= covered_at + 300 + TOLERANCE


@settings(reproducible, max_examples=2 * settings().max_examples)
@given(hinted_wait)
def test_hints_do_not_change_polls_of_failing_or_held_back_jobs(wait):
    for step in wait.steps:
        if step.name in {"fail", "hold_back"}:
            assert not step.is_covered
        if step.name in HINTS and (step.was_failing or step.was_held_back):
            assert not step.is_covered
            assert step.next_poll_at == step.before


@settings(reproducible, max_examples=2 * settings().max_examples)
@given(hinted_wait)
def test_uncover_and_poll_now_never_postpone_poll(wait):
    for step in wait.steps:
        if step.name in {"uncover", "poll_now"}:
            assert step.next_poll_at <= step.before
            assert step.next_poll_at >= min(step.now, step.before)
