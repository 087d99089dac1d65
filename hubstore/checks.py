"""Numbers, strings and arrays that a user gives, checked where they enter: "name is value; what it must be".

The command line puts its own option in the place of a parameter's name; see `hubstore.cli.spelling`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hubstore.errors import HubstoreError, OptionError, Parameter

if TYPE_CHECKING:  # the command line's help needs no arrays
    import numpy as np
    import numpy.typing as npt

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
        raise error(Parameter(name), f" is {value!r}; ask for {allowed}{of and f' {of}'}")
    return number


def whole_number(text: str, digits: int = 18) -> int | None:
    """The number that a text is, as it is typed: ASCII digits, after a minus sign perhaps; None for any other text.

    `str.isdigit` is also true of "²", which `int` does not take, and `int` takes "1_000", " 1" and the digits of every
    script, and raises for thousands of them.
    """
    plain = text.removeprefix("-")
    return int(text) if plain.isascii() and plain.isdigit() and len(plain) <= digits else None


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
        if isinstance(value, bool | str | bytes):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and least <= number <= most and number > above):
        bounds = [f"above {above:g}"] * (above > -math.inf) + [f"{least:g} at least"] * (least > -math.inf)
        bounds += [f"{most:g} at most"] * (most < math.inf)
        raise error(Parameter(name), f" is {value!r}; it must be {' and '.join(bounds or ['a finite number'])}")
    return number


def check_strings(name: str, values: Any, *, error: type[HubstoreError] = OptionError) -> list[str]:
    """Several strings as a list; `error` for one by itself, whose letters they would be, and for what is none."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise error(Parameter(name), f" is {values!r}; give a list of strings")
    found = list(values)
    for place, value in enumerate(found):
        if not isinstance(value, str):
            raise error(Parameter(name), f"[{place}] is {value!r}, a {type(value).__name__}; give strings")
    return found


def check_positions(
    name: str, values: Any, rows: int, *, error: type[HubstoreError] = OptionError
) -> npt.NDArray[np.int64]:
    """int64 [n]: positions of some of so many rows; `error` for what is no integer, or no row."""
    import numpy as np

    try:
        found = np.asarray(values)
    except ValueError:
        found = np.empty((), object)  # rows of unequal lengths
    if found.ndim != 1 or (len(found) and found.dtype.kind not in "iu"):
        raise error(Parameter(name), f" are {values!r}; give a list of whole numbers")
    beyond = found[(found < 0) | (found >= rows)]
    if len(beyond):
        raise error(Parameter(name), f" are 0 to {rows - 1}, and {beyond[0]} is none; correct it")
    return found.astype(np.int64, copy=False)


def check_array(name: str, values: Any, *, error: type[HubstoreError] = OptionError) -> npt.NDArray[np.floating]:
    """Real numbers as float64, or as float32 where that holds what they are.

    Args:
        name: of the array in the message.
        values: an array, a tensor of any device, with or without a gradient, or a list of numbers or of these.
        error: raised for anything else, naming its dtype.
    """
    import numpy as np

    if isinstance(values, list | tuple) and any(hasattr(value, "__array__") for value in values):
        values = [check_array(name, value, error=error) for value in values]
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() and values.itemsize < 4 else values
    try:
        found = np.asarray(values)
    except (TypeError, ValueError) as problem:
        raise error(Parameter(name), f" are no array of numbers: {problem}") from problem
    if found.dtype.name == "bfloat16":  # which NumPy takes for raw bytes
        found = found.astype(np.float32)
    if found.dtype.kind not in "fiu":
        raise error(Parameter(name), f" are of {found.dtype}; give real numbers, such as float32")
    # NumPy's wider and other-endian numbers are none that others have.
    return np.array(found, np.float64 if found.dtype.itemsize >= 8 else np.float32)
