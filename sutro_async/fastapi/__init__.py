"""For FastAPI backends: one client and one monitor for the app, problem details, and a router.

```python
from fastapi import FastAPI

from sutro_async.fastapi import install_error_handlers, jobs_router, sutro_lifespan

app = FastAPI(lifespan=sutro_lifespan())
install_error_handlers(app)
app.include_router(jobs_router())
```
"""

try:
    import fastapi.sse  # noqa: F401 - the newest module that is needed
except ImportError as _error:
    raise ImportError(
        "sutro_async.fastapi needs FastAPI 0.135.2 or later: pip install 'sutro-async[fastapi]', or"
        " from a checkout pip install '.[fastapi]'"
    ) from _error

from sutro_async.fastapi._lifespan import (
    MonitorDep,
    SutroDep,
    get_job_monitor,
    get_sutro_client,
    sutro_lifespan,
)
from sutro_async.fastapi._models import (
    FailureReasonModel,
    JobListModel,
    JobModel,
    JobOutcomeModel,
    JobOutcomesModel,
    JobProblem,
    JobStatusReportModel,
    ServiceTrouble,
)
from sutro_async.fastapi._problems import install_error_handlers
from sutro_async.fastapi._router import jobs_router

__all__ = [
    "FailureReasonModel",
    "JobListModel",
    "JobModel",
    "JobOutcomeModel",
    "JobOutcomesModel",
    "JobProblem",
    "JobStatusReportModel",
    "MonitorDep",
    "ServiceTrouble",
    "SutroDep",
    "get_job_monitor",
    "get_sutro_client",
    "install_error_handlers",
    "jobs_router",
    "sutro_lifespan",
]
