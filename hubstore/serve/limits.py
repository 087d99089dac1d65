"""What a server takes on: sizes, counts and times, each with what a client is told beyond it."""

from __future__ import annotations

from dataclasses import dataclass

from hubstore.serve.http_errors import TooLargeError

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds of what one request may ask, and of what all may at once.

    Args:
        body: bytes of a request's JSON; more is 413.
        upload: bytes of an image, a recording or an Arrow stream; more is 413.
        answer: bytes of an answer before it is written as JSON, Arrow, CSV or Parquet; more is 413.
        k: neighbors of a query at a layer.
        page: items of a page.
        ids: ids, texts or vectors of one request.
        points: points of a projection.
        results: tables of one analysis that a store holds before the server keeps no more of them.
        timeout_s: seconds until a request is answered with 504; uploads must arrive within them too.
        threads: requests that are worked on at once, searches and computations aside.
        searches: searches at once, each of which answers many requests and uses all cores.
        computations: analyses, projections and lens summaries at once.
        waiting: requests of each of the three kinds that may wait; more are answered with 503.
        batch: queries that one search answers at most.
        check_s: seconds between two looks at whether a store has changed.
    """

    body: int = 8 * MIB
    upload: int = 32 * MIB
    answer: int = 512 * MIB
    k: int = 1000
    page: int = 1000
    ids: int = 1024
    points: int = 200_000
    results: int = 500
    timeout_s: float = 30.0
    threads: int = 8
    searches: int = 2
    computations: int = 2
    waiting: int = 256
    batch: int = 256
    check_s: float = 0.25

    def check_answer(self, size: int) -> None:
        """TooLargeError for an answer of `size` bytes, where that is too many."""
        if size > self.answer:
            raise TooLargeError(
                f"the answer would have {size / MIB:.0f} MiB, and this server sends {self.answer / MIB:.0f} at most; "
                "ask for fewer items or layers"
            )
