"""Events in any order: each wait ends with the status that the server has sent last."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict

import attrs
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from sutro_async import (
    ClientStateError,
    GoneError,
    JobMonitor,
    JobStatusReport,
    JobWaitTimeoutError,
    SutroError,
)
from tests.chaos._hostile import FAULTS, HostileServer, Promise
from tests.chaos.conftest import make_client, nothing_left_behind

MAX_CONCURRENCY = 3
GONE = FAULTS["gone"]
ENDS = ("succeeded", "failed")
# A wait continues after these.
SURVIVABLE = [f for f in FAULTS.values() if f.promise is not Promise.FINAL and not f.can_spread]

# Few, so that much happens to the same one; each is the slot of its newest job.
places = st.integers(0, 3)
words = st.sampled_from(["queued", "running", "running", "a word from the future", *ENDS])
several = st.lists(places, min_size=1, unique=True)
timeouts = st.sampled_from([None, None, 0, 0.02, 0.1])
# Milliseconds that pass before the next step: none, so that it comes in the midst of a request, or
# enough for some polls.
head_starts = st.sampled_from([0, 0, 5, 30])
# Seconds after which a step of a stream is cancelled, and the next one begun.
heartbeats = st.sampled_from([None, None, 0.005, 0.02])
MAX_HEARTBEATS = 10
waits = {
    "place": places,
    "timeout": timeouts,
    "is_shared": st.booleans(),
    "head_start": head_starts,
}


@attrs.define(eq=False, kw_only=True)
class Activity:
    """Something that was started, and what there is to judge it by.

    Attributes:
        job_ids: What it is about.
        timeout: Its timeout, in seconds.
        reports: What it has been told, in order.
        ended: The jobs that it has ended for.
        said_before: How many words of each job it must not be told, since they were old.
        injected_before: How many faults had been injected for each job when it began.
        asked_before: How many requests there had been about each job when it began.
        is_shared: Whether it goes through the monitor.
        is_question: Whether it asks once, and so fails where a wait goes on.
        is_fed: Whether its jobs come from an asynchronous iterable, which a timeout can end.
        is_cancelled: Whether it was cancelled.
        is_closed: Whether the client or the monitor was closed meanwhile.
    """

    job_ids: list[str]
    timeout: float | None = None
    reports: list[JobStatusReport] = attrs.field(factory=list)
    ended: list[str] = attrs.field(factory=list)
    said_before: dict[str, int] = attrs.field(factory=dict)
    injected_before: dict[str, int] = attrs.field(factory=dict)
    asked_before: dict[str, int] = attrs.field(factory=dict)
    is_shared: bool = False
    is_question: bool = False
    is_fed: bool = False
    is_cancelled: bool = False
    is_closed: bool = False
    task: asyncio.Task[None] | None = None


async def read(stream, heartbeat, take):
    """Read a stream to its end; its first steps may be cancelled.

    Not all of them: a step of `watch_job` that is cancelled during a poll has to poll again.
    """
    heartbeats = 0
    async with stream:
        while True:
            try:
                async with asyncio.timeout(heartbeat if heartbeats < MAX_HEARTBEATS else None):
                    item = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                if isinstance(error, SutroError):
                    raise
                heartbeats += 1
            else:
                take(item)


async def feed(job_ids):
    for job_id in job_ids:
        await asyncio.sleep(0.002)
        yield job_id


class Machine(RuleBasedStateMachine):
    """A client and a monitor, a server with scripted responses, and a record of both.

    Time passes only within the rules: the event loop stands still between them.
    """

    activities = Bundle("activities")
    closed_in_full_swing = 0

    @initialize()
    def begin(self):
        self.newest = [f"job/{place}" for place in range(4)]
        self.histories = {job_id: ["queued"] for job_id in self.newest}
        self.gone: set[str] = set()
        self.next_faults = []
        self.injected = defaultdict(list)
        self.asked = defaultdict(int)
        self.running: list[Activity] = []
        self.runner = asyncio.Runner()
        self.leaks = nothing_left_behind()
        self.run(self.leaks.__aenter__())
        self.server = HostileServer(self.tell, self.choose, client_timeout=0.1)
        self.run(self.server.__aenter__())
        self.run(self.open())

    def run(self, coroutine):
        return self.runner.run(coroutine)

    async def open(self):
        self.client = make_client(self.server, max_concurrency=MAX_CONCURRENCY, timeout=0.1)
        self.monitor = await JobMonitor(self.client, keep_finished=2).__aenter__()

    # ---- the server

    def tell(self, job_id):
        return self.histories[job_id][-1]

    def choose(self, job_id):
        self.asked[job_id] += 1
        if job_id in self.gone:
            fault = GONE
        elif self.next_faults:
            fault = self.next_faults.pop(0)
        else:
            return None
        self.injected[job_id].append(fault)
        return fault

    @rule(place=places, word=words)
    def add_job(self, place, word):
        self.newest[place] = f"job/{len(self.histories)}"
        self.histories[self.newest[place]] = [word]

    @rule(place=places, word=words)
    def change_status(self, place, word):
        history = self.histories[self.newest[place]]
        if history[-1] not in ENDS:
            history.append(word)

    @rule(place=places)
    def lose_job(self, place):
        self.gone.add(self.newest[place])

    @rule(faults=st.lists(st.sampled_from(SURVIVABLE), min_size=1, max_size=5))
    def break_the_next_responses(self, faults):
        self.next_faults += faults

    # ---- what is started

    def start(self, follow, job_ids, head_start, *, timeout=None, is_shared=False, **options):
        activity = Activity(
            job_ids=job_ids,
            timeout=timeout,
            is_shared=is_shared,
            **options,
            # A monitor begins with the newest report that it has, which may be old by now.
            said_before={
                job_id: 0 if is_shared else len(self.histories[job_id]) - 1 for job_id in job_ids
            },
            injected_before={job_id: len(self.injected[job_id]) for job_id in job_ids},
            asked_before={job_id: self.asked[job_id] for job_id in job_ids},
        )

        async def begin():
            activity.task = asyncio.create_task(follow(activity))
            await asyncio.sleep(head_start / 1000)

        self.run(begin())
        self.running.append(activity)
        return activity

    @rule(target=activities, **waits)
    def wait(self, place, timeout, is_shared, head_start):
        job_id = self.newest[place]
        ask = self.monitor.wait if is_shared else self.client.wait_for_job

        async def follow(activity):
            report = await ask(job_id, timeout=timeout)
            assert report.is_terminal
            activity.reports.append(report)
            activity.ended.append(job_id)

        return self.start(follow, [job_id], head_start, timeout=timeout, is_shared=is_shared)

    @rule(target=activities, heartbeat=heartbeats, **waits)
    def watch(self, place, timeout, is_shared, head_start, heartbeat):
        job_id = self.newest[place]
        ask = self.monitor.watch if is_shared else self.client.watch_job

        async def follow(activity):
            await read(ask(job_id, timeout=timeout), heartbeat, activity.reports.append)
            assert activity.reports[-1].is_terminal
            activity.ended.append(job_id)

        return self.start(follow, [job_id], head_start, timeout=timeout, is_shared=is_shared)

    @rule(place=places, is_shared=st.booleans(), head_start=head_starts)
    def watch_and_break_off(self, place, is_shared, head_start):
        job_id = self.newest[place]
        ask = self.monitor.watch if is_shared else self.client.watch_job

        async def follow(activity):
            async with ask(job_id) as reports:
                async for report in reports:
                    activity.reports.append(report)
                    break
            activity.ended.append(job_id)

        self.start(follow, [job_id], head_start, is_shared=is_shared)

    @rule(
        target=activities,
        at=several,
        timeout=timeouts,
        way=st.sampled_from(["wait_for_jobs", "as_completed", "fed"]),
        has_callback=st.booleans(),
        head_start=head_starts,
    )
    def batch(self, at, timeout, way, has_callback, head_start):
        job_ids = [self.newest[place] for place in at]

        async def follow(activity):
            async def on_change(report):
                activity.reports.append(report)
                await asyncio.sleep(0.001)

            options = {"timeout": timeout, "on_change": on_change if has_callback else None}
            if way == "wait_for_jobs":
                outcomes = await self.client.wait_for_jobs(job_ids, **options)
                self.judge_outcomes(activity, outcomes.values())
                return
            ids = feed(job_ids) if way == "fed" else job_ids
            async with self.client.as_completed(ids, **options) as outcomes:
                self.judge_outcomes(activity, [outcome async for outcome in outcomes])

        return self.start(follow, job_ids, head_start, timeout=timeout, is_fed=way == "fed")

    @rule(
        target=activities,
        at=several,
        timeout=timeouts,
        is_shared=st.booleans(),
        heartbeat=heartbeats,
        head_start=head_starts,
    )
    def watch_many(self, at, timeout, is_shared, heartbeat, head_start):
        job_ids = [self.newest[place] for place in at]
        ask = self.monitor.watch_jobs if is_shared else self.client.watch_jobs

        async def follow(activity):
            def take(outcome):
                assert outcome.job_id not in activity.ended
                if outcome.ok and not outcome.value.is_terminal:
                    activity.reports.append(outcome.value)
                else:
                    self.judge_outcomes(activity, [outcome])

            await read(ask(job_ids, timeout=timeout), heartbeat, take)

        return self.start(follow, job_ids, head_start, timeout=timeout, is_shared=is_shared)

    @rule(target=activities, place=places, is_record=st.booleans(), head_start=head_starts)
    def ask(self, place, is_record, head_start):
        job_id = self.newest[place]
        ask = self.client.get_job if is_record else self.client.get_job_status

        async def follow(activity):
            activity.reports.append(await ask(job_id))
            activity.ended.append(job_id)

        return self.start(follow, [job_id], head_start, is_question=True)

    # ---- what is done to it

    @rule(milliseconds=st.integers(0, 30))
    def let_time_pass(self, milliseconds):
        self.run(asyncio.sleep(milliseconds / 1000))

    @rule(activity=consumes(activities), turns=st.integers(0, 3))
    def cancel(self, activity, turns):
        async def cancel():
            for _ in range(turns):
                await asyncio.sleep(0)
            if activity.task.cancel():
                # What was closed before may still say so.
                activity.is_cancelled = True
            await asyncio.sleep(0)

        self.run(cancel())

    @rule()
    def close_the_monitor(self):
        for activity in self.running:
            activity.is_closed |= activity.is_shared

        async def reopen():
            await self.monitor.__aexit__(None, None, None)
            self.monitor = await JobMonitor(self.client, keep_finished=2).__aenter__()

        self.run(reopen())

    @rule(is_monitor_first=st.booleans())
    def close_the_client(self, is_monitor_first):
        for activity in self.running:
            activity.is_closed = True
            Machine.closed_in_full_swing += self.is_in_full_swing(activity)

        async def reopen():
            if is_monitor_first:
                await self.monitor.__aexit__(None, None, None)
            await self.client.aclose()
            if not is_monitor_first:
                await self.monitor.__aexit__(None, None, None)
            await self.open()

        self.run(reopen())

    def is_in_full_swing(self, activity):
        """Whether it waits, and not for the response to its first request."""
        return not (activity.is_question or activity.task.done()) and any(
            self.asked[job_id] > activity.asked_before[job_id] + 1 for job_id in activity.job_ids
        )

    # ---- the verdict

    @invariant()
    def no_more_in_flight_than_allowed(self):
        assert self.server.max_in_flight <= MAX_CONCURRENCY

    @invariant()
    def what_has_ended_has_ended_well(self):
        for activity in [a for a in self.running if a.task.done()]:
            self.running.remove(activity)
            self.judge(activity)

    @invariant()
    def no_job_is_polled_that_nobody_watches(self):
        watches = [a.job_ids for a in self.running if a.is_shared and not a.task.done()]
        assert len(self.monitor) <= len({*itertools.chain(*watches)})

    def judge(self, activity):
        for job_id in activity.job_ids:
            self.judge_reports(activity, job_id)
        if activity.task.cancelled():
            assert activity.is_cancelled
            return
        error = activity.task.exception()
        if error is not None:
            self.judge_error(activity, activity.job_ids[0], error)
        elif activity.is_fed and activity.timeout:
            assert len(activity.ended) == len(set(activity.ended))
            assert set(activity.ended) <= set(activity.job_ids)
        else:
            assert sorted(activity.ended) == sorted(activity.job_ids)

    def judge_reports(self, activity, job_id):
        """Check that it got the statuses of the job, in order and none twice in a row."""
        reports = [report for report in activity.reports if report.job_id == job_id]
        told = [report.raw_status for report in reports]
        said = iter(self.histories[job_id][activity.said_before[job_id] :])
        assert all(word in said for word in told), (told, self.histories[job_id])
        assert all(one != other for one, other in itertools.pairwise(reports))

    def judge_outcomes(self, activity, outcomes):
        for outcome in outcomes:
            activity.ended.append(outcome.job_id)
            if outcome.error is None:
                assert outcome.value.is_terminal
                if outcome.value not in activity.reports:  # `on_change` may have had it
                    activity.reports.append(outcome.value)
            else:
                self.judge_error(activity, outcome.job_id, outcome.error)

    def judge_error(self, activity, job_id, error):
        assert isinstance(error, SutroError), error
        if isinstance(error, ClientStateError):
            assert activity.is_closed
        elif isinstance(error, JobWaitTimeoutError):
            assert activity.timeout is not None
            # A job that was added later has waited for less.
            assert activity.is_fed or error.elapsed >= activity.timeout
        elif isinstance(error, GoneError):
            assert job_id in self.gone
        else:
            assert activity.is_question
            injected = self.injected[job_id][activity.injected_before[job_id] :]
            assert type(error) in {fault.error for fault in injected}

    def teardown(self):
        if not hasattr(self, "runner"):
            return
        try:
            self.let_all_end()
        finally:
            self.runner.close()

    def let_all_end(self):
        self.next_faults.clear()
        for history in self.histories.values():
            if history[-1] not in ENDS:
                history.append("succeeded")

        async def end():
            tasks = {activity.task for activity in self.running}
            _, pending = await asyncio.wait(tasks, timeout=10)
            assert not pending

        try:
            if self.running:
                self.run(end())
            self.what_has_ended_has_ended_well()
            assert not self.running
            assert len(self.monitor) == 0
            # A monitor stays registered while it is open, even if it polls nothing.
            assert self.client._manager.lifecycle.running <= {self.monitor._polls}
            assert self.client._manager.throttle.in_flight == 0
        finally:
            self.run(self.monitor.__aexit__(None, None, None))
            registered = set(self.client._manager.lifecycle.running)
            self.run(self.client.aclose())
            self.run(self.server.__aexit__())
        assert not registered
        self.run(self.leaks.__aexit__(None, None, None))


class TestMachine(Machine.TestCase):
    settings = settings(
        derandomize=True,
        max_examples=60,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )

    def runTest(self):  # noqa: N802 - of unittest
        Machine.closed_in_full_swing = 0
        super().runTest()
        # Closing means little where it only ever meets first requests.
        assert Machine.closed_in_full_swing > 20
