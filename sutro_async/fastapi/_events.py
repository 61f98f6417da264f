"""Jobs as server-sent events: a report at each change, a problem where there is none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from http import HTTPStatus
from typing import Final

from fastapi.sse import ServerSentEvent

from sutro_async import JobStatusReport, SutroError
from sutro_async.fastapi._problems import log_problem, problem_details

__all__ = ["END", "Watches", "follow"]

END: Final = "end"
"""The id of the event after which there is nothing more to tell."""

_RECONNECT_AFTER: Final = 3000  # milliseconds

Watches = dict[str, AsyncGenerator[JobStatusReport, None]]
"""What `JobMonitor.watch` gives, by the ids of the jobs."""

News = tuple[str, JobStatusReport | Exception]


@asynccontextmanager
async def follow(watches: Watches) -> AsyncIterator[AsyncIterator[ServerSentEvent]]:
    """Follow jobs for as long as the block lasts, and give what happens to them as events.

    The watching belongs to the block and not to the iterator, whose end nobody guarantees: FastAPI
    drops it where a visitor has left.
    """
    # With room for one, a slow visitor holds the watchers up, and they skip what is outdated.
    news: asyncio.Queue[News] = asyncio.Queue(maxsize=1)
    tasks = [
        asyncio.create_task(_pass_on(job_id, reports, news)) for job_id, reports in watches.items()
    ]
    try:
        yield _events(news, jobs=len(tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pass_on(
    job_id: str, reports: AsyncGenerator[JobStatusReport, None], news: asyncio.Queue[News]
) -> None:
    try:
        async with aclosing(reports):
            async for report in reports:
                await news.put((job_id, report))
    except Exception as error:  # noqa: BLE001 - it is raised, or told, where the news are read
        await news.put((job_id, error))


async def _events(news: asyncio.Queue[News], *, jobs: int) -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent(retry=_RECONNECT_AFTER)
    is_settled = True  # whether asking again would bring the same for each job
    while jobs:
        job_id, news_item = await news.get()
        if isinstance(news_item, JobStatusReport):
            event, data = "status", json.dumps(news_item.to_dict())
            jobs -= news_item.is_terminal
        elif isinstance(news_item, SutroError):
            log_problem(news_item)
            problem = problem_details(news_item, job_id=job_id)
            event, data = "problem", problem.model_dump_json(exclude_none=True)
            jobs -= 1
            is_settled &= problem.status < HTTPStatus.INTERNAL_SERVER_ERROR
        else:
            raise news_item
        is_end = not jobs and is_settled
        yield ServerSentEvent(event=event, raw_data=data, id=END if is_end else None)
