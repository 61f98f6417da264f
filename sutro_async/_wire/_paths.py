"""The path of a request; a job id is one segment of it, and a cursor one value of the query."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

__all__ = ["check_job_id", "job_path", "page_path", "status_path"]

# Of RFC 3986. `quote` would leave them as they are, but is slow.
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9._~-]+")


def check_job_id(job_id: str) -> str:
    """Return a valid job id, as a plain string.

    Raises:
        TypeError: It is not a string.
        ValueError: It is invalid.
    """
    if not isinstance(job_id, str):
        raise TypeError(f"a job id must be a string, got {job_id!r}")
    # Of a subclass, such as an enumeration, the characters count, and not its `__str__`.
    job_id = str.__str__(job_id)
    if not job_id:
        raise ValueError("invalid job id '': it must not be empty")
    if job_id in {".", ".."}:
        raise ValueError(
            f"invalid job id {job_id!r}: as a segment of a URL it names another path,"
            " however it is encoded"
        )
    if not job_id.isprintable():
        raise ValueError(f"invalid job id {job_id!r}: it must contain printable characters only")
    return job_id


def status_path(job_id: str) -> str:
    """Return the path of a job's status, below the base URL.

    Raises:
        TypeError: The job id is not a string.
        ValueError: The job id is invalid.
    """
    return f"/job-status/{_segment(job_id)}"


def job_path(job_id: str) -> str:
    """Return the path of a job's record, below the base URL.

    Raises:
        TypeError: The job id is not a string.
        ValueError: The job id is invalid.
    """
    return f"/jobs/{_segment(job_id)}"


def page_path(cursor: str | None, limit: int) -> str:
    """Return the path of one page of the list of jobs, below the base URL, with its query.

    Args:
        cursor: The `next_cursor` of the page before; None for the first page.
        limit: Jobs a page, 1 to 100.
    """
    path = f"/list-jobs?limit={limit}"
    if cursor is None:
        return path
    # A sweep lets a lone surrogate pass, which a URL cannot contain.
    return f"{path}&cursor={quote(cursor, safe='', errors='replace')}"


def _segment(job_id: str) -> str:
    job_id = check_job_id(job_id)
    return job_id if _UNRESERVED.fullmatch(job_id) else quote(job_id, safe="")
