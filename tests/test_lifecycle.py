import asyncio

import pytest

from sutro_async import ClientStateError
from sutro_async._http._lifecycle import Lifecycle


async def run_until_closed(lifecycle, started=None):
    with lifecycle.operation():
        if started:
            started.set()
        await asyncio.sleep(60)


async def started_operation(lifecycle):
    started = asyncio.Event()
    task = asyncio.create_task(run_until_closed(lifecycle, started))
    await started.wait()
    return task


async def test_close_interrupts_operations_and_waits_for_them():
    lifecycle = Lifecycle()
    tasks = [await started_operation(lifecycle) for _ in range(3)]
    await lifecycle.close()
    assert not lifecycle.running
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, ClientStateError) for result in results)
    assert all(task.cancelling() == 0 for task in tasks)


async def test_finished_operation_is_not_interrupted():
    lifecycle = Lifecycle()
    with lifecycle.operation():
        pass
    await lifecycle.close()


async def test_no_operation_starts_after_close():
    lifecycle = Lifecycle()
    await lifecycle.close()
    with pytest.raises(ClientStateError, match="closed"):
        with lifecycle.operation():
            pytest.fail("the operation began")


async def test_second_close_also_waits():
    lifecycle = Lifecycle()
    task = await started_operation(lifecycle)
    await asyncio.gather(lifecycle.close(), lifecycle.close())
    await lifecycle.close()
    assert task.done() or task.cancelling() == 0
    with pytest.raises(ClientStateError):
        await task


async def test_external_cancellation_takes_precedence_over_close():
    lifecycle = Lifecycle()
    task = await started_operation(lifecycle)
    task.cancel()
    await lifecycle.close()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_result_that_arrives_during_close_is_kept():
    lifecycle = Lifecycle()

    async def finish_anyway():
        with lifecycle.operation():
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return "a result"

    task = asyncio.create_task(finish_anyway())
    await asyncio.sleep(0)
    await lifecycle.close()
    assert await task == "a result"
    assert task.cancelling() == 0


async def test_close_during_timeout_leaves_no_pending_cancellation():
    lifecycle = Lifecycle()

    async def run():
        with lifecycle.operation():
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    scope_has_struck = asyncio.get_running_loop().call_later(0.01, lambda: None)
    while not scope_has_struck.when() < asyncio.get_running_loop().time():
        await asyncio.sleep(0)
    await lifecycle.close()
    with pytest.raises((ClientStateError, TimeoutError)):
        await task
    assert task.cancelling() == 0


def test_another_event_loop_is_rejected():
    lifecycle = Lifecycle()
    asyncio.run(run_check(lifecycle))
    with pytest.raises(ClientStateError, match="event loop"):
        asyncio.run(run_check(lifecycle))


async def run_check(lifecycle):
    lifecycle.check()
    lifecycle.check()
