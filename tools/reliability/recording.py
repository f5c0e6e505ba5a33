"""Records every change the agent makes to its disk, and what it tells the world in between."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from disk_model import Op, Tree
from edgekd_agent import badmarks, durable, generations, journal, locks, store
from edgekd_agent.engine.shop import Shop
from edgekd_agent.trust import clock, keeping


class Stopped(BaseException):
    """The process was killed here; no `except` of the agent catches it."""


class Recorder:
    """Takes the place of the primitives in `edgekd_agent.durable`.

    Args:
        root: Folder of the device; changes elsewhere are not recorded.
        stop_at: Number of the change before which the process is killed; None for never.
    """

    def __init__(self, root: Path, stop_at: int | None = None) -> None:
        self.root = root
        self.ops: list[Op] = []
        self.stop_at = stop_at
        self._open: dict[int, str] = {}

    def changes(self) -> int:
        """Return how many changes were recorded, promises not counted."""
        return sum(op.kind != "promise" for op in self.ops)

    def note(self, kind: Any, path: Path, data: bytes = b"") -> None:
        """Record a change that another program made, or a promise."""
        if kind != "promise" and self.stop_at is not None and self.changes() >= self.stop_at:
            raise Stopped
        self.ops.append(Op(kind, path.relative_to(self.root).as_posix(), data, _site()))

    @contextmanager
    def recording(self) -> Iterator[Recorder]:
        """Record while the block runs."""
        with ExitStack() as stack:
            for name in _PRIMITIVES:
                real = getattr(durable, name)
                stack.enter_context(mock.patch.object(durable, name, self._wrapped(name, real)))
            for module, name, withdrawn, promise in _PROMISES:
                wrapped = self._promising(getattr(module, name), withdrawn, promise)
                stack.enter_context(mock.patch.object(module, name, wrapped))
            yield self

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def create(path: Path, mode: int = 0o644) -> int:
            self.note("create", path)
            return self._opened(real(path, mode), path)

        def open_append(path: Path) -> int:
            if not path.exists():
                self.note("create", path)
            return self._opened(real(path), path)

        def opened(path: Path) -> int:
            return self._opened(real(path), path)

        def write(descriptor: int, content: bytes) -> None:
            self.note("write", self.root / self._open[descriptor], content)
            real(descriptor, content)

        def copy(source: int, descriptor: int, most_bytes: int) -> int:
            content = os.pread(source, most_bytes, os.lseek(source, 0, os.SEEK_CUR))
            self.note("write", self.root / self._open[descriptor], content)
            return int(real(source, descriptor, most_bytes))

        def fsync(descriptor: int) -> None:
            path = self.root / self._open[descriptor]
            self.note("fsync_folder" if path.is_dir() else "fsync", path)
            # The model decides what survives; the real disk need not.

        def close(descriptor: int) -> None:
            self._open.pop(descriptor, None)
            real(descriptor)

        def truncate(path: Path, size_bytes: int) -> None:
            self.note("truncate", path, str(size_bytes).encode())
            real(path, size_bytes)

        def rename(source: Path, target: Path) -> None:
            self.note("rename", source, target.relative_to(self.root).as_posix().encode())
            real(source, target)

        def symlink(text: str, path: Path) -> None:
            self.note("symlink", path, text.encode())
            real(text, path)

        def at_path(path: Path) -> None:
            self.note(name, path)
            real(path)

        chosen = {"open_existing": opened, "open_folder": opened, "unlink": at_path, "mkdir": at_path, "rmdir": at_path}
        local = {
            "create": create,
            "open_append": open_append,
            "write": write,
            "copy": copy,
            "fsync": fsync,
            "close": close,
            "truncate": truncate,
            "rename": rename,
            "symlink": symlink,
        }
        return {**chosen, **local}[name]

    def _opened(self, descriptor: int, path: Path) -> int:
        self._open[descriptor] = path.relative_to(self.root).as_posix()
        return descriptor

    def _promising(
        self, real: Callable[..., Any], withdrawn: Callable[..., str] | None, promise: Callable[..., str]
    ) -> Callable[..., Any]:
        """Withdraw the older promise when a function begins, make the new one when it has returned."""

        def wrapped(*arguments: Any, **options: Any) -> Any:
            if withdrawn is not None:
                self.note("promise", self.root, f"withdrawn {withdrawn(*arguments)}".encode())
            result = real(*arguments, **options)
            self.note("promise", self.root, promise(result, *arguments, **options).encode())
            return result

        return wrapped


def tree_of(root: Path) -> Tree:
    """Return what is below a folder."""
    found: Tree = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()).encode())
        elif path.is_dir():
            found[name] = ("dir", b"")
        elif path.is_file():
            found[name] = ("file", path.read_bytes())
    return found


def lay_out(tree: Tree, root: Path) -> None:
    """Make what `tree_of` returned, in an empty folder."""
    for path, (kind, content) in sorted(tree.items()):
        place = root / path
        if kind == "dir":
            place.mkdir()
        elif kind == "link":
            place.symlink_to(content.decode())
        else:
            place.write_bytes(content)


_PRIMITIVES = (
    "create",
    "open_append",
    "open_existing",
    "open_folder",
    "write",
    "copy",
    "fsync",
    "close",
    "truncate",
    "rename",
    "symlink",
    "unlink",
    "mkdir",
    "rmdir",
)


def _point(_: Any, __: Any, link: Path, number: int | None) -> str:
    return f"{link.name} {number}"


def _kept(_: Any, path: Path, content: bytes) -> str:
    return f"kept {path.name} {hashlib.sha256(content).hexdigest()}"


_PROMISES: tuple[tuple[Any, str, Callable[..., str] | None, Callable[..., str]], ...] = (
    (journal, "append", None, lambda record, *_: f"record {record.sequence}"),
    (store, "admit", None, lambda _, __, artifact: f"blob {artifact.sha256}"),
    (badmarks, "mark", lambda _, digest, *__: f"mark {digest}", lambda _, __, digest, *___: f"bad {digest}"),
    (badmarks, "forgive", lambda _, digest: f"mark {digest}", lambda _, __, digest: f"good {digest}"),
    (Shop, "_keep", None, lambda _, __, candidate, *___, **____: f"engine {candidate.engine_key}"),
    (generations, "make", None, lambda _, __, number, *___: f"generation {number}"),
    (generations, "point", lambda _, link, __: link.name, _point),
    (keeping, "keep", lambda path, _: f"kept {path.name}", _kept),
    (clock, "keep", lambda path, _: f"kept {path.name}", _kept),
    (locks, "reserve", None, lambda _, __, owner: f"reserved {owner}"),
    (locks, "release", lambda *_: "reserved", lambda *_, **__: "reserved "),
)


def _site() -> str:
    """Return the functions of the agent that are at work, innermost first."""
    frames = [
        f"{Path(frame.filename).stem}.{frame.function}"
        for frame in inspect.stack(0)
        if "/edgekd_agent/" in frame.filename
    ]
    return " < ".join(frames[:5])
