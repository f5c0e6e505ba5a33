"""Power loss at every step of what the agent does: every state of the disk that a file system may leave behind.

Each scenario is done once on a real folder while every change is recorded. Then, after each change, every disk that a
power loss may leave is laid out, judged as it is (what would run before anything is repaired), recovered, judged again,
and the wanted release is installed on it. `mutations` leaves out one fsync after the other: each must be missed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pretended
from disk_model import Disk, Op, Tree
from edgekd_agent import badmarks, generations, journal, locks, releases
from edgekd_agent.device import Settings, Site
from edgekd_agent.engine.shop import Shop
from edgekd_agent.errors import AgentError
from edgekd_agent.install import recover, steps, undo
from edgekd_agent.layout import Layout
from edgekd_agent.reader import parse_manifest
from models import Bundle, Recipe, bundle
from provisioned import Signer, provision, push
from recording import Recorder, Stopped, lay_out, tree_of

LIGHT = ("work", "logs", "status.json", "heartbeat.json", "facts.json", "confirmed.json", "lock", "staging")
_SETTINGS = Settings(reserve_mib=0)
_RECOVERING = b"recovering"
_ILL = {"check": "its answers are NaN"}


@dataclass(frozen=True)
class Scenario:
    """Something the agent does.

    Attributes:
        name: What.
        before: Makes the device as it is at the beginning.
        act: Does it.
        wanted: The release that is installed on every disk afterwards.
    """

    name: str
    before: Callable[[Path], None]
    act: Callable[[Path, Recorder], None]
    wanted: Bundle


@dataclass
class Trace:
    """What was recorded of a scenario.

    Attributes:
        scenario: The scenario.
        start: The disk at the beginning.
        ops: Changes and promises, in order.
    """

    scenario: Scenario
    start: Tree
    ops: list[Op]

    def fsyncs(self) -> list[int]:
        """Return where the fsyncs are."""
        own = (index for index, op in enumerate(self.ops) if op.site != "the host")
        return [index for index in own if self.ops[index].kind in ("fsync", "fsync_folder")]


@dataclass
class Judgement:
    """What became of a scenario's disks.

    Attributes:
        states: Different disks and promises that were judged.
        points: Moments at which the power was lost.
        sampled: Moments with too many disks to judge all.
        failures: What was wrong, in words.
    """

    states: int = 0
    points: int = 0
    sampled: int = 0
    failures: list[str] = field(default_factory=list)


def site(root: Path) -> Site:
    """Return a device that confirms by its own check."""
    return Site(Layout(root), _SETTINGS)


def put_parts(root: Path, release: Bundle) -> None:
    """Bring blobs as a host does."""
    folder = root / "staging" / "blobs"
    folder.mkdir(parents=True, exist_ok=True)
    for digest, content in release.blobs.items():
        if not (root / "blobs" / "sha256" / digest[:2] / digest).is_file():
            (folder / f"{digest}.part").write_bytes(content)


def install(
    root: Path, release: Bundle, verdicts: dict[str, str] | None = None, recorder: Recorder | None = None
) -> None:
    """Recover and install, as the command does once the metadata are verified."""
    place = site(root)
    with pretended.tensorrt(recorder, verdicts=verdicts):
        shop = Shop(place)
        recover.recover(place, shop)
        manifest = parse_manifest(release.manifest)
        candidate = steps.candidate_of(place, release.manifest, release.sha256, manifest, shop)
        steps.install(place, candidate, shop)


def record(scenario: Scenario, scratch: Path, *, stop_at: int | None = None) -> Trace:
    """Do a scenario once and return what it did to the disk."""
    root = scratch / "record"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    scenario.before(root)
    start = tree_of(root)
    recorder = Recorder(root, stop_at)
    with recorder.recording(), contextlib.suppress(Stopped):
        scenario.act(root, recorder)
    return Trace(scenario, *_with_arrivals(start, recorder.ops))


def _with_arrivals(start: Tree, ops: list[Op]) -> tuple[Tree, list[Op]]:
    """Let pushed blobs arrive as a host's do: named, written, and never fsynced."""
    parts = {path: content for path, (_, content) in start.items() if path.startswith("staging/blobs/")}
    arrivals = [op for path, content in parts.items() for op in (Op("create", path), Op("write", path, content))]
    named = [Op("fsync_folder", "staging/blobs", b"", "the host")] if parts else []
    return {path: entry for path, entry in start.items() if path not in parts}, [*arrivals, *named, *ops]


def judge(
    trace: Trace,
    scratch: Path,
    *,
    without: int | None = None,
    known: set[tuple[Any, ...]] | None = None,
    every: int = 1,
) -> Judgement:
    """Judge every disk that a power loss may leave during a scenario.

    Args:
        trace: What was recorded.
        scratch: Folder for the disks; best in memory.
        without: Place of an fsync that is left out; then the first failure is enough.
        known: Disks that were judged already; those of this run are added.
        every: Lose the power only after each so-many-th change.
    """
    found, seen = Judgement(), set() if known is None else known
    disk = Disk(trace.start, LIGHT)
    promises: dict[str, str] = {}
    begins = next((index for index, op in enumerate(trace.ops) if op.data == _RECOVERING), 0)
    for index, op in enumerate(trace.ops):
        if index != without:
            disk.apply(op)
        if op.kind == "promise":
            _note(promises, op.data.decode())
        if index < max(begins, without or 0) or index % every:
            continue
        found.points += 1
        is_any_sampled = False
        for tree, is_sample in disk.states(index):
            is_any_sampled |= is_sample
            key = (_key(tree), tuple(sorted(promises.items())))
            if key in seen:
                continue
            seen.add(key)
            found.states += 1
            for problem in _problems(tree, trace, promises, scratch):
                found.failures.append(f"{trace.scenario.name}, after {index} ({op.kind} {op.path}): {problem}")
                if without is not None:
                    return found
        found.sampled += is_any_sampled
    return found


def _note(promises: dict[str, str], words: str) -> None:
    what, _, value = words.partition(" ")
    if what == "kept":
        name, _, digest = value.partition(" ")
        promises[f"kept {name}"] = digest
        return
    if what in ("bad", "good"):
        promises[f"mark {value}"] = what
    elif what in ("blob", "generation", "engine"):
        promises[words] = "there"
    elif what == "withdrawn":
        promises.pop(value, None)
    else:
        promises[what] = value


def _key(tree: Tree) -> bytes:
    digest = hashlib.sha256()
    for path, (kind, content) in sorted(tree.items()):
        digest.update(f"{path}\0{kind}\0{len(content)}\0".encode() + content)
    return digest.digest()


def _problems(tree: Tree, trace: Trace, promises: dict[str, str], scratch: Path) -> Iterator[str]:
    root = Path(tempfile.mkdtemp(dir=scratch))
    try:
        lay_out(tree, root)
        yield from _raw_problems(root, trace, promises)
        yield from _recovered_problems(root, trace, promises)
    except (AgentError, OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        yield f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _raw_problems(root: Path, trace: Trace, promises: dict[str, str]) -> Iterator[str]:
    """Judge a disk as it is: an application may open `current` before anything is repaired."""
    layout = Layout(root)
    runs = pretended.what_runs(root)
    if runs is None and "current" in trace.start:
        yield "nothing runs any more"
    reading = journal.read(layout.journal)
    kept = reading.records[-1].sequence if reading.records else 0
    if reading.is_damaged or kept < int(promises.get("record", 0)):
        yield f"the journal ends at {kept}, {promises['record']} was durable"
    for link in ("current", "previous"):
        if link in promises and _number(root / link) != promises[link]:
            yield f"{link} was led to {promises[link]}, and leads to {_number(root / link)}"
    yield from _broken_promises(root, promises)
    if runs is not None and "current" in trace.start:
        yield from _unwatched(root, trace, runs, reading)
    for path in (root / "timing").glob("*.cache"):
        if path.read_bytes() != b"timing":
            yield "a timing cache is torn"


def _number(link: Path) -> str:
    return link.readlink().name if link.is_symlink() else "None"


def _broken_promises(root: Path, promises: dict[str, str]) -> Iterator[str]:
    layout = Layout(root)
    marks = badmarks.read(layout)
    holder = locks.operator(layout)
    last = journal.read(layout.journal).records
    is_collected = bool(last) and last[-1].state in ("idle", "rolled_back")
    for what, value in promises.items():
        kind, _, name = what.partition(" ")
        if kind == "mark" and (name in marks) != (value == "bad"):
            yield f"{name[:8]} was marked {value}, and is not"
        if what == "reserved" and (holder.owner if holder else "") != value:
            yield f"reserved by {value or 'nobody'} was durable"
        if kind == "blob" and not is_collected:
            path = layout.blob(name)
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != name:
                yield f"blob {name[:8]} was in the store"
        if kind == "kept":
            found = [path for path in (root / "trust").rglob(name) if "scratch" not in str(path)]
            if not found or hashlib.sha256(found[0].read_bytes()).hexdigest() != value:
                yield f"{name} was trusted"
        if kind == "engine" and not is_collected:
            plan = layout.build(name) / "model.plan"
            if not plan.is_file() or not plan.read_bytes().startswith(b"plan of "):
                yield f"engine {name[:8]} was built"
            json.loads((layout.build(name) / "build.json").read_bytes())
        if kind == "generation" and not is_collected and generations.read(layout.generation(int(name))) is None:
            yield f"generation {name} was made"


def _unwatched(root: Path, trace: Trace, runs: str, reading: journal.Reading) -> Iterator[str]:
    """A generation that is not confirmed may run only while the journal says that it is on trial."""
    before = {path: content for path, (_, content) in trace.start.items()}
    number = before["current"].decode().rpartition("/")[2]
    if hashlib.sha256(before[f"generations/{number}/manifest.json"]).hexdigest() == runs:
        return
    last = reading.records[-1] if reading.records else None
    states = ("switching", "confirming", "reverting", "rolling_back", "idle", "rolled_back")
    if last is None or last.state not in states:
        yield f"a new generation runs, and the journal only says {last.state if last else 'nothing'}"


def _recovered_problems(root: Path, trace: Trace, promises: dict[str, str]) -> Iterator[str]:
    """Recover a disk, judge it, and install the wanted release on it."""
    place = site(root)
    before = pretended.what_runs(root)
    with pretended.tensorrt():
        recover.recover(place, Shop(place))
    runs = pretended.what_runs(root)
    if before is not None and runs is None:
        yield "recovery left nothing to run"
    if promises.get("end") and runs != promises["end"]:
        yield f"{promises['end'][:8]} was reported to run, {str(runs)[:8]} does"
    state = journal.read(place.layout.journal).records
    if state and state[-1].state not in ("idle", "rolled_back"):
        yield f"recovery ended in {state[-1].state}"
    wanted = trace.scenario.wanted
    if (root / "trust").is_dir() and releases.desired(place.layout).bundle_sha256 != wanted.sha256:
        yield "the metadata that are here do not name the release any more"
    badmarks.forgive(place.layout, wanted.sha256)
    put_parts(root, wanted)
    install(root, wanted)
    if pretended.what_runs(root) != wanted.sha256:
        yield "the next install did not converge"


def mutations(trace: Trace, scratch: Path) -> tuple[int, list[str]]:
    """Leave out one fsync after the other.

    Returns:
        How many there are, and which were not missed by any disk.
    """
    missed = []
    known: set[tuple[Any, ...]] = set()
    judge(trace, scratch, known=known)
    for index in trace.fsyncs():
        if not judge(trace, scratch, without=index, known=set(known)).failures:
            op = trace.ops[index]
            missed.append(f"{trace.scenario.name}: {index} {op.kind} {op.path or '.'} by {op.site}")
    return len(trace.fsyncs()), missed


def scenarios() -> list[Scenario]:
    """Return everything the agent does to its disk."""
    old, middle, new = (bundle(Recipe(version, padding_bytes=64, backend="tensorrt")) for version in (1, 2, 3))
    other = "0" * 64

    def nothing(root: Path) -> None:
        (root / "device.json").write_text("{}")
        put_parts(root, new)

    def two(root: Path) -> None:
        for release in (old, middle):
            put_parts(root, release)
            install(root, release)
        shutil.rmtree(root / "work", ignore_errors=True)

    def two_and_parts(root: Path) -> None:
        two(root)
        put_parts(root, new)

    def reserved(root: Path) -> None:
        two_and_parts(root)
        for digest in (new.sha256, other):
            badmarks.mark(Layout(root), digest, "health", "a trial")

    def good(root: Path, recorder: Recorder) -> None:
        install(root, new, recorder=recorder)
        _reported(root, recorder, new)

    def ill(root: Path, recorder: Recorder) -> None:
        with contextlib.suppress(AgentError):
            install(root, new, _ILL, recorder)
        _reported(root, recorder, middle)

    def unconfirmed(root: Path, recorder: Recorder) -> None:
        with contextlib.suppress(AgentError):
            _install_ill_at_last(root, new, recorder)
        _reported(root, recorder, middle)

    def back(root: Path, recorder: Recorder) -> None:
        undo.rollback(site(root), "a trial")
        _reported(root, recorder, old)

    def small(root: Path, recorder: Recorder) -> None:
        layout = Layout(root)
        recorder.note("promise", root, f"bad {other}".encode())
        badmarks.forgive(layout, new.sha256)
        locks.reserve(layout, "ann")
        locks.release(layout, "ann")
        _reported(root, recorder, middle)

    signer = Signer()

    def trusting(root: Path) -> None:
        provision(root, signer)
        two(root)
        push(root, signer, middle)
        releases.desired(Layout(root))
        push(root, signer, new)
        shutil.rmtree(root / "staging" / "blobs")

    def trusted(root: Path, recorder: Recorder) -> None:
        releases.desired(Layout(root))
        _reported(root, recorder, middle)

    return [
        Scenario("first install", nothing, good, new),
        Scenario("update", two_and_parts, good, new),
        Scenario("refused by its check", two_and_parts, ill, new),
        Scenario("not confirmed", two_and_parts, unconfirmed, new),
        Scenario("rollback by an operator", two, back, new),
        Scenario("forgiven, reserved, released", reserved, small, new),
        Scenario("metadata taken in", trusting, trusted, new),
    ]


def _reported(root: Path, recorder: Recorder, release: Bundle) -> None:
    recorder.note("promise", root, f"end {release.sha256}".encode())


def _install_ill_at_last(root: Path, release: Bundle, recorder: Recorder) -> None:
    """Install a release whose check before the switch is good and whose check after it is not."""
    place = site(root)
    verdicts: dict[str, str] = {}
    with pretended.tensorrt(recorder, verdicts=verdicts):
        shop = Shop(place)
        manifest = parse_manifest(release.manifest)
        candidate = steps.candidate_of(place, release.manifest, release.sha256, manifest, shop)
        real = generations.make

        def make(*arguments: Any) -> None:
            real(*arguments)
            verdicts.update(_ILL)

        generations.make = make
        try:
            steps.install(place, candidate, shop)
        finally:
            generations.make = real


def cut_and_recovered(scenario: Scenario, stop_at: int) -> Scenario:
    """Return a scenario that is killed at a change, then recovered: the power goes while that is under way."""

    def act(root: Path, recorder: Recorder) -> None:
        recorder.stop_at = stop_at
        with contextlib.suppress(Stopped):
            scenario.act(root, recorder)
        recorder.stop_at = None
        recorder.note("promise", root, _RECOVERING)
        with pretended.tensorrt(recorder):
            place = site(root)
            recover.recover(place, Shop(place))

    return replace(scenario, name=f"{scenario.name}, killed at {stop_at}, recovered", act=act)


def run(scratch: Path, *, every: int = 1, has_mutations: bool = True, only: str = "") -> dict[str, Any]:
    """Judge every scenario, each also killed at every `every`-th change and recovered, and every fsync left out.

    Args:
        scratch: Folder for the disks.
        every: Judge recoveries from that share of the kill points.
        has_mutations: Leave out fsyncs too.
        only: Name of the one scenario to judge.

    Returns:
        Plain figures.
    """
    figures: dict[str, Any] = {"states": 0, "points": 0, "sampled_points": 0, "failures": [], "fsyncs": 0, "missed": []}
    chosen = [item for item in scenarios() if only in ("", item.name)]
    traces = [record(item, scratch) for item in chosen]
    for trace in traces:
        _add(figures, judge(trace, scratch))
        if has_mutations:
            count, missed = mutations(trace, scratch)
            figures["fsyncs"] += count
            figures["missed"] += missed
    for item, trace in zip(chosen, traces, strict=True):
        for stop_at in range(0, sum(op.kind != "promise" for op in trace.ops), every):
            again = record(cut_and_recovered(item, stop_at), scratch)
            _add(figures, judge(again, scratch))
            figures["recoveries"] = figures.get("recoveries", 0) + 1
    figures["scenarios"] = len(chosen)
    return figures


def _add(figures: dict[str, Any], found: Judgement) -> None:
    figures["states"] += found.states
    figures["points"] += found.points
    figures["sampled_points"] += found.sampled
    figures["failures"] += found.failures


if __name__ == "__main__":
    print(json.dumps(run(Path(tempfile.mkdtemp(dir="/dev/shm")), every=10**6), indent=2))
