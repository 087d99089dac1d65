"""Progress on stderr: one line that says how far, how fast, and where the time goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from hubstore.cli.output import err, note
from hubstore.cli.stopping import stop_on_sigterm


@contextmanager
def bar(what: str, details: str = "") -> Iterator[tuple[Progress, Any]]:
    """A progress bar and its task; it leaves nothing behind when it is done."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[details]}", style="dim", markup=False),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        yield progress, progress.add_task(what, total=None, details=details)


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """What is called with steps done and steps in all, and draws them as a bar."""
    with bar(what) as (progress, task):
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def naming(what: str, form: str = "{}") -> Iterator[Callable[[str, int, int], None]]:
    """As `counting`, called with what is being done too, which `form` puts into words."""
    with bar(what) as (progress, task):
        yield lambda now, done, total: progress.update(task, description=form.format(now), completed=done, total=total)


@contextmanager
def watching(store: str, model: str, *, stoppable: bool = False) -> Iterator[Any]:
    """A `Callbacks` that draws an extraction, from the loading of its model on.

    Args:
        store: its name.
        model: likewise.
        stoppable: whether SIGTERM ends it after the shard in hand.
    """
    from hubstore.extraction import Callbacks, SelfCheck
    from hubstore.extraction import Progress as RunProgress

    with stop_on_sigterm(handled=stoppable) as stop, bar(f"loading {model}") as (progress, task):

        def loaded(found: Any) -> None:
            progress.update(task, description="reading the corpus")

        def planned(plan: Any) -> None:
            progress.update(task, description="self-check", total=plan.items)
            if plan.single_concepts:
                note(f"{plan.single_concepts:,} concepts have one item only; they match nothing")

        def checked(check: SelfCheck) -> None:
            err.print(
                f"self-check: {check.items} items, batched against single: relative distance "
                f"{check.deviation:.1e} at most (layer {check.layer}; {check.tolerance:g} allowed)"
            )

        def advanced(done: RunProgress) -> None:
            workers = "" if done.workers == 1 else f"{done.workers} workers  "
            progress.update(
                task,
                description=f"extracting {store}",
                completed=done.items,
                total=done.total,
                details=f"{workers}{done.items / done.seconds:,.0f} items/s  "
                f"{done.tokens / done.seconds:,.0f} tokens/s  {done.useful:.0%} useful  "
                f"model {done.model_ms:,.0f} ms  copy {done.copy_ms:,.0f} ms  write {done.write_ms:,.0f} ms",
            )

        yield Callbacks(loaded=loaded, planned=planned, checked=checked, progress=advanced, stop=stop)
