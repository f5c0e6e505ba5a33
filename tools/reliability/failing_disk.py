"""A disk that refuses: full, failing or read-only at every single change of an install, once or from then on.

The builder is pretended, the disk's refusals are those of the primitives through which the agent changes its disk. A
second part fills a real file system of a few hundred kilobytes and installs on it with ONNX Runtime.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import power_loss
import pretended
from edgekd_agent import durable, journal
from edgekd_agent.engine.shop import Shop
from edgekd_agent.errors import AgentError
from edgekd_agent.install import recover
from models import Recipe, bundle
from provisioned import Signer, provision, push
from real_device import ENVIRONMENT, agent, command, what_runs
from recording import lay_out, tree_of

ERRORS = {"full": errno.ENOSPC, "failing": errno.EIO, "read-only": errno.EROFS}
_FILLED_IN = ("fetching", "verifying", "building", "checking", "switching", "confirming")
_CHANGES = (
    "create",
    "open_append",
    "write",
    "copy",
    "truncate",
    "fsync",
    "rename",
    "symlink",
    "unlink",
    "mkdir",
    "rmdir",
    "chmod",
)


class Refusing:
    """Makes the primitives of `edgekd_agent.durable` fail.

    Args:
        code: What they fail with.
        at: Number of the first change that fails, from 0; None for none.
        is_lasting: Whether all that follow fail too.
    """

    def __init__(self, code: int, at: int | None, *, is_lasting: bool) -> None:
        self._code, self._at, self._is_lasting = code, at, is_lasting
        self.changes = 0

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse while the block runs."""
        with contextlib.ExitStack() as stack:
            for name in _CHANGES:
                stack.enter_context(mock.patch.object(durable, name, self._wrapped(name, getattr(durable, name))))
            yield

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            number, self.changes = self.changes, self.changes + 1
            is_hit = self._at is not None and (number == self._at or (self._is_lasting and number > self._at))
            if not is_hit:
                return real(*arguments)
            if name == "write" and self._code == errno.ENOSPC:
                real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            raise OSError(self._code, os.strerror(self._code))

        return wrapped


def try_one(start: Any, scenario: power_loss.Scenario, refusing: Refusing, scratch: Path) -> list[str]:
    """Install on a refusing disk, then on a sound one; return what was wrong."""
    problems = []
    root = Path(tempfile.mkdtemp(dir=scratch))
    lay_out(start, root)
    before = pretended.what_runs(root)
    try:
        with refusing.refusing(), pretended.tensorrt():
            power_loss.install(root, scenario.wanted)
    except AgentError as error:
        if error.kind not in ("space", "storage"):
            problems.append(f"it was reported as {error.kind}: {error.message}")
    except OSError:
        pass  # the command turns it into the same words
    except Exception as error:
        problems.append(f"{type(error).__name__}: {error}")
    with contextlib.suppress(ValueError):
        runs = pretended.what_runs(root)
    if runs not in (before, scenario.wanted.sha256) or runs is None:
        problems.append("nothing runs after the refusal")
    try:
        place = power_loss.site(root)
        with pretended.tensorrt():
            recover.recover(place, Shop(place))
        power_loss.put_parts(root, scenario.wanted)
        power_loss.install(root, scenario.wanted)
        if pretended.what_runs(root) != scenario.wanted.sha256:
            problems.append("the next install did not converge")
        if journal.read(place.layout.journal).records[-1].state != "idle":
            problems.append("the device is not at rest in the end")
    except (AgentError, OSError, ValueError) as error:
        problems.append(f"the next install: {error}")
    shutil.rmtree(root)
    return problems


def real_full(scratch: Path, size_mib: int = 24) -> tuple[int, list[str]]:
    """Let a real file system fill up while an install is in each of its states.

    Returns:
        How often that was done, and what was wrong.

    Raises:
        PermissionError: This user may not mount.
    """
    place = scratch / "small"
    place.mkdir()
    words = ["/bin/mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(place)]
    done = subprocess.run(words, capture_output=True, check=False)
    if done.returncode:
        raise PermissionError(done.stderr.decode())
    try:
        return _on_small_disk(place / "device")
    finally:
        subprocess.run(["/bin/umount", str(place)], check=True)


def _on_small_disk(root: Path) -> tuple[int, list[str]]:
    problems: list[str] = []
    signer, first, second = Signer(), bundle(Recipe(1)), bundle(Recipe(2, padding_bytes=30000))
    provision(root, signer, settings={"reserve_mib": 0})
    push(root, signer, first)
    if agent(root, "install").returncode:
        return 0, ["the first release could not be installed"]
    for state in _FILLED_IN:
        push(root, signer, second)
        code = _install_while_filling(root, state)
        if code not in (0, 1, 5):
            problems.append(f"filled while {state}: it ended with {code}")
        if what_runs(root) not in (first.sha256, second.sha256):
            problems.append(f"filled while {state}: something else runs")
        (root / "filler").unlink()
        push(root, signer, second)
        done = agent(root, "install")
        if done.returncode or what_runs(root) != second.sha256:
            problems.append(f"filled while {state}: the next install: {done.stderr.strip()}")
        if agent(root, "rollback").returncode or agent(root, "forgive", second.sha256).returncode:
            problems.append(f"filled while {state}: no way back to the first release")
    return len(_FILLED_IN), problems


def _install_while_filling(root: Path, state: str) -> int:
    """Start an install, fill the disk as soon as it is in a state, and return how it ended."""
    path = root / "journal"
    before = len(journal.read(path).records)
    process = subprocess.Popen(
        command(root, "install"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    )
    while process.poll() is None:
        if state in [record.state for record in journal.read(path).records[before:]]:
            break
        time.sleep(0.0005)
    with contextlib.suppress(OSError), open(root / "filler", "wb", buffering=0) as filler:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while filler.write(bytes(size)) == size:
                    pass
    return process.wait()


def run(scratch: Path, *, every: int = 1, is_real: bool = True) -> dict[str, Any]:
    """Refuse every `every`-th change of an update, in every way; then fill real file systems.

    Args:
        scratch: Folder for the devices.
        every: Take every so-many-th change.
        is_real: Fill real file systems too; needs the right to mount.

    Returns:
        Plain figures.
    """
    failures: list[str] = []
    counts = dict.fromkeys(ERRORS, 0)
    scenario = power_loss.scenarios()[1]
    root = scratch / "start"
    root.mkdir()
    scenario.before(root)
    start = tree_of(root)
    counting = Refusing(0, None, is_lasting=False)
    with counting.refusing(), pretended.tensorrt():
        power_loss.install(root, scenario.wanted)
    shutil.rmtree(root)
    for name, code in ERRORS.items():
        for at in range(0, counting.changes, every):
            for is_lasting in (False, True):
                found = try_one(start, scenario, Refusing(code, at, is_lasting=is_lasting), scratch)
                failures += [f"{name} at {at}{' and on' if is_lasting else ''}: {text}" for text in found]
                counts[name] += 1
    figures = {"injected": sum(counts.values()), "by_kind": counts, "changes": counting.changes, "failures": failures}
    if is_real:
        attempts, problems = real_full(scratch)
        figures["real_full_disks"] = attempts
        failures += problems
    return figures
