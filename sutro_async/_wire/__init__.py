"""Bytes to models or errors: every rule about what the service sends, as pure functions.

- `_paths`: the path of a request
- `_responses`: the forms of a response with status 200 about one job
- `_pages`: one page of the list of jobs
- `_errors`: the forms of a response with any other status
- `_html`: how a message describes a page of HTML
- `_json`: strict JSON, within bounds of size and depth
- `_structure`: JSON to the attrs classes; the one cattrs converter

Nothing here does I/O. The deployed service differs from its API reference in places; both are read.
"""

from sutro_async._wire._errors import parse_error
from sutro_async._wire._json import MAX_BODY_BYTES
from sutro_async._wire._pages import JobPage, StatusPage, parse_jobs, parse_statuses
from sutro_async._wire._paths import check_job_id, job_path, page_path, status_path
from sutro_async._wire._responses import (
    Mismatch,
    OnMismatch,
    ignore_mismatch,
    parse_job,
    parse_report,
)
from sutro_async._wire._structure import is_same_status

__all__ = [
    "MAX_BODY_BYTES",
    "JobPage",
    "Mismatch",
    "OnMismatch",
    "StatusPage",
    "check_job_id",
    "ignore_mismatch",
    "is_same_status",
    "job_path",
    "page_path",
    "parse_error",
    "parse_job",
    "parse_jobs",
    "parse_report",
    "parse_statuses",
    "status_path",
]
