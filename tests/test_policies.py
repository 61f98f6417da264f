import copy
import inspect
import math
import pickle
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import attrs
import pytest

from sutro_async import policies
from sutro_async.errors import ConfigurationError
from sutro_async.policies import PollPolicy, RetryPolicy

FIELDS = [(cls, field.name) for cls in (RetryPolicy, PollPolicy) for field in attrs.fields(cls)]
every_field = pytest.mark.parametrize(
    ("policy", "name"), FIELDS, ids=[f"{cls.__name__}.{name}" for cls, name in FIELDS]
)
both_policies = pytest.mark.parametrize("policy", [RetryPolicy, PollPolicy])

# The smallest and the largest value of each field, and a value just beyond each.
BOUNDS = [
    (RetryPolicy, "attempts", 1, 0),
    (RetryPolicy, "initial", 0, -0.001),
    (RetryPolicy, "maximum", 0, -0.001),
    (RetryPolicy, "max_retry_after", 0, -0.001),
    (PollPolicy, "initial", 0.001, 0.000999),
    (PollPolicy, "factor", 1, 0.999),
    (PollPolicy, "maximum", 0.001, 0.000999),
    (PollPolicy, "jitter", 0, -0.001),
    (PollPolicy, "jitter", 1, 1.001),
    (PollPolicy, "max_outage", 0, -0.001),
    (PollPolicy, "not_found_grace", 0, -0.001),
    (PollPolicy, "bulk_from", 1, 0),
]
every_bound = pytest.mark.parametrize(
    ("policy", "name", "last_good", "first_bad"),
    BOUNDS,
    ids=[f"{cls.__name__}.{name}-{good}" for cls, name, good, _ in BOUNDS],
)

MAY_BE_INFINITE = {(RetryPolicy, "max_retry_after"), (PollPolicy, "max_outage")}


def test_retry_policy_defaults():
    assert attrs.asdict(RetryPolicy()) == {
        "attempts": 4,
        "initial": 0.5,
        "maximum": 8.0,
        "max_retry_after": 60.0,
    }


def test_poll_policy_defaults():
    assert attrs.asdict(PollPolicy()) == {
        "initial": 1.0,
        "factor": 1.5,
        "maximum": 15.0,
        "jitter": 0.1,
        "max_outage": 300.0,
        "not_found_grace": 5.0,
        "bulk_from": None,
    }


def test_module_exports_policies():
    assert set(policies.__all__) == {"RetryPolicy", "PollPolicy"}


def test_tests_cover_every_field():
    assert {(cls, name) for cls, name, _, _ in BOUNDS} == set(FIELDS)


@every_bound
def test_bound_is_inclusive(policy, name, last_good, first_bad):
    smallest = {"initial": 0.001}  # at most `maximum`, whatever that is
    assert getattr(policy(**{**smallest, name: last_good}), name) == last_good


@every_bound
def test_value_out_of_bounds_is_rejected(policy, name, last_good, first_bad):
    with pytest.raises(ConfigurationError, match=rf"{policy.__name__}\.{name} must be at least"):
        policy(**{name: first_bad})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: RetryPolicy(attempts=0),
            "RetryPolicy.attempts must be at least 1, got 0",
        ),
        (
            lambda: PollPolicy(initial=0),
            "PollPolicy.initial must be at least 0.001, got 0",
        ),
        (
            lambda: PollPolicy(jitter=2),
            "PollPolicy.jitter must be at least 0 and at most 1, got 2",
        ),
        (
            lambda: PollPolicy(factor="2"),
            "PollPolicy.factor must be a number, got '2'",
        ),
        (
            lambda: RetryPolicy(attempts=1.5),
            "RetryPolicy.attempts must be a whole number, got 1.5",
        ),
        (
            lambda: PollPolicy(jitter=1.0000001),
            "PollPolicy.jitter must be at least 0 and at most 1, got 1.0000001",
        ),
        (
            lambda: PollPolicy(jitter=Fraction(3, 2)),
            "PollPolicy.jitter must be at least 0 and at most 1, got 1.5",
        ),
        (
            lambda: PollPolicy(factor=10**400),
            f"PollPolicy.factor must be at least 1 and finite, got 1{'0' * 17}...{'0' * 19}",
        ),
    ],
    ids=[
        *("one-bound", "fractional-bound", "two-bounds", "no-number", "no-whole-number"),
        *("just-above", "fraction", "hundreds-of-digits"),
    ],
)
def test_error_message_names_allowed_range(make, message):
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({"initial": 30}, "30 s and 15 s"),
        ({"maximum": 0.5}, "1 s and 0.5 s"),
        ({"initial": 2, "maximum": 1.5}, "2 s and 1.5 s"),
        ({"initial": 15.0000001}, "15.0000001 s and 15 s"),
    ],
    ids=str,
)
def test_initial_above_maximum_is_rejected(options, numbers):
    with pytest.raises(ConfigurationError, match=rf"initial must be at most .*got {numbers}: "):
        PollPolicy(**options)
    assert PollPolicy(initial=15).initial == 15


@every_field
@pytest.mark.parametrize(
    "value",
    [None, True, False, "1", b"1", 1j, Decimal(1), timedelta(seconds=1), [1]],
    ids=repr,
)
def test_non_numbers_are_rejected(policy, name, value):
    if name == "bulk_from" and value is None:
        return
    kind = "whole number" if name in {"attempts", "bulk_from"} else "number"
    with pytest.raises(ConfigurationError) as caught:
        policy(**{name: value})
    assert str(caught.value) == f"{policy.__name__}.{name} must be a {kind}, got {value!r}"


class Scalar(float):
    """A real number of another library, such as NumPy."""


@pytest.mark.parametrize("value", [Fraction(3, 1), Scalar(3)], ids=repr)
@every_field
def test_any_real_number_is_accepted(policy, name, value):
    """It becomes a plain one: a time that is added to a scalar of NumPy has its precision."""
    options = {"factor": {"factor": 3}, "jitter": {"jitter": value / 3}}.get(name, {name: value})
    if name == "initial":
        options["maximum"] = 8
    number = getattr(policy(**options), name)
    assert number == (1 if name == "jitter" else 3)
    assert type(number) is (int if name in {"attempts", "bulk_from"} else float)


@every_field
def test_nan_is_rejected(policy, name):
    with pytest.raises(ConfigurationError, match=rf"{name} .*, got nan"):
        policy(**{name: math.nan})


@every_field
def test_infinity_is_allowed_where_it_means_no_limit(policy, name):
    if (policy, name) in MAY_BE_INFINITE:
        assert getattr(policy(**{name: math.inf}), name) == math.inf
    else:
        with pytest.raises(ConfigurationError, match=rf"{policy.__name__}\.{name} .*, got inf"):
            policy(**{name: math.inf})


@pytest.mark.parametrize("name", ["initial", "factor", "maximum", "not_found_grace"])
def test_infinity_error_says_must_be_finite(name):
    with pytest.raises(ConfigurationError, match="finite"):
        PollPolicy(**{name: math.inf})


@every_field
def test_minus_infinity_is_rejected(policy, name):
    with pytest.raises(ConfigurationError, match="got -inf"):
        policy(**{name: -math.inf})


@every_field
@pytest.mark.parametrize("value", [10**400, -(10**400)], ids=["huge", "minus-huge"])
def test_integer_beyond_float_range_raises_no_overflow_error(policy, name, value):
    try:
        policy(**{name: value})
    except ConfigurationError:
        pass
    else:
        assert value > 0


@pytest.mark.parametrize("attempts", [1, 2, 4.0, 1000])
def test_whole_number_attempts_are_accepted(attempts):
    assert RetryPolicy(attempts=attempts).attempts == attempts


@pytest.mark.parametrize("attempts", [1.5, 1.0000001, 99.9])
def test_fractional_attempts_are_rejected(attempts):
    with pytest.raises(ConfigurationError, match="attempts must be a whole number"):
        RetryPolicy(attempts=attempts)


@both_policies
def test_invalid_option_is_value_error(policy):
    with pytest.raises(ValueError, match=r"Policy\.initial"):
        policy(initial=-1)


@both_policies
def test_evolved_copy_is_validated(policy):
    with pytest.raises(ConfigurationError):
        attrs.evolve(policy(), maximum=-1)


@both_policies
def test_policies_are_immutable(policy):
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        policy().initial = 2


@both_policies
def test_policies_are_keyword_only(policy):
    parameters = inspect.signature(policy).parameters.values()
    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.KEYWORD_ONLY}


@both_policies
def test_policies_compare_by_value(policy):
    chosen = policy(initial=0.25)
    assert chosen == policy(initial=0.25)
    assert chosen != policy()
    assert hash(chosen) == hash(policy(initial=0.25))
    assert copy.copy(chosen) == chosen
    assert pickle.loads(pickle.dumps(chosen)) == chosen
