"""`edgekd build` on boards: which boards are meant, and what to say of each at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.cli.outcome import Outcome
from edgekd.cli.table import format_table
from edgekd.core.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from edgekd.boards import BoardOptions, BoardResult
    from edgekd.core.artifacts import OnnxModel
    from edgekd.core.events import Listener
    from edgekd.targets import Target
    from edgekd.targets.ssh_connection import Address, SshKeys


@dataclass(frozen=True)
class ChosenBoards:
    """The boards that a command line names.

    Attributes:
        addresses: Where each answers, by the name of its folder.
        targets: What each must be, where that is said.
    """

    addresses: Mapping[str, Address]
    targets: Mapping[str, Target]


def chosen_boards(devices: Sequence[str], targets: str | None, target: str | None) -> ChosenBoards:
    """Read `--device`, `--targets` and `--target`; a board of `--targets` must be the target it is named after.

    Args:
        devices: Each `user@host`.
        targets: `a,b,c`: names of boards whose address is kept, or `name=user@host`.
        target: What every board of `devices` must be.

    Returns:
        The boards.

    Raises:
        ConfigError: A board is named twice, an address is none or not known, or there is no such target.
    """
    from edgekd.boards.build import names_of
    from edgekd.targets import get_target
    from edgekd.targets.addresses import address_of
    from edgekd.targets.ssh_connection import parse_address

    addresses = dict(names_of([parse_address(device) for device in devices]))
    kinds = {name: get_target(target) for name in addresses if target is not None}
    for part in filter(None, (targets or "").split(",")):
        name, equals, address = (word.strip() for word in part.partition("="))
        if name in addresses:
            raise ConfigError(f"the board {name!r} is named twice")
        kinds[name] = get_target(name)
        addresses[name] = parse_address(address) if equals else address_of(name)
    if target is not None and not devices:
        raise ConfigError(f"--target {target} says what boards of --device are; boards of --targets say so themselves")
    if not addresses:
        raise ConfigError(f"--targets {targets!r} names no board")
    return ChosenBoards(addresses, kinds)


def build_on(
    boards: ChosenBoards,
    model: OnnxModel,
    output: Path,
    options: BoardOptions,
    *,
    keys: SshKeys,
    is_forced: bool,
    listener: Listener,
) -> Outcome:
    """Build on every board; see `edgekd.boards.build_on_boards`."""
    from edgekd.boards import build_on_boards

    results = build_on_boards(
        model,
        boards.addresses,
        output,
        options,
        targets=boards.targets,
        keys=keys,
        is_forced=is_forced,
        listener=listener,
    )
    return Outcome({"boards": [_document(result) for result in results]}, _text(results), _exit_code(results))


def check_on(boards: ChosenBoards, model: OnnxModel, output: Path, options: BoardOptions, *, keys: SshKeys) -> Outcome:
    """Say what would be built where; raises the error of the first board that cannot."""
    from edgekd.boards.build import check_boards

    facts = check_boards(model, boards.addresses, options, targets=boards.targets, keys=keys)
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
    notes += [f"{result.name}: warning: {words}" for result in results for words in result.warnings]
    return "\n".join([table, *notes])


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
