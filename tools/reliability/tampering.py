"""Tampered files, thousands of them: bytes changed, files cut, padded, swapped, linked; none may be accepted.

The metadata are those of a real repository made by edgekd, with a second root, as a fresh device reads all of them. The
bundle is a folder and a tar. Whatever is tampered with, the device must answer with its declared error, and trust
afterwards exactly what it trusted before, the untouched second root aside.
"""

from __future__ import annotations

import io
import itertools
import random
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
from edgekd_agent import ManifestError, verify
from edgekd_agent.archive import unpack
from edgekd_agent.trust import TrustError
from tuf_device import TrustingDevice
from tuf_repository import BOARD, DEVICE

from edgekd.core.artifacts import FileRef, OnnxModel
from edgekd.ship import (
    BundlePlan,
    Golden,
    build_plan,
    health_check,
    pack,
    provenance,
    target_selector,
    write_archive,
)
from edgekd.ship.trust import init, outbox, publish, rotate
from edgekd.targets import get_target

_START = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
_MODEL_BYTES = 100_000


@dataclass
class Count:
    """What became of tampered files, by what was done to them."""

    tampered: Counter[str] = field(default_factory=Counter)
    accepted: list[str] = field(default_factory=list)
    changed_trust: list[str] = field(default_factory=list)


def run(scratch: Path, *, every: int = 1, places: int = 1000, seed: int = 0, **_: Any) -> dict[str, Any]:
    """Tamper with everything a device reads.

    Args:
        scratch: A folder for the repository, the bundle and the device.
        every: Try every n-th damaged file of the metadata and of the tar; 1 for all of them.
        places: Number of places in each blob where a bit is changed.
        seed: Of the random choices.

    Returns:
        Number of tampered files, of those accepted, and of those after which the device trusted something else.
    """
    rng = random.Random(seed)
    count = Count()
    bundle, files, root = _repository(scratch)
    _tamper_metadata(Brought(scratch / "device", files, root), count, rng, every)
    _tamper_bundle(bundle, count, rng, places)
    _tamper_archive(scratch, bundle, count, rng, every=every, places=places)
    return {
        "tampered": sum(count.tampered.values()),
        "accepted": len(count.accepted),
        "devices_changed": len(count.changed_trust),
        "failures": len(count.accepted) + len(count.changed_trust),
        "by_kind": dict(sorted(count.tampered.items())),
        "accepted_names": count.accepted[:20],
        "changed_names": count.changed_trust[:20],
    }


def _repository(scratch: Path) -> tuple[Path, dict[str, bytes], bytes]:
    repo, keys, bundle = scratch / "repo", scratch / "keys", scratch / "bundle"
    made = init(repo, keys, ["canary", "fleet"], now=_START)
    _pack(scratch, bundle)
    publish(repo, keys, bundle, "canary", now=_START)
    rotate(repo, keys, "timestamp", now=_START + timedelta(hours=1))
    box = outbox(repo, "canary", root_version=1)
    return bundle, {name: path.read_bytes() for name, path in box.metadata.items()}, made.root.read_bytes()


def _pack(scratch: Path, folder: Path) -> None:
    """Pack a bundle of random bytes: what is in a model does not matter to who may change it."""
    source = scratch / "student.onnx"
    source.write_bytes(np.random.default_rng(1).bytes(_MODEL_BYTES))
    model = OnnxModel(FileRef.of(source), "fp16", "any", 17, "input", (1, 8, 8), "logits", 0)
    target = get_target(BOARD)
    golden = Golden(np.zeros((4, 1, 8, 8), np.float32), np.ones((4, 10), np.float32))
    plan = BundlePlan(
        created="2026-01-31T12:00:00Z",
        targets=(target_selector(target),),
        build=build_plan(model, target, role="model-fp16"),
        health=health_check(tolerance=0.05),
        provenance=provenance(recipe_sha256="ab" * 32, data_sha256="cd" * 32, parents=[model.digest], metrics={}),
    )
    pack(folder, name="digits", version=1, files={"model-fp16": source}, golden=golden, plan=plan)


class Brought:
    """A device that was just provisioned, and the files it is brought.

    Args:
        home: Folder of the device.
        files: The untouched files by name.
        root: Its root of trust.
    """

    def __init__(self, home: Path, files: Mapping[str, bytes], root: bytes) -> None:
        self.files, self._root = files, root
        self.device = TrustingDevice(home, DEVICE, _START + timedelta(hours=2)).provision(root)
        self._fresh = self.device.state()
        self._kept = {"trust/root_history": "folder", "trust/root_history/2.root.json": files["2.root.json"]}
        self.device.push(files)
        if self.device.ask().version != 1:
            raise RuntimeError("the untouched files are not accepted: nothing would be shown")

    def forget(self) -> None:
        """Let the device trust nothing but its root again."""
        shutil.rmtree(self.device.trust)
        self.device.trust.mkdir()
        (self.device.trust / "root.json").write_bytes(self._root)

    def judge(self, kind: str, name: str, count: Count) -> None:
        """Ask the device, which must refuse and trust nothing new but the untouched second root."""
        count.tampered[kind] += 1
        try:
            self.device.ask()
        except TrustError:
            pass
        else:
            count.accepted.append(f"{kind}: {name}")
        state = self.device.state().items()
        if not (self._fresh.items() <= state and state - self._fresh.items() <= self._kept.items()):
            count.changed_trust.append(f"{kind}: {name}")


def _tamper_metadata(brought: Brought, count: Count, rng: random.Random, every: int) -> None:
    staging = brought.device.staging
    for kind, name, tampered in itertools.islice(_metadata_changes(brought.files, rng), 0, None, every):
        brought.forget()
        for path, content in tampered.items():
            (staging / path).unlink()
            if content is not None:
                (staging / path).write_bytes(content)
        brought.judge(kind, name, count)
        for path in tampered:
            (staging / path).write_bytes(brought.files[path])
    for name in brought.files:
        brought.forget()
        away = (staging / name).rename(staging.parent / name)
        (staging / name).symlink_to(away)
        brought.judge("metadata: link in the place of the file", name, count)
        (staging / name).unlink()
        away.rename(staging / name)


def _metadata_changes(
    files: Mapping[str, bytes], rng: random.Random
) -> Iterator[tuple[str, str, dict[str, bytes | None]]]:
    for name, content in files.items():
        for position in range(len(content)):
            other = content[position] ^ rng.randrange(1, 256)
            changed = content[:position] + bytes([other]) + content[position + 1 :]
            yield "metadata: one byte changed", f"{name} at {position}", {name: changed}
        for length in sorted({0, 1, len(content) // 2, len(content) - 1, *rng.choices(range(len(content)), k=20)}):
            yield "metadata: cut", f"{name} to {length}", {name: content[:length]}
        for more in (b"\0", b"\n", b" ", b"}", content[-1:], content, bytes(4096), bytes(6 << 20)):
            yield "metadata: padded", f"{name} by {len(more)}", {name: content + more}
            if len(more) < 4096:
                yield "metadata: padded", f"{name} before by {len(more)}", {name: more + content}
        yield "metadata: left out", name, {name: None}
        for other_name, other_content in files.items():
            if other_name != name:
                yield "metadata: another file in its place", f"{name} from {other_name}", {name: other_content}
                yield (
                    "metadata: two files swapped",
                    f"{name}, {other_name}",
                    {
                        name: other_content,
                        other_name: content,
                    },
                )


def _tamper_bundle(bundle: Path, count: Count, rng: random.Random, places: int) -> None:
    def judge(kind: str, name: str) -> None:
        count.tampered[f"bundle: {kind}"] += 1
        if verify(bundle).is_intact:
            count.accepted.append(f"bundle: {kind}: {name}")

    members = sorted(path for path in bundle.iterdir() if path.name != "bundle.json")
    for path in members:
        content = path.read_bytes()
        for place in range(places):
            position, bit = rng.randrange(len(content)), 1 << rng.randrange(8)
            with open(path, "r+b") as stream:
                stream.seek(position)
                stream.write(bytes([content[position] ^ bit]))
            judge("one bit of a blob", f"{path.name} at {position} ({place})")
            with open(path, "r+b") as stream:
                stream.seek(position)
                stream.write(content[position : position + 1])
        for changed in (b"", content[:-1], content + b"\0", content[1:], bytes(len(content))):
            path.write_bytes(changed)
            judge("blob cut, padded or zeroed", path.name)
        path.unlink()
        judge("blob left out", path.name)
        path.write_bytes(content)
        _judge_place(bundle, path, judge)
    first, second = members
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1]), second.write_bytes(contents[0])
    judge("two blobs swapped", f"{first.name}, {second.name}")
    first.write_bytes(contents[0]), second.write_bytes(contents[1])
    if not verify(bundle).is_intact:
        raise RuntimeError("the bundle was not put back")


def _judge_place(bundle: Path, path: Path, judge: Callable[[str, str], None]) -> None:
    """Put a link to the right content, a folder, and a file too many into the bundle."""
    aside = path.rename(bundle.parent / path.name)
    path.symlink_to(aside)
    judge("link to the right content", path.name)
    path.unlink()
    path.mkdir()
    judge("folder in the place of a file", path.name)
    path.rmdir()
    aside.rename(path)
    for more in ("extra.bin", ".hidden", "timing"):
        (bundle / more).touch()
        judge("a file too many", more)
        (bundle / more).unlink()


def _tamper_archive(scratch: Path, bundle: Path, count: Count, rng: random.Random, *, every: int, places: int) -> None:
    archive, folder = scratch / "bundle.tar", scratch / "unpacked"
    write_archive(bundle, archive)
    content = archive.read_bytes()
    headers = [offset for offset in range(0, len(content), 512) if content[offset + 257 : offset + 262] == b"ustar"]
    ends = range(len(content) - 2048, len(content))
    spots = [offset + index for offset in headers for index in range(512)] + [*ends]
    for position in [*spots[::every], *rng.choices(range(len(content)), k=places)]:
        changed = content[:position] + bytes([content[position] ^ rng.randrange(1, 256)]) + content[position + 1 :]
        _judge_archive(archive, folder, changed, ("tar: one byte changed", f"at {position}"), count)
    for length in [0, 1, 511, 512, 513, len(content) - 1, *rng.choices(range(len(content)), k=places // 10)]:
        _judge_archive(archive, folder, content[:length], ("tar: cut", f"to {length}"), count)
    for more in (b"\0", bytes(512), bytes(10240), content):
        _judge_archive(archive, folder, content + more, ("tar: padded", f"by {len(more)}"), count)
    for kind, made in _hostile_tars(bundle):
        _judge_archive(archive, folder, made, (f"tar: {kind}", kind), count)
    outside = [path.name for path in scratch.iterdir() if path.name.startswith("escaped")]
    count.accepted.extend(f"tar wrote {name} outside its folder" for name in outside)


def _judge_archive(archive: Path, folder: Path, content: bytes, what: tuple[str, str], count: Count) -> None:
    kind, name = what
    count.tampered[kind] += 1
    archive.write_bytes(content)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        unpack(archive, folder)
    except ManifestError:
        return
    if verify(folder).is_intact:
        count.accepted.append(f"{kind}: {name}")


def _hostile_tars(bundle: Path) -> Iterator[tuple[str, bytes]]:
    """Make tars of the right files with one member that must never be followed or written."""
    hostile = {
        "member ..": ("../escaped-1", tarfile.REGTYPE, b""),
        "member with .. inside": ("a/../../escaped-2", tarfile.REGTYPE, b""),
        "absolute member": (str(bundle.parent / "escaped-3"), tarfile.REGTYPE, b""),
        "symbolic link": ("link.npz", tarfile.SYMTYPE, b"/etc/passwd"),
        "hard link": ("link.npz", tarfile.LNKTYPE, b"golden.npz"),
        "device": ("null.npz", tarfile.CHRTYPE, b""),
        "pipe": ("pipe.npz", tarfile.FIFOTYPE, b""),
        "folder": ("folder", tarfile.DIRTYPE, b""),
    }
    names = ["bundle.json", *sorted(path.name for path in bundle.iterdir() if path.name != "bundle.json")]
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        for kind, (name, type_, link) in hostile.items():
            for is_first in (True, False):
                yield kind, _tar(bundle, names, form, (name, type_, link.decode(), is_first))
    yield "member twice", _tar(bundle, [*names, names[-1]], tarfile.USTAR_FORMAT, None)
    yield "members in another order", _tar(bundle, names[::-1], tarfile.USTAR_FORMAT, None)
    yield "compressed", _compressed(bundle, names)


def _tar(bundle: Path, names: list[str], form: int, extra: tuple[str, bytes, str, bool] | None) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        if extra is not None and extra[3]:
            _add(archive, *extra[:3])
        for name in names:
            content = (bundle / name).read_bytes()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        if extra is not None and not extra[3]:
            _add(archive, *extra[:3])
    return stream.getvalue()


def _add(archive: tarfile.TarFile, name: str, type_: bytes, link: str) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = type_, link
    archive.addfile(member)


def _compressed(bundle: Path, names: list[str]) -> bytes:
    import gzip

    return gzip.compress(_tar(bundle, names, tarfile.USTAR_FORMAT, None), mtime=0)
