"""What a disk may hold after the power went away: the weakest promises that POSIX file systems make.

- What was written to a file is there after a power loss only if the file was fsynced since; otherwise any beginning of
  it may be there, half a write, or zeros in its place.
- A change of a folder (a name made, removed, replaced) is there only if that folder was fsynced since; otherwise each
  change may be there or not, whatever became of the others. A rename inside one folder is one change; a rename between
  two folders is one change in each, and they are independent.
- fsync of a file promises nothing about its name, fsync of a folder nothing about the content of what it names.

After the ALICE and CrashMonkey papers (Pillai et al., OSDI 2014; Mohan et al., OSDI 2018).
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

Tree = dict[str, tuple[str, bytes]]
"""Path to `("dir", b"")`, `("file", content)` or `("link", text)`; what can be reached from the root."""

_MOST_STATES = 256
_MOST_CONTENTS = 16


class Op(NamedTuple):
    """One change, with paths relative to the root.

    Attributes:
        kind: What is done; `"promise"` does nothing and says what the agent has told the world.
        path: What it is done to.
        data: Bytes written, text of a link, the new path of a rename, or the promise.
        site: Function of the agent that did it.
    """

    kind: Literal[
        "create",
        "write",
        "truncate",
        "fsync",
        "fsync_folder",
        "rename",
        "symlink",
        "unlink",
        "mkdir",
        "rmdir",
        "promise",
    ]
    path: str
    data: bytes = b""
    site: str = ""


@dataclass
class _Node:
    kind: Literal["dir", "file", "link"]
    content: bytes = b""
    pending: list[tuple[str, bytes]] = field(default_factory=list)
    entries: dict[str, int] = field(default_factory=dict)
    durable: dict[str, int] = field(default_factory=dict)
    changes: list[dict[str, int | None]] = field(default_factory=list)


class Disk:
    """A disk that is durable up to here, and what happens to it.

    Args:
        tree: What is on it.
        light: Paths whose content nothing depends on; all of their pending changes are kept or lost together.
    """

    def __init__(self, tree: Tree, light: Sequence[str] = ()) -> None:
        self._nodes = [_Node("dir")]
        self._light = tuple(light)
        for path, (kind, content) in sorted(tree.items()):
            parent, name = self._place(path)
            number = self._new(_Node(kind, content))  # type: ignore[arg-type]
            parent.entries[name] = number
            parent.durable[name] = number

    def apply(self, op: Op) -> None:
        """Do one change."""
        getattr(self, f"_{op.kind}")(op)

    def states(self, seed: int) -> Iterator[tuple[Tree, bool]]:
        """Yield every tree that a power loss may leave now, and whether they are only a sample of very many."""
        bits = [(node, index) for node in self._reachable() for index in range(len(node.changes))]
        heavy = [bit for bit in bits if not self._is_light(bit)]
        choices = self._subsets(len(heavy), seed)
        is_sample = 2 ** len(heavy) > _MOST_STATES
        for subset in choices:
            chosen = {(id(node), index) for (node, index), is_kept in zip(heavy, subset, strict=True) if is_kept}
            for is_light_kept in (True, False) if len(heavy) < len(bits) else (True,):
                kept = set(chosen)
                if is_light_kept:
                    kept |= {(id(node), index) for node, index in bits if (node, index) not in heavy}
                yield from ((tree, is_sample) for tree in self._contents(kept))

    def _subsets(self, count: int, seed: int) -> Iterator[Sequence[bool]]:
        if 2**count <= _MOST_STATES:
            yield from itertools.product((False, True), repeat=count)
            return
        yield [False] * count
        yield [True] * count
        for index in range(count):
            yield [number == index for number in range(count)]
            yield [number != index for number in range(count)]
            yield [number <= index for number in range(count)]
        generator = random.Random(seed)
        for _ in range(_MOST_STATES // 2):
            yield [generator.random() < 0.5 for _ in range(count)]

    def _contents(self, kept: set[tuple[int, int]]) -> Iterator[Tree]:
        """Yield the trees for one choice of folder changes: files that were not fsynced, each in every state."""
        shape: dict[str, _Node] = {}
        self._walk(0, "", kept, shape)
        open_files = [path for path, node in shape.items() if node.kind == "file" and node.pending]
        heavy = [path for path in open_files if not self._is_light_path(path)]
        variants = [self._variants(shape[path]) for path in heavy]
        base = {
            path: (node.kind, self._whole(node) if node.kind == "file" else node.content)
            for path, node in shape.items()
        }
        for combination in _combinations(variants):
            yield {**base, **{path: ("file", content) for path, content in zip(heavy, combination, strict=True)}}
        light = [path for path in open_files if path not in heavy]
        if light:
            yield {**base, **{path: ("file", shape[path].content) for path in light}}

    def _variants(self, node: _Node) -> list[bytes]:
        found = [node.content]
        content = node.content
        for kind, data in node.pending:
            if kind == "truncate":
                content = content[: int(data)]
                found.append(content)
                continue
            found += [content + data[: len(data) // 2], content + bytes(len(data))]
            content += data
            found.append(content)
        return list(dict.fromkeys(found))

    def _whole(self, node: _Node) -> bytes:
        content = node.content
        for kind, data in node.pending:
            content = content[: int(data)] if kind == "truncate" else content + data
        return content

    def _walk(self, number: int, prefix: str, kept: set[tuple[int, int]], shape: dict[str, _Node]) -> None:
        node = self._nodes[number]
        names: dict[str, int] = dict(node.durable)
        for index, change in enumerate(node.changes):
            if (id(node), index) in kept:
                for name, target in change.items():
                    if target is None:
                        names.pop(name, None)
                    else:
                        names[name] = target
        for name, target in names.items():
            path = f"{prefix}{name}"
            if path.count("/") > 12:
                continue
            shape[path] = self._nodes[target]
            if self._nodes[target].kind == "dir":
                self._walk(target, f"{path}/", kept, shape)

    def _reachable(self) -> list[_Node]:
        """Return folders that may be there, by any choice of changes."""
        seen, todo = {0}, [0]
        while todo:
            node = self._nodes[todo.pop()]
            found = set(node.durable.values()) | {
                t for change in node.changes for t in change.values() if t is not None
            }
            for number in found - seen:
                if self._nodes[number].kind == "dir":
                    seen.add(number)
                    todo.append(number)
        return [self._nodes[number] for number in sorted(seen)]

    def _is_light(self, bit: tuple[_Node, int]) -> bool:
        node, index = bit
        prefix = self._prefixes().get(id(node), "")
        return all(self._is_light_path(f"{prefix}{name}") for name in node.changes[index])

    def _prefixes(self) -> dict[int, str]:
        found: dict[int, str] = {}

        def visit(number: int, prefix: str) -> None:
            node = self._nodes[number]
            if id(node) in found:
                return
            found[id(node)] = prefix
            names = {**node.durable, **node.entries}
            for change in node.changes:
                names.update({name: target for name, target in change.items() if target is not None})
            for name, target in names.items():
                if self._nodes[target].kind == "dir":
                    visit(target, f"{prefix}{name}/")

        visit(0, "")
        return found

    def _is_light_path(self, path: str) -> bool:
        return any(path == item or path.startswith((f"{item}/", f"{item}.new")) for item in self._light)

    def _new(self, node: _Node) -> int:
        self._nodes.append(node)
        return len(self._nodes) - 1

    def _place(self, path: str) -> tuple[_Node, str]:
        parts = PurePosixPath(path).parts
        node = self._nodes[0]
        for part in parts[:-1]:
            node = self._nodes[node.entries[part]]
        return node, parts[-1]

    def _node(self, path: str) -> _Node:
        if path in ("", "."):
            return self._nodes[0]
        parent, name = self._place(path)
        return self._nodes[parent.entries[name]]

    def _set(self, folder: _Node, change: dict[str, int | None]) -> None:
        folder.changes.append(change)
        for name, target in change.items():
            if target is None:
                folder.entries.pop(name, None)
            else:
                folder.entries[name] = target

    def _create(self, op: Op) -> None:
        parent, name = self._place(op.path)
        self._set(parent, {name: self._new(_Node("file"))})

    def _mkdir(self, op: Op) -> None:
        parent, name = self._place(op.path)
        self._set(parent, {name: self._new(_Node("dir"))})

    def _symlink(self, op: Op) -> None:
        parent, name = self._place(op.path)
        self._set(parent, {name: self._new(_Node("link", op.data))})

    def _unlink(self, op: Op) -> None:
        parent, name = self._place(op.path)
        self._set(parent, {name: None})

    _rmdir = _unlink

    def _write(self, op: Op) -> None:
        self._node(op.path).pending.append(("write", op.data))

    def _truncate(self, op: Op) -> None:
        self._node(op.path).pending.append(("truncate", op.data))

    def _rename(self, op: Op) -> None:
        source, old = self._place(op.path)
        target, new = self._place(op.data.decode())
        number = source.entries[old]
        if source is target:
            self._set(source, {old: None, new: number})
        else:
            self._set(target, {new: number})
            self._set(source, {old: None})

    def _fsync(self, op: Op) -> None:
        node = self._node(op.path)
        node.content = self._whole(node)
        node.pending.clear()

    def _fsync_folder(self, op: Op) -> None:
        node = self._node(op.path)
        node.durable = dict(node.entries)
        node.changes.clear()

    def _promise(self, op: Op) -> None:
        del op


def _combinations(variants: list[list[bytes]]) -> Iterator[tuple[bytes, ...]]:
    """Yield every combination of contents; of very many, those in which one file differs from all whole or all lost."""
    if math.prod(map(len, variants)) <= _MOST_CONTENTS:
        yield from itertools.product(*variants)
        return
    for others in (0, -1):
        base = [found[others] for found in variants]
        yield tuple(base)
        for index, found in enumerate(variants):
            yield from ((*base[:index], content, *base[index + 1 :]) for content in found)
