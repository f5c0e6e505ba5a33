"""`edgekd targets`: the devices edgekd knows, what it knows about each, and boards of one's own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli.outcome import Outcome, delivering
from edgekd.cli.table import format_table
from edgekd.cli.writing import DryRun, Force, planned, require_free
from edgekd.core.errors import ConfigError

if TYPE_CHECKING:
    from edgekd.targets import Target
    from edgekd.targets.board import BoardKnowledge

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Devices that a student can be made for.")

_NOT_FACTS = ("name", "power_modes", "notes", "sources", "latency")


def list_targets() -> Outcome:
    """List every target and alias, and the boards you added.

    Example:
      edgekd targets list
    """
    from edgekd.targets import aliases, get_target, own_boards, target_names

    targets = [get_target(name) for name in target_names()]
    own = [get_target(name) for name in own_boards()]
    header = ("target", "kind", "sm", "power", "JetPack", "TensorRT", "device")
    parts = [format_table(header, [_row(target) for target in targets])]
    parts.append(format_table(("alias", "stands for"), sorted(aliases().items())))
    if own:
        parts.append("Boards of your own\n" + format_table(header, [_row(target) for target in own]))
    keys = ("name", "title", "kind", "sm", "power_mode", "jetpack", "tensorrt")
    listed = [{key: getattr(target, key) for key in keys} for target in targets]
    document = {"targets": listed, "aliases": aliases(), "own": [target.name for target in own]}
    return Outcome(document, "\n\n".join(parts))


def show_target(
    name: Annotated[
        str, typer.Argument(help="A target, alias, board of yours or its file; NAME@MODE for a power mode.")
    ],
    power_mode: Annotated[str | None, typer.Option(help="Power mode, as nvpmodel names it.")] = None,
) -> Outcome:
    """Show every figure of one target and where it comes from (S read in a source, D derived, M from memory).

    Examples:
      edgekd targets show jetson-orin
      edgekd targets show jetson-orin --power-mode 30W
    """
    from edgekd.targets import cited, describe, get_target, jetpack_lines

    target = get_target(f"{name}@{power_mode}" if power_mode else name)
    facts = dataclasses.asdict(target)
    rows = [
        (key, _shown(value), _origin(target, key))
        for key, value in facts.items()
        if key not in _NOT_FACTS and value not in (None, "", (), {})
    ]
    parts = [describe(target), format_table(("fact", "value", "source"), rows)]
    if target.power_modes:
        parts.append(_power_modes(target))
    lines = [line for line in jetpack_lines() if target.kind == "jetson" and target.sm in line.sm]
    if lines:
        parts.append(
            format_table(
                ("JetPack", "L4T", "CUDA", "TensorRT", "Python", "source"),
                [
                    (", ".join(line.jetpack), ", ".join(line.l4t), line.cuda, line.tensorrt, line.python, line.status)
                    for line in lines
                ],
            )
        )
    sources = cited([*target.sources.values(), *target.notes, *(line.status for line in lines)])
    ends = [f"note: {note}" for note in target.notes]
    ends += [f"[{number}] {title}" for number, title in sources.items()]
    document = {
        "target": {**facts, "digest": target.digest},
        "jetpack_lines": [line.model_dump() for line in lines],
        "sources": sources,
    }
    return Outcome(document, "\n\n".join(parts) + "".join(f"\n{line}" for line in ends))


def compare_targets(
    first: Annotated[str, typer.Argument(help="A target; NAME@MODE for a power mode.")],
    second: Annotated[str, typer.Argument(help="Another.")],
) -> Outcome:
    """Put two targets side by side, with the ratio of each figure.

    Example:
      edgekd targets compare jetson-orin-nano-8gb jetson-orin-nano-8gb-super
    """
    from edgekd.targets import describe, get_target

    left, right = get_target(first), get_target(second)
    figures = {key: (_flat(left)[key], _flat(right).get(key)) for key in _flat(left)}
    figures |= {key: (None, value) for key, value in _flat(right).items() if key not in figures}
    rows, document = [], {}
    for key, (a, b) in figures.items():
        ratio = b / a if isinstance(a, int | float) and isinstance(b, int | float) and a else None
        document[key] = {"first": a, "second": b, "ratio": ratio}
        rows.append((key, _cell(a), _cell(b), "-" if ratio is None else f"{ratio:.3g}"))
    table = format_table(("fact", first, second, "ratio"), rows)
    text = f"{describe(left)}\n{describe(right)}\n\n{table}"
    return Outcome({"first": left.name, "second": right.name, "facts": document}, text)


def add_target(
    name: Annotated[str, typer.Argument(help="A name of your own for the board.")],
    *,
    like: Annotated[str | None, typer.Option(help="Target it resembles: what is not known is taken from it.")] = None,
    device: Annotated[str | None, typer.Option(help="Ask the board over SSH: user@host. Needs edgekd[ssh].")] = None,
    device_query: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Output of CUDA's deviceQuery on it.")
    ] = None,
    nvpmodel: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Output of `nvpmodel -q` on it.")
    ] = None,
    nvpmodel_conf: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Its /etc/nvpmodel.conf.")
    ] = None,
    power_mode: Annotated[str | None, typer.Option(help="Power mode that the figures belong to.")] = None,
    sm: Annotated[int | None, typer.Option(help="CUDA compute capability times ten: 87 for Orin.")] = None,
    sms: Annotated[int | None, typer.Option(help="Streaming multiprocessors that are on.")] = None,
    clock_mhz: Annotated[float | None, typer.Option(help="Highest GPU clock.")] = None,
    bandwidth_gb_s: Annotated[float | None, typer.Option(help="Memory bandwidth.")] = None,
    l2_mb: Annotated[float | None, typer.Option(help="L2 cache.")] = None,
    memory_gb: Annotated[float | None, typer.Option(help="Device memory.")] = None,
    peak: Annotated[
        list[str] | None, typer.Option(help="A dense peak in TFLOPS or TOPS, as fp16=15.0; by default computed.")
    ] = None,
    jetpack: Annotated[str | None, typer.Option(help="JetPack release.")] = None,
    tensorrt: Annotated[str | None, typer.Option(help="TensorRT version.")] = None,
    file: Annotated[Path | None, typer.Option(help="Write it here instead of among your boards.")] = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> Outcome:
    """Add a board of your own, from what it says about itself or from figures you state.

    Its power mode is the one it is in. Peaks are computed from SMs and clock; impossible figures are refused.

    Examples:
      edgekd targets add my-nx --device nvidia@192.168.1.20
      edgekd targets add my-nx --like jetson-orin-nx-16gb --nvpmodel q.txt --nvpmodel-conf nvpmodel.conf
      edgekd targets add my-gpu --device-query deviceQuery.txt
    """
    from edgekd.targets import aliases, boards_folder, describe, target_names
    from edgekd.targets.addresses import keep_address
    from edgekd.targets.board import board_document, board_from, save_board
    from edgekd.targets.ssh_connection import parse_address

    if name in (*target_names(), *aliases()):
        raise ConfigError(f"{name!r} is a built-in target; give your board a name of its own")
    stated = {
        "sm": sm,
        "sms": sms,
        "clock_mhz": clock_mhz,
        "bandwidth_gb_s": bandwidth_gb_s,
        "l2_mb": l2_mb,
        "memory_gb": memory_gb,
        "power_mode": power_mode,
        "jetpack": jetpack,
        "tensorrt": tensorrt,
        "peaks_tflops": _peaks(peak or []),
    }
    known = _knowledge({key: value for key, value in stated.items() if value not in (None, {})}, like, device)
    known = _with_files(known, device_query, nvpmodel, nvpmodel_conf)
    document = board_document(name, known)
    target, path = board_from(document), file or boards_folder() / f"{name}.yaml"
    require_free(path, is_forced=force)
    if dry_run:
        return planned(path, f"the board {describe(target)}")
    save_board(path, document)
    if device is not None and file is None:
        keep_address(name, parse_address(device))
    based = f"\nwhat it did not say is taken from {known.like.device}" if known.like else ""
    return Outcome({"target": document["targets"][0], "file": str(path)}, f"{describe(target)}{based}\n{path}")


def trust_board(
    device: Annotated[str, typer.Argument(help="The board: user@host or user@host:port.")],
    fingerprint: Annotated[str, typer.Argument(help="SHA256:... of its host key, as the board itself prints it.")],
    *,
    known_hosts: Annotated[
        Path | None, typer.Option(dir_okay=False, help="File to keep it in instead of edgekd's own.")
    ] = None,
) -> Outcome:
    """Accept the host key of a board, once its fingerprint has been compared.

    On the board: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub

    Example:
      edgekd targets trust nvidia@192.168.1.20 SHA256:2dUzfbM0x3pW5vQkYh0sW4zvYq3X8dV1m3s0n4a5b6c
    """
    from edgekd.targets.ssh_connection import parse_address, trust

    path = trust(parse_address(device), fingerprint, known_hosts=known_hosts)
    text = f"{device} is trusted by {fingerprint} ({path})"
    return Outcome({"device": device, "fingerprint": fingerprint, "file": str(path)}, text)


def _knowledge(stated: dict[str, Any], like: str | None, device: str | None) -> BoardKnowledge:
    from edgekd.targets import get_target, target_names
    from edgekd.targets.board import BoardKnowledge, resembling

    base = get_target(like) if like else None
    if device is None:
        return BoardKnowledge(stated=stated, like=base)
    from edgekd.targets.ssh_connection import parse_address
    from edgekd.targets.ssh_probe import probe

    said = probe(parse_address(device))
    if base is None and said.gpu is not None:
        clocks = [mode.gpu_mhz for mode in said.modes if mode.gpu_mhz is not None]
        base = resembling(said.gpu, [get_target(name) for name in target_names()], max(clocks, default=None))
    return dataclasses.replace(said, stated=stated, like=base)


def _with_files(
    known: BoardKnowledge, device_query: Path | None, nvpmodel: Path | None, conf: Path | None
) -> BoardKnowledge:
    from edgekd.targets.device_query import parse_device_query
    from edgekd.targets.nvpmodel import parse_nvpmodel_conf, parse_nvpmodel_query

    if device_query is not None:
        known = dataclasses.replace(known, gpu=parse_device_query(_text(device_query)))
    if nvpmodel is not None:
        known = dataclasses.replace(known, mode=parse_nvpmodel_query(_text(nvpmodel))[0])
    if conf is not None:
        known = dataclasses.replace(known, modes=parse_nvpmodel_conf(_text(conf)))
    return known


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text: {error}") from error


def _peaks(assignments: list[str]) -> dict[str, float]:
    peaks = {}
    for assignment in assignments:
        precision, _, number = assignment.partition("=")
        try:
            peaks[precision.strip()] = float(number)
        except ValueError as error:
            raise ConfigError(f"--peak {assignment!r}: write it as fp16=15.0") from error
    return peaks


def _row(target: Target) -> tuple[str, ...]:
    architecture = "-" if target.sm is None else f"sm_{target.sm}"
    software = (target.jetpack or "-", target.tensorrt or "-")
    return (target.name, target.kind, architecture, target.power_mode or "-", *software, target.title)


def _power_modes(target: Target) -> str:
    rows = [
        (
            mode.name,
            _cell(mode.id),
            _cell(mode.clock_mhz),
            _cell(mode.sms or target.sms),
            _cell(mode.emc_mhz),
            mode.status,
        )
        for mode in target.power_modes
    ]
    return format_table(("power mode", "id", "GPU MHz", "SMs", "memory MHz", "source"), rows)


def _flat(target: Target) -> dict[str, Any]:
    facts = {key: value for key, value in dataclasses.asdict(target).items() if key not in _NOT_FACTS}
    peaks = facts.pop("peaks_tflops")
    facts |= {f"peaks_tflops.{precision}": peak for precision, peak in peaks.items()}
    return {key: value for key, value in facts.items() if value not in (None, "")}


def _origin(target: Target, key: str) -> str:
    parts = {
        name.removeprefix(f"{key}."): source for name, source in target.sources.items() if name.startswith(f"{key}.")
    }
    if len(set(parts.values())) == 1:
        return next(iter(parts.values()))
    return target.sources.get(key) or ", ".join(f"{name} {source}" for name, source in parts.items())


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item:.4g}" for key, item in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return "-" if value is None else str(value)


app.command("list")(delivering(list_targets))
app.command("show")(delivering(show_target))
app.command("compare")(delivering(compare_targets))
app.command("add")(delivering(add_target))
app.command("trust")(delivering(trust_board))
