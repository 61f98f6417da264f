"""A client and a service that refuses some requests, in virtual time: no loop, no socket, no clock.

Pace and pacer are the real ones. The queue between them is the throttle's, in its simplest form.
"""

import heapq
import itertools
import random
from collections import deque

import attrs

from sutro_async._http._pacer import Pacer
from sutro_async._waits._pace import FailureKind, Pace, PaceSettings, Verdict
from sutro_async._wire import parse_error
from sutro_async.policies import PollPolicy

# Seconds.
MAX_RETRY_AFTER = 60.0


class FixedWindow:
    """Accepts a number of requests in each second of its clock."""

    def __init__(self, limit):
        self.limit = limit
        self._second = -1
        self._accepted = 0

    def accepts(self, now):
        if int(now) != self._second:
            self._second, self._accepted = int(now), 0
        self._accepted += 1
        return self._accepted <= self.limit


class TokenBucket:
    """Accepts a number of requests a second, and a burst after idle time."""

    def __init__(self, limit, burst=None):
        self.limit = limit
        self._burst = burst or max(1.0, limit / 10)
        self._tokens = self._burst
        self._filled_at = 0.0

    def accepts(self, now):
        added = (now - self._filled_at) * self.limit
        self._tokens = min(self._burst, self._tokens + added)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Flaky:
    """Refuses this share of the requests, at random."""

    def __init__(self, share, seed):
        self._share = share
        self._draw = random.Random(seed)

    def accepts(self, now):
        return self._draw.random() >= self._share


@attrs.frozen
class Response:
    """The outcome of one request."""

    sent_at: float
    received_at: float
    is_good: bool


@attrs.define(eq=False)
class Job:
    """A job and the pace of its wait."""

    job_id: str
    pace: Pace
    has_report: bool = False


class VirtualClient:
    """Waits for many jobs, which never finish or have all finished.

    Attributes:
        jobs: The jobs.
        now: Virtual seconds since the beginning.
        responses: The outcome of each request, in order of arrival.
        lost: The jobs whose waits have failed.
        closings: How often the outage gate has closed.
    """

    def __init__(
        self,
        limiter,
        jobs,
        *,
        retry_after,
        status_code=429,
        max_outage=300,
        are_finished=False,
        latency=0.02,
        seed=1,
    ):
        draw = random.Random(seed)
        self.now = 0.0
        self.responses = []
        self.lost = []
        self.closings = 0
        self._limiter = limiter
        self._retry_after = retry_after
        self._status_code = status_code
        self._are_finished = are_finished
        self._latency = latency
        self._pacer = Pacer(20, None, draw.uniform)
        self._order = itertools.count()
        self._queue = deque()
        self._in_flight = deque()
        self._good_at = -1.0
        settings = PaceSettings(
            policy=PollPolicy(max_outage=max_outage),
            max_retry_after=MAX_RETRY_AFTER,
            uniform=draw.uniform,
        )
        self._due = []
        self.jobs = [Job(f"job-{number}", Pace(settings, 0.0)) for number in range(jobs)]
        for job in self.jobs:
            self._schedule(job)

    def run(self, until):
        """Poll until that time, or until no job is left."""
        while self.now < until:
            while self._in_flight and self._in_flight[0][0] <= self.now:
                self._receive(*self._in_flight.popleft())
            self._enqueue()
            self._send()
            if not (self._due or self._queue or self._in_flight):
                return
            self.now = max(self.now, self._next_event())

    def _schedule(self, job):
        heapq.heappush(self._due, (job.pace.next_poll_at, next(self._order), job))

    def _enqueue(self):
        gate = self._pacer.gate
        workers = self._pacer.max_concurrency
        while self._is_due() and len(self._queue) + len(self._in_flight) < workers:
            *_, job = heapq.heappop(self._due)
            if not gate.is_closed:
                if job.pace.is_held_back and job.pace.resume(
                    self.now,
                    available_since=gate.opened_at,
                    outage_seconds=gate.outage_seconds,
                ):
                    self._schedule(job)
                else:
                    self._queue.append((job, False))
            elif self.now >= job.pace.send_by:
                self._queue.append((job, False))
            elif gate.may_probe(self.now):
                gate.begin_probe()
                self._queue.append((job, True))
            else:
                job.pace.hold_back(self.now)
                self._schedule(job)

    def _is_due(self):
        return self._due and self._due[0][0] <= self.now

    def _may_send_at(self):
        return max(self._pacer.next_slot_at, self._pacer.paused_until)

    def _send(self):
        pacer = self._pacer
        while (
            self._queue and len(self._in_flight) < pacer.window and self.now >= self._may_send_at()
        ):
            job, is_probe = self._queue.popleft()
            permit = pacer.note_sent(self.now)
            is_good = self._limiter.accepts(self.now + self._latency / 2)
            self._in_flight.append((self.now + self._latency, permit, job, is_good, is_probe))

    def _receive(self, now, permit, job, is_good, is_probe):
        self.responses.append(Response(permit.sent_at, now, is_good))
        pacer = self._pacer
        if is_good:
            self._good_at = now
            pacer.note_success(now, permit)
            job.pace.note_report(now, poll_seconds=0.0, is_changed=not job.has_report)
            job.has_report = True
            if not self._are_finished:
                self._schedule(job)
        else:
            self._note_refusal(now, permit, job)
        if is_probe:
            pacer.gate.end_probe(now)

    def _note_refusal(self, now, permit, job):
        gate = self._pacer.gate
        headers = {"retry-after": str(self._retry_after)} if self._retry_after else {}
        error = parse_error(job.job_id, self._status_code, headers, b"")
        was_closed = gate.is_closed
        self._pacer.note_error(now, error, permit, max_pause=MAX_RETRY_AFTER)
        has_responses = not gate.is_closed and self._good_at > job.pace.poll_ended_at
        is_rate = has_responses and self._status_code == 429
        kind = FailureKind.RATE_LIMITED if is_rate else FailureKind.OUTAGE
        verdict = job.pace.note_failure(now, kind, retry_after=self._retry_after or 0.0)
        if verdict is Verdict.GIVE_UP:
            self.lost.append(job)
            return
        if gate.is_closed and kind is FailureKind.OUTAGE:
            job.pace.hold_back(now)
        self._schedule(job)
        if gate.is_closed and not was_closed:
            self.closings += 1
            for waiting, _ in self._queue:
                waiting.pace.hold_back(now)
                self._schedule(waiting)
            self._queue.clear()

    def _next_event(self):
        events = [self._in_flight[0][0]] if self._in_flight else []
        if self._queue and len(self._in_flight) < self._pacer.window:
            events.append(self._may_send_at())
        if self._due and len(self._queue) + len(self._in_flight) < self._pacer.max_concurrency:
            events.append(self._due[0][0])
        return min(events)


def check_that_client_adapts_to_limit(limiter, jobs, retry_after):
    """Check that a client adapts to a rate limit in the second of two minutes."""
    client = VirtualClient(limiter, jobs, retry_after=retry_after)
    client.run(until=120)
    responses = [each for each in client.responses if each.received_at >= 60]
    good = sum(each.is_good for each in responses)
    assert 1 - good / len(responses) <= 0.05
    demand = jobs / 15  # each job is polled every 15 s
    assert good / 60 >= 0.8 * min(limiter.limit, demand)
    assert not client.lost
