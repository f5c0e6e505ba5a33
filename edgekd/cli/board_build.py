"""`edgekd build` on boards: which boards are meant, and what to say of each at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.cli.console import progress
from edgekd.cli.outcome import Outcome
from edgekd.cli.table import format_table
from edgekd.core.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from edgekd.boards import BoardOptions, BoardResult
    from edgekd.boards.facts import BoardFacts
    from edgekd.core.artifacts import Engine, OnnxModel
    from edgekd.targets import Target
    from edgekd.targets.ssh_connection import Address


@dataclass(frozen=True)
class BoardsAsked:
    """What a command line says of boards.

    Attributes:
        devices: Values of `--device`: `user@host`.
        targets: Value of `--targets`: names of boards whose address is kept, or `name=user@host`, with commas.
        target: Value of `--target`: what every board of `devices` must be.
        backend: Value of `--backend`.
        known_hosts: Value of `--known-hosts`.
        identity: Value of `--identity`.
    """

    devices: Sequence[str] = ()
    targets: str | None = None
    target: str | None = None
    backend: str | None = None
    known_hosts: Path | None = None
    identity: Path | None = None


def outcome_on_boards(
    asked: BoardsAsked,
    model: OnnxModel,
    output: Path,
    options: BoardOptions,
    *,
    is_forced: bool,
    is_dry_run: bool,
    is_quiet: bool,
) -> Outcome:
    """Build on every board that is named, or say what would be built.

    Args:
        asked: The boards.
        model: What to build.
        output: Folder of the results.
        options: How to build and measure.
        is_forced: Results of other jobs may be overwritten.
        is_dry_run: Ask and check the boards, build nothing.
        is_quiet: Show no progress.

    Returns:
        One row a board; the exit code is 0, the one that all failures share, or 1.

    Raises:
        ConfigError: A board is named twice, its address is none or not known, or there is no such target.
        EdgeKDError: In a dry run, that of the first board that cannot build it.
    """
    from edgekd.boards import build_on_boards
    from edgekd.boards.build import check_boards
    from edgekd.targets.ssh_connection import SshKeys

    if asked.backend not in (None, "tensorrt"):
        raise ConfigError(f"--backend {asked.backend}: boards build with their own TensorRT; leave it out")
    boards, targets = _boards(asked)
    keys = SshKeys(asked.known_hosts, asked.identity)
    if is_dry_run:
        return _planned(check_boards(model, boards, options, targets=targets, keys=keys), output)
    with progress(is_quiet=is_quiet) as listen:
        results = build_on_boards(
            model, boards, output, options, targets=targets, keys=keys, is_forced=is_forced, listener=listen
        )
    return Outcome({"boards": [_document(result) for result in results]}, _text(results), _exit_code(results))


def _boards(asked: BoardsAsked) -> tuple[dict[str, Address], dict[str, Target]]:
    """Return addresses and targets by board; one of `--targets` must be the target it is named after."""
    from edgekd.boards.build import names_of
    from edgekd.targets import get_target
    from edgekd.targets.addresses import address_of
    from edgekd.targets.ssh_connection import parse_address

    target = asked.target
    addresses = dict(names_of([parse_address(device) for device in asked.devices]))
    kinds = {name: get_target(target) for name in addresses if target is not None}
    for part in filter(None, (asked.targets or "").split(",")):
        name, equals, address = (word.strip() for word in part.partition("="))
        if name in addresses:
            raise ConfigError(f"the board {name!r} is named twice")
        kinds[name] = get_target(name)
        addresses[name] = parse_address(address) if equals else address_of(name)
    if target is not None and not asked.devices:
        raise ConfigError(f"--target {target} says what boards of --device are; boards of --targets say so themselves")
    if not addresses:
        raise ConfigError(f"--targets {asked.targets!r} names no board")
    return addresses, kinds


def _planned(facts: Mapping[str, BoardFacts], output: Path) -> Outcome:
    folders = {name: str(output / name) for name in facts}
    lines = [f"would build on {found.words} and write {folders[name]}" for name, found in facts.items()]
    return Outcome({"is_dry_run": True, "would_write": list(folders.values())}, "\n".join(lines))


def _document(result: BoardResult) -> dict[str, Any]:
    from edgekd.core.artifacts import to_json

    error = result.error
    return {
        "name": result.name,
        "device": result.device,
        "status": "failed" if error else "done",
        "folder": str(result.folder),
        "engine": to_json(result.engine) if result.engine else None,
        "error": error and {"type": type(error).__name__, "message": str(error), "exit_code": int(error.exit_code)},
        "board": result.facts.identity if result.facts else None,
        "warnings": list(result.warnings),
        "seconds": result.seconds,
    }


def _text(results: Sequence[BoardResult]) -> str:
    header = ("board", "sm", "JetPack", "TensorRT", "power mode", "engine", "build", "folder")
    table = format_table(header, [_row(result) for result in results])
    notes = [f"{result.name}: {result.error}" for result in results if result.error]
    notes += [f"{name}: {words}" for name, words in _on_dla(results)]
    notes += [f"{one.name}: {words}" for one in results if one.engine for words in _advice(one.engine)]
    notes += [f"{result.name}: warning: {words}" for result in results for words in result.warnings]
    return "\n".join([table, *notes])


def _advice(engine: Engine) -> list[str]:
    return list(engine.facts.get("portability", {}).get("advice", ()))


def _on_dla(results: Sequence[BoardResult]) -> list[tuple[str, str]]:
    from edgekd.boards.dla import words_of

    return [
        (one.name, words_of(one.engine.facts["dla"])) for one in results if one.engine and "dla" in one.engine.facts
    ]


def _row(result: BoardResult) -> tuple[str, ...]:
    facts, engine = result.facts, result.engine
    found = (
        (str(facts.sm or "?"), facts.jetpack or "-", facts.tensorrt or "-", facts.power_mode or "-")
        if facts
        else ("-", "-", "-", "-")
    )
    made = (
        (f"{engine.precision}, {engine.file.size_bytes:,} bytes", f"{engine.facts['build_s']:.1f} s")
        if engine
        else ("failed", "-")
    )
    return (result.name, *found, *made, str(result.folder))


def _exit_code(results: Sequence[BoardResult]) -> ExitCode:
    """Return the one code that all failures share, else 1."""
    codes = {result.error.exit_code for result in results if result.error}
    if not codes:
        return ExitCode.DONE
    return codes.pop() if len(codes) == 1 else ExitCode.FAILED
