"""Records for many pages at the price of few requests: each page asks for them as its jobs move."""

import asyncio
from typing import Any

from sutro_async import Job, SutroClient

MOST_RECORDS = 10_000


class RecordSharingClient(SutroClient):
    """A client with one request at a time for each record, which remembers those of ended jobs."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - SutroClient's own
        super().__init__(*args, **options)
        self._asking: dict[str, asyncio.Task[Job]] = {}
        self._ended: dict[str, Job] = {}

    async def get_job(self, job_id: str) -> Job:
        """Ask for the record, unless somebody does so already, or it will not change any more."""
        if job_id in self._ended:
            return self._ended[job_id]
        if job_id not in self._asking:
            self._asking[job_id] = asyncio.create_task(self._ask(job_id))
        # Whoever leaves does not take the answer from the others.
        return await asyncio.shield(self._asking[job_id])

    async def _ask(self, job_id: str) -> Job:
        try:
            job = await super().get_job(job_id)
        finally:
            del self._asking[job_id]
        if job.is_terminal:
            self._ended[job_id] = job
            if len(self._ended) > MOST_RECORDS:
                del self._ended[next(iter(self._ended))]
        return job
