"""The child's side: reads its job, builds or checks, leaves a result or the reason for none."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd_agent import documents
from edgekd_agent.engine import building, checking
from edgekd_agent.engine.child import JOB, write_result
from edgekd_agent.engine.running import Refused

_PARTS = {"build": building.build, "check": checking.check}


def main(folder: str) -> int:
    """Do the job in a folder; returns the exit status."""
    place = Path(folder)
    job = documents.read(place / JOB)
    if job is None:
        sys.stderr.write("there is no job\n")
        return 1
    try:
        result: Mapping[str, Any] = _PARTS[job["part"]](job, place)
    except Refused as refusal:
        sys.stderr.write(f"refused: {refusal}\n")
        write_result(place, {"refusal": str(refusal), "kind": refusal.kind})
        return 1
    except MemoryError:
        write_result(place, {"refusal": "MemoryError", "kind": "memory"})
        return 1
    except Exception as error:
        traceback.print_exc()
        write_result(place, {"refusal": f"{type(error).__name__}: {error}", "kind": job["part"]})
        return 1
    write_result(place, {"result": dict(result)})
    return 0
