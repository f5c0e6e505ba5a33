"""Runs experiments on reliability and keeps their figures beside those of the benchmarks.

    python tools/reliability/run.py                          # all of them, an hour or two
    python tools/reliability/run.py power_loss cold_start    # some; the others' figures of the same commit stay
    python tools/reliability/run.py kill_everywhere --option every=10
    python tools/bench/readme_tables.py                      # then writes the tables

Each experiment is a module beside this one with `run(scratch, **options) -> dict` of plain figures.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tools" / "bench" / "results"
HERE = Path(__file__).resolve().parent
_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of its own is made there


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; returns 1 when an experiment found a failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", help=f"of {', '.join(experiments())}")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=NUMBER", help="for the experiments")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the figures")
    parser.add_argument("--scratch", type=Path, help="folder for devices; in memory by default")
    options = parser.parse_args(arguments)
    names = options.experiments or experiments()
    if unknown := sorted(set(names) - set(experiments())):
        parser.error(f"no experiment {', '.join(unknown)}; there are {', '.join(experiments())}")
    given = dict(_option(text) for text in options.option)
    commit = _commit()  # what is measured now; the tree may move on meanwhile
    found = {name: _figures(name, given, options.scratch) for name in names}
    _keep(options.out, commit, {name: {**figures, "commit": commit} for name, figures in found.items()})
    return int(any(figures.get("failures") or figures.get("missed") for figures in found.values()))


def experiments() -> list[str]:
    """Return the names of all experiments: the modules here that have a `run(scratch)`."""
    own = re.compile(r"^def run\(\s*scratch: Path", re.MULTILINE)
    return sorted(path.stem for path in HERE.glob("*.py") if own.search(path.read_text(encoding="utf-8")))


def _figures(name: str, options: dict[str, Any], scratch: Path | None) -> dict[str, Any]:
    module = importlib.import_module(name)
    accepted = module.run.__code__.co_varnames[
        : module.run.__code__.co_argcount + module.run.__code__.co_kwonlyargcount
    ]
    folder = scratch or (_IN_MEMORY if _IN_MEMORY.is_dir() else None)
    print(f"{name} ...", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"edgekd-{name}-", dir=folder) as place:
        figures = module.run(Path(place), **{key: value for key, value in options.items() if key in accepted})
    figures["options"] = {key: value for key, value in options.items() if key in accepted}
    figures["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps({name: figures}, indent=2)[:4000], flush=True)
    return dict(figures)


def _keep(folder: Path, commit: str, found: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"reliability_{_machine()}_{commit}.json"
    document = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else _head(commit)
    document["experiments"].update(found)
    _forget(folder, set(found), but=path)
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    print(f"kept in {path}")


def _forget(folder: Path, names: set[str], *, but: Path) -> None:
    """Remove older figures of the same experiments, and files that then hold none."""
    for path in folder.glob("reliability_*.json"):
        document = json.loads(path.read_text(encoding="utf-8"))
        left = {name: figures for name, figures in document["experiments"].items() if name not in names}
        if path == but or left == document["experiments"]:
            continue
        if left:
            path.write_text(json.dumps({**document, "experiments": left}, indent=2, sort_keys=True) + "\n", "utf-8")
        else:
            path.unlink()


def _head(commit: str) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "machine": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "commit": commit,
        "experiments": {},
    }


def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found.group(1) if found else platform.machine()


def _machine() -> str:
    words = re.findall(r"[A-Za-z0-9]+", _processor())
    return "cpu-" + "-".join(words[:5])


def _commit() -> str:
    words = ["git", "-C", str(ROOT), "rev-parse", "--short=7", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def _option(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    return name, json.loads(value)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    sys.exit(main())
