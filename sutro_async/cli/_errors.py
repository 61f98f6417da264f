"""Errors: their text on standard error, what to do about them, and the exit status."""

from __future__ import annotations

import enum
import re
import sys
from collections.abc import Iterable
from typing import Final

from sutro_async import APIError, ConfigurationError, JobWaitTimeoutError, SutroError
from sutro_async.cli._process import discard
from sutro_async.cli._text import count, duration, plural

__all__ = [
    "ExitStatus",
    "error_text",
    "print_error",
    "print_errors",
    "print_interrupt",
    "status_of_error",
]

# At most this many errors of one kind are printed one by one.
_MAX_LINES: Final = 10

_URL: Final = "the URL (SUTRO_API_URL, --base-url)"
# By the names of errors. The text of a configuration error already says what to set.
_ADVICE: Final = {
    "AuthenticationError": f"Check the key (SUTRO_API_KEY, --key-file), and that it is for {_URL}.",
    "PermissionDeniedError": "Check that the key is that of the account of the job.",
    "JobNotFoundError": "Check the id, and that the key is that of the account of the job.",
    "GoneError": f"A retry cannot succeed: check the id, and {_URL}.",
    "RateLimitError": "Try again later, or with a lower --max-rate or --max-concurrency.",
    "ServerError": "The service is unavailable: try again later.",
    "APIStatusError": "The service rejects the request: check the id, or contact its support.",
    "APIConnectionError": f"Check the network, the proxy, and {_URL}.",
    "InvalidResponseError": f"Check that there is a Sutro service at {_URL}.",
}

# Where a message of the library names an argument to set, the command has an option.
_ARGUMENT: Final = re.compile(
    r"^(?:api_key|base_url|max_rate|proxy|PollPolicy\.initial)\b(?! in )"
    r"|(?<=pass )api_key|(?<=pass the )api_key|(?<=this )base_url"
)
_OPTIONS: Final = {
    "api_key": "--key-file",
    "base_url": "--base-url",
    "max_rate": "--max-rate",
    "proxy": "--proxy",
    "PollPolicy.initial": "--interval",
}


class ExitStatus(enum.IntEnum):
    """The exit statuses, explained in `docs/cli.md`; after a signal it is 128 plus its number."""

    OK = 0
    JOB_UNSUCCESSFUL = 1
    USAGE = 2
    API_ERROR = 3
    TIMED_OUT = 124  # as timeout(1)
    BROKEN_PIPE = 141  # as in a shell: 128 plus SIGPIPE


def status_of_error(error: SutroError) -> ExitStatus:
    """Choose the exit status for an error."""
    if isinstance(error, ConfigurationError):
        return ExitStatus.USAGE
    if isinstance(error, JobWaitTimeoutError):
        return ExitStatus.TIMED_OUT
    return ExitStatus.API_ERROR


def error_text(error: SutroError) -> str:
    """Return the text of an error in terms of the command: with its options, without Python."""
    if isinstance(error, ConfigurationError):
        return _ARGUMENT.sub(lambda match: _OPTIONS[match[0]], str(error))
    if isinstance(error, JobWaitTimeoutError):
        report = error.last_report
        last = "no status yet" if report is None else f"last status: {report.status}"
        why = f"; the last poll failed: {error.__cause__}" if error.__cause__ else ""
        return f"timed out after {duration(error.timeout)} ({last}{why})"
    return str(error)


def print_error(*lines: str) -> None:
    """Print lines on standard error, unless it is broken."""
    try:
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        sys.stderr.flush()
    except OSError:
        discard(sys.stderr)


def print_errors(errors: list[SutroError], number_of_jobs: int = 0) -> None:
    """Print errors, with advice for each kind; those of a timeout as one.

    Args:
        errors: The errors.
        number_of_jobs: How many jobs were waited for, if it was a wait.
    """
    timeouts = [error for error in errors if isinstance(error, JobWaitTimeoutError)]
    others = [error for error in errors if not isinstance(error, JobWaitTimeoutError)]
    _print_by_kind((type(error), error_text(error)) for error in others)
    if timeouts:
        _print_timeouts(timeouts, number_of_jobs)


def print_interrupt(unfinished: int, number_of_jobs: int) -> None:
    """Print how many jobs had not finished when their wait was interrupted."""
    if unfinished:
        print_error(
            f"Interrupted: {count(unfinished)} of {plural(number_of_jobs, 'job')} had not finished;"
            " unfinished jobs are still running on the service."
        )


def _print_by_kind(texts_of_kinds: Iterable[tuple[type[SutroError], str]]) -> None:
    kinds: dict[type[SutroError], list[str]] = {}
    for kind, text in texts_of_kinds:
        kinds.setdefault(kind, []).append(text)
    for kind, texts in kinds.items():
        print_error(*(f"Error: {text}" for text in texts[:_MAX_LINES]))
        if len(texts) > _MAX_LINES:
            print_error(f"Error: {count(len(texts) - _MAX_LINES)} more of this kind")
        advice = [_ADVICE[base.__name__] for base in kind.__mro__ if base.__name__ in _ADVICE]
        print_error(*advice[:1])


def _print_timeouts(timeouts: list[JobWaitTimeoutError], number_of_jobs: int) -> None:
    unseen = sum(timeout.last_report is None for timeout in timeouts)
    never_seen = f", {count(unseen)} never seen" if unseen else ""
    print_error(
        f"Error: timed out after {duration(timeouts[0].timeout)}:"
        f" {count(len(timeouts))} of {plural(number_of_jobs, 'job')} had not finished{never_seen}"
    )
    failures = [error.__cause__ for error in timeouts if isinstance(error.__cause__, APIError)]
    texts = [f"the last poll failed: {_without_job(failure)}" for failure in failures]
    _print_by_kind(dict.fromkeys(zip(map(type, failures), texts, strict=True)))
    if unseen < len(timeouts):
        print_error(
            "Unfinished jobs are still running on the service: run the command again to resume,"
            " or with a longer --timeout."
        )
    elif not failures:
        print_error("The service has not responded yet: wait again with a longer --timeout.")


def _without_job(error: APIError) -> str:
    return str(error).removeprefix(f"job {error.job_id!r}: ")
