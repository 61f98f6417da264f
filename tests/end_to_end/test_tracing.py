"""OpenTelemetry's instrumentation, on a session that is passed in."""

import aiohttp
from opentelemetry import trace
from opentelemetry.instrumentation.aiohttp_client import create_trace_config
from opentelemetry.instrumentation.utils import suppress_http_instrumentation
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sutro_async.events import StatusChanged
from sutro_async.testing import FakeSutro
from tests.conftest import FAST_POLL

KEY = "sk_secret_of_the_tests"


async def test_each_poll_is_child_span_without_key():
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    config = create_trace_config(tracer_provider=provider)
    async with (
        FakeSutro(api_key=KEY) as fake,
        aiohttp.ClientSession(trace_configs=[config]) as session,
        fake.client(session=session, poll=FAST_POLL) as client,
    ):
        url = fake.url
        fake.add_job("job-1", ["queued", "succeeded"])
        fake.fail_next(status=503)
        with provider.get_tracer("app").start_as_current_span("wait"):
            await client.wait_for_job("job-1")
    *polls, wait = exporter.get_finished_spans()
    assert [poll.attributes["http.status_code"] for poll in polls] == [503, 200, 200]
    assert {poll.parent.span_id for poll in polls} == {wait.context.span_id}
    assert {poll.attributes["http.url"] for poll in polls} == {f"{url}/v1/job-status/job-1"}
    assert KEY not in "".join(span.to_json() for span in (*polls, wait))
    assert len(fake.requests) == 3


async def test_hour_long_wait_is_one_span_with_few_events(fast_clock):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    config = create_trace_config(tracer_provider=provider)

    def observe(event):
        if isinstance(event, StatusChanged):
            trace.get_current_span().add_event(event.report.status.value)

    async with (
        FakeSutro(api_key=KEY) as fake,
        aiohttp.ClientSession(trace_configs=[config]) as session,
        fake.client(session=session, observer=observe) as client,
    ):

        async def spans_of(wait, **statuses):
            """Wait for hour-long jobs; return the spans and the number of requests."""
            for job_id, end in statuses.items():
                fake.add_job(job_id, [("queued", 300), ("running", 3300), end])
            exporter.clear()
            before = len(fake.requests)
            with provider.get_tracer("app").start_as_current_span("wait"):
                with suppress_http_instrumentation():
                    await wait()
            return exporter.get_finished_spans(), len(fake.requests) - before

        [span], requests = await spans_of(lambda: client.wait_for_job("a"), a="succeeded")
        assert [event.name for event in span.events] == ["queued", "running", "succeeded"]
        assert 235 < requests < 260
        [span], requests = await spans_of(
            lambda: client.wait_for_jobs(["b", "c"]), b="succeeded", c="failed"
        )
        names = sorted(event.name for event in span.events)
        assert names == ["failed", "queued", "queued", "running", "running", "succeeded"]
        assert 470 < requests < 520
        assert KEY not in span.to_json()
        exporter.clear()
        await client.get_job("a")
        assert len(exporter.get_finished_spans()) == 1
