"""SIGKILL at random moments of each state of an install, once and again on the retry; the run after that converges."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd_agent import journal
from edgekd_agent.layout import Layout
from real_device import ENVIRONMENT, Template, agent, command, status, template, what_runs

STATES = ("fetching", "verifying", "building", "checking", "switching", "confirming")
_LATEST_S = {"building": 0.4, "checking": 0.4, "confirming": 0.4}
_PATIENCE_S = 30.0


@dataclass
class Result:
    """What became of a device.

    Attributes:
        state: State in which it was killed.
        kills: How often it was killed there.
        failures: What was wrong.
    """

    state: str
    kills: int
    failures: list[str] = field(default_factory=list)


def kill_in(root: Path, state: str, delay_s: float) -> bool:
    """Start an install and kill it a moment after it entered a state; says whether it was still running."""
    layout = Layout(root)
    before = len(journal.read(layout.journal).records)
    process = subprocess.Popen(
        command(root, "install"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    )
    deadline = time.monotonic() + _PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        entered = [record.state for record in journal.read(layout.journal).records[before:]]
        if state in entered:
            time.sleep(delay_s)
            break
        time.sleep(0.0005)
    is_running = process.poll() is None
    process.kill()
    process.wait()
    return is_running


def try_one(device: Template, root: Path, state: str, kills: int, seed: int) -> Result:
    """Kill an install so often in one state, judging in between, then let one come to its end."""
    generator, result = random.Random(seed), Result(state, 0)
    device.copy(root)
    for _ in range(kills):
        result.kills += kill_in(root, state, generator.uniform(0, _LATEST_S.get(state, 0.01)))
        try:
            what_runs(root)
        except ValueError as error:
            result.failures.append(f"after a kill while {state}: {error}")
        device.push(root)
    done = agent(root, "install", "--json")
    if done.returncode and "failed here before" in done.stderr:  # cut off twice on trial: it has to be asked for again
        agent(root, "forgive", device.wanted.sha256)
        device.push(root)
        done = agent(root, "install", "--json")
    if done.returncode:
        result.failures.append(f"the last run ended with {done.returncode}: {done.stderr.strip()}")
    elif what_runs(root) != device.wanted.sha256 or status(root)["state"] != "idle":
        result.failures.append("the last run did not converge")
    shutil.rmtree(root, ignore_errors=True)
    return result


def run(scratch: Path, *, offsets: int = 20, jobs: int = 2) -> dict[str, Any]:
    """Kill in every state, first time and retry.

    Args:
        scratch: Folder for the devices.
        offsets: Random moments for each.
        jobs: Devices at a time.

    Returns:
        Plain figures.
    """
    device = template(scratch)
    cases = [(state, kills, seed) for state in STATES for kills in (1, 2) for seed in range(offsets)]
    with ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(lambda case: try_one(device, scratch / "-".join(map(str, case)), *case), cases))
    return {
        "devices": len(results),
        "kills": sum(result.kills for result in results),
        "kills_by_state": {state: sum(item.kills for item in results if item.state == state) for state in STATES},
        "failures": [text for result in results for text in result.failures],
    }
