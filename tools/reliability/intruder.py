"""What `intrusions` lets the login's user run on a device, as if SSH let it run programs; standard library only.

python3 -c "$(cat intruder.py)" try '{"kept": [...], "readable": [...], "door": "...", "data": "..."}'
python3 -c "$(cat intruder.py)" lay KIND PLACE DETAIL
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

_Attempt = tuple[str, Callable[[], Any]]


def main(words: list[str]) -> None:
    """Do what the words say; prints how much was tried and what could be done."""
    if words[0] == "lay":
        lay(words[1], Path(words[2]), words[3])
        return
    found = list(attempts(**json.loads(words[1])))
    print(json.dumps([len(found), [name for name, act in found if is_done(act)]]))


def is_done(act: Callable[[], Any]) -> bool:
    """Try something; say whether it could be done."""
    try:
        act()
    except OSError:
        return False
    return True


def attempts(kept: list[str], readable: list[str], door: str, data: str) -> list[_Attempt]:
    """Return everything that must be refused."""
    front, mine = Path(door), Path(door) / "staging/blobs/mine"
    write(mine)
    found = [entry for path in kept for entry in on_a_file(Path(path), mine, path.startswith(tuple(readable)))]
    for place in (front, front / "staging", front / "agent", Path(data)):
        found += [(f"{place} written", partial(write, place / "x")), *on_a_name(place)]
    for name in ("staging/blobs", "staging/metadata", "agent/agent.sock", "edgekd-agent"):
        found += [*on_a_name(front / name), (f"{name} removed", (front / name).unlink)]
        found.append((f"{name} removed as a folder", (front / name).rmdir))
    found.append(("the server asked", partial(ask, f"{data}/serve.sock")))
    for process in others():
        found.append((f"process {process.name} ended", partial(os.kill, int(process.name), signal.SIGTERM)))
        found += [(f"{name} of {process.name} read", partial(read, process / name)) for name in ("mem", "environ")]
    return found


def on_a_file(path: Path, mine: Path, is_readable: bool) -> list[_Attempt]:
    """Return what must not be done to a file that decides."""
    found: list[_Attempt] = [
        (f"{path} written", partial(write, path)),
        (f"{path} cut", partial(os.truncate, path, 0)),
        (f"{path} removed", path.unlink),
        (f"{path} replaced", partial(mine.rename, path)),
        (f"{path} linked", partial(os.link, path, f"{mine}-link")),
        (f"{path} taken", partial(os.chown, path, os.getuid(), os.getgid())),
        (f"{path.parent} added to", partial(write, path.parent / "edgekd-x")),
        *on_a_name(path),
    ]
    if not is_readable:
        found += [(f"{path} read", partial(read, path)), (f"{path.parent} listed", partial(os.scandir, path.parent))]
    return found


def on_a_name(path: Path) -> list[_Attempt]:
    """Return what must not be done to a file or folder that is somebody else's."""
    return [
        (f"{path} renamed", partial(path.rename, f"{path}-2")),
        (f"{path} opened up", partial(path.chmod, 0o777)),
    ]


def others() -> list[Path]:
    """Return the processes of other users."""
    return [path for path in Path("/proc").iterdir() if path.name.isdigit() and path.stat().st_uid != os.getuid()]


def read(path: Path) -> None:
    """Open a file for reading."""
    with open(path, "rb") as stream:
        stream.read(1)


def write(path: Path) -> None:
    """Add to a file."""
    with open(path, "ab") as stream:
        stream.write(b"x")


def ask(path: str) -> None:
    """Connect to a socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def lay(kind: str, place: Path, detail: str) -> None:
    """Lay something in the place of a file in staging, as somebody would who wants the agent to stumble."""
    if os.path.lexists(place):
        place.unlink()
    if kind in ("link", "device link", "dangling link"):
        place.symlink_to({"link": detail, "device link": "/dev/zero", "dangling link": "/nonexistent"}[kind])
    elif kind == "hard link":
        write(Path(f"{place}2"))
        os.link(f"{place}2", place)
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind in ("folder", "full folder"):
        place.mkdir()
        if kind == "full folder":
            write(place / "x")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            os.chdir(place.parent)
            server.bind(place.name)
    elif kind == "unreadable file":
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0))
    else:
        with open(place, "wb") as stream:
            stream.truncate(int(detail) if kind == "sparse file" else 1 << 40)


if __name__ == "__main__":
    main(sys.argv[1:])
