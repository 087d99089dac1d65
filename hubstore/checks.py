"""Numbers that a user gives, checked where they enter, in one wording: "name is value; what it must be".

The command line puts its own option in the place of the name; see `hubstore.cli.spelling`.
"""

from __future__ import annotations

import math
import operator
from typing import Any

from hubstore.errors import HubstoreError, OptionError

MOST_RESAMPLES = 1_000_000
"""An interval of more moves by less than its last digit."""

MOST_SEED = 2**32 - 1
"""All generators take it: NumPy's, PyTorch's and UMAP's."""


def check_count(
    name: str,
    value: Any,
    *,
    least: int = 1,
    most: int | None = None,
    of: str = "",
    error: type[HubstoreError] = OptionError,
) -> int:
    """`value` as an int; the message says that it counts `of`, such as "tokens".

    Raises:
        OptionError: it is no whole number from `least` to `most`; as the class `error`.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        allowed = f"{least} at least" if most is None else f"{least} to {most}"
        raise error(f"{name} is {value!r}; ask for {allowed}{of and f' {of}'}")
    return number


def check_seed(seed: Any, *, error: type[HubstoreError] = OptionError) -> int:
    """A seed of random draws as an int; `error` for one that a generator would not take."""
    return check_count("seed", seed, least=0, most=MOST_SEED, error=error)


def check_resamples(name: str, value: Any, *, error: type[HubstoreError] = OptionError) -> int:
    """A number of resamples or permutations as an int, 0 for none; `error` for any other."""
    return check_count(name, value, least=0, most=MOST_RESAMPLES, error=error)


def check_number(
    name: str,
    value: Any,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    error: type[HubstoreError] = OptionError,
) -> float:
    """`value` as a finite float.

    Raises:
        OptionError: it is none, or not above `above` and from `least` to `most`; as the class `error`.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and least <= number <= most and number > above):
        bounds = [f"above {above:g}"] * (above > -math.inf) + [f"{least:g} at least"] * (least > -math.inf)
        bounds += [f"{most:g} at most"] * (most < math.inf)
        raise error(f"{name} is {value!r}; it must be {' and '.join(bounds or ['a finite number'])}")
    return number
