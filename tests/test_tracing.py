"""OpenTelemetry's instrumentation, on a session that is passed in."""

import aiohttp
from opentelemetry.instrumentation.aiohttp_client import create_trace_config
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sutro_async.testing import FakeSutro
from tests.conftest import FAST_POLL

KEY = "sk_secret_of_the_tests"


async def test_each_poll_is_a_span_below_the_current_one_without_the_key():
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
