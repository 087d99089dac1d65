"""Sums and products below 100 (Wu et al., 2025), in symbols and in English."""

from __future__ import annotations

from dataclasses import dataclass

TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", *TEENS)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
OPERATORS = {"+": "plus", "*": "times"}
DIGITS = range(1, 10)
BELOW = 100


@dataclass(frozen=True)
class Expression:
    """left operator right = result.

    Args:
        operator: "+" or "*".
        left: 1 or more.
        right: 1 to 9.
        result: below 100.
    """

    operator: str
    left: int
    right: int
    result: int

    @property
    def symbols(self) -> str:
        """ "5+3"."""
        return f"{self.left}{self.operator}{self.right}"

    @property
    def words(self) -> str:
        """ "five plus three"."""
        return f"{number_word(self.left)} {OPERATORS[self.operator]} {number_word(self.right)}"

    @property
    def question(self) -> str:
        """ "8=5+", which `right` completes."""
        return f"{self.result}={self.left}{self.operator}"


def sums() -> list[Expression]:
    """The 846 sums of a number and a digit from 1 to 9 that are below 100."""
    return [Expression("+", left, right, left + right) for right in DIGITS for left in range(1, BELOW - right)]


def expressions() -> list[Expression]:
    """The sums, and the 277 products of a number and a digit that are below 100."""
    products = [
        Expression("*", left, right, left * right)
        for right in DIGITS
        for left in range(1, BELOW)
        if left * right < BELOW
    ]
    return sums() + products


def number_word(number: int) -> str:
    """English for 0 to 99: "twenty-one"."""
    if number < len(ONES):
        return ONES[number]
    ten, one = divmod(number, 10)
    return TENS[ten - 2] + (f"-{ONES[one]}" if one else "")
