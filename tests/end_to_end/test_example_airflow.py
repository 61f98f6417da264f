"""The Airflow example, in Airflow itself: a run of its DAG, deferred and resumed.

Airflow pins some 130 packages, so it has an environment of its own, which `.ci/run` makes.
"""

import asyncio
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest

from sutro_async.testing import FakeSutro

# Not by an import: Airflow reads its environment at once, and makes files in the home directory.
pytestmark = pytest.mark.skipif(
    find_spec("airflow") is None, reason="Airflow is not installed here; .ci/run has it"
)
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "airflow_trigger"


@pytest.fixture(scope="module")
def dag(tmp_path_factory):
    home = tmp_path_factory.mktemp("airflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(home))
        patch.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(EXAMPLE))
        patch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
        patch.syspath_prepend(EXAMPLE)
        from airflow.utils.db import initdb

        initdb()
        from example_dag import dag

        yield dag


@pytest.fixture
def fake(monkeypatch):
    """A service in a thread, since Airflow brings event loops of its own."""
    stopped, started = threading.Event(), threading.Event()
    fake = FakeSutro()

    async def serve():
        async with fake:
            started.set()
            await asyncio.to_thread(stopped.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    started.wait()
    monkeypatch.setenv("SUTRO_API_URL", fake.url)
    monkeypatch.setenv("SUTRO_API_KEY", fake.api_key)
    yield fake
    stopped.set()
    thread.join()


def run(dag, job_id):
    dag_run = dag.test(run_conf={"job_id": job_id})
    (task,) = dag_run.get_task_instances()
    return task


def test_successful_job_completes_task_with_report(dag, fake):
    fake.add_job("job-1", timeline=["queued", "running", "succeeded"])
    task = run(dag, "job-1")
    assert task.state == "success"
    assert task.xcom_pull(task_ids="wait")["status"] == "succeeded"
    assert len(fake.requests) == 3


def test_failed_job_fails_task(dag, fake):
    fake.add_job("job-2", timeline=["queued", "failed"], failure_reason="no GPU")
    assert run(dag, "job-2").state == "failed"


async def events(trigger):
    return [event.payload async for event in trigger.run()]


def restored(trigger):
    path, arguments = trigger.serialize()
    module, _, name = path.rpartition(".")
    return getattr(sys.modules[module], name)(**arguments)


def test_transient_failures_are_distinguished_from_permanent_ones(dag, fake):
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    from sutro_jobs import SutroJob, SutroJobTrigger

    fake.add_job("job-3", timeline=["running"])
    operator = SutroJob(task_id="wait", job_id="job-3")
    for trigger, kind in (
        (SutroJobTrigger(job_id="job-3", seconds=0), AirflowException),
        (SutroJobTrigger(job_id="nope", seconds=0), AirflowFailException),
    ):
        (event,) = asyncio.run(events(restored(trigger)))
        with pytest.raises(AirflowException, match=trigger.job_id) as caught:
            operator.resume({}, event)
        assert type(caught.value) is kind


def test_triggers_share_one_client_closed_by_the_last(dag, fake):
    import sutro_jobs

    async def together():
        triggers = [sutro_jobs.SutroJobTrigger(job_id=f"job-{n}", seconds=10) for n in range(20)]
        return await asyncio.gather(*(events(trigger) for trigger in triggers))

    for number in range(20):
        fake.add_job(f"job-{number}", timeline=["running", "succeeded"])
    found = asyncio.run(together())
    assert {event["report"]["status"] for (event,) in found} == {"succeeded"}
    assert sutro_jobs._client is None
