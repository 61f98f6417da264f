"""The list of those jobs of the account that a caller may see."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Final

from sutro_async import APIError, Job, Stream, SutroClient
from sutro_async.fastapi._models import JobListModel, JobModel
from sutro_async.fastapi._visible import job_not_found

__all__ = ["list_visible_jobs"]

# How many jobs of the account are read for one response: ten requests to the service, and one to
# see whether there are more.
_MOST_JOBS: Final = 1000
_PAGE_SIZE: Final = 100


async def list_visible_jobs(
    client: SutroClient,
    visible: Callable[[Collection[str]], Awaitable[frozenset[str]]],
    *,
    before: str | None,
    limit: int,
) -> JobListModel:
    """List the newest jobs that the caller may see, reading a page of the service at a time.

    Args:
        client: Lists the jobs of the account.
        visible: Takes job ids, and returns those that the caller may see.
        before: The job after which to begin, one that the caller may see; None for the newest.
        limit: How many jobs to return.

    Raises:
        JobNotFoundError: The list does not have the job after which to begin.
        APIError: A page could not be read, retries included.
    """
    shown: list[Job] = []
    is_found = before is None
    is_ended = False
    count = 0
    async with client.list_jobs() as jobs:
        # One more than is returned, so that `next` does not depend on the jobs of others.
        while not is_ended and len(shown) <= limit and count < _MOST_JOBS:
            page = await _next_page(jobs)
            is_ended = len(page) < _PAGE_SIZE
            count += len(page)
            if not is_found:
                page_ids = [job.job_id for job in page]
                is_found = before in page_ids
                page = page[page_ids.index(before) + 1 :] if before in page_ids else []
            seen = await visible([job.job_id for job in page])
            shown += [job for job in page if job.job_id in seen]
        has_more = len(shown) > limit
        is_ended = is_ended or (not has_more and await _is_exhausted(jobs))
    if is_ended and not is_found:
        raise job_not_found(before)
    return JobListModel(
        jobs=[JobModel.model_validate(job.to_dict()) for job in shown[:limit]],
        next=shown[limit - 1].job_id if has_more else None,
        is_truncated=not is_ended and not has_more,
    )


async def _next_page(jobs: Stream[Job]) -> list[Job]:
    """Return the next page of the service, which is shorter at the end of the list."""
    page: list[Job] = []
    async for job in jobs:
        page.append(job)
        if len(page) == _PAGE_SIZE:
            break
    return page


async def _is_exhausted(jobs: Stream[Job]) -> bool:
    """Return whether no job follows; the next page is requested if the last one had a cursor."""
    try:
        return await anext(jobs, None) is None
    except APIError:
        # No job of this page would be returned, so its failure must not affect the caller.
        return False
