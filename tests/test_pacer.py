"""When the next request may be sent, as pure logic: all times are passed in."""

import bisect
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sutro_async import (
    APIConnectionError,
    APITimeoutError,
    ConfigurationError,
    InvalidResponseError,
)
from sutro_async._http._pacer import Pacer, Permit
from sutro_async._wire import parse_error

# Any time except 0, which would hide a missing time.
START = 5000.0

# Far above rounding errors, far below any time in these tests.
TOLERANCE = 1e-6


def make_pacer(max_concurrency=20, max_rate=None, uniform=max):
    return Pacer(max_concurrency, max_rate, uniform)


def http_error(status, job_id="a", **headers):
    """Make the error of a response."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return parse_error(job_id, status, headers, b"")


def timed_out(job_id):
    return APITimeoutError("no response", job_id=job_id)


def disconnected(job_id):
    return APIConnectionError("reset", job_id=job_id)


def untrusted(job_id):
    return APIConnectionError("certificate verify failed", job_id=job_id, retryable=False)


def malformed(job_id):
    return InvalidResponseError(job_id=job_id, path="$", reason="not JSON")


def with_status(status, **headers):
    return lambda job_id: http_error(status, job_id, **headers)


def fail(pacer, error, seconds=0.0, *, sent=None, max_pause=60.0):
    """Note an error at a time in seconds after the start."""
    permit = permit_of(pacer, START + (seconds if sent is None else sent))
    pacer.note_error(START + seconds, error, permit, max_pause=max_pause)


def succeed(pacer, seconds=0.0):
    """Note a good response to a request sent just before."""
    pacer.note_success(START + seconds, permit_of(pacer, START + seconds))


def permit_of(pacer, now):
    """Make the permit of a request that was sent since the window has restarted."""
    return Permit(now, pacer._restarts)


def fail_for_two_jobs(pacer, make_error, seconds=0.0):
    for job_id in "aabbb":
        fail(pacer, make_error(job_id), seconds)


def closed_pacer(**options):
    pacer = make_pacer(**options)
    fail_for_two_jobs(pacer, timed_out)
    assert pacer.gate.is_closed
    return pacer


# ---- options


@pytest.mark.parametrize("value", [0, -1, 1.5, "3", True, None])
def test_invalid_max_concurrency(value):
    with pytest.raises(ConfigurationError, match="max_concurrency"):
        Pacer(value, None)


@pytest.mark.parametrize(
    "value", [0, -1.0, "3", True, float("nan"), float("inf"), 1_000_001, 10**400]
)
def test_invalid_max_rate(value):
    with pytest.raises(ConfigurationError, match="max_rate"):
        Pacer(1, value)


@pytest.mark.parametrize("max_rate", [None, 0.001, 10**6])
def test_boundary_values_are_accepted(max_rate):
    assert Pacer(1, max_rate).max_concurrency == 1


# ---- an unlimited client


def test_unlimited_client_is_not_slowed():
    pacer = make_pacer()
    for _ in range(1000):
        assert pacer.next_slot_at <= START
        pacer.note_sent(START)
        succeed(pacer)
    assert pacer.paused_until <= START
    assert pacer.window == 20
    assert not pacer.gate.is_closed


# ---- max_rate


def send_at_once(pacer, until, lateness=(0.0,)):
    """Send each request as soon as the rate allows, or so many seconds later."""
    lateness = itertools.cycle(lateness)
    times = []
    now = START
    while now < START + until:
        pacer.note_sent(now)
        times.append(now)
        now = max(now, pacer.next_slot_at) + next(lateness)
    return times


def most_in_a_second(times):
    return max(
        bisect.bisect_left(times, begin + 1 - TOLERANCE) - n for n, begin in enumerate(times)
    )


@pytest.mark.parametrize("max_rate", [0.4, 1, 2.5, 5, 99.5, 100, 101, 150.5, 200, 1000])
def test_max_rate_is_respected_and_used(max_rate):
    times = send_at_once(make_pacer(max_rate=max_rate), until=5)
    assert most_in_a_second(times) <= math.ceil(max_rate)
    assert len(times) >= 0.99 * 5 * max_rate - 1


@pytest.mark.parametrize(
    ("max_rate", "at_once"), [(1, 1), (100, 1), (199, 1), (200, 1), (300, 2), (1000, 9)]
)
def test_burst_size(max_rate, at_once):
    """Timers are too coarse for more than a hundred a second."""
    times = send_at_once(make_pacer(max_rate=max_rate), until=0.001)
    assert times.count(START) == at_once


@given(
    st.floats(0.5, 400),
    st.lists(st.sampled_from([0.0, 0.001, 0.02, 0.3, 2.0]), min_size=1, max_size=5),
)
def test_max_rate_holds_for_every_second(max_rate, lateness):
    pacer = make_pacer(max_rate=max_rate)
    times = send_at_once(pacer, until=2.5, lateness=lateness)
    assert most_in_a_second(times) <= math.ceil(max_rate)


@given(st.floats(0.5, 100), st.lists(st.sampled_from([0.0, 0.02, 0.3]), max_size=5))
def test_delay_causes_no_burst(max_rate, lateness):
    times = send_at_once(make_pacer(max_rate=max_rate), until=1.5, lateness=[*lateness, 0.1])
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(gap >= 1 / max_rate - TOLERANCE for gap in gaps)


# ---- the adaptive rate


def refused_pacer(sent=100, **options):
    """Return a pacer whose requests were refused at so many a second."""
    pacer = make_pacer(**options)
    for _ in range(sent):
        pacer.note_sent(START)
    for _ in range(4):  # fewer are tolerated
        fail(pacer, http_error(429))
    return pacer


def gap(pacer, seconds):
    """Seconds between two requests, the first of which is sent so many seconds after the start."""
    pacer.note_sent(START + seconds)
    return pacer.next_slot_at - START - seconds


def test_429s_lower_rate():
    assert gap(refused_pacer(), 1) == pytest.approx(1 / 70)


@pytest.mark.parametrize(
    ("retry_after", "max_pause", "is_lowered"),
    [(None, 60, False), ("0.5", 60, False), ("1", 60, True), ("9", 60, True), ("9", 0.5, False)],
)
def test_single_429_with_pause_of_one_second_lowers_rate(retry_after, max_pause, is_lowered):
    pacer = make_pacer()
    for _ in range(100):
        pacer.note_sent(START)
    headers = {"retry_after": retry_after} if retry_after else {}
    fail(pacer, http_error(429, **headers), max_pause=max_pause)
    assert gap(pacer, 1) == (pytest.approx(1 / 70) if is_lowered else -math.inf)


@pytest.mark.parametrize("status", [400, 404, 408, 425, 500, 503])
def test_no_other_error_lowers_rate(status):
    pacer = make_pacer()
    pacer.note_sent(START)
    fail(pacer, http_error(status, retry_after="1"))
    assert gap(pacer, 1) == -math.inf


def test_429_of_request_sent_before_rate_was_lowered_is_ignored():
    pacer = refused_pacer()
    succeed(pacer)
    fail(pacer, http_error(429), seconds=2, sent=0)
    assert gap(pacer, 3) == pytest.approx(1 / 70.7)


def test_good_responses_raise_rate():
    pacer = refused_pacer()
    for _ in range(100):
        succeed(pacer, 0.5)
    assert gap(pacer, 1) == pytest.approx(1 / 140 - 0.4 / 140, abs=0.001)


@pytest.mark.parametrize(
    ("max_rate", "expected_gap"), [(5, 1 / 5), (69, 1 / 69), (71, 1 / 70), (500, 1 / 70)]
)
def test_max_rate_is_upper_bound_of_adaptive_rate(max_rate, expected_gap):
    pacer = refused_pacer(max_rate=max_rate)
    pacer.note_sent(START + 50)  # the rate has to send first what was sent at once above
    now = pacer.next_slot_at
    pacer.note_sent(now)
    assert pacer.next_slot_at - now == pytest.approx(expected_gap)


@given(
    st.integers(1, 300),
    st.lists(
        st.sampled_from(["succeed", "refuse", "refuse, retry after 1"]), min_size=1, max_size=60
    ),
)
def test_max_rate_holds_for_any_responses(max_rate, responses):
    pacer = make_pacer(max_rate=max_rate)
    responses = itertools.cycle(responses)
    times = []
    now = START
    while now < START + 3:
        pacer.note_sent(now)
        times.append(now)
        response = next(responses)
        if response == "succeed":
            pacer.note_success(now, permit_of(pacer, now))
        else:
            retry_after = {"retry_after": "0.1"} if response.endswith("1") else {}
            fail(pacer, http_error(429, **retry_after), now - START)
        now = max(now, pacer.next_slot_at, pacer.paused_until)
    assert most_in_a_second(times) <= max_rate


# ---- pauses


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("retry_after", "max_pause", "seconds"),
    [("1", 60, 1), ("0.25", 60, 0.25), ("60", 60, 60), ("61", 60, 60), ("86400", 5, 5)],
)
def test_retry_after_pauses_up_to_max_pause(status, retry_after, max_pause, seconds):
    pacer = make_pacer()
    fail(pacer, http_error(status, retry_after=retry_after), 3, max_pause=max_pause)
    assert pacer.paused_until == START + 3 + seconds
    assert pacer.window == 1


@pytest.mark.parametrize("status", [408, 425, 500, 502, 504, 404, 301])
def test_retry_after_with_other_status_does_not_pause_client(status):
    pacer = make_pacer()
    fail(pacer, http_error(status, retry_after="30"))
    assert pacer.paused_until == -math.inf
    assert pacer.window == 20


@pytest.mark.parametrize("headers", [{}, {"retry_after": "0"}, {"retry_after": "soon"}], ids=str)
@pytest.mark.parametrize("status", [429, 503])
def test_without_retry_after_there_is_no_pause(status, headers):
    pacer = make_pacer()
    fail(pacer, http_error(status, **headers))
    assert pacer.paused_until == -math.inf
    assert pacer.window == 20


def test_max_pause_of_zero_never_pauses():
    pacer = make_pacer()
    fail(pacer, http_error(429, retry_after="30"), max_pause=0)
    assert pacer.paused_until <= START


def test_shorter_pause_does_not_shorten_longer_one():
    pacer = make_pacer()
    fail(pacer, http_error(429, retry_after="10"))
    fail(pacer, http_error(503, retry_after="1"), 1)
    assert pacer.paused_until == START + 10
    fail(pacer, http_error(429, retry_after="10"), 2)
    assert pacer.paused_until == START + 12


@given(
    st.lists(
        st.tuples(st.floats(0, 10), st.integers(0, 100), st.sampled_from([429, 503])), min_size=1
    ),
    st.floats(0, 50),
)
def test_pause_ends_neither_before_retry_after_nor_after_max_pause(responses, max_pause):
    pacer = make_pacer()
    now = START
    allowed_at = -math.inf
    for seconds, retry_after, status in responses:
        now += seconds
        error = http_error(status, retry_after=str(retry_after))
        pacer.note_error(now, error, permit_of(pacer, now), max_pause=max_pause)
        if retry_after:
            allowed_at = max(allowed_at, now + min(retry_after, max_pause))
        assert pacer.paused_until == allowed_at
        assert pacer.paused_until <= now + max_pause


# ---- gradual resumption


@pytest.mark.parametrize(
    ("max_concurrency", "windows"),
    [(20, [1, 2, 4, 8, 16, 20, 20]), (1, [1, 1]), (2, [1, 2, 2]), (64, [1, 2, 4, 8, 16, 32, 64])],
)
@pytest.mark.parametrize("after", ["pause", "outage"])
def test_window_starts_at_one_and_doubles_with_each_good_response(max_concurrency, windows, after):
    if after == "pause":
        pacer = make_pacer(max_concurrency)
        fail(pacer, http_error(503, retry_after="1"))
    else:
        pacer = closed_pacer(max_concurrency=max_concurrency)
        assert pacer.window == max_concurrency
        succeed(pacer, 1)
    for window in windows:
        assert pacer.window == window
        succeed(pacer, 1)


@pytest.mark.parametrize("status", [400, 401, 404, 501])
def test_final_status_doubles_window(status):
    pacer = make_pacer()
    fail(pacer, http_error(429, retry_after="1"))
    fail(pacer, http_error(status), 1)
    assert pacer.window == 2


@pytest.mark.parametrize("make_error", [timed_out, untrusted, malformed, with_status(500)])
def test_failure_does_not_change_window(make_error):
    pacer = make_pacer()
    fail(pacer, http_error(429, retry_after="1"))
    succeed(pacer, 1)
    fail(pacer, make_error("a"), 1)
    assert pacer.window == 2


def test_responses_during_pause_do_not_change_window():
    """They belong to requests sent before the pause."""
    pacer = make_pacer()
    fail(pacer, http_error(503, retry_after="1"))
    for _ in range(19):
        succeed(pacer, 0.5)
    fail(pacer, http_error(404), 0.5)
    assert pacer.window == 1
    succeed(pacer, 1)
    assert pacer.window == 2


def test_second_pause_resets_window_to_one():
    pacer = make_pacer()
    fail(pacer, http_error(429, retry_after="1"))
    for _ in range(3):
        succeed(pacer, 1)
    fail(pacer, http_error(429, retry_after="1"), 2)
    assert pacer.window == 1


# ---- which outcomes the gate counts

UNAVAILABLE = {
    "timed out": timed_out,
    "disconnected": disconnected,
    "malformed": malformed,
    "408": with_status(408),
    "425": with_status(425),
    "429": with_status(429),
    "429 at once": with_status(429, retry_after="0"),
    "204": with_status(204),
    **{str(code): with_status(code) for code in sorted({*range(500, 600)} - {501, 505})},
    "503 later": with_status(503, retry_after="1"),
    "502 later": with_status(502, retry_after="1"),
}
AVAILABLE = {
    str(code): with_status(code)
    for code in (301, 400, 401, 403, 404, 405, 409, 410, 422, 426, 428, 499, 501, 505)
}
# For tests that do not depend on the status.
SOME_UNAVAILABLE = {
    name: make for name, make in UNAVAILABLE.items() if not name.isdigit() or name in {"429", "500"}
}
NEUTRAL = {"429 later": with_status(429, retry_after="1"), "untrusted": untrusted}


def each(errors):
    return pytest.mark.parametrize("make_error", errors.values(), ids=errors)


@each(UNAVAILABLE)
def test_error_that_indicates_outage_counts_as_failure(make_error):
    pacer = make_pacer()
    for job_id in "abab":
        fail(pacer, make_error(job_id))
    assert not pacer.gate.is_closed
    fail(pacer, make_error("a"), 1)
    assert pacer.gate.closed_at == START + 1
    fail(pacer, make_error("b"), 2)
    assert pacer.gate.is_closed


@each(SOME_UNAVAILABLE)
def test_single_job_does_not_close_gate(make_error):
    pacer = make_pacer()
    for _ in range(50):
        fail(pacer, make_error("a"))
    assert not pacer.gate.is_closed


@each(SOME_UNAVAILABLE)
def test_failure_of_request_sent_before_gate_opened_does_not_count(make_error):
    pacer = closed_pacer()
    succeed(pacer, 10)
    for job_id in "ababab":
        fail(pacer, make_error(job_id), 11, sent=9)
    assert not pacer.gate.is_closed


@each(AVAILABLE)
def test_final_status_opens_gate(make_error):
    pacer = closed_pacer()
    fail(pacer, make_error("a"), 3)
    assert pacer.gate.opened_at == START + 3
    assert pacer.window == 1
    for job_id in "abcd":
        fail(pacer, timed_out(job_id), 4)
    fail(pacer, make_error("a"), 4)
    fail(pacer, timed_out("a"), 4)
    assert not pacer.gate.is_closed


def test_good_response_opens_gate():
    pacer = closed_pacer()
    succeed(pacer, 3)
    assert pacer.gate.opened_at == START + 3


@each(NEUTRAL)
def test_error_that_does_not_indicate_outage_does_not_change_gate(make_error):
    pacer = make_pacer()
    fail_for_two_jobs(pacer, make_error)
    assert not pacer.gate.is_closed
    for job_id in "abcd":
        fail(pacer, timed_out(job_id), 1)
    fail(pacer, make_error("a"), 1)
    assert not pacer.gate.is_closed
    fail(pacer, timed_out("e"), 1)
    assert pacer.gate.is_closed
    fail(pacer, make_error("a"), 1)
    assert pacer.gate.is_closed


# ---- properties

ERRORS = [
    *(timed_out, malformed, untrusted, with_status(500), with_status(404), with_status(429)),
    *(with_status(status, retry_after="1") for status in (429, 503)),
]
events = st.lists(
    st.tuples(
        st.none() | st.integers(0, len(ERRORS) - 1).map(lambda index: ERRORS[index]),
        st.sampled_from("abc"),
        st.sampled_from([0.0, 0.01, 0.7, 5.0]),
    ),
    min_size=1,
    max_size=60,
)


@given(events, st.integers(1, 50), st.none() | st.floats(0.1, 1000))
def test_next_slot_is_never_far_in_the_future(events, max_concurrency, max_rate):
    pacer = make_pacer(max_concurrency, max_rate)
    now = START
    for make_error, job_id, seconds in events:
        now += seconds
        pacer.note_sent(now)
        if make_error is None:
            pacer.note_success(now, permit_of(pacer, now))
            assert not pacer.gate.is_closed
        else:
            pacer.note_error(now, make_error(job_id), permit_of(pacer, now), max_pause=2.0)
        assert 1 <= pacer.window <= max_concurrency
        assert pacer.paused_until <= now + 2
        if pacer.gate.is_closed:
            assert pacer.gate.may_probe(now + 5)
        now = max(now, pacer.next_slot_at)
        assert now < math.inf


@given(events)
def test_window_grows_only_with_responses_and_at_most_doubles(events):
    pacer = make_pacer()
    now = START
    for make_error, job_id, seconds in events:
        now += seconds
        window, paused_until = pacer.window, pacer.paused_until
        error = make_error and make_error(job_id)
        if error is None:
            pacer.note_success(now, permit_of(pacer, now))
        else:
            pacer.note_error(now, error, permit_of(pacer, now), max_pause=2.0)
        is_response = error is None or getattr(error, "status_code", None) == 404
        if pacer.window > window:
            assert is_response
            assert now >= paused_until
            assert pacer.window == min(2 * window, 20)
        elif pacer.window < window:
            assert pacer.window == 1
