"""Since when the service has not responded: pure logic, without a loop or a clock."""

import pytest

from sutro_async import APITimeoutError, JobNotFoundError
from sutro_async._http._health import Health


def timeout(job_id):
    return APITimeoutError("no response", job_id=job_id)


def not_found(job_id):
    return JobNotFoundError(job_id=job_id, status_code=404, message="no such job", body=b"")


def health(*events):
    """Make a health that has noted events: their times, jobs and kinds."""
    noted = Health()
    in_flight = 0
    for now, job_id, event in events:
        in_flight += 1 if event == "sent" else -1
        if event == "sent":
            noted.note_sent(now, job_id)
        elif event == "ok":
            noted.note_success(now, others=in_flight)
        elif event == "cancelled":
            noted.note_cancelled(others=in_flight)
        else:
            noted.note_error(now, event(job_id), others=in_flight)
    return noted


@pytest.mark.parametrize(
    ("events", "waiting", "since"),
    [
        ([], 3, None),
        ([(1, "a", "sent"), (2, "a", "ok")], 3, None),
        ([(1, "a", "sent"), (2, "a", not_found)], 3, None),
        ([(1, "a", "sent"), (2, "a", "cancelled")], 1, None),
        # A call, or the only job.
        ([(1, "a", "sent")], 0, 1),
        ([(1, "a", "sent")], 1, 1),
        ([(1, "a", "sent"), (2, "a", timeout)], 1, 1),
        ([(1, "a", "sent"), (2, "a", timeout), (3, "a", "sent"), (4, "a", "cancelled")], 1, 1),
        # One job of several.
        ([(1, "a", "sent")], 2, None),
        ([(1, "a", "sent"), (2, "a", timeout), (3, "a", "sent")], 5, None),
        # Two of them.
        ([(1, "a", "sent"), (2, "b", "sent")], 5, 1),
        ([(1, "a", "sent"), (2, "a", timeout), (3, "b", "sent"), (4, "b", timeout)], 5, 1),
        # One hangs while the others get responses.
        ([(1, "a", "sent"), (2, "b", "sent"), (3, "b", "ok")], 2, None),
        ([(1, "a", "sent"), (2, "b", "sent"), (3, "b", "ok"), (9, "b", "sent")], 2, None),
        # It fails after such a response, and then another one hangs.
        (
            [
                (1, "a", "sent"),
                (2, "b", "sent"),
                (3, "b", "ok"),
                (4, "a", timeout),
                (5, "b", "sent"),
            ],
            5,
            3,
        ),
        # Several hang since before the last response.
        ([(1, "a", "sent"), (2, "b", "sent"), (3, "c", "sent"), (4, "c", "ok")], 9, 4),
        ([(1, "a", "sent"), (2, "b", "sent"), (3, "c", "sent"), (4, "c", not_found)], 9, 4),
        # List-jobs counts as one more job.
        ([(1, None, "sent"), (2, "a", "sent")], 9, 1),
    ],
)
def test_unresponsive_since(events, waiting, since):
    assert health(*events).unresponsive_since(waiting=waiting) == since


def test_last_response_and_failure():
    noted = health((1, "a", "sent"), (2, "a", "ok"), (3, "b", "sent"), (4, "b", timeout))
    assert (noted.last_response_at, noted.last_failure_at) == (2, 4)
    assert str(noted.last_failure) == "no response"
