"""`python -m benchmarks.map_points [--points N,N] [--out [FILE]]`: frames a second of the map while its points glide
from layer to layer, in headless Chromium without a graphics card, and what colors, words and a point take.

The points are made up: a mixture of normal clusters, drawn by a seed. Chromium draws WebGL in software (SwiftShader).
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

import hubstore
from benchmarks.record import RESULTS, Result, compare, machine, machine_name, save
from benchmarks.table import suite_table
from hubstore.bench.timing import Sample

DASHBOARD = Path(hubstore.__file__).parent / "serve/dashboard"
CLUSTERS, SEED = 30, 0

MEASURE = """async ({points: count, clusters, seed, seconds}) => {
  const [{Plane}, {looks}, {densities, kindsOf}, {clusterLabels}, {Grid}] = await Promise.all(
    ["plane", "map-data", "map-colors", "map-labels", "grid"].map((name) => import(`/${name}.js`)));
  let state = seed + 1;
  const uniform = () => (state = (state * 48271) % 2147483647) / 2147483647;
  const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  const layer = () => {
    const centers = Array.from({length: clusters}, () => [normal() / 3, normal() / 3]);
    return Float32Array.from({length: 2 * count}, (_, i) => centers[(i >> 1) % clusters][i % 2] + normal() / 20);
  };
  const layers = [layer(), layer(), layer()];
  const tags = ["en", "de", "es", "zh-Hans", "sw", "ar", "th"];
  const language = Array.from({length: count}, (_, i) => tags[i % tags.length]);
  const words = (i) => `word${i % clusters} of cluster${i % clusters} and the text ${i % 97}`;
  const items = {language, modality: language.map(() => "text"), concept: language.map((_, i) => `c${i}`),
    text: language.map((_, i) => words(i)), id: language.map((_, i) => `${i}`)};
  const concepts = Int32Array.from(language, (_, i) => i);
  const took = {};
  const timed = (name, work) => { const from = performance.now(); const found = work();
    took[name] = (performance.now() - from) / 1000; return found; };
  const kinds = timed("colors", () => kindsOf("language", {families: {}}, items, layers[0]));
  const look = looks(kinds);
  timed("density", () => densities(layers[0]));
  const labels = timed("words", () => clusterLabels(items, concepts, layers[0], "en"));
  const grid = timed("index of places", () => new Grid(layers[0]));
  timed("a point", () => grid.nearest(0, 0, 0.1, () => true));
  const plane = new Plane("points", {overlay() {}, onhover() {}, onpick() {}, onlook() {}, onarea() {}});
  document.body.append(plane.node);
  await new Promise((resolve) => setTimeout(resolve, 300));
  plane.paint(look, new Uint8Array(count).fill(2));
  plane.place(layers[0], false);
  const frame = () => new Promise(requestAnimationFrame);
  for (let i = 0; i < 3; i += 1) await frame();
  const started = performance.now();
  let [frames, turn] = [0, 0];
  const pixel = new Uint8Array(4);
  const gl = plane.canvas.getContext("webgl2");
  while (performance.now() - started < 1000 * seconds) {
    if (plane.time === 1) plane.place(layers[(turn += 1) % 3], true);
    await frame();
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel); // until what was asked for is drawn
    frames += 1;
  }
  const rate = frames / ((performance.now() - started) / 1000);
  plane.close(); plane.node.remove();
  return {rate, took, labels: labels.length};
}"""


class Quiet(SimpleHTTPRequestHandler):
    """Gives the dashboard's files, and says nothing of it."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def measured(page: Page, points: int, seconds: float) -> dict[str, Any]:
    """Frames a second and the seconds of each work, of one run."""
    given = {"points": points, "clusters": CLUSTERS, "seed": SEED, "seconds": seconds}
    found: dict[str, Any] = page.evaluate(MEASURE, given)
    return found


def run(points: list[int], runs: int, seconds: float) -> list[Result]:
    """The suite."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(DASHBOARD)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    results = []
    with sync_playwright() as made:
        browser = made.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
        for count in points:
            found = [measured(page, count, seconds) for _ in range(runs)]
            busy = f"load average of the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
            case = f"{count:,} points glide from layer to layer"
            rates = {"hubstore": Sample(tuple(one["rate"] for one in found))}
            results.append(compare("map_points", case, "frames/s", rates, notes=(busy, "WebGL 2 by SwiftShader")))
            for name in found[0]["took"]:
                took = {"hubstore": Sample(tuple(one["took"][name] for one in found))}
                results.append(compare("map_points", f"{name}, {count:,} points", "s", took, better="lower"))
        browser.close()
    server.shutdown()
    return results


def main(arguments: list[str] | None = None) -> None:
    """Run the suite, print it, and keep it where `--out` is given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.map_points", description=__doc__)
    parser.add_argument("--points", default="20000,200000,1000000")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="that frames are counted for")
    parser.add_argument(
        "--out", nargs="?", const="", help="keep the results; benchmarks/results/map-points/<machine>.json by default"
    )
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    results = run([int(one) for one in options.points.split(",")], options.runs, options.seconds)
    took = time.perf_counter() - started
    print(f"\n{suite_table(results)}", flush=True)
    if options.out is not None:
        here = machine(Path.cwd())
        save(Path(options.out or RESULTS / f"map-points/{machine_name(here)}.json"), here, "map_points", took, results)


if __name__ == "__main__":
    main()
