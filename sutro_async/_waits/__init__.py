"""Waiting for jobs: when to poll, one wait, and many waits on one schedule.

- `_pace`: the polling interval, the last poll, when to give up; plain arithmetic
- `_poller`: one job, its pace and its newest report; makes one poll
- `_reason`: why a job failed, from its record
- `_wait`: one wait, a loop of polls driven by tenacity
- `_schedule`: polls many jobs, each when it is due
- `_batch`: many jobs with one call, an outcome for each
- `_bulk`: sweeps, which read the list of jobs to find out which have changed
- `_outcomes`: what the reader of many jobs gets, and which errors concern all of them
- `_shared`: polls that many readers share, for the monitor
- `_reads`: requests that many callers share, for the monitor
- `_finished`: the finished jobs that the monitor remembers
- `_callbacks`: `on_change`
- `_stream`: `Stream`, the type of all asynchronous iterators
"""

from sutro_async._waits._batch import WaitBatch, fetch_all, unique_ids
from sutro_async._waits._callbacks import OnChange, check_callback
from sutro_async._waits._finished import FinishedJobs
from sutro_async._waits._reads import SharedReads
from sutro_async._waits._shared import SharedPolls, Watch
from sutro_async._waits._stream import Stream
from sutro_async._waits._wait import Wait

__all__ = [
    "FinishedJobs",
    "OnChange",
    "SharedPolls",
    "SharedReads",
    "Stream",
    "Wait",
    "WaitBatch",
    "Watch",
    "check_callback",
    "fetch_all",
    "unique_ids",
]
