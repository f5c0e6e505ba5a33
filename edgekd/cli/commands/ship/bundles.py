"""`edgekd ship pack|inspect|verify`: bundles as folders or as one file."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli.outcome import Outcome
from edgekd.cli.writing import DryRun, Force, planned, require_free
from edgekd.core.errors import ConfigError

if TYPE_CHECKING:
    from edgekd.core.artifacts import Bundle
    from edgekd.ship import DeviceFile

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of a bundle, or a tar of one.")]


def pack(
    source: Annotated[Path, typer.Argument(help="A run of edgekd distill, an ONNX file, or a bundle to pack again.")],
    *,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the bundle.")] = None,
    tar: Annotated[Path | None, typer.Option(dir_okay=False, help="Write it as one file to carry by hand.")] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Release number; 1, or that of the bundle.")] = None,
    golden: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Of an ONNX file: npz with inputs and the expected logits."),
    ] = None,
    target: Annotated[str | None, typer.Option(help="Of an ONNX file: device it is for; cpu by default.")] = None,
    name: Annotated[str | None, typer.Option(help="Of an ONNX file: model line; the file's name by default.")] = None,
    budget: Annotated[str | None, typer.Option(help='Of an ONNX file: limits on the device, "p99<8ms".')] = None,
    tolerance: Annotated[float | None, typer.Option(min=0.0, help="Of an ONNX file: largest error of a logit.")] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Of an ONNX file: how it was made, kept as a digest."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Of an ONNX file: what it was trained on, kept as a digest."),
    ] = None,
    engine: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="An engine that a device built; may be repeated."),
    ] = None,
    timing: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="A timing cache that a device wrote; may be repeated."),
    ] = None,
    facts: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="What its agent's hello says: one per engine and cache."),
    ] = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> Outcome:
    """Pack a bundle: model, golden inputs, build plan, health check, and what a device made for others of its kind.

    The same input gives the same bytes; a bundle of an ONNX file bears the time of that file. An engine or timing cache
    is used only by devices with exactly the same facts; others build their own.

    Examples:
      edgekd ship pack runs/demo -o bundle --version 2
      edgekd ship pack net.onnx --golden golden.npz --target jetson-orin --budget "p99<8ms" -o bundle --tar bundle.tar
      edgekd ship pack bundle.tar -o bundle
    """
    if output is None and tar is None:
        raise ConfigError("say where to: -o FOLDER, --tar FILE, or both")
    for place in filter(None, (output, tar)):
        require_free(place, is_forced=force)
    of_onnx = {"golden": golden, "target": target, "name": name, "budget": budget, "tolerance": tolerance}
    of_onnx |= {"recipe": recipe, "data": data}
    given = {key: value for key, value in of_onnx.items() if value is not None}
    made_there = _device_files(engine or [], timing or [], facts or [])
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekd-pack-")))
        folder = scratch / "bundle" if output is None or dry_run else output
        if source.suffix == ".onnx":
            _require_onnx_options(golden)
            bundle = _from_onnx(source, folder, version, given)
            bundle = _again(folder, folder, None, made_there) if made_there else bundle
        else:
            if given:
                raise ConfigError(f"--{', --'.join(sorted(given))}: only of an ONNX file; {source} has its own")
            bundle = _again(stack.enter_context(_bundle_in(source)), folder, version, made_there)
        if dry_run:
            return planned(output or tar or folder, f"a bundle of {bundle.files} files, {bundle.size_bytes:,} bytes")
        return _packed(folder, output, tar)


def _packed(folder: Path, output: Path | None, tar: Path | None) -> Outcome:
    from edgekd.ship import inspect as look
    from edgekd.ship import write_archive

    archive = write_archive(folder, tar) if tar is not None else None
    found = look(folder)
    manifest = found["manifest"]
    document = {
        "folder": str(output) if output else None,
        "tar": {"path": str(tar), "sha256": archive.sha256, "size_bytes": archive.size_bytes} if archive else None,
        "name": manifest["name"],
        "version": manifest["version"],
        "bundle_sha256": found["manifest_sha256"],
        "files": len(manifest["artifacts"]),
        "size_bytes": found["size_bytes"],
    }
    places = " and ".join(str(place) for place in (output, tar) if place is not None)
    text = f"{manifest['name']} version {manifest['version']}: {len(manifest['artifacts'])} files, "
    return Outcome(document, f"{text}{found['size_bytes']:,} bytes, in {places}\nbundle {found['manifest_sha256']}")


def _require_onnx_options(golden: Path | None) -> None:
    if golden is None:
        raise ConfigError("an ONNX file needs --golden: an npz with a few inputs and the logits expected for them")


def _from_onnx(source: Path, folder: Path, version: int | None, options: dict[str, Any]) -> Bundle:
    from edgekd.cli.onnx_file import onnx_model_from_file
    from edgekd.core.budget import parse_budget
    from edgekd.core.digest import sha256_of_file
    from edgekd.export import input_problem
    from edgekd.ship import (
        UNKNOWN_SHA256,
        BundlePlan,
        build_plan,
        health_check,
        provenance,
        read_golden,
        target_selector,
        usual_tolerance,
    )
    from edgekd.ship import pack as pack_bundle
    from edgekd.targets import get_target

    model, golden = onnx_model_from_file(source), read_golden(options["golden"])
    if problem := input_problem(golden.inputs, model):
        raise ConfigError(f"{options['golden']} is of another network than {source}: {problem}")
    place = get_target(options.get("target", "cpu"))
    role = f"model-{model.precision}"
    plan = BundlePlan(
        created=datetime.fromtimestamp(int(source.stat().st_mtime), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        targets=(target_selector(place),),
        build=build_plan(model, place, role=role, max_batch=model.batch or 1),
        health=health_check(
            tolerance=options.get("tolerance", usual_tolerance(model.precision, float(abs(golden.logits).max()))),
            budget=parse_budget(options["budget"]) if "budget" in options else None,
        ),
        provenance=provenance(
            recipe_sha256=sha256_of_file(options["recipe"]) if "recipe" in options else UNKNOWN_SHA256,
            data_sha256=sha256_of_file(options["data"]) if "data" in options else UNKNOWN_SHA256,
            parents=[model.file.sha256],
            metrics={},
        ),
    )
    name = options.get("name", source.stem)
    return pack_bundle(folder, name=name, version=version or 1, files={role: source}, golden=golden, plan=plan)


def _bundle_in(source: Path) -> Any:
    from edgekd.ship import opened_bundle

    is_run = source.is_dir() and not (source / "bundle.json").exists()
    if is_run and not (source / "bundle" / "bundle.json").exists():
        raise ConfigError(f"{source} is neither a bundle nor a finished run: it has no bundle.json and no bundle/")
    return opened_bundle(source / "bundle" if is_run else source)


def _again(source: Path, folder: Path, version: int | None, device_files: list[DeviceFile]) -> Bundle:
    from edgekd.ship import repack

    return repack(source, folder, version=version, device_files=device_files)


def _device_files(engines: list[Path], timings: list[Path], facts: list[Path]) -> list[DeviceFile]:
    if not engines and not timings:
        return []
    from edgekd.ship import DeviceFile, read_facts

    wanted = [("engine", path) for path in engines] + [("timing", path) for path in timings]
    if len(facts) not in (1, len(wanted)):
        raise ConfigError(f"{len(wanted)} engines and timing caches need one --facts for all, or one each")
    each = facts * len(wanted) if len(facts) == 1 else facts
    return [
        DeviceFile("engine" if kind == "engine" else "timing", path, read_facts(said))
        for (kind, path), said in zip(wanted, each, strict=True)
    ]


def inspect(bundle: BundlePath) -> Outcome:
    """Tell what a bundle contains and whether it is whole; says nothing about who made it.

    Example:
      edgekd ship inspect runs/demo/bundle
    """
    from edgekd.cli.bundle_text import bundle_text
    from edgekd.ship import inspect as look
    from edgekd.ship import opened_bundle

    with opened_bundle(bundle) as folder:
        found = {**look(folder), "folder": str(bundle)}
    return Outcome(found, bundle_text(found))


def verify(bundle: BundlePath) -> Outcome:
    """Check that a bundle is exactly what its manifest says, byte for byte; ends with 6 when it is not.

    Example:
      edgekd ship verify bundle.tar
    """
    from edgekd.ship import opened_bundle
    from edgekd.ship import verify as check

    with opened_bundle(bundle) as folder:
        found = check(folder)
    document = {
        "bundle": str(bundle),
        "bundle_sha256": found.manifest.sha256,
        "files": found.files,
        "size_bytes": found.size_bytes,
    }
    return Outcome(document, f"{bundle}: {found.files} files, {found.size_bytes:,} bytes, all intact")
