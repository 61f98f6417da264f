"""Wait for a Sutro job in Airflow, without occupying a worker.

    wait = SutroJob(task_id="wait", job_id="{{ ti.xcom_pull('submit') }}", seconds=7200)

The operator defers to Airflow's triggerer, where thousands of waits share one event loop and one
client. The triggerer takes the key from SUTRO_API_KEY.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.triggers.base import BaseTrigger, TriggerEvent
from cattrs.preconf.json import make_converter

from sutro_async import (
    APIError,
    ConfigurationError,
    JobStatusReport,
    JobUnsuccessfulError,
    JobWaitTimeoutError,
    SutroClient,
)

converter = make_converter()


class SutroJob(BaseOperator):
    """Waits until a Sutro job has finished; returns its report as plain JSON.

    Args:
        job_id: The job; may be a template.
        seconds: Timeout of the wait.
        **options: Those of every operator.
    """

    template_fields: Sequence[str] = ("job_id",)

    def __init__(self, *, job_id: str, seconds: float = 7200, **options: Any) -> None:  # noqa: ANN401 - any
        super().__init__(**options)
        self.job_id = job_id
        self.seconds = seconds

    def execute(self, context: Context) -> None:  # noqa: ARG002 - as Airflow calls it
        """Defer the wait to the triggerer."""
        self.defer(
            trigger=SutroJobTrigger(job_id=self.job_id, seconds=self.seconds),
            method_name="resume",
        )

    def resume(
        self,
        context: Context,  # noqa: ARG002 - likewise
        event: dict[str, Any],
    ) -> dict[str, Any]:
        """Return the report from the trigger. Airflow does not retry the task of a failed job."""
        if "error" in event:
            kind = AirflowException if event["is_transient"] else AirflowFailException
            raise kind(event["error"])
        report = converter.structure(event["report"], JobStatusReport)
        try:
            report.raise_for_failure()
        except JobUnsuccessfulError as error:
            raise AirflowFailException(str(error)) from error
        return event["report"]


class SutroJobTrigger(BaseTrigger):
    """The wait itself. What it yields is plain JSON, since it goes through Airflow's database."""

    def __init__(self, job_id: str, seconds: float) -> None:
        super().__init__()
        self.job_id = job_id
        self.seconds = seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return how to make this trigger again, in another process."""
        cls = type(self)
        arguments = {"job_id": self.job_id, "seconds": self.seconds}
        return f"{cls.__module__}.{cls.__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield one event: the report, or why there is none."""
        try:
            async with _shared_client() as client:
                report = await client.wait_for_job(self.job_id, timeout=self.seconds)
        except (APIError, JobWaitTimeoutError, ConfigurationError) as error:
            is_timeout = isinstance(error, JobWaitTimeoutError)
            is_transient = is_timeout or getattr(error, "retryable", False)
            yield TriggerEvent({"error": str(error), "is_transient": is_transient})
        else:
            yield TriggerEvent({"report": report.to_dict()})


# All triggers of a triggerer run in one event loop; one client makes them share its limits.
_client: SutroClient | None = None
_users = 0


@asynccontextmanager
async def _shared_client() -> AsyncIterator[SutroClient]:
    global _client, _users  # noqa: PLW0603 - the triggerer has no other place for it
    if _client is None:
        _client = SutroClient()
    client = _client
    _users += 1
    try:
        yield client
    finally:
        _users -= 1
        if _users == 0:
            _client = None
            await client.aclose()
