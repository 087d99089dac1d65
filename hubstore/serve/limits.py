"""What a server takes on: sizes, counts and times, each with what a client is told beyond it."""

from __future__ import annotations

from dataclasses import dataclass

from hubstore.serve.http_errors import TooLargeError

MIB = 1 << 20

RATE = 16_000
"""Samples a second, at which models hear and previews play."""


@dataclass(frozen=True)
class Limits:
    """Bounds of what one request may ask, and of what all may at once.

    Args:
        head: bytes of a request's path, parameters and headers; more is 431.
        head_s: seconds until a head has come, from the connection's begin or its first byte; then it is closed.
        half_open: connections whose head has not come; of more, the oldest is closed.
        body: bytes of a request's JSON; more is 413.
        upload: bytes of an image, a recording or an Arrow stream, and of the stream decompressed; more is 413.
        bodies: bytes of all bodies whose requests are not answered yet; a request beyond is 503.
        pixels: of an image that is decoded; more is 413.
        samples: of a channel of audio that is decoded, at its own rate and at 16 kHz; more is 413.
        answer: bytes of an answer before it is written as JSON, Arrow, CSV or Parquet; more is 413.
        k: neighbors of a query at a layer.
        page: items of a page.
        ids: ids, texts or vectors of one request.
        points: points of a projection.
        typed: tokens of texts and prompts of one request, which the model reads whole; more is 413.
        new_tokens: tokens that a model goes on for, of all continuations of one request; more is 413.
        results: tables of one analysis that a store holds before the server keeps no more of them.
        results_bytes: bytes of all results that a store holds before the server keeps no more.
        timeout_s: seconds until a request is answered with 504; uploads must arrive within them too.
        threads: requests that are worked on at once, searches and computations aside.
        searches: searches at once, each of which answers many requests and uses all cores.
        computations: analyses, projections and lens summaries at once.
        waiting: requests of each of the three kinds that may wait; more are answered with 503.
        batch: queries that one search answers at most.
        check_s: seconds between two looks at whether a store has changed.
    """

    head: int = 1 << 16
    head_s: float = 10.0
    half_open: int = 256
    body: int = 8 * MIB
    upload: int = 32 * MIB
    bodies: int = 512 * MIB
    pixels: int = 1 << 25
    samples: int = 1 << 26
    answer: int = 512 * MIB
    k: int = 1000
    page: int = 1000
    ids: int = 1024
    points: int = 200_000
    typed: int = 2048
    new_tokens: int = 1024
    results: int = 500
    results_bytes: int = 1024 * MIB
    timeout_s: float = 30.0
    threads: int = 8
    searches: int = 2
    computations: int = 2
    waiting: int = 256
    batch: int = 256
    check_s: float = 0.25

    def check_media(self, modality: str, data: bytes) -> None:
        """TooLargeError for an image or audio of which there is more to decode than is safe, before it is decoded."""
        from hubstore.media.decode import decoded_size

        most, unit = (self.pixels, "pixels") if modality == "image" else (self.samples, "samples")
        if (size := decoded_size(modality, data, RATE)) > most:
            raise TooLargeError(
                f"the {modality} has {size:,} {unit} decoded, and this server decodes {most:,} at most; send a smaller "
                "one"
            )

    def check_typed(self, tokens: int) -> None:
        """TooLargeError for texts of `tokens` tokens that a model would read whole, where that is too many."""
        if tokens > self.typed:
            raise TooLargeError(
                f"the texts have {tokens:,} tokens, and this server's model reads {self.typed:,} at once; send fewer"
            )

    def check_answer(self, size: int) -> None:
        """TooLargeError for an answer of `size` bytes, where that is too many."""
        if size > self.answer:
            raise TooLargeError(
                f"the answer would have {size / MIB:.0f} MiB, and this server sends {self.answer / MIB:.0f} at most; "
                "ask for fewer items or layers"
            )
