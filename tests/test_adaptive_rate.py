"""The rate that a service accepts, as pure logic: all times are passed in."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sutro_async._http._adaptive_rate import AdaptiveRate
from tests.virtual_client import (
    FixedWindow,
    Flaky,
    TokenBucket,
    VirtualClient,
    check_that_client_adapts_to_limit,
)

# Any time except 0, which would hide a missing time. A whole second, so that a test can
# say which requests fall into one.
START = 5000.0

UNLIMITED = math.inf


def about(rate):
    return pytest.approx(rate, abs=1e-6)


def send(rate, requests, seconds=0.0):
    """Send requests, so many seconds after the start."""
    for _ in range(requests):
        rate.note_sent(START + seconds)


def succeed(rate, seconds, times=1):
    for _ in range(times):
        rate.note_success(START + seconds)


def refuse(rate, seconds, *, sent=None, pause=1.0):
    """Refuse a request, by default with a pause that makes each refusal count."""
    sent_at = START + (seconds if sent is None else sent)
    rate.note_refusal(START + seconds, sent_at=sent_at, pause=pause)


def limited(requests=100):
    """Return a rate that was lowered at the start, when it sent so many requests a second."""
    rate = AdaptiveRate()
    send(rate, requests)
    refuse(rate, 0)
    return rate


def limited_twice(limit=100):
    """Return a rate that was this when it was lowered at the start, for the second time."""
    rate = limited(requests=1)
    succeed(rate, 0)
    rate.limit = limit
    refuse(rate, 1)
    assert rate.limit == about(0.7 * limit)
    return rate


# ---- lowered by refusals


def test_rate_is_unlimited_until_first_refusal():
    rate = AdaptiveRate()
    for second in range(100):
        send(rate, second, second)
        succeed(rate, second, second)
        assert rate.limit == UNLIMITED
    refuse(rate, 100)
    assert rate.limit < UNLIMITED


@pytest.mark.parametrize(
    ("requests", "limit"),
    [
        # Requests, each time in so many seconds after the start.
        ({0: 100}, 70),
        ({0: 60, 0.5: 40}, 70),
        ({0: 60, 0.999: 40}, 70),
        ({0: 60, 1: 40}, 42),
        ({0: 100, 7.9: 1}, 70),
        ({0: 100, 8: 30}, 21),
        ({0: 100, 1000: 30}, 21),
        ({0: 30, 1: 50, 2: 40}, 35),
        # Too few requests to estimate what the service accepts.
        ({}, 14),
        ({0: 1}, 14),
        ({0: 20}, 14),
        ({0: 21}, 14.7),
    ],
    ids=str,
)
def test_first_refusal_lowers_rate_below_recent_peak(requests, limit):
    rate = AdaptiveRate()
    for seconds, count in requests.items():
        send(rate, count, seconds)
    refuse(rate, max(requests, default=0))
    assert rate.limit == about(limit)


@pytest.mark.parametrize("second", range(8))
@pytest.mark.parametrize("lull", [8, 9, 15, 16, 1000])
def test_peak_before_idle_time_is_ignored(second, lull):
    rate = AdaptiveRate()
    for earlier in range(second + 1):
        send(rate, 100, earlier)
    send(rate, 30, second + lull)
    refuse(rate, second + lull)
    assert rate.limit == about(21)


def test_refusals_within_one_second_count_once():
    rate = limited()
    for seconds in (0, 0.01, 0.5, 0.99):
        succeed(rate, seconds)
        limit = rate.limit
        refuse(rate, seconds)
        assert rate.limit == limit
    refuse(rate, 1)
    assert rate.limit == about(0.7 * limit)


@pytest.mark.parametrize("sent", [-60, -1, 0])
def test_refusal_of_request_sent_before_rate_was_lowered_is_ignored(sent):
    rate = limited()
    succeed(rate, 1)
    limit = rate.limit
    refuse(rate, 2, sent=sent)
    assert rate.limit == limit
    refuse(rate, 2, sent=0.01)
    assert rate.limit == about(0.7 * limit)


def test_rate_is_not_lowered_again_without_good_response():
    rate = limited()
    for seconds in range(1, 1000):
        refuse(rate, seconds)
    assert rate.limit == about(70)
    succeed(rate, 1000)
    refuse(rate, 1001)
    assert rate.limit == about(0.7 * 70)
    refuse(rate, 1002)
    assert rate.limit == about(0.7 * 70)


def test_first_refusal_requires_no_good_response():
    rate = AdaptiveRate()
    send(rate, 50)
    refuse(rate, 0)
    assert rate.limit == about(35)


def test_refusals_lower_rate_to_minimum():
    rate = limited()
    for second in range(1, 100):
        succeed(rate, second)
        refuse(rate, second)
    assert rate.limit == 0.1


# ---- rare refusals


@pytest.mark.parametrize(
    ("sent", "refused", "is_lowered"),
    [
        # Requests in two seconds. A single refusal is ignored, however few requests there are.
        (1, 1, False),
        (1, 2, True),
        (66, 2, True),
        (67, 2, False),
        (100, 3, False),
        (100, 4, True),
        (1000, 30, False),
        (1000, 31, True),
    ],
)
@pytest.mark.parametrize("pause", [0, 0.99])
def test_unlimited_rate_tolerates_single_refusals(sent, refused, is_lowered, pause):
    rate = AdaptiveRate()
    send(rate, sent // 2, 0)
    send(rate, sent - sent // 2, 1)
    for number in range(refused):
        assert rate.limit == UNLIMITED
        refuse(rate, number % 2 if refused == 2 else 1, pause=pause)
    assert (rate.limit < UNLIMITED) is is_lowered


@pytest.mark.parametrize(
    ("sent", "refused", "is_lowered"),
    [(1, 1, True), (33, 1, True), (34, 1, False), (100, 3, False), (100, 4, True)],
)
def test_limited_rate_tolerates_few_refusals_among_many_requests(sent, refused, is_lowered):
    rate = limited()
    succeed(rate, 5)
    limit = rate.limit
    send(rate, sent, 5)
    for _ in range(refused):
        assert rate.limit == limit
        refuse(rate, 5, pause=0)
    assert rate.limit == about(0.7 * limit if is_lowered else limit)


@pytest.mark.parametrize(("seconds", "is_lowered"), [(0.5, True), (1.9, True), (2, False)])
def test_refusal_expires_after_two_seconds(seconds, is_lowered):
    rate = AdaptiveRate()
    for number in range(20):
        refuse(rate, number * seconds, pause=0)
    assert (rate.limit < UNLIMITED) is is_lowered


@pytest.mark.parametrize("pause", [1, 60])
def test_refusal_with_pause_of_one_second_is_not_tolerated(pause):
    rate = AdaptiveRate()
    send(rate, 1000)
    refuse(rate, 0, pause=pause)
    assert rate.limit == about(700)


# ---- raised by good responses


def test_slow_start_doubles_rate_within_seconds():
    """Until the second refusal the limit is unknown, so the rate grows fast."""
    rate = limited()
    assert rate.limit == about(70)
    for number in range(1, 101):
        send(rate, 1)
        succeed(rate, number / 70)
        assert rate.limit == about(70 + 0.7 * number)


@pytest.mark.parametrize(
    ("seconds", "share"),
    [
        (0, 0.7),
        (1, 0.743),
        (5, 0.873),
        (10, 0.963),
        (15, 0.995),
        # Long near the rate of the last refusal, then faster and faster.
        (20, 1),
        (25, 1.005),
        (30, 1.038),
        (40, 1.3),
        (60, 3.4),
    ],
)
@pytest.mark.parametrize("limit", [1, 100])
def test_rate_recovers_along_cubic_curve(seconds, share, limit):
    rate = limited_twice(limit)
    for tenth in range(10 * seconds + 1):
        send(rate, 4 * limit if tenth % 10 == 0 else 0, 1 + tenth / 10)
        succeed(rate, 1 + tenth / 10)
    assert rate.limit == pytest.approx(share * limit, rel=0.001)


def test_seconds_without_good_responses_do_not_raise_rate():
    """A pause does not prove that the service accepts more."""
    rate = limited_twice(100)
    for number in range(20):
        send(rate, 200, 60 * number)
        succeed(rate, 1 + 60 * number)
    # Twenty responses a minute apart are worth a second each, but for the first.
    assert rate.limit == pytest.approx(100, rel=0.001)


def test_good_responses_never_lower_rate():
    rate = limited_twice(100)
    for second in range(1, 60):
        succeed(rate, second)
        assert rate.limit == about(70)  # there is nothing sent, so nothing is tested


@pytest.mark.parametrize(("sent", "limit"), [(36, 72), (100, 200), (1000, 340)])
def test_rate_is_at_most_twice_actual_rate(sent, limit):
    rate = limited_twice(100)
    for tenth in range(601):
        send(rate, sent if tenth % 10 == 0 else 0, 1 + tenth / 10)
        succeed(rate, 1 + tenth / 10)
    assert rate.limit == pytest.approx(limit, rel=0.001)


def test_old_requests_do_not_count_towards_actual_rate():
    rate = limited(requests=100)
    send(rate, 1, 8)
    succeed(rate, 8)
    assert rate.limit == about(70)


def test_rate_becomes_unlimited_again():
    rate = limited(requests=1000)
    responses = 0
    while rate.limit < UNLIMITED:
        send(rate, 1)
        succeed(rate, 0)
        responses += 1
        assert responses < 15_000
    # From 700 to 10,000 by 0.7 with each.
    assert responses == math.ceil(9300 / 0.7)


def test_first_refusal_after_unlimited_rate_uses_actual_rate():
    rate = limited()
    rate.limit = 9999.9
    send(rate, 6000, 1)
    succeed(rate, 1)
    assert rate.limit == UNLIMITED
    send(rate, 300, 60)
    refuse(rate, 60)
    assert rate.limit == about(210)


# ---- properties

events = st.lists(
    st.tuples(
        st.sampled_from(["send", "succeed", "refuse"]),
        st.sampled_from([0.0, 0.001, 0.3, 1.0, 9.0]),  # seconds since the event before
        st.sampled_from([0.0, 0.2, 3.0]),  # seconds since the request was sent
        st.sampled_from([0.0, 0.9, 1.0]),  # seconds of the pause that a refusal brings
    ),
    max_size=200,
)


@given(events)
def test_refusals_lower_rate_and_good_responses_raise_it(events):
    rate = AdaptiveRate()
    now = START
    lowered_at = -math.inf
    has_success = False
    sent, refused = Counter(), Counter()
    for event, seconds, age, pause in events:
        now += seconds
        limit = rate.limit
        peak = max(sent[int(now) - back] for back in range(8))
        if event == "send":
            rate.note_sent(now)
            sent[int(now)] += 1
            assert rate.limit == limit
        elif event == "succeed":
            rate.note_success(now)
            has_success = True
            assert rate.limit == limit or limit < rate.limit <= 2 * peak
        else:
            rate.note_refusal(now, sent_at=now - age, pause=pause)
            refused[int(now)] += 1
            recent = refused[int(now)] + refused[int(now) - 1]
            share = 0.03 * (sent[int(now)] + sent[int(now) - 1])
            is_lone = recent == 1 and limit == UNLIMITED
            if pause < 1 and (is_lone or recent <= share):
                assert rate.limit == limit
                continue
            if limit == UNLIMITED:
                assert rate.limit == about(0.7 * max(peak, 20))
            elif has_success and now - age > lowered_at and now >= lowered_at + 1:
                assert rate.limit == about(max(0.7 * limit, 0.1))
            else:
                assert rate.limit == limit
                continue
            lowered_at, has_success = now, False


# ---- together with pace and pacer


@pytest.mark.parametrize(("share", "seed"), [(0.2, 1), (0.5, 2)])
def test_random_failures_lose_no_wait(share, seed):
    """The gate closes now and then, but must not hold back polls that would have succeeded."""
    client = VirtualClient(
        Flaky(share, seed), 100, retry_after=None, status_code=503, max_outage=120, seed=seed
    )
    client.run(until=450)
    assert not client.lost
    assert all(job.has_report for job in client.jobs)


def test_rare_refusals_do_not_slow_client():
    client = VirtualClient(Flaky(0.01, seed=1), 1500, retry_after=None)
    client.run(until=120)
    late = [each for each in client.responses if each.received_at >= 60]
    assert len(late) / 60 >= 0.9 * 1500 / 15  # each job is polled every 15 s
    assert not client.lost


@pytest.mark.parametrize(
    ("limit", "jobs", "limiter", "retry_after"),
    [
        (5, 100, FixedWindow, None),
        (10, 1000, TokenBucket, 1.0),
        (50, 1000, FixedWindow, 1.0),
        (50, 1000, TokenBucket, None),
        (200, 100, TokenBucket, None),
    ],
)
def test_client_adapts_to_limit_of_service(limit, jobs, limiter, retry_after):
    """The chaos suite has all combinations."""
    check_that_client_adapts_to_limit(limiter(limit), jobs, retry_after)


@pytest.mark.parametrize("retry_after", [1.0, None])
def test_burst_of_finished_jobs_takes_at_most_twice_the_minimum_time(retry_after):
    limiter = TokenBucket(60, burst=6)
    client = VirtualClient(limiter, 2500, retry_after=retry_after, are_finished=True)
    client.run(until=600)
    assert sum(each.is_good for each in client.responses) == 2500
    assert client.now <= 2 * 2500 / 60


def test_client_follows_changing_limit():
    limiter = FixedWindow(100)
    client = VirtualClient(limiter, 2000, retry_after=None)
    client.run(until=60)
    limiter.limit = 10
    client.run(until=180)
    late = [each for each in client.responses if each.received_at >= 120]
    good = sum(each.is_good for each in late)
    assert 1 - good / len(late) <= 0.05
    assert good / 60 >= 0.8 * 10
    limiter.limit = 100
    client.run(until=360)
    late = [each for each in client.responses if each.received_at >= 300]
    assert sum(each.is_good for each in late) / 60 >= 0.8 * 100
    assert not client.lost


def test_client_that_is_not_rate_limited_is_not_slowed():
    client = VirtualClient(FixedWindow(10**6), 5000, retry_after=1.0, latency=0.02)
    client.run(until=5)
    # Twenty at once, each for 0.02 s.
    assert len(client.responses) == pytest.approx(5000, rel=0.01)
    assert all(each.is_good for each in client.responses)


def test_slow_service_loses_no_wait():
    """With less than a tenth of the rate that the waits need."""
    client = VirtualClient(FixedWindow(10), 1000, retry_after=1.0)
    client.run(until=1000)
    assert not client.lost
    assert all(job.has_report for job in client.jobs)
