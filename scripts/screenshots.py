#!/usr/bin/env python3
"""Images of the dashboard, as the READMEs show them: a real server over real stores, looked at in Chromium.

    scripts/screenshots.py demo.hub MODEL [--lens STORE] [--media STORE]

The first store is the demo's, and MODEL the model that it was made with; a lens needs a store that keeps one, and
thumbnails a store of images. Writes PNGs into benchmarks/results/dashboard.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import Browser, Page, expect, sync_playwright

OUT = Path(__file__).parents[1] / "benchmarks/results/dashboard"
LAPTOP, PHONE = (1440, 900), (390, 844)
TEXT = "A shark bit a teenager who was diving."


class Shot(NamedTuple):
    """An image: its name, the state of the dashboard that it shows, and on what screen."""

    name: str
    address: str
    size: tuple[int, int] = LAPTOP
    scheme: str = "light"
    cell: str | None = None  # of the lens, which is chosen first


def shots(demo: str, lens: str | None, media: str | None) -> list[Shot]:
    made = [
        Shot("overview", f"overview?store={demo}"),
        Shot("curves", f"curves?store={demo}"),
        Shot("map-area", f"map?store={demo}&layer=2&area=-1,-1;0,-1;0,1;-1,1&area-layer=2"),
        Shot("map-layer-2", f"map?store={demo}&layer=2&item=en:44"),
        Shot("map-layer-11", f"map?store={demo}&layer=11&item=en:44"),
        Shot(
            "neighbors",
            f"neighbors?store={demo}&by=text&in=en&others=1&layer=0&layer=6&layer=11&layer=12&text={TEXT}",
        ),
        Shot("clustering-dark", f"curves?store={demo}&analysis=clustering&partition=*", scheme="dark"),
        Shot("map-phone", f"map?store={demo}&layer=2&item=en:44", PHONE),
        Shot("neighbors-phone-dark", f"neighbors?store={demo}&item=he:44&others=1&layer=11&layer=12", PHONE, "dark"),
    ]
    if lens is not None:
        made.append(Shot("lens", f"lens?store={lens}&item=de:2&variant=normed", cell="3,7"))
    if media is not None:
        made.append(
            Shot(
                "neighbors-pictures",
                f"neighbors?store={media}&item=picture/house&layer=12&layer=14&layer=16&layer=18",
            )
        )
    return made


@contextmanager
def serving(stores: list[Path], model: str) -> Iterator[str]:
    """The URL of a server, while it runs."""
    command = [sys.executable, "-m", "hubstore", "serve", *map(str, stores), "--model", model, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = ""
            while not (found := re.search(r"http://[\d.]+:\d+", said)):
                line = process.stderr.readline()
                if not line:
                    sys.exit(f"the server did not start: {said}")
                said += line
            yield found[0]
        finally:
            process.terminate()


def take(browser: Browser, url: str, shot: Shot, folder: Path) -> Path:
    width, height = shot.size
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=shot.scheme)
    page = context.new_page()
    page.goto(f"{url}/#/{shot.address}")
    settle(page)
    if shot.cell is not None:
        page.locator(f"[data-at='{shot.cell}']").click()
    path = folder / f"{shot.name}.png"
    page.screenshot(path=path, animations="disabled")
    context.close()
    return path


def settle(page: Page) -> None:
    """Waits until everything is there."""
    expect(page.locator("main > div")).to_be_visible(timeout=60_000)
    page.wait_for_load_state("networkidle")
    expect(page.locator("[aria-busy=true]")).to_have_count(0, timeout=120_000)
    expect(page.get_by_role("alert").locator("visible=true")).to_have_count(0)
    page.wait_for_timeout(800)  # thumbnails are laid out, points are where they go


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("model")
    parser.add_argument("--lens", type=Path, help="a store that keeps a lens, of sentences called de:2")
    parser.add_argument("--media", type=Path, help="the store of scripts/demo --multimodal")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    names = [store.name.removesuffix(".hub") if store else None for store in (asked.demo, asked.lens, asked.media)]
    stores = [store for store in (asked.demo, asked.lens, asked.media) if store is not None]
    with serving(stores, asked.model) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for shot in shots(names[0] or "", names[1], names[2]):
            print(take(browser, url, shot, asked.out))
        browser.close()


if __name__ == "__main__":
    main()
