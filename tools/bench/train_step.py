"""One training step in edgekd and in published code: same networks, pictures, batch and loss, side by side.

    python tools/bench/train_step.py --peers DIR [--methods kd,sp] [--rounds 3] [--into FILE]

`DIR` holds the peers as their authors publish them, one folder each: `mdistiller`, `RepDistiller`, `torchdistill`; one
that is not there is left out. torchvision has to be importable for their data (or to lie in `DIR/site`). Each run is a
process of its own. Rounds follow each other, with the engines of one method side by side in each, so that what else the
machine does falls on all of them.

A step is the time from making one batch to making the next: pictures read, changed and normalised, both networks,
losses, backward, optimiser, and whatever the engine records. `bare` is the least that any engine has to do: both
networks and cross-entropy by hand, on batches that are there already. `edgekd-cached` reads what the teacher said from
the teacher cache, so the teacher does not run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from keep_result import RESULTS, clean_commit, cpu_name

from edgekd.core import atomic

METHODS = ("kd", "fitnet", "sp", "vid", "at", "rkd", "crd", "reviewkd", "dkd")
LIVE = ("edgekd", "edgekd-compiled")
CACHED = "edgekd-cached"
OWN = (*LIVE, CACHED)
PEERS = ("mdistiller", "repdistiller", "torchdistill")
_CHILD = Path(__file__).with_name("train_step_child.py")


def main() -> None:
    """Run, and write what was found after every round."""
    arguments = _arguments()
    engines = arguments.engines.split(",") if arguments.engines else ("bare", *OWN, *PEERS)
    commit = arguments.commit or clean_commit()
    into = arguments.into or RESULTS / f"{_stem(arguments.device)}_{commit}.json"
    runs: list[dict[str, Any]] = json.loads(into.read_text())["runs"] if into.exists() else []
    done = {(run["method"], run["engine"], run["round"]) for run in runs}
    for number in range(arguments.rounds):
        for method in arguments.methods.split(","):
            for engine in _rotated(engines, number):
                if (method, engine, number) not in done:
                    runs.append(
                        {"method": method, "engine": engine, "round": number, **_run(arguments, method, engine)}
                    )
                    print(json.dumps(runs[-1]), flush=True)
                    atomic.write_text(into, _document(arguments, runs))
    print(into)


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each method and engine that ran.

    Args:
        runs: Each with `method`, `engine`, `round`, and either `step_ms` and `peak_mb` or why it `failed`.

    Returns:
        Median step in milliseconds over rounds, peak memory, and by how much the bare step is exceeded, in percent,
        or None where there is none.
    """
    steps: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in runs:
        if "step_ms" in run:
            steps.setdefault((run["method"], run["engine"]), []).append(run)
    rows = []
    for (method, engine), found in steps.items():
        step_ms = statistics.median(run["step_ms"] for run in found)
        bare = [run["step_ms"] for run in steps.get((method, "bare"), [])]
        rows.append(
            {
                "method": method,
                "engine": engine,
                "step_ms": step_ms,
                "above_bare_percent": 100 * (step_ms / statistics.median(bare) - 1) if bare else None,
                "peak_mb": max(run["peak_mb"] for run in found),
                "rounds": len(found),
            }
        )
    return rows


def gains(runs: list[dict[str, Any]], engine: str) -> dict[str, tuple[float, str]]:
    """Return by method how much faster an engine is than the fastest peer, in the median of the rounds.

    Args:
        runs: As for `summary`.
        engine: The engine to judge.

    Returns:
        Ratio of steps (above 1 is faster) and the name of that peer.
    """
    found = {}
    for method in dict.fromkeys(run["method"] for run in runs):
        peers = {peer: _by_round(runs, method, peer) for peer in PEERS}
        own = _by_round(runs, method, engine)
        ratios = {
            peer: statistics.median([steps[number] / own[number] for number in steps.keys() & own.keys()])
            for peer, steps in peers.items()
            if steps.keys() & own.keys()
        }
        if ratios:
            best = min(ratios, key=lambda peer: ratios[peer])
            found[method] = (ratios[best], best)
    return found


def _by_round(runs: list[dict[str, Any]], method: str, engine: str) -> dict[int, float]:
    chosen = [run for run in runs if (run["method"], run["engine"]) == (method, engine) and "step_ms" in run]
    return {run["round"]: run["step_ms"] for run in chosen}


def _run(arguments: argparse.Namespace, method: str, engine: str) -> dict[str, Any]:
    """Time one engine in a process of its own; a method that it lacks or fails at is a result too."""
    command = [sys.executable, str(_CHILD), engine, method, arguments.pair, str(arguments.batch), str(arguments.steps)]
    command += [str(arguments.peers or ""), arguments.device]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"failed": (done.stderr.strip().splitlines() or ["no output"])[-1][:300]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _document(arguments: argparse.Namespace, runs: list[dict[str, Any]]) -> str:
    facts = {
        "pair": arguments.pair,
        "batch": arguments.batch,
        "steps": arguments.steps,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "peers": _peer_versions(arguments.peers),
    }
    return json.dumps({**facts, "runs": runs}, indent=1) + "\n"


def _peer_versions(peers: Path | None) -> dict[str, str]:
    """Return what the file `VERSIONS` beside the peers says, lines of name and commit."""
    listed = None if peers is None else peers / "VERSIONS"
    if listed is None or not listed.exists():
        return {}
    return dict(line.split()[:2] for line in listed.read_text(encoding="utf-8").splitlines() if line.strip())  # type: ignore[misc]


def _stem(device: str) -> str:
    version = torch.__version__.partition("+")[0]
    where = f"gpu-{torch.cuda.get_device_name().replace(' ', '-')}" if device == "cuda" else f"cpu-{cpu_name()}"
    return f"train-step_{where}_torch{version}"


def _rotated(engines: tuple[str, ...] | list[str], number: int) -> list[str]:
    start = number % len(engines)
    return [*engines[start:], *engines[:start]]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--pair", default="resnet56-resnet20", help="resnet56-resnet20 or resnet32x4-resnet8x4")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--engines", default="")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--commit", help="of the code, where git cannot say it")
    parser.add_argument("--into", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
