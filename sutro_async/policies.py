"""The policies of retries and of polling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs

from sutro_async._numbers import as_float, as_int, check_number, check_whole_number, shown
from sutro_async.errors import ConfigurationError

__all__ = ["PollPolicy", "RetryPolicy"]


def _number(
    minimum: float, maximum: float = math.inf, *, infinite: bool = False
) -> Callable[[object, attrs.Attribute[Any], Any], None]:
    """Make a validator for numbers within two bounds, both included."""

    def validate(policy: object, attribute: attrs.Attribute[Any], value: object) -> None:
        name = f"{type(policy).__name__}.{attribute.name}"
        check_number(name, value, minimum=minimum, maximum=maximum, infinite=infinite)

    return validate


def _whole_number(minimum: int) -> Callable[[object, attrs.Attribute[Any], Any], None]:
    """Make a validator for whole numbers from a minimum on."""

    def validate(policy: object, attribute: attrs.Attribute[Any], value: object) -> None:
        name = f"{type(policy).__name__}.{attribute.name}"
        check_whole_number(name, value, minimum=minimum)

    return validate


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How one logical GET is retried after transient failures.

    The delay before a retry is uniformly random between zero and an upper bound ("full jitter").
    The bound is `initial` seconds at first and doubles with each retry, up to `maximum` seconds. A
    `Retry-After` of the service is the minimum of the delay.

    Attributes:
        attempts: The total number of tries; 1 never retries.
        initial: Seconds; the first bound of the delay.
        maximum: Seconds; the largest bound of the delay.
        max_retry_after: Seconds; for a longer `Retry-After` the error is raised at once, without a
            retry. `math.inf` allows any.

    Raises:
        ConfigurationError: A number is out of its range.
    """

    attempts: int = attrs.field(default=4, converter=as_int, validator=_whole_number(1))
    initial: float = attrs.field(default=0.5, converter=as_float, validator=_number(0))
    maximum: float = attrs.field(default=8.0, converter=as_float, validator=_number(0))
    max_retry_after: float = attrs.field(
        default=60.0, converter=as_float, validator=_number(0, infinite=True)
    )


@attrs.frozen(kw_only=True)
class PollPolicy:
    """The polling interval of a wait, and when it gives up.

    The first poll is made at once. The next follows `initial` seconds later, and the interval grows
    by `factor` with each poll, up to `maximum` seconds; it returns to `initial` when the report
    changes. Each interval is lengthened or shortened at random by up to the share `jitter`.

    After a failed poll, a back-off replaces the interval: it starts at 0.5 seconds, or at `initial`
    if that is shorter, and doubles up to `maximum` seconds.

    Attributes:
        initial: Seconds between the first two polls, and after each change of the report; at least
            a millisecond, and at most `maximum`.
        factor: Each interval is this many times as long as the one before; 1 keeps it constant.
        maximum: Seconds; the longest interval; at least a millisecond.
        jitter: The largest random change of an interval, as a share of it, from 0 (none) to 1.
        max_outage: Seconds that a wait continues without a good response, counted from the
            response of the first failed poll; then the last error is raised. Time that polls spend
            in the client's own queues does not count. `math.inf` never gives up.
        not_found_grace: Seconds that a 404 or 403 must last to end a wait: a new job may not be
            found at first, and a proxy can respond in place of the service during a deployment.
        bulk_from: The number of waiting jobs of one batch or monitor from which on list-jobs is
            read to find out which of them have changed, so that the others need no poll; None
            never reads it.

    Raises:
        ConfigurationError: A number is out of its range, or `initial` is greater than `maximum`.
    """

    initial: float = attrs.field(default=1.0, converter=as_float, validator=_number(0.001))
    factor: float = attrs.field(default=1.5, converter=as_float, validator=_number(1))
    maximum: float = attrs.field(default=15.0, converter=as_float, validator=_number(0.001))
    jitter: float = attrs.field(default=0.1, converter=as_float, validator=_number(0, 1))
    max_outage: float = attrs.field(
        default=300.0, converter=as_float, validator=_number(0, infinite=True)
    )
    not_found_grace: float = attrs.field(default=5.0, converter=as_float, validator=_number(0))
    bulk_from: int | None = attrs.field(
        default=None,
        converter=attrs.converters.optional(as_int),
        validator=attrs.validators.optional(_whole_number(1)),
    )

    def __attrs_post_init__(self) -> None:
        if self.initial > self.maximum:
            raise ConfigurationError(
                "PollPolicy.initial must be at most PollPolicy.maximum, got"
                f" {shown(self.initial)} s and {shown(self.maximum)} s:"
                " lower initial or raise maximum"
            )
