"""How often and how long: the numbers of retries and of waits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs

from sutro_async._numbers import as_float, as_int, check_number, check_whole_number
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
    """How one logical GET is tried again after a transient failure.

    The delay before a retry is drawn evenly from zero to a bound ("full jitter"). The bound is
    `initial` seconds at first and doubles with each retry, up to `maximum` seconds. A `Retry-After`
    of the service is a floor for the delay.

    Attributes:
        attempts: Tries in all, the first one included; 1 never retries.
        initial: Seconds; the first bound of the delay.
        maximum: Seconds; the largest bound of the delay.
        max_retry_after: Seconds; a longer `Retry-After` is not waited for: its error is raised at
            once. `math.inf` waits for any.

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
    """The pace of a wait.

    The first poll is made at once. The next comes `initial` seconds later, and the interval grows
    by `factor` with each poll, up to `maximum` seconds; it falls back to `initial` when the report
    changes. Each interval is stretched or shrunk at random by up to the share `jitter`.

    After a failed poll the next one comes sooner than the interval says, if that is long: the
    back-off starts small and doubles up to `maximum` seconds.

    Attributes:
        initial: Seconds between the first two polls, and after each change of the report; at least
            a millisecond, and at most `maximum`.
        factor: How much longer each interval is than the one before; 1 keeps an even pace.
        maximum: Seconds; the longest interval; at least a millisecond.
        jitter: The largest random share of an interval, from 0 (none) to 1.
        max_outage: Seconds that a wait continues without a good answer, counted from the answer of
            the first failed poll; then the last error is raised. Time that polls spend in the
            client's own queues does not count. `math.inf` never gives up.
        not_found_grace: Seconds that 404 and 403 must last to be believed: a job can be younger
            than the index that it is looked up in, and a proxy can answer in place of the service
            during a deployment.
        bulk_from: From so many waiting jobs of one batch or monitor on, list-jobs is read to find
            out which of them have changed, so that the others need no poll of their own; None
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
                f"PollPolicy.initial must be at most PollPolicy.maximum, got {self.initial:g} s"
                f" and {self.maximum:g} s: lower initial or raise maximum"
            )
