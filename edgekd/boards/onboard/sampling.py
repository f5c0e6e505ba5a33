"""What is watched while a step runs: tegrastats, INA power rails, the least memory that was left."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from . import process
from .facts import memory

_INTERVAL_MS = 100
_STOP_S = 2.0


class Watch:
    """Samples in the background between `start` and `stop`.

    Args:
        root: `/`.
        out: Folder for `tegrastats.log` and `hwmon.csv`; None to watch memory alone.
        tegrastats: Path of that program, if the board has it.
    """

    def __init__(self, root: Path, out: Optional[Path], tegrastats: Optional[str]) -> None:
        self._root = root
        self._rails = find_rails(root) if out else []
        self._out = out
        self._tegrastats = tegrastats if out else None
        self._process: Any = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.least_memory_bytes = memory(self._root)["available_bytes"]
        self.facts: Dict[str, Any] = {}

    def start(self) -> None:
        """Begin."""
        if self._out is not None:
            self.facts = {
                "interval_ms": _INTERVAL_MS,
                "started_s": time.time(),
                "rails": [name for name, *_ in self._rails],
                "tegrastats": self._start_tegrastats(self._out),
            }
        self._thread.start()

    def stop(self) -> None:
        """End; nothing that was started is left running."""
        self._over.set()
        if self._process is not None:
            if self._process.poll() is not None:
                self.facts["tegrastats"] = "ended by itself with exit status %d" % self._process.returncode
            process.stop(self._process)
        self._thread.join(_STOP_S)

    def _start_tegrastats(self, out: Path) -> str:
        if self._tegrastats is None:
            return "not on this board"
        with open(str(out / "tegrastats.log"), "wb") as log:
            self._process = process.start([self._tegrastats, "--interval", str(_INTERVAL_MS)], log=log, folder=out)
        return "running"

    def _sample(self) -> None:
        if not self._rails or self._out is None:
            while not self._over.wait(_INTERVAL_MS / 1000):
                self._note_memory()
            return
        with open(str(self._out / "hwmon.csv"), "w") as table:
            table.write("time_s,rail,voltage_mv,current_ma\n")
            while not self._over.wait(_INTERVAL_MS / 1000):
                self._note_memory()
                for name, voltage, current in self._rails:
                    table.write("%.3f,%s,%s,%s\n" % (time.time(), name, _read(voltage), _read(current)))

    def _note_memory(self) -> None:
        self.least_memory_bytes = min(self.least_memory_bytes, memory(self._root)["available_bytes"])


def find_rails(root: Path) -> List[Tuple[str, Path, Path]]:
    """Return name, voltage file (mV) and current file (mA) of every rail of an INA monitor."""
    rails = []
    for label in sorted((root / "sys/class/hwmon").glob("hwmon*/in*_label")):
        number = re.sub(r"\D", "", label.name)
        voltage, current = label.with_name("in%s_input" % number), label.with_name("curr%s_input" % number)
        if voltage.is_file() and current.is_file():
            rails.append((_read(label).replace(",", " "), voltage, current))
    return rails


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""
