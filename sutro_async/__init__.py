"""An asyncio-native client for Sutro batch-inference jobs.

```python
async with SutroClient() as client:
    report = await client.wait_for_job("job-12345", timeout=3600)
    report.raise_for_failure()
```
"""

# First of all: the imports below take most of the start of the command.
from sutro_async import _ctrl_c as _ctrl_c

# isort: split
import logging

from sutro_async._version import __version__
from sutro_async._waits import Stream
from sutro_async.client import SutroClient
from sutro_async.errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    ClientStateError,
    ConfigurationError,
    GoneError,
    InvalidResponseError,
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    JobUnsuccessfulError,
    JobWaitTimeoutError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    SutroError,
)
from sutro_async.models import (
    TERMINAL_STATUSES,
    FailureReason,
    Job,
    JobOutcome,
    JobStatus,
    JobStatusReport,
)
from sutro_async.monitor import JobMonitor
from sutro_async.policies import PollPolicy, RetryPolicy

__all__ = [
    "TERMINAL_STATUSES",
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "APITimeoutError",
    "AuthenticationError",
    "ClientStateError",
    "ConfigurationError",
    "FailureReason",
    "GoneError",
    "InvalidResponseError",
    "Job",
    "JobCancelledError",
    "JobFailedError",
    "JobMonitor",
    "JobNotFoundError",
    "JobOutcome",
    "JobStatus",
    "JobStatusReport",
    "JobUnsuccessfulError",
    "JobWaitTimeoutError",
    "PermissionDeniedError",
    "PollPolicy",
    "RateLimitError",
    "RetryPolicy",
    "ServerError",
    "Stream",
    "SutroClient",
    "SutroError",
    "__version__",
]

# A library leaves the configuration of logging to its user.
logging.getLogger(__name__).addHandler(logging.NullHandler())
del logging
