"""Every change the agent makes to its disk: the primitives, and the few ways they are put together.

The rest of the agent never opens a file for writing, renames or removes anything by itself. So the order in which
things reach the disk can be read here, and a model of power loss or of a failing disk can take the place of the
primitives.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

NEW = ".new"
_COPY_BYTES = 8 << 20
_NO_KERNEL_COPY = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF)


def create(path: Path, mode: int = 0o644) -> int:
    """Make a file that was not there; return its descriptor."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


def open_append(path: Path) -> int:
    """Open a file for adding to its end, made if absent; return its descriptor."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def open_existing(path: Path) -> int:
    """Open a regular file as it is, to make it durable; return its descriptor."""
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def open_folder(path: Path) -> int:
    """Open a folder, to make its entries durable; return its descriptor."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def write(descriptor: int, content: bytes) -> None:
    """Write all of `content`."""
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def copy(source: int, descriptor: int, most_bytes: int) -> int:
    """Write what follows in another file, in the kernel where it can; return how much, 0 at its end."""
    try:
        return os.copy_file_range(source, descriptor, most_bytes)
    except OSError as error:
        if error.errno not in _NO_KERNEL_COPY:
            raise
    content = os.read(source, most_bytes)
    write(descriptor, content)
    return len(content)


def truncate(path: Path, size_bytes: int) -> None:
    """Cut a file to a length."""
    os.truncate(path, size_bytes)


def fsync(descriptor: int) -> None:
    """Make what was written, or the entries of a folder, survive a power loss."""
    os.fsync(descriptor)


def close(descriptor: int) -> None:
    """Close a descriptor."""
    os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Give a file another name, in the place of what had that name."""
    source.rename(target)


def symlink(text: str, path: Path) -> None:
    """Make a link that says `text`."""
    path.symlink_to(text)


def unlink(path: Path) -> None:
    """Remove a file or link."""
    path.unlink()


def mkdir(path: Path) -> None:
    """Make a folder that was not there."""
    path.mkdir(0o755)


def rmdir(path: Path) -> None:
    """Remove an empty folder."""
    path.rmdir()


def chmod(path: Path, mode: int) -> None:
    """Set permissions."""
    os.chmod(path, mode)


def fsync_folder(path: Path) -> None:
    """Make the entries of a folder durable."""
    descriptor = open_folder(path)
    try:
        fsync(descriptor)
    finally:
        close(descriptor)


def make_folder_lightly(path: Path) -> None:
    """Make a folder whose loss does no harm; nothing happens when it is there."""
    if not path.is_dir():
        mkdir(path)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, durably; nothing happens when it is there."""
    if path.is_dir():
        return
    make_folder(path.parent)
    try:
        mkdir(path)
    except FileExistsError:
        if not path.is_dir():
            raise
    fsync_folder(path.parent)


def write_new(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file that was not there; its content is durable, its name is not until the folder is."""
    descriptor = create(path, mode)
    try:
        write(descriptor, content)
        fsync(descriptor)
    finally:
        close(descriptor)


def write_copy(path: Path, source: int, size_bytes: int, mode: int = 0o644) -> int:
    """Write a file that was not there out of an open one, at most so many bytes; its content is durable.

    Returns:
        How many bytes there were.
    """
    descriptor, written = create(path, mode), 0
    try:
        while written < size_bytes and (count := copy(source, descriptor, min(_COPY_BYTES, size_bytes - written))):
            written += count
        fsync(descriptor)
    finally:
        close(descriptor)
    return written


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in place whole or not at all, durably."""
    replace_whole(path, content)
    fsync_folder(path.parent)


def replace_whole(path: Path, content: bytes) -> None:
    """Put a file in place; after a power loss it is the old one or the new one, whole either way."""
    temporary = path.with_name(path.name + NEW)
    remove(temporary)
    write_new(temporary, content)
    rename(temporary, path)


def replace_lightly(path: Path, content: bytes) -> None:
    """Put a file in place whole or not at all for readers; after a power loss it may be old, empty or gone."""
    temporary = path.with_name(path.name + NEW)
    remove(temporary)
    descriptor = create(temporary)
    try:
        write(descriptor, content)
    finally:
        close(descriptor)
    rename(temporary, path)


def replace_link(path: Path, text: str) -> None:
    """Point a link elsewhere in one step, durably: readers find the old or the new, never none."""
    temporary = path.with_name(path.name + NEW)
    remove(temporary)
    symlink(text, temporary)
    rename(temporary, path)
    fsync_folder(path.parent)


def append(path: Path, content: bytes) -> None:
    """Add to the end of a file, durably, its name included."""
    is_new = not path.exists()
    descriptor = open_append(path)
    try:
        write(descriptor, content)
        fsync(descriptor)
    finally:
        close(descriptor)
    if is_new:
        fsync_folder(path.parent)


def settle(path: Path) -> None:
    """Make the content of a file durable that another program wrote."""
    descriptor = open_existing(path)
    try:
        fsync(descriptor)
    finally:
        close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or link if it is there."""
    if os.path.lexists(path):
        unlink(path)


def remove_tree(path: Path) -> None:
    """Remove a folder and what is in it, never following a link; nothing happens when it is absent."""
    if not os.path.lexists(path):
        return
    if stat.S_ISDIR(path.lstat().st_mode):
        for entry in sorted(_entries(path)):
            remove_tree(entry)
        rmdir(path)
    else:
        unlink(path)


def _entries(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            yield folder / entry.name
