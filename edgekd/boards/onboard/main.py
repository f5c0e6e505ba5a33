"""The verbs of the program on a board; each answers with one line: a mark and a JSON document."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List

from . import control
from .facts import gather
from .place import Refusal, Store
from .python_trt import trtexec
from .receive import held, receive
from .work import work

MARK = b"EDGEKD-BOARD "
_CHUNK_BYTES = 1 << 16


def main(arguments: List[str]) -> int:
    """Do one verb.

    Args:
        arguments: Path of this program, `/`, the verb, its arguments.

    Returns:
        Exit status: 0 done, 3 refused (the document says why).
    """
    program, root, verb, *rest = arguments
    store = Store(Path(program).resolve().parent.parent, Path(root).resolve())
    if verb == "work":
        return work(store, rest[0])
    if verb == "trt":
        return trtexec(rest)
    try:
        if verb == "read":
            _read(store, rest[0], rest[1:])
        else:
            _answer(_VERBS[verb](store, str(Path(program).resolve()), rest))
    except Refusal as refusal:
        _answer({"error": refusal.document})
        return 3
    return 0


def _facts(store: Store, program: str, rest: List[str]) -> Dict[str, Any]:
    return gather(store.root, store.folder, sys.stdin.buffer.read().decode("utf-8"))


def _held(store: Store, program: str, rest: List[str]) -> Dict[str, Any]:
    return held(store, rest[0])


def _receive(store: Store, program: str, rest: List[str]) -> Dict[str, Any]:
    return receive(store, rest[0], int(rest[1]), int(rest[2]), sys.stdin.buffer)


def _start(store: Store, program: str, rest: List[str]) -> Dict[str, Any]:
    description = sys.stdin.buffer.read()
    return control.start(store, rest[0], description, program=program)


def _status(store: Store, program: str, rest: List[str]) -> Dict[str, Any]:
    return control.status(store, rest[0])


def _wait(store: Store, program: str, rest: List[str]) -> Dict[str, Any]:
    return control.wait(store, rest[0], float(rest[1]), float(rest[2]))


def _cancel(store: Store, program: str, rest: List[str]) -> Dict[str, Any]:
    return control.cancel(store, rest[0])


def _read(store: Store, digest: str, wanted: List[str]) -> None:
    """Write files of a job to standard output, each a marked line with its size and then its bytes.

    Args:
        store: Where jobs are kept.
        digest: The job.
        wanted: For each file its folder, its name, and the byte to begin with.
    """
    for folder, name, offset in zip(wanted[::3], wanted[1::3], wanted[2::3]):  # noqa: B905 - Python 3.8
        if folder not in ("out", "log") or "/" in name or name.startswith("."):
            raise Refusal("usage", "not a result: %s/%s" % (folder, name))
        path = store.job(digest) / folder / name
        if not path.is_file():
            raise Refusal("absent", "there is no %s/%s" % (folder, name))
        with open(str(path), "rb") as stream:
            size = path.stat().st_size
            _answer({"size_bytes": size, "rest_bytes": max(0, size - int(offset))})
            stream.seek(int(offset))
            for block in iter(lambda: stream.read(_CHUNK_BYTES), b""):
                sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()


def _answer(document: Dict[str, Any]) -> None:
    sys.stdout.buffer.write(b"\n" + MARK + json.dumps(document).encode("ascii") + b"\n")
    sys.stdout.buffer.flush()


_VERBS: Dict[str, Callable[[Store, str, List[str]], Dict[str, Any]]] = {
    "facts": _facts,
    "held": _held,
    "receive": _receive,
    "start": _start,
    "status": _status,
    "wait": _wait,
    "cancel": _cancel,
}
