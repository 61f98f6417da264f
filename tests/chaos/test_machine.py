"""Events in any order: each wait returns the last status that the server sent."""

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
from tests.chaos.conftest import assert_no_leaks, make_client

MAX_CONCURRENCY = 3
GONE = FAULTS["gone"]
TERMINAL = ("succeeded", "failed")
# A wait continues after these.
SURVIVABLE = [f for f in FAULTS.values() if f.promise is not Promise.FINAL and not f.can_spread]

# Few, so that many events concern the same job; each place holds its newest job.
places = st.integers(0, 3)
statuses = st.sampled_from(["queued", "running", "running", "an unknown status", *TERMINAL])
many_places = st.lists(places, min_size=1, unique=True)
timeouts = st.sampled_from([None, None, 0, 0.02, 0.1])
# Milliseconds before the next rule: 0 runs it during a request, more allow for some polls.
head_starts = st.sampled_from([0, 0, 5, 30])
# Seconds after which a step of a stream is cancelled and the next one started.
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
    """A wait, stream, batch or call, and what is needed to check it.

    Attributes:
        job_ids: Its jobs.
        timeout: Its timeout, in seconds.
        reports: The reports that it received, in order.
        finished_ids: The jobs that it has finished.
        statuses_before: For each job, the number of older statuses, which it must not receive.
        injected_before: For each job, the number of faults injected before it started.
        requests_before: For each job, the number of requests before it started.
        is_shared: Whether it uses the monitor.
        is_single_call: Whether it is a single call, which fails where a wait continues.
        has_async_ids: Whether its jobs come from an asynchronous iterable, which a timeout can end.
        is_cancelled: Whether it was cancelled.
        is_closed: Whether the client or the monitor was closed while it ran.
    """

    job_ids: list[str]
    timeout: float | None = None
    reports: list[JobStatusReport] = attrs.field(factory=list)
    finished_ids: list[str] = attrs.field(factory=list)
    statuses_before: dict[str, int] = attrs.field(factory=dict)
    injected_before: dict[str, int] = attrs.field(factory=dict)
    requests_before: dict[str, int] = attrs.field(factory=dict)
    is_shared: bool = False
    is_single_call: bool = False
    has_async_ids: bool = False
    is_cancelled: bool = False
    is_closed: bool = False
    task: asyncio.Task[None] | None = None


async def read_stream(stream, heartbeat, on_item):
    """Read all items of a stream; its first steps may be cancelled.

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
                on_item(item)


async def submit(job_ids):
    for job_id in job_ids:
        await asyncio.sleep(0.002)
        yield job_id


class Machine(RuleBasedStateMachine):
    """A client, a monitor, a server with scripted responses, and a record of all three.

    Time passes only within rules: the event loop is not running between them.
    """

    activities = Bundle("activities")
    closed_while_polling = 0

    @initialize()
    def begin(self):
        self.newest = [f"job/{place}" for place in range(4)]
        self.histories = {job_id: ["queued"] for job_id in self.newest}
        self.gone: set[str] = set()
        self.next_faults = []
        self.injected = defaultdict(list)
        self.request_counts = defaultdict(int)
        self.running: list[Activity] = []
        self.runner = asyncio.Runner()
        self.leaks = assert_no_leaks()
        self.run(self.leaks.__aenter__())
        self.server = HostileServer(self.status_of, self.choose_fault, client_timeout=0.1)
        self.run(self.server.__aenter__())
        self.run(self.open())

    def run(self, coroutine):
        return self.runner.run(coroutine)

    async def open(self):
        self.client = make_client(self.server, max_concurrency=MAX_CONCURRENCY, timeout=0.1)
        self.monitor = await JobMonitor(self.client, keep_finished=2).__aenter__()

    # ---- the server

    def status_of(self, job_id):
        return self.histories[job_id][-1]

    def choose_fault(self, job_id):
        self.request_counts[job_id] += 1
        if job_id in self.gone:
            fault = GONE
        elif self.next_faults:
            fault = self.next_faults.pop(0)
        else:
            return None
        self.injected[job_id].append(fault)
        return fault

    @rule(place=places, status=statuses)
    def add_job(self, place, status):
        self.newest[place] = f"job/{len(self.histories)}"
        self.histories[self.newest[place]] = [status]

    @rule(place=places, status=statuses)
    def change_status(self, place, status):
        history = self.histories[self.newest[place]]
        if history[-1] not in TERMINAL:
            history.append(status)

    @rule(place=places)
    def remove_job(self, place):
        self.gone.add(self.newest[place])

    @rule(faults=st.lists(st.sampled_from(SURVIVABLE), min_size=1, max_size=5))
    def break_the_next_responses(self, faults):
        self.next_faults += faults

    # ---- activities

    def start(self, run, job_ids, head_start, *, timeout=None, is_shared=False, **options):
        activity = Activity(
            job_ids=job_ids,
            timeout=timeout,
            is_shared=is_shared,
            **options,
            # A monitor starts with the newest report that it has, which may be outdated.
            statuses_before={
                job_id: 0 if is_shared else len(self.histories[job_id]) - 1 for job_id in job_ids
            },
            injected_before={job_id: len(self.injected[job_id]) for job_id in job_ids},
            requests_before={job_id: self.request_counts[job_id] for job_id in job_ids},
        )

        async def begin():
            activity.task = asyncio.create_task(run(activity))
            await asyncio.sleep(head_start / 1000)

        self.run(begin())
        self.running.append(activity)
        return activity

    @rule(target=activities, **waits)
    def wait(self, place, timeout, is_shared, head_start):
        job_id = self.newest[place]
        wait = self.monitor.wait if is_shared else self.client.wait_for_job

        async def run(activity):
            report = await wait(job_id, timeout=timeout)
            assert report.is_terminal
            activity.reports.append(report)
            activity.finished_ids.append(job_id)

        return self.start(run, [job_id], head_start, timeout=timeout, is_shared=is_shared)

    @rule(target=activities, heartbeat=heartbeats, **waits)
    def watch(self, place, timeout, is_shared, head_start, heartbeat):
        job_id = self.newest[place]
        watch = self.monitor.watch if is_shared else self.client.watch_job

        async def run(activity):
            await read_stream(watch(job_id, timeout=timeout), heartbeat, activity.reports.append)
            assert activity.reports[-1].is_terminal
            activity.finished_ids.append(job_id)

        return self.start(run, [job_id], head_start, timeout=timeout, is_shared=is_shared)

    @rule(place=places, is_shared=st.booleans(), head_start=head_starts)
    def watch_and_break(self, place, is_shared, head_start):
        job_id = self.newest[place]
        watch = self.monitor.watch if is_shared else self.client.watch_job

        async def run(activity):
            async with watch(job_id) as reports:
                async for report in reports:
                    activity.reports.append(report)
                    break
            activity.finished_ids.append(job_id)

        self.start(run, [job_id], head_start, is_shared=is_shared)

    @rule(
        target=activities,
        at=many_places,
        timeout=timeouts,
        method=st.sampled_from(["wait_for_jobs", "as_completed", "async ids"]),
        has_callback=st.booleans(),
        head_start=head_starts,
    )
    def batch(self, at, timeout, method, has_callback, head_start):
        job_ids = [self.newest[place] for place in at]

        async def run(activity):
            async def on_change(report):
                activity.reports.append(report)
                await asyncio.sleep(0.001)

            options = {"timeout": timeout, "on_change": on_change if has_callback else None}
            if method == "wait_for_jobs":
                outcomes = await self.client.wait_for_jobs(job_ids, **options)
                self.check_outcomes(activity, outcomes.values())
                return
            ids = submit(job_ids) if method == "async ids" else job_ids
            async with self.client.as_completed(ids, **options) as outcomes:
                self.check_outcomes(activity, [outcome async for outcome in outcomes])

        return self.start(
            run, job_ids, head_start, timeout=timeout, has_async_ids=method == "async ids"
        )

    @rule(
        target=activities,
        at=many_places,
        timeout=timeouts,
        is_shared=st.booleans(),
        heartbeat=heartbeats,
        head_start=head_starts,
    )
    def watch_many(self, at, timeout, is_shared, heartbeat, head_start):
        job_ids = [self.newest[place] for place in at]
        watch_jobs = self.monitor.watch_jobs if is_shared else self.client.watch_jobs

        async def run(activity):
            def on_item(outcome):
                assert outcome.job_id not in activity.finished_ids
                if outcome.ok and not outcome.value.is_terminal:
                    activity.reports.append(outcome.value)
                else:
                    self.check_outcomes(activity, [outcome])

            await read_stream(watch_jobs(job_ids, timeout=timeout), heartbeat, on_item)

        return self.start(run, job_ids, head_start, timeout=timeout, is_shared=is_shared)

    @rule(target=activities, place=places, is_record=st.booleans(), head_start=head_starts)
    def call(self, place, is_record, head_start):
        job_id = self.newest[place]
        call = self.client.get_job if is_record else self.client.get_job_status

        async def run(activity):
            activity.reports.append(await call(job_id))
            activity.finished_ids.append(job_id)

        return self.start(run, [job_id], head_start, is_single_call=True)

    # ---- time, cancellation, closing

    @rule(milliseconds=st.integers(0, 30))
    def let_time_pass(self, milliseconds):
        self.run(asyncio.sleep(milliseconds / 1000))

    @rule(activity=consumes(activities), iterations=st.integers(0, 3))
    def cancel(self, activity, iterations):
        async def cancel():
            for _ in range(iterations):
                await asyncio.sleep(0)
            if activity.task.cancel():
                # An activity that was closed before may still raise `ClientStateError`.
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
            Machine.closed_while_polling += self.is_polling(activity)

        async def reopen():
            if is_monitor_first:
                await self.monitor.__aexit__(None, None, None)
            await self.client.aclose()
            if not is_monitor_first:
                await self.monitor.__aexit__(None, None, None)
            await self.open()

        self.run(reopen())

    def is_polling(self, activity):
        """Whether it is a wait that has polled more than once."""
        return not (activity.is_single_call or activity.task.done()) and any(
            self.request_counts[job_id] > activity.requests_before[job_id] + 1
            for job_id in activity.job_ids
        )

    # ---- checks

    @invariant()
    def max_concurrency_is_respected(self):
        assert self.server.max_in_flight <= MAX_CONCURRENCY

    @invariant()
    def finished_activities_are_correct(self):
        for activity in [a for a in self.running if a.task.done()]:
            self.running.remove(activity)
            self.check(activity)

    @invariant()
    def only_watched_jobs_are_polled(self):
        watches = [a.job_ids for a in self.running if a.is_shared and not a.task.done()]
        assert len(self.monitor) <= len({*itertools.chain(*watches)})

    def check(self, activity):
        for job_id in activity.job_ids:
            self.check_reports(activity, job_id)
        if activity.task.cancelled():
            assert activity.is_cancelled
            return
        error = activity.task.exception()
        if error is not None:
            self.check_error(activity, activity.job_ids[0], error)
        elif activity.has_async_ids and activity.timeout:
            assert len(activity.finished_ids) == len(set(activity.finished_ids))
            assert set(activity.finished_ids) <= set(activity.job_ids)
        else:
            assert sorted(activity.finished_ids) == sorted(activity.job_ids)

    def check_reports(self, activity, job_id):
        """Check that it received the statuses of the job in order, without repetitions."""
        reports = [report for report in activity.reports if report.job_id == job_id]
        reported = [report.raw_status for report in reports]
        sent = iter(self.histories[job_id][activity.statuses_before[job_id] :])
        assert all(status in sent for status in reported), (reported, self.histories[job_id])
        assert all(one != other for one, other in itertools.pairwise(reports))

    def check_outcomes(self, activity, outcomes):
        for outcome in outcomes:
            activity.finished_ids.append(outcome.job_id)
            if outcome.error is None:
                assert outcome.value.is_terminal
                if outcome.value not in activity.reports:  # `on_change` may have received it
                    activity.reports.append(outcome.value)
            else:
                self.check_error(activity, outcome.job_id, outcome.error)

    def check_error(self, activity, job_id, error):
        assert isinstance(error, SutroError), error
        if isinstance(error, ClientStateError):
            assert activity.is_closed
        elif isinstance(error, JobWaitTimeoutError):
            assert activity.timeout is not None
            # The wait for a job that was added later is shorter.
            assert activity.has_async_ids or error.elapsed >= activity.timeout
        elif isinstance(error, GoneError):
            assert job_id in self.gone
        else:
            assert activity.is_single_call
            injected = self.injected[job_id][activity.injected_before[job_id] :]
            assert type(error) in {fault.error for fault in injected}

    def teardown(self):
        if not hasattr(self, "runner"):
            return
        try:
            self.finish_all()
        finally:
            self.runner.close()

    def finish_all(self):
        self.next_faults.clear()
        for history in self.histories.values():
            if history[-1] not in TERMINAL:
                history.append("succeeded")

        async def wait_for_tasks():
            tasks = {activity.task for activity in self.running}
            _, pending = await asyncio.wait(tasks, timeout=10)
            assert not pending

        try:
            if self.running:
                self.run(wait_for_tasks())
            self.finished_activities_are_correct()
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
        Machine.closed_while_polling = 0
        super().runTest()
        # Closing is tested only if it happens after the first requests too.
        assert Machine.closed_while_polling > 20
