"""A dashboard of Sutro jobs: paste ids into a page, and watch the jobs until they finish.

    python docs/examples/fastapi_dashboard/app.py

With SUTRO_API_KEY set it shows your jobs, without it those of a fake service. HOST and PORT say
where it listens. It has no login: pass `visible` to the router, or keep it on your machine.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

import demo
from sutro_async import SutroClient
from sutro_async.fastapi import jobs_router, sutro_lifespan
from sutro_async.testing import FakeSutro

IS_DEMO = not os.environ.get("SUTRO_API_KEY")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, object]]:
    """Open the client and the monitor, of the fake service if there is no key for the real one."""
    async with AsyncExitStack() as stack:
        make_client: Callable[[], SutroClient] = SutroClient
        if IS_DEMO:
            fake = app.state.fake = await stack.enter_async_context(FakeSutro())
            make_client = fake.client
        yield await stack.enter_async_context(sutro_lifespan(make_client)(app))


app = FastAPI(title="Sutro jobs", lifespan=lifespan)
app.include_router(jobs_router(), prefix="/api")
if IS_DEMO:
    app.include_router(demo.router)


@app.get("/settings")
async def settings() -> dict[str, bool]:
    """Return which features the page may offer."""
    return {"demo": IS_DEMO}


app.mount("/", StaticFiles(directory=Path(__file__).parent / "static", html=True))

if __name__ == "__main__":
    uvicorn.run(
        app,
        host=os.environ.get("HOST", "127.0.0.1"),
        port=int(os.environ.get("PORT", "8000")),
        timeout_graceful_shutdown=5,
    )
