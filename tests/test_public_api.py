"""The public names and their annotations."""

import importlib
import inspect
import sys
import typing

import pytest

import sutro_async
from sutro_async import errors, events, models, policies, testing

PUBLIC = {
    "SutroClient",
    "JobMonitor",
    "RetryPolicy",
    "PollPolicy",
    "JobStatus",
    "JobStatusReport",
    "Job",
    "FailureReason",
    "JobOutcome",
    "Stream",
    "TERMINAL_STATUSES",
    "SutroError",
    "ConfigurationError",
    "ClientStateError",
    "APIError",
    "APIConnectionError",
    "APITimeoutError",
    "InvalidResponseError",
    "APIStatusError",
    "AuthenticationError",
    "PermissionDeniedError",
    "JobNotFoundError",
    "GoneError",
    "RateLimitError",
    "ServerError",
    "JobWaitTimeoutError",
    "JobUnsuccessfulError",
    "JobFailedError",
    "JobCancelledError",
    "__version__",
}


def test_all_matches_design():
    assert set(sutro_async.__all__) == PUBLIC
    assert sorted(set(sutro_async.__all__)) == sorted(sutro_async.__all__)


def test_no_other_name_is_public():
    modules = {name for name, value in vars(sutro_async).items() if isinstance(value, type(sys))}
    assert {name for name in vars(sutro_async) if not name.startswith("_")} - modules == (
        PUBLIC - {"__version__"}
    )
    assert modules <= {
        "client",
        "errors",
        "events",
        "models",
        "monitor",
        "policies",
        "testing",
        "cli",
        "fastapi",
    } | {name for name in modules if name.startswith("_")}


def test_public_modules_export_same_names_as_package():
    for module in (errors, models, policies):
        assert set(module.__all__) <= PUBLIC
    assert events.__all__ == [
        "ClientStats",
        "Endpoint",
        "Event",
        "PauseReason",
        "PollFailed",
        "RequestEnded",
        "RequestOutcome",
        "StatusChanged",
        "ThrottlePaused",
        "ThrottleResumed",
        "WaitEnded",
        "WaitOutcome",
    ]
    assert testing.__all__ == ["FakeSutro", "RecordedRequest"]


def test_client_methods_match_design():
    assert {name for name in vars(sutro_async.SutroClient) if not name.startswith("_")} == {
        "aclose",
        "as_completed",
        "base_url",
        "get_job",
        "get_job_status",
        "get_job_statuses",
        "get_jobs",
        "list_jobs",
        "stats",
        "wait_for_job",
        "wait_for_jobs",
        "watch_job",
        "watch_jobs",
        "with_options",
    }


def test_every_public_name_is_documented():
    for name in PUBLIC - {"__version__", "TERMINAL_STATUSES"}:
        value = getattr(sutro_async, name)
        assert value.__doc__, name
        for attribute, member in vars(value).items():
            if callable(member) and not attribute.startswith("_"):
                assert member.__doc__, f"{name}.{attribute}"


MODULES = [
    "sutro_async",
    "sutro_async.errors",
    "sutro_async.events",
    "sutro_async.models",
    "sutro_async.policies",
    "sutro_async.testing",
    "sutro_async.testing.fixtures",
    "sutro_async.fastapi",
    "sutro_async.cli",
]


def public_callables(module_name):
    """Each public class and function, and each function that is a member of such a class."""
    found = {}
    module = importlib.import_module(module_name)
    for name in getattr(module, "__all__", None) or vars(module):
        value = getattr(module, name)
        is_ours = getattr(value, "__module__", "").startswith("sutro_async")
        if is_ours and (inspect.isclass(value) or inspect.isfunction(value)):
            found[f"{module_name}.{name}"] = value
    for path, value in tuple(found.items()):
        for cls in value.__mro__ if inspect.isclass(value) else ():
            if cls.__module__.startswith("sutro_async"):
                found |= {
                    f"{path}.{name}": function
                    for name, member in vars(cls).items()
                    if inspect.isfunction(function := getattr(member, "fget", member))
                }
    return found


def test_all_public_callables_are_found():
    found = {path for module_name in MODULES for path in public_callables(module_name)}
    for path in (
        "sutro_async.SutroClient",
        "sutro_async.SutroClient.__init__",
        "sutro_async.SutroClient.base_url",
        "sutro_async.JobMonitor.watch_jobs",
        "sutro_async.JobOutcome.__init__",
        "sutro_async.errors.JobFailedError.__init__",
        "sutro_async.testing.FakeSutro.add_job",
        "sutro_async.fastapi.sutro_lifespan",
        "sutro_async.cli.main",
    ):
        assert path in found


@pytest.mark.parametrize("module_name", MODULES)
def test_annotations_of_every_public_callable_resolve(module_name):
    for path, value in public_callables(module_name).items():
        hints = typing.get_type_hints(value, include_extras=True)
        unresolved = [each for each in hints.values() if isinstance(each, str | typing.ForwardRef)]
        assert not unresolved, path
        if not inspect.isclass(value):
            signature = inspect.signature(value, eval_str=True)
            assert hints.keys() <= {*signature.parameters, "return"}, path


def test_annotations_resolve_to_public_classes():
    hints = typing.get_type_hints(sutro_async.JobWaitTimeoutError.__init__)
    assert hints["last_report"] == sutro_async.JobStatusReport | None
    hints = typing.get_type_hints(sutro_async.SutroClient.__init__)
    assert hints["retry"] is sutro_async.RetryPolicy
