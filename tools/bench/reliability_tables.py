"""The experiments on reliability as a table: what was done to the device, how often, and what it did wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Figures = Mapping[str, Any]
Row = tuple[str, str, str, str]
HEADER = ("what is done", "times", "failures", "seen")


def reliability_figures(files: Sequence[Path]) -> dict[str, tuple[Figures, str]]:
    """Return the figures of each experiment and the name of the file they stand in.

    Args:
        files: Result files; each experiment may stand in one of them.
    """
    found: dict[str, tuple[Figures, str]] = {}
    for file in files:
        for name, figures in json.loads(file.read_text(encoding="utf-8"))["experiments"].items():
            if name in found:
                raise SystemExit(f"{name} stands in {found[name][1]} and in {file.name}; remove the older one")
            found[name] = (figures, file.name)
    return found


def reliability_rows(found: Mapping[str, tuple[Figures, str]]) -> list[Row]:
    """Return the lines of the table, in the order of `_ROWS`; what was skipped says why."""
    rows = []
    for name, (title, times, seen) in _ROWS.items():
        if name not in found:
            continue
        figures = found[name][0]
        if "skipped" in figures:
            rows.append((title, "-", "-", f"skipped: {figures['skipped']}"))
            continue
        rows.append((title, times(figures), failures_of(figures), seen(figures)))
    return rows


def failures_of(figures: Figures) -> str:
    """Return how often an experiment failed, in bold unless never."""
    counts = [figures.get(key, 0) for key in ("failures", "missed")]
    total = sum(len(count) if isinstance(count, list) else int(count) for count in counts)
    return str(total) if not total else f"**{total}**"


def _n(key: str) -> Callable[[Figures], str]:
    return lambda figures: f"{figures[key]:,}"


def _points(figures: Figures) -> str:
    every = figures.get("options", {}).get("every", 1)
    return f"{figures['points']:,}" + ("" if every == 1 else f", one in {every}")


def _mib(size_bytes: float) -> str:
    return f"{size_bytes / (1 << 20):.2f} MiB"


def _states(figures: Figures) -> str:
    return ", ".join(f"{count} while {state}" for state, count in sorted(figures.items()))


def _power(figures: Figures) -> str:
    recoveries = figures.get("recoveries", 0)
    sampled = f"; {figures['sampled_points']:,} of the moments sampled" if figures["sampled_points"] else ""
    return f"{figures['points']:,} moments in {figures['scenarios']} scenarios and {recoveries} recoveries{sampled}"


def _fsyncs(figures: Figures) -> str:
    return f"each of {figures['fsyncs']:,} fsyncs left out: {len(figures['missed'])} not noticed"


def _growth(figures: Figures) -> str:
    memory = (figures["last_memory_kib"] - figures["settled_memory_kib"]) / 1024
    disk = f"disk at most {_mib(figures['most_disk_bytes'])}"
    descriptors = figures["last_descriptors"] - figures["settled_descriptors"]
    return f"{disk}; memory {memory:+.1f} MiB and descriptors {descriptors:+d} in the second half"


def _cold(figures: Figures) -> str:
    names = ("version", "hello", "status")
    words = [f"`{name}` {figures[name]['p50_s']:.2f} s ({figures[name]['cpu_p50_s']:.2f} s of work)" for name in names]
    load = f"medians at a load of {figures['load_average']} on two cores"
    return f"{', '.join(words)}; {load}; {figures['size_bytes']:,} bytes"


_ROWS: dict[str, tuple[str, Callable[[Figures], str], Callable[[Figures], str]]] = {
    "kill_everywhere": (
        "SIGKILL at every system call of an install that touches the device's folder",
        _points,
        lambda f: f"{_states(f['states'])}; next install p50 {f['recovery_p50_s']} s, p99 {f['recovery_p99_s']} s",
    ),
    "kill_in_states": (
        "SIGKILL at random moments of each state, first time and retry",
        _n("kills"),
        lambda f: f"{f['devices']} devices; {_states(f['kills_by_state'])}",
    ),
    "power_loss": ("power loss, every disk it may leave", _n("states"), lambda f: f"{_power(f)}; {_fsyncs(f)}"),
    "failing_disk": (
        "disk full, failing or read-only at every change of an install",
        _n("injected"),
        lambda f: (
            f"{f['changes']} changes, once and from then on; {f.get('real_full_disks', 0)} times a real disk filled up"
        ),
    ),
    "bad_models": (
        "signed releases that must not run",
        _n("installs"),
        lambda f: ", ".join(f["by_kind"]),
    ),
    "cycles": ("install and rollback, over and over", _n("cycles"), _growth),
    "cold_start": ("start of the agent on a bare Python", lambda f: str(4 * f["options"].get("repeats", 20)), _cold),
    "tampering": ("tampered metadata and bundles", _n("tampered"), lambda f: f"{f['accepted']} accepted"),
    "tuf_attacks": (
        "attacks of the TUF specification and ours, by name",
        _n("attacks"),
        lambda f: f"{f['accepted']} accepted",
    ),
    "root_chains": (
        "chains of roots, legal and illegal",
        _n("chains"),
        lambda f: (
            f"taken: {f['legal_followed']} of {f['legal']} legal, {f['illegal_followed']} of {f['illegal']} illegal"
        ),
    ),
    "parser_fuzzing": ("random input to the parsers", _n("inputs"), lambda f: f"{len(f['by_parser'])} parsers"),
    "network_cuts": (
        "a push cut at random bytes",
        _n("cuts"),
        lambda f: f"at most {_mib(f['largest_resent_bytes'])} sent twice; {f['stalls']} stalls, {f['slow']} at 1 kB/s",
    ),
    "fleet_simulation": (
        "roll-outs over simulated devices, some dead, slow or failing",
        lambda f: str(f.get("seeds", f["options"].get("seeds", 20))),
        lambda f: f"{f.get('devices', 200)} devices, {f.get('lost', 0)} lost",
    ),
    "namespaces": (
        "provisioning, deploying, cutting and rolling back over SSH in network namespaces",
        _n("devices"),
        lambda f: f"{f['cables_pulled']} cables pulled, {f['installed_third']} updated, {f['rolled_back']} rolled back",
    ),
    "soak": (
        "short trainings in one process, one after the other",
        _n("runs"),
        lambda f: (
            f"memory {f['growth_kb_per_run']:+.1f} kB a run once settled, descriptors {f['descriptors_change']:+d}, "
            f"threads {f['threads_change']:+d}"
        ),
    ),
    "intrusions": (
        "the operator's key used for more than it is for",
        _n("tried"),
        lambda f: (
            f"{f['over_ssh']} times over SSH, {f['as_its_user']} by programs of its user, {f['in_staging']} by what "
            "lies in staging; a device of one user became one of two"
        ),
    ),
    "throughput": (
        "push beside `scp` of the same file",
        _n("rounds"),
        lambda f: f"{f['push_mib_s']} MiB/s, scp {f['scp_mib_s']} MiB/s: {f['share_of_scp']:.2f}",
    ),
}
