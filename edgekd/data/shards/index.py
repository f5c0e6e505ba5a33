"""What a shard holds and where: read once from the headers of a tar, then kept in a file beside it.

Only headers and labels are read, never a picture. Names of members are keys of samples and nothing else: no path is
made of them, nothing is unpacked.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from edgekd.core import atomic
from edgekd.core.digest import sha256_of_bytes
from edgekd.core.errors import DataError, StorageError
from edgekd.core.user_folder import user_folder
from edgekd.data.folder import SUFFIXES

Label: TypeAlias = int | str | None

_VERSION = 1
_LABEL_SUFFIX, _JSON_SUFFIX = ".cls", ".json"
_MOST_LABEL_BYTES = {_LABEL_SUFFIX: 1 << 10, _JSON_SUFFIX: 1 << 20}
_END_BYTES = 1 << 16
_BLOCK = 512
_PACKED = {
    b"\x1f\x8b": "gunzip it",
    b"BZh": "bunzip2 it",
    b"\xfd7zXZ": "unxz it",
    b"\x28\xb5\x2f\xfd": "unzstd it",
    b"PK\x03\x04": "it is a zip, pack its files as tar",
}


@dataclass
class ShardIndex:
    """The samples of a shard, in their order.

    Attributes:
        keys: Name of each without its suffix.
        suffixes: That of its picture.
        offsets: Where in the file its picture begins.
        sizes: Bytes of its picture.
        labels: Number or name of its class, None where it has none.
        damage: Why what follows cannot be read, None where all can.
        ignored: Members that are no picture, label or plain file.
    """

    keys: list[str] = field(default_factory=list)
    suffixes: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    damage: str | None = None
    ignored: int = 0

    def __len__(self) -> int:
        return len(self.keys)


def index_of(path: Path) -> ShardIndex:
    """Return what a shard holds, from the index that was kept when the shard is still the same, else from itself.

    An index lies beside its shard as `.NAME.index.json`, or in the user's folder where nothing can be written there.
    It counts while size, time of change and both ends of the shard are the same.

    Raises:
        DataError: The shard is compressed, is no tar, or a label in it cannot be read.
    """
    state = _state(path)
    places = (path.with_name(f".{path.name}.index.json"), _in_user_folder(path))
    for place in places:
        kept = _kept(place, state)
        if kept is not None:
            return kept
    index = read_index(path)
    document = {"schema_version": _VERSION, "shard": state, "index": asdict(index)}
    for place in places:
        try:
            atomic.write_bytes(place, json.dumps(document, separators=(",", ":")).encode())
            break
        except StorageError:
            continue
    return index


def read_index(path: Path) -> ShardIndex:
    """Read the headers of a shard; see `index_of`."""
    try:
        with open(path, "rb") as stream:
            _require_plain(path, stream.read(8))
            stream.seek(0)
            size = os.fstat(stream.fileno()).st_size
            with tarfile.open(fileobj=stream, mode="r:", tarinfo=tarfile.TarInfo) as archive:
                return _read(path, archive, size)
    except tarfile.ReadError as error:
        raise DataError(f"{path}: is no tar archive ({error}); fetch it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _read(path: Path, archive: tarfile.TarFile, size: int) -> ShardIndex:
    index, places = ShardIndex(), {}
    labels: dict[str, Label] = {}
    end = 0
    for member, damage in _members(archive, size):
        if damage is not None:
            index.damage = f"it is cut short or damaged behind byte {end:,} ({damage}), samples there are lost"
            break
        end = member.offset_data + member.size
        key, suffix = _split(member.name)
        if not member.isreg() or member.issparse():
            index.ignored += not member.isdir()
        elif suffix in SUFFIXES and key not in places:
            places[key] = len(index)
            index.keys.append(key)
            index.suffixes.append(suffix)
            index.offsets.append(member.offset_data)
            index.sizes.append(member.size)
        elif suffix in _MOST_LABEL_BYTES:
            labels[key] = _label(path, archive, member, suffix)
        else:
            index.ignored += 1
    index.labels = [labels.get(key) for key in index.keys]
    return index


def _members(archive: tarfile.TarFile, size: int) -> Iterator[tuple[tarfile.TarInfo, str | None]]:
    """Yield members; the last one comes with what is wrong where the archive does not end as it should."""
    none = tarfile.TarInfo()
    while True:
        try:
            member = archive.next()
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            yield none, str(error) or type(error).__name__
            return
        if member is None:
            break
        if member.size < 0 or member.offset_data + member.size > size:
            yield none, f"{member.name!r} is said to be {member.size:,} bytes"
            return
        vars(archive)["members"] = []  # It would keep every member.
        yield member, None
    stream = archive.fileobj
    if stream is not None:
        stream.seek(archive.offset)
        if stream.read(_BLOCK).strip(b"\0"):
            yield none, "what follows is no header"


def _split(name: str) -> tuple[str, str]:
    """Return key and suffix of a member: `a/b.c.jpg` is sample `a/b` with `.c.jpg`, of which the last part counts."""
    folder, slash, file = name.rpartition("/")
    stem, dot, rest = file.partition(".")
    suffix = dot + rest.rpartition(".")[2].lower()
    return f"{folder}{slash}{stem}", suffix


def _label(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, suffix: str) -> Label:
    where = f"{path}: {member.name}"
    if member.size > _MOST_LABEL_BYTES[suffix]:
        raise DataError(f"{where}: {member.size:,} bytes, a label has at most {_MOST_LABEL_BYTES[suffix]:,}")
    stream = archive.extractfile(member)
    content = b"" if stream is None else stream.read()
    try:
        text = content.decode("utf-8").strip()
        value = json.loads(text) if suffix == _JSON_SUFFIX else text
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DataError(f"{where}: cannot be read as a label: {error}") from error
    if suffix == _JSON_SUFFIX:
        value = value.get("label") if isinstance(value, dict) else None
    return label_of(value, where)


def label_of(value: Any, where: str) -> Label:
    """Return a label as it is written: a number, a name, or None where it is empty; raises `DataError` otherwise."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return int(value) if value.removeprefix("-").isdecimal() and len(value) < 12 else value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise DataError(f"{where}: label {value!r} is neither the number nor the name of one class")


def _require_plain(path: Path, head: bytes) -> None:
    for magic, what in _PACKED.items():
        if head.startswith(magic):
            raise DataError(f"{path}: is compressed, and samples are read at random: {what} (pictures hardly shrink)")


def _state(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as stream:
            status = os.fstat(stream.fileno())
            head = stream.read(_END_BYTES)
            stream.seek(max(0, status.st_size - _END_BYTES))
            ends = sha256_of_bytes(head + stream.read(_END_BYTES))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "ends": ends}


def _in_user_folder(path: Path) -> Path:
    return user_folder() / "shards" / f"{sha256_of_bytes(str(path.resolve()).encode())[:32]}.json"


def _kept(place: Path, state: dict[str, Any]) -> ShardIndex | None:
    """Return a kept index that is of this state of the shard and sound, else None."""
    try:
        document = json.loads(place.read_bytes())
        if document["schema_version"] != _VERSION or document["shard"] != state:
            return None
        index = ShardIndex(**document["index"])
        columns = (index.keys, index.suffixes, index.offsets, index.sizes, index.labels)
        if len({len(column) for column in columns}) != 1 or not _fits(index, state["size"]):
            return None
        return index
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _fits(index: ShardIndex, size: int) -> bool:
    spans = zip(index.offsets, index.sizes, strict=True)
    is_inside = all(type(at) is int and type(count) is int and 0 <= at <= at + count <= size for at, count in spans)
    is_text = all(type(key) is str for key in (*index.keys, *index.suffixes))
    is_label = all(label is None or type(label) in (int, str) for label in index.labels)
    return is_inside and is_text and is_label and (index.damage is None or type(index.damage) is str)
