"""The outage gate, as pure logic: all times are passed in."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sutro_async._http._outage_gate import OutageGate

# Any time except 0, which would hide a missing time.
START = 5000.0


def lowest(low, high):
    return low


def highest(low, high):
    return high


def make_gate(uniform=highest):
    return OutageGate(uniform)


def fail(gate, jobs, now=START, sent_at=None):
    """Let requests for these jobs, one letter each, fail in a row."""
    for job_id in jobs:
        gate.note_failure(now, job_id, sent_at=now if sent_at is None else sent_at)


def closed_gate(now=START, **options):
    gate = make_gate(**options)
    fail(gate, "aabbb", now)
    assert gate.is_closed
    return gate


# ---- closing


@pytest.mark.parametrize(
    ("jobs", "is_closed"),
    [
        ("", False),
        ("abcd", False),
        ("abcde", True),
        ("ababa", True),
        ("aaaab", True),
        ("abbbb", True),
        ("aaaa", False),
        ("aaaaa", False),
        ("a" * 1000, False),
        ("a" * 1000 + "b", True),
        # A dot is a success.
        ("abcd.e", False),
        ("abcd.abcd.abcd.", False),
        ("abcd.efghi", True),
        # Jobs that failed before a success do not count.
        ("b.aaaaa", False),
        ("bbbb.aaaaaaaa", False),
        ("aaaaa.bbbbb.ccccc", False),
        ("b.aaaab", True),
    ],
)
def test_five_consecutive_failures_for_two_jobs_close_gate(jobs, is_closed):
    gate = make_gate()
    for job_id in jobs:
        if job_id == ".":
            gate.note_success(START)
        else:
            fail(gate, job_id)
    assert gate.is_closed is is_closed
    assert gate.closed_at == (START if is_closed else None)


def test_gate_is_closed_since_last_failure():
    gate = make_gate()
    for seconds, job_id in enumerate("abcdefgh"):
        fail(gate, job_id, START + seconds)
    assert gate.closed_at == START + 4


def test_failures_can_be_far_apart():
    gate = make_gate()
    for days, job_id in enumerate("abcde"):
        fail(gate, job_id, START + days * 86_400)
    assert gate.is_closed


# ---- opening


def test_first_success_opens_gate():
    gate = closed_gate()
    gate.note_success(START + 7)
    assert not gate.is_closed
    assert gate.opened_at == START + 7


def test_gate_has_no_opening_time_before_it_was_closed():
    gate = make_gate()
    assert gate.opened_at == -math.inf
    gate.note_success(START)
    fail(gate, "abcd")
    gate.note_success(START)
    assert gate.opened_at == -math.inf


def test_success_while_open_does_not_set_opening_time():
    gate = closed_gate()
    gate.note_success(START + 7)
    gate.note_success(START + 8)
    assert gate.opened_at == START + 7


@pytest.mark.parametrize(
    ("sent_after", "is_closed"), [(-1, False), (6.99, False), (7, True), (7.01, True)]
)
def test_failures_of_requests_sent_before_opening_do_not_close_gate(sent_after, is_closed):
    gate = closed_gate()
    gate.note_success(START + 7)
    fail(gate, "abcdefghij", START + 8, sent_at=START + sent_after)
    assert gate.is_closed is is_closed


def test_old_failures_neither_count_nor_interrupt_count():
    gate = closed_gate()
    gate.note_success(START + 7)
    fail(gate, "ababab", START + 8)
    fail(gate, "cdefghijkl", START + 8, sent_at=START + 1)
    fail(gate, "aba", START + 8)
    assert not gate.is_closed
    fail(gate, "a", START + 8)
    assert gate.is_closed


def test_gate_closes_again():
    gate = closed_gate()
    gate.note_success(START + 7)
    fail(gate, "abcdefghi", START + 99)
    assert not gate.is_closed
    fail(gate, "j", START + 100)
    assert gate.closed_at == START + 100
    assert gate.opened_at == START + 7


@pytest.mark.parametrize("seconds", [0, 7, 1000])
def test_duration_of_last_outage(seconds):
    gate = closed_gate()
    assert gate.outage_seconds == 0
    gate.note_success(START + seconds)
    gate.note_success(START + seconds + 1)
    assert gate.outage_seconds == seconds


# ---- relapses


def failures_until_closed(gate, now):
    failures = 0
    while not gate.is_closed:
        fail(gate, "ab"[failures % 2], now)
        failures += 1
        assert failures < 1000
    return failures


def succeed(gate, times):
    for _ in range(times):
        gate.note_success(START)


@pytest.mark.parametrize(
    ("successes", "failures"),
    [
        # Between two outages.
        ([1, 1, 1, 1, 1], [5, 10, 20, 40, 40, 40]),
        ([19, 19, 19, 19], [5, 10, 20, 40, 40]),
        ([20, 20, 20], [5, 5, 5, 5]),
        ([1, 1, 20, 1], [5, 10, 20, 5, 10]),
    ],
    ids=str,
)
def test_each_relapse_takes_twice_as_many_failures(successes, failures):
    gate = make_gate()
    for times, expected in zip([0, *successes], failures, strict=True):
        succeed(gate, times)
        assert failures_until_closed(gate, START) == expected


def test_only_consecutive_successes_end_relapses():
    gate = closed_gate()
    for _ in range(100):
        succeed(gate, 19)
        fail(gate, "a", START)
    gate.note_success(START)
    assert failures_until_closed(gate, START) == 10


def test_failures_from_before_opening_do_not_interrupt_successes():
    gate = closed_gate()
    succeed(gate, 10)
    fail(gate, "abababa", START + 1, sent_at=START - 1)
    succeed(gate, 10)
    assert failures_until_closed(gate, START) == 5


def test_single_job_causes_no_relapse():
    gate = closed_gate()
    gate.note_success(START)
    fail(gate, "a" * 1000, START + 1)
    assert not gate.is_closed
    fail(gate, "b", START + 1)
    assert gate.is_closed


@pytest.mark.parametrize(("relapses", "longest"), [(0, 5), (1, 2), (2, 2), (5, 2)])
def test_probes_of_relapse_are_at_most_two_seconds_apart(relapses, longest):
    gate = make_gate()
    for _ in range(relapses):
        failures_until_closed(gate, START)
        gate.note_success(START)
    failures_until_closed(gate, START)
    for _ in range(10):
        gate.begin_probe()
        gate.end_probe(START)
    assert not gate.may_probe(START + longest - 0.01)
    assert gate.may_probe(START + longest)


# ---- probes


@pytest.mark.parametrize(
    ("uniform", "share"), [(lowest, 0.75), (highest, 1)], ids=["lowest", "highest"]
)
def test_probe_delay_doubles_up_to_five_seconds(uniform, share):
    gate = closed_gate(uniform=uniform)
    now = START
    for delay in (0.5, 1, 2, 4, 5, 5, 5):
        assert not gate.may_probe(now + delay * share - 1e-6)
        now += delay * share + 1e-6
        assert gate.may_probe(now)
        gate.begin_probe()
        now += 3  # the delay counts from the end of the probe
        gate.end_probe(now)


def test_probe_delay_is_bounded():
    gate = closed_gate()
    for _ in range(5000):  # 2**5000 overflows
        gate.begin_probe()
        gate.end_probe(START)
    assert not gate.may_probe(START + 4.99)
    assert gate.may_probe(START + 5)


def test_failures_while_closed_do_not_postpone_probe():
    gate = closed_gate()
    fail(gate, "abcdefgh", START + 0.4)
    assert gate.closed_at == START
    assert gate.may_probe(START + 0.5)


def test_one_probe_at_a_time():
    gate = closed_gate()
    gate.begin_probe()
    assert not gate.may_probe(START + 1000)
    gate.end_probe(START + 1000)
    assert gate.may_probe(START + 1001)


def test_probe_delay_is_reset_for_next_outage():
    gate = closed_gate()
    for _ in range(10):
        gate.begin_probe()
        gate.end_probe(START)
    succeed(gate, 20)
    fail(gate, "abcde", START + 60)
    assert not gate.may_probe(START + 60.49)
    assert gate.may_probe(START + 60.5)


def test_probe_of_previous_outage_blocks_another_probe():
    gate = closed_gate()
    gate.begin_probe()
    gate.note_success(START + 1)  # of a call, which needs no probe
    fail(gate, "abcdefghij", START + 2)
    assert gate.is_closed
    assert not gate.may_probe(START + 60)
    gate.end_probe(START + 60)
    assert gate.may_probe(START + 61)


# ---- properties


class GateMachine(RuleBasedStateMachine):
    """Any sequence of events, compared with a simple model."""

    @initialize(shares=st.lists(st.floats(0, 1), min_size=1, max_size=3))
    def begin(self, shares):
        self.draws = 0

        def uniform(low, high):
            self.draws += 1
            return low + (high - low) * shares[self.draws % len(shares)]

        self.gate = OutageGate(uniform)
        self.now = START
        self.in_a_row = []
        self.needed = 5
        self.successes = 0
        self.longest_delay = 5
        self.model_is_closed = False
        self.opened_at = -math.inf
        self.is_probing = False
        self.failed_probes = 0
        self.not_before = math.inf

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.4, 1.0, 6.0]) | st.floats(0, 100))
    def let_time_pass(self, seconds):
        self.now += seconds

    @rule()
    def succeed(self):
        self.gate.note_success(self.now)
        assert not self.gate.is_closed
        if self.model_is_closed:
            self.opened_at = self.now
        self.in_a_row = []
        self.model_is_closed = False
        self.successes += 1
        if self.successes >= 20:
            self.needed = 5

    @rule()
    def succeed_often(self):
        for _ in range(15):
            self.succeed()

    @rule(jobs=st.text("abc", min_size=1, max_size=6), age=st.sampled_from([0.0, 0.5, 30.0]))
    def fail(self, jobs, age):
        was_closed = self.model_is_closed
        for job_id in jobs:
            self.gate.note_failure(self.now, job_id, sent_at=self.now - age)
            if self.now - age >= self.opened_at and not self.model_is_closed:
                self.in_a_row.append(job_id)
                self.successes = 0
                are_enough = len(self.in_a_row) >= self.needed
                self.model_is_closed = are_enough and len(set(self.in_a_row)) >= 2
        if self.model_is_closed and not was_closed:
            self.longest_delay = 5 if self.needed == 5 else 2
            self.needed = min(2 * self.needed, 40)
            self.failed_probes = 0
            self.not_before = self.now

    @precondition(lambda self: self.gate.is_closed and self.gate.may_probe(self.now))
    @rule()
    def probe(self):
        assert not self.is_probing
        # Half a second after the failure before it, doubling up to a bound, jittered downwards.
        shortest = 0.75 * min(0.5 * 2**self.failed_probes, self.longest_delay)
        assert self.now >= self.not_before + shortest - 1e-6
        self.gate.begin_probe()
        self.is_probing = True

    @precondition(lambda self: self.is_probing)
    @rule(is_good=st.booleans())
    def end_probe(self, is_good):
        if is_good:
            self.succeed()
        self.gate.end_probe(self.now)
        self.is_probing = False
        self.failed_probes += 1
        self.not_before = self.now

    @invariant()
    def is_closed_as_the_model_says(self):
        assert self.gate.is_closed is self.model_is_closed
        assert (self.gate.closed_at is not None) is self.model_is_closed
        assert self.gate.opened_at == self.opened_at

    @invariant()
    def a_probe_is_never_more_than_five_seconds_away(self):
        if self.gate.is_closed:
            assert self.gate.may_probe(self.now + 5 + 1e-6) is not self.is_probing


TestGateMachine = GateMachine.TestCase


@given(st.text("abc.", max_size=40))
def test_gate_is_never_closed_after_success(events):
    gate = make_gate()
    for seconds, event in enumerate(events):
        if event == ".":
            gate.note_success(START + seconds)
            assert not gate.is_closed
        else:
            fail(gate, event, START + seconds)
    if gate.is_closed:
        assert "." not in events[-5:]
    gate.note_success(START + 100)
    assert not gate.is_closed


@given(st.integers(1, 100), st.floats(0, 100))
def test_single_job_never_closes_gate(failures, seconds):
    gate = make_gate()
    for number in range(failures):
        fail(gate, "a", START + number * seconds)
    assert not gate.is_closed
