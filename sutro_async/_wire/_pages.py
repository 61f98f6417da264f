"""One page of the list of jobs, read whole or for its statuses alone.

An entry that cannot be read is skipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from sutro_async._wire._paths import check_job_id
from sutro_async._wire._responses import (
    Mismatch,
    OnMismatch,
    ignore_mismatch,
    invalid,
    is_status_word,
    load_object,
    read_record,
)
from sutro_async.models import Job

__all__ = ["JobPage", "StatusPage", "parse_jobs", "parse_statuses"]

# As many as a page has entries; one that ignores `limit` could have a hundred thousand.
_MAX_SKIPPED: Final = 100


@attrs.frozen(kw_only=True)
class JobPage:
    """The records of one page.

    Attributes:
        jobs: The records, in the order of the page.
        skipped: What is wrong with the first entries that cannot be read.
        skipped_count: How many cannot be read.
        next_cursor: Names the next page; None after the last one.
    """

    jobs: tuple[Job, ...]
    skipped: tuple[Mismatch, ...]
    skipped_count: int
    next_cursor: str | None


@attrs.frozen(kw_only=True)
class StatusPage:
    """The statuses of one page.

    Attributes:
        statuses: Pairs of job id and status, in the order of the page.
        next_cursor: Names the next page; None after the last one.
    """

    statuses: tuple[tuple[str, str], ...]
    next_cursor: str | None


def parse_jobs(body: bytes, on_mismatch: OnMismatch = ignore_mismatch) -> JobPage:
    """Read the body of a page of the list (API reference: "Listing All Jobs").

    A `next_cursor` that is not a string is an error: without it the list would end too early, as if
    it were complete.

    Args:
        body: The body.
        on_mismatch: Called with each value that is not of its documented type, in entries that can
            be read. Its path is the same for all entries.

    Raises:
        InvalidResponseError: It is not a JSON object with a list of jobs, or `next_cursor` is
            neither a string nor null.
    """
    content = load_object(None, body)
    jobs: list[Job] = []
    skipped: list[Mismatch] = []
    skipped_count = 0
    for index, entry in enumerate(_entries(content)):
        mismatch = _why_unreadable(entry, f"$.jobs[{index}]")
        if mismatch is None:
            jobs.append(read_record(entry, "$.jobs[*]", on_mismatch))
            continue
        skipped_count += 1
        if skipped_count <= _MAX_SKIPPED:
            skipped.append(mismatch)
    cursor = content.get("next_cursor")
    if cursor is not None and not isinstance(cursor, str):
        raise invalid(None, "$.next_cursor", "a string or null", cursor, content)
    return JobPage(
        jobs=tuple(jobs),
        skipped=tuple(skipped),
        skipped_count=skipped_count,
        next_cursor=cursor or None,
    )


def parse_statuses(body: bytes) -> StatusPage:
    """Read the job ids and statuses of a page, and nothing else of its entries.

    Entries without them are left out, and a `next_cursor` that is not a string counts as null: the
    statuses are only a hint, and a missing job has no meaning.

    Raises:
        InvalidResponseError: It is not a JSON object with a list of jobs.
    """
    content = load_object(None, body, is_lenient=True)
    statuses = tuple(
        (job_id, word)
        for entry in _entries(content)
        if isinstance(entry, dict)
        and isinstance(job_id := entry.get("job_id"), str)
        and is_status_word(word := entry.get("status"))
    )
    cursor = content.get("next_cursor")
    return StatusPage(
        statuses=statuses, next_cursor=cursor if isinstance(cursor, str) and cursor else None
    )


def _entries(content: Mapping[str, Any]) -> list[Any]:
    entries = content.get("jobs")
    if not isinstance(entries, list):
        raise invalid(None, "$.jobs", "a list", entries, content)
    return entries


def _why_unreadable(entry: object, path: str) -> Mismatch | None:
    if not isinstance(entry, dict):
        return Mismatch(path=path, expected="an object", value=entry)
    job_id, word = entry.get("job_id"), entry.get("status")
    if not _is_job_id(job_id):
        return Mismatch(path=f"{path}.job_id", expected="a job id", value=job_id)
    if not is_status_word(word):
        expected = f"a status of job {job_id!r}"
        return Mismatch(path=f"{path}.status", expected=expected, value=word)
    return None


def _is_job_id(value: Any) -> bool:  # noqa: ANN401 - any JSON value
    try:
        check_job_id(value)
    except (TypeError, ValueError):
        return False
    return True
