"""Which files a pattern means: numbered rows in braces, wildcards, and what is missing from a row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from edgekd.core.errors import DataError
from edgekd.data.parts import PartName, part_of

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_FILES = 1_000_000
_LAST_NUMBER = re.compile(r"(.*?)(\d+)(\D*)$")
_OF = re.compile(r"-(\d{5})-of-(\d{5})(?=\.)")


def expanded(pattern: str) -> list[str]:
    """Return the names that a pattern with numbered rows in braces means.

    Args:
        pattern: Such as `train-{000..146}.tar`; both ends count, zeros in front are kept.

    Raises:
        DataError: A row runs backwards, or is of more than a million.
    """
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    first, last = int(match[1]), int(match[2])
    if last < first or last - first >= _MOST_FILES:
        raise DataError(f"{pattern}: {match[0]} is no row of at most {_MOST_FILES:,} numbers, lowest first")
    width = len(match[1]) if match[1].startswith("0") or len(match[1]) == len(match[2]) else 0
    names = []
    for number in range(first, last + 1):
        names += expanded(f"{pattern[: match.start()]}{number:0{width}d}{pattern[match.end() :]}")
    return names


def found(folder: Path, patterns: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Return the files that patterns mean, in their order, and the names of those that are not there.

    Args:
        folder: What patterns are relative to.
        patterns: Names, with numbered rows in braces or wildcards.

    Raises:
        DataError: A wildcard fits nothing.
    """
    paths: list[Path] = []
    missing: list[str] = []
    for pattern in patterns:
        for name in expanded(pattern):
            if any(character in name for character in "*?["):
                fitting = sorted(path for path in folder.glob(name) if path.is_file())
                if not fitting:
                    raise DataError(f"{folder}: no file fits {name!r}")
                paths += fitting
            elif (folder / name).is_file():
                paths.append(folder / name)
            else:
                missing.append(name)
    return list(dict.fromkeys(paths)), missing


def by_part(folder: Path, suffix: str) -> dict[PartName, list[str]]:
    """Sort the files below a folder into parts by their names; all are `train` where no name says a part.

    Returns:
        POSIX paths below the folder.

    Raises:
        DataError: Some names say a part and others do not.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob(f"*{suffix}") if path.is_file())
    names = [name for name in names if not Path(name).name.startswith(".")]
    parts = {name: part_of(name) for name in names}
    if not any(parts.values()):
        return {"train": names} if names else {}
    unclear = [name for name, part in parts.items() if part is None]
    if unclear:
        raise DataError(
            f"{folder}: {', '.join(unclear[:3])}: is it train, val or test? Its name does not say: set data.parts, as "
            'in --set \'data.parts={train: "a-*.tar", val: "b-*.tar"}\''
        )
    order: tuple[PartName, ...] = ("train", "val", "test")
    sorted_out = {part: [name for name in names if parts[name] == part] for part in order}
    return {part: own for part, own in sorted_out.items() if own}


def gaps(names: Sequence[str]) -> list[str]:
    """Return the names that are missing inside numbered rows of names.

    Args:
        names: Such as `train-000.tar`, `train-002.tar`; the last number of a name counts, and `-00000-of-00003`
            says how long its row is.
    """
    missing: list[str] = []
    rows: dict[tuple[str, str], dict[int, int]] = {}
    for name in names:
        if match := _OF.search(name):
            missing += _of_row(name, match, names)
        elif match := _LAST_NUMBER.match(name):
            rows.setdefault((match[1], match[3]), {})[int(match[2])] = len(match[2])
    for (head, tail), numbers in rows.items():
        missing += [f"{head}{number:0{width}d}{tail}" for number, width in _absent(numbers)]
    return sorted(set(missing))


def require_all(missing: Mapping[PartName, Sequence[str]], total: int, *, may_skip: bool) -> tuple[str, ...]:
    """Return the names of missing files where they may be skipped.

    Raises:
        DataError: Files are missing and may not be.
    """
    names = [name for part in missing.values() for name in part]
    if names and not may_skip:
        raise DataError(
            f"{names[0]} is missing{f', and {len(names) - 1} more' if len(names) > 1 else ''}, of {total} shards "
            f"({', '.join(names[:5])}{', ...' if len(names) > 5 else ''}): fetch what is missing, or go on without by "
            "--set data.missing_shards=skip"
        )
    return tuple(names)


def _absent(numbers: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    width = min(numbers.values()) if len(set(numbers.values())) == 1 else 0
    lowest, highest = min(numbers), max(numbers)
    if highest - lowest < 2 * len(numbers) + 1:
        yield from ((number, width) for number in range(lowest, highest) if number not in numbers)


def _of_row(name: str, match: re.Match[str], names: Sequence[str]) -> list[str]:
    present = set(names)
    row = [
        f"{name[: match.start()]}-{number:05d}-of-{match[2]}{name[match.end() :]}" for number in range(int(match[2]))
    ]
    return [one for one in row if one not in present]
