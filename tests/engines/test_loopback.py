"""A cluster that hubstore starts itself listens to nobody else, has room for an actor, and ends what it is to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytestmark = pytest.mark.ray

STARTED = """
import json, time
import torch
import tests.engines
from hubstore.extraction.cluster import Needs, connected, end_tasks
from tests.engines.test_loopback import listening

torch.set_num_threads(100)
with connected("local") as ray:
    ray.get(ray.remote(lambda: None).options(**Needs.of(torch.device("cpu")).options()).remote())
    addresses = listening()
    done, slow = ray.remote(lambda: None), ray.remote(lambda: time.sleep(600))
    for _ in range(150):
        calls = [done.remote() for _ in range(3)]
        ray.get(calls)
        end_tasks(ray, calls)
    end_tasks(ray, [])
    call = slow.remote()
    assert not ray.wait([call], timeout=1)[0]
    end_tasks(ray, [call])
    try:
        ray.get(call, timeout=60)
    except (ray.exceptions.TaskCancelledError, ray.exceptions.WorkerCrashedError) as ended:
        print(json.dumps({"addresses": addresses, "ended": type(ended).__name__}))
"""


@pytest.fixture(scope="module")
def said():
    """What a process says that starts a cluster of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", STARTED],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_a_cluster_that_is_started_here_has_room_and_listens_on_the_loopback_address_alone(said):
    assert len(said["addresses"]) >= 4  # the control service, the node, this process and a worker
    assert set(said["addresses"]) == {"127.0.0.1"}


def test_tasks_that_have_just_ended_are_left_alone_and_the_others_are_ended(said):
    """Ray ends a process that cancels a task which ends at that moment: one of some 90 did."""
    assert said["ended"] in ("TaskCancelledError", "WorkerCrashedError")


def listening() -> list[str]:
    """Addresses (IPv4) that this process and those that it started listen on."""
    ours = {os.getpid()}
    parents = {int(one.name): _parent(one) for one in Path("/proc").iterdir() if one.name.isdigit()}
    while more := {process for process, parent in parents.items() if parent in ours} - ours:
        ours |= more
    sockets = {target for process in ours for target in _targets(Path(f"/proc/{process}/fd"))}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                last = fields[1].split(":")[0][-8:]  # of IPv6, the part that holds an IPv4 address
                found.append(".".join(str(int(last[i : i + 2], 16)) for i in (6, 4, 2, 0)))
    return found


def _parent(process: Path) -> int:
    try:
        return int(process.joinpath("stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _targets(folder: Path) -> list[str]:
    targets = []
    for one in folder.iterdir() if folder.exists() else ():
        try:
            targets.append(str(one.readlink()))
        except OSError:
            continue
    return targets
