"""Who may see which jobs: `visible` of the app is called before a route uses the ids of a request.

An endpoint gets its ids from a dependency made here, and from nowhere else: so `visible` has been
called with all of them.
"""
# Annotations are evaluated where they stand, since they name dependencies that are local.

import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Annotated, Any, Final

import attrs
from fastapi import Body, Depends, Path, Query
from fastapi.exceptions import RequestValidationError
from pydantic import StringConstraints

from sutro_async import JobNotFoundError, JobWaitTimeoutError, SutroError
from sutro_async.fastapi._lifespan import MonitorDep

__all__ = [
    "RequestedIds",
    "Source",
    "before_id",
    "body_ids",
    "check_visible",
    "job_not_found",
    "path_id",
    "query_ids",
    "requested_ids",
    "see_all",
    "uniform_not_found",
]

_log: Final = logging.getLogger("sutro_async")

IdText = Annotated[str, StringConstraints(min_length=1, max_length=500)]


@attrs.frozen(kw_only=True)
class RequestedIds:
    """The ids that a request names, each once, and which of them its caller may see."""

    ids: tuple[str, ...]
    visible: frozenset[str]

    @property
    def shown(self) -> list[str]:
        """The ids that the caller may see, in their order."""
        return [job_id for job_id in self.ids if job_id in self.visible]

    @property
    def hidden(self) -> list[str]:
        """The ids that the caller may not see, in their order."""
        return [job_id for job_id in self.ids if job_id not in self.visible]

    def only(self) -> str:
        """Return the id of a request that names one.

        Raises:
            JobNotFoundError: The caller may not see the job.
        """
        (job_id,) = self.ids
        if job_id not in self.visible:
            raise job_not_found(job_id)
        return job_id


# ---- where ids come from

Source = Callable[..., Awaitable[list[str]]]


async def path_id(job_id: Annotated[IdText, Path(description="The id of a job.")]) -> list[str]:
    """Return the id in the path."""
    return [job_id]


async def query_ids(
    job_id: Annotated[
        list[IdText], Query(min_length=1, max_length=100, description="The ids of the jobs.")
    ],
) -> list[str]:
    """Return the ids in the query."""
    return job_id


async def body_ids(
    job_ids: Annotated[
        list[IdText],
        Body(
            embed=True,
            min_length=1,
            max_length=1000,
            description="The ids of the jobs; duplicates count once.",
        ),
    ],
) -> list[str]:
    """Return the ids in the body."""
    return job_ids


async def before_id(
    before: Annotated[
        IdText | None,
        Query(description="List the jobs after this one, which is the `next` of another list."),
    ] = None,
) -> list[str]:
    """Return the id after which a list continues."""
    return [] if before is None else [before]


_LOCATIONS: Final[dict[Source, tuple[str, str]]] = {
    path_id: ("path", "job_id"),
    query_ids: ("query", "job_id"),
    body_ids: ("body", "job_ids"),
    before_id: ("query", "before"),
}


# ---- calling `visible`


async def see_all() -> Callable[[frozenset[str]], Awaitable[frozenset[str]]]:
    """Let every caller see every job: `visible` of an app that passes none."""

    async def visible(job_ids: frozenset[str]) -> frozenset[str]:
        return job_ids

    return visible


def requested_ids(
    visible: Callable[..., Any], source: Source
) -> Callable[..., Awaitable[RequestedIds]]:
    """Make the dependency that gives an endpoint the ids of its request.

    Args:
        visible: The dependency of the app.
        source: Where the ids come from.
    """

    async def dependency(
        # First, so that a login guard in it comes before everything else.
        may_see: Annotated[Callable[..., Any], Depends(visible)],
        job_ids: Annotated[list[str], Depends(source)],
        monitor: MonitorDep,
    ) -> RequestedIds:
        with _rejecting_invalid_ids(_LOCATIONS[source]):
            monitor.watch_jobs(job_ids)  # it checks them; it sends nothing before its first step
        ids = tuple(dict.fromkeys(job_ids))
        return RequestedIds(ids=ids, visible=await check_visible(may_see, ids))

    return dependency


async def check_visible(may_see: Callable[..., Any], job_ids: Collection[str]) -> frozenset[str]:
    """Return those of some ids that the caller may see; without ids, the app is not called.

    Raises:
        SutroError: `may_see` is no such function, raised, or returned anything but some of the ids.
    """
    if not job_ids:
        return frozenset()
    requested = frozenset(job_ids)
    try:
        returned = await may_see(requested)
        if isinstance(returned, str | bytes | Mapping) or not isinstance(returned, Collection):
            raise TypeError(  # noqa: TRY301 - treated as what the function raises
                f"it must return a set or list of job ids, got {type(returned).__name__}"
            )
        found = frozenset(returned)
        if not found <= requested:
            raise ValueError("it returned something that it was not called with")  # noqa: TRY301
    except Exception as error:
        _log.exception("`visible` of jobs_router failed, so no job is shown")
        raise SutroError("`visible` of jobs_router failed") from error
    return found


@contextmanager
def _rejecting_invalid_ids(location: tuple[str, str]) -> Iterator[None]:
    """Respond with 422 if the library rejects an id."""
    try:
        yield
    except ValueError as error:
        raise RequestValidationError(
            [{"type": "value_error", "loc": location, "msg": str(error)}]
        ) from error


# ---- not found


def job_not_found(job_id: str | None) -> JobNotFoundError:
    """Make the error for a job that the caller may not see, or that does not exist."""
    return JobNotFoundError(
        job_id=job_id, status_code=HTTPStatus.NOT_FOUND, message="job not found", body=""
    )


@contextmanager
def uniform_not_found() -> Iterator[None]:
    """Raise for a missing job what is raised for one that the caller may not see."""
    try:
        yield
    except JobNotFoundError as error:
        raise job_not_found(error.job_id) from None
    except JobWaitTimeoutError as error:
        if error.last_report is None and isinstance(error.__cause__, JobNotFoundError):
            raise job_not_found(error.job_id) from None
        raise
