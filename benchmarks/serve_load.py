"""`python -m benchmarks.serve_load`: closed-loop clients in a process of their own, with as little work as can be.

Reads a load as JSON on stdin and prints what it saw as JSON. Each client keeps a connection, sends a request, reads the
answer to its last byte and sends the next at once.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.record import ROOT


@dataclass(frozen=True)
class Load:
    """What is asked, and by how many.

    Args:
        port: of the server on 127.0.0.1.
        clients: at once.
        seconds: that count.
        paths: by kind of request, paths with their parameters; a client draws one of the kind. `{new}` in one is a
            number that no other request has.
        weights: how often each kind is drawn, relative to the others.
        warm: seconds before those that count.
        seed: of the draws.
    """

    port: int
    clients: int
    seconds: float
    paths: Mapping[str, Sequence[str]]
    weights: Mapping[str, float]
    warm: float = 1.0
    seed: int = 0


@dataclass
class Seen:
    """What the clients saw.

    Args:
        latencies: milliseconds of each answer whose request was sent in the seconds that count, by kind.
        errors: answers of another status than 200 and 503, by what they were; the first bytes of one of each.
        busy: answers of 503, after which a client waited as long as it was told to.
        seconds: that were measured.
        cpu_seconds: of this process.
    """

    latencies: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    busy: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def all(self) -> list[float]:
        """Milliseconds of every answer."""
        return [value for values in self.latencies.values() for value in values]


def run_load(load: Load) -> Seen:
    """Have a process of its own make the load, and wait for it."""
    command = [sys.executable, "-m", "benchmarks.serve_load"]
    done = subprocess.run(
        command, cwd=ROOT, input=json.dumps(asdict(load)), check=True, stdout=subprocess.PIPE, text=True
    )
    return Seen(**json.loads(done.stdout))


async def make(load: Load) -> Seen:
    """Run the clients."""
    seen, kinds = Seen({kind: [] for kind in load.paths}), list(load.paths)
    weights = [load.weights[kind] for kind in kinds]
    numbers = itertools.count(load.seed << 20)
    begins = time.perf_counter() + load.warm
    ends = begins + load.seconds

    async def client(number: int) -> None:
        drawn = random.Random(f"{load.seed}:{number}")
        reader, writer = await asyncio.open_connection("127.0.0.1", load.port)
        while (started := time.perf_counter()) < ends:
            (kind,) = drawn.choices(kinds, weights)
            path = drawn.choice(load.paths[kind])
            if "{new}" in path:
                path = path.replace("{new}", str(next(numbers)))
            status, headers, body = await _asked(reader, writer, path)
            done = time.perf_counter()
            if status == 200 and started >= begins:
                seen.latencies[kind].append(1e3 * (done - started))
            elif status == 503:
                seen.busy += 1
                await asyncio.sleep(float(headers.get(b"retry-after", b"1")))
            elif status != 200:
                name = f"{kind}: {status} {body[:200].decode(errors='replace')}"
                seen.errors[name] = seen.errors.get(name, 0) + 1
        writer.close()

    await asyncio.gather(*(client(number) for number in range(load.clients)))
    seen.seconds = load.seconds
    used = resource.getrusage(resource.RUSAGE_SELF)
    seen.cpu_seconds = used.ru_utime + used.ru_stime
    return seen


async def _asked(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str
) -> tuple[int, dict[bytes, bytes], bytes]:
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status, *lines = head.rstrip().split(b"\r\n")
    headers = dict(line.split(b": ", 1) for line in lines)
    return int(status.split()[1]), headers, await reader.readexactly(int(headers[b"content-length"]))


def main() -> None:
    """The process of its own."""
    parameters: dict[str, Any] = json.load(sys.stdin)
    print(json.dumps(asdict(asyncio.run(make(Load(**parameters))))))


if __name__ == "__main__":
    main()
