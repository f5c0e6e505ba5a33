"""`edgekd ship publish|refresh|withdraw`: what devices should run, signed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.commands.ship.bundles import BundlePath
from edgekd.cli.commands.ship.signing_options import DEFAULT_REPO, Keys, Repo, passphrase_prompt, require_tuf
from edgekd.cli.outcome import Outcome
from edgekd.cli.writing import DryRun, Force, planned, require_free
from edgekd.core.errors import ConfigError


def publish(
    bundle: BundlePath,
    *,
    keys: Keys,
    group: Annotated[str, typer.Option(help="Group of devices that should run it.")],
    repo: Repo = DEFAULT_REPO,
    version: Annotated[int | None, typer.Option(min=1, help="Release number; that of the bundle by default.")] = None,
    select: Annotated[
        list[str] | None, typer.Option(help="Only devices with this fact, KEY=VALUE; may be repeated.")
    ] = None,
    dry_run: DryRun = False,
) -> Outcome:
    """Release a bundle and have a group of devices want it; publishing the same twice changes nothing.

    The devices learn of it when they are next brought the repository's metadata: edgekd fleet deploy.

    Examples:
      edgekd ship publish runs/demo/bundle --group canary --keys ~/edgekd-keys
      edgekd ship publish bundle.tar --group lab --select device_id=robot-7 --keys ~/edgekd-keys
    """
    require_tuf()
    from edgekd.ship import opened_bundle
    from edgekd.ship.trust import check_publish
    from edgekd.ship.trust import publish as publish_bundle

    facts = dict(_fact(text) for text in select or [])
    with opened_bundle(bundle) as folder:
        if dry_run:
            plan = check_publish(repo, keys, folder, group, version=version, select=facts)
            words = f"{plan.name} version {plan.version} for {group}"
            document = {"is_dry_run": True, "would_write": [str(repo)], **_document(plan)}
            return Outcome(
                document, f"would publish {words}" if plan.is_changed else f"{words} is what it wants already"
            )
        published = publish_bundle(
            repo, keys, folder, group, version=version, select=facts, passphrase=passphrase_prompt()
        )
    is_new = "now wants" if published.is_changed else "wants already"
    text = f"{group} {is_new} {published.name} version {published.version}, bundle {published.bundle_sha256}\n"
    return Outcome(_document(published), f"{text}installable until {published.signed_until:%Y-%m-%d %H:%M} UTC")


def export(
    *,
    group: Annotated[str, typer.Option(help="Group of the device.")],
    output: Annotated[Path, typer.Option("--output", "-o", file_okay=False, help="Folder to make.")],
    repo: Repo = DEFAULT_REPO,
    root_version: Annotated[int, typer.Option(min=1, help="Newest root that the device trusts.")] = 1,
    force: Force = False,
    dry_run: DryRun = False,
) -> Outcome:
    """Write what a device of a group needs into a folder, to carry it there by hand.

    On the device, copy it into staging, and run the agent's install: docs/trust.md

    Example:
      edgekd ship export --group canary -o /media/stick/staging
    """
    require_tuf()
    from edgekd.ship.trust import export as write_out
    from edgekd.ship.trust import outbox

    require_free(output, is_forced=force)
    if dry_run:
        box = outbox(repo, group, root_version=root_version)
        return planned(output, f"{len(box.metadata)} metadata files and {len(box.blobs)} blobs")
    box = write_out(repo, group, output, root_version=root_version)
    size_bytes = sum(path.stat().st_size for path in (*box.metadata.values(), *box.blobs.values()))
    document = {"folder": str(output), "metadata": len(box.metadata), "blobs": len(box.blobs), "size_bytes": size_bytes}
    return Outcome(
        document, f"{output}: {len(box.metadata)} metadata files, {len(box.blobs)} blobs, {size_bytes:,} bytes"
    )


def refresh(
    *,
    keys: Keys,
    repo: Repo = DEFAULT_REPO,
    role: Annotated[
        list[str] | None, typer.Option(help="Sign this role again too, whatever its age; may be repeated.")
    ] = None,
    dry_run: DryRun = False,
) -> Outcome:
    """Sign again what expires soon, so that devices go on installing; needs only the online key most of the time.

    Run it at least once within the life of the timestamp (14 days unless the repository was made otherwise).

    Example:
      edgekd ship refresh --keys ~/edgekd-keys
    """
    require_tuf()
    from edgekd.ship.trust import check_refresh
    from edgekd.ship.trust import refresh as sign_again

    if dry_run:
        plan = check_refresh(repo, keys, roles=role or [])
        document = {"is_dry_run": True, "would_write": [str(repo)], **_document(plan)}
        return Outcome(document, f"would sign again: {', '.join(plan.roles)}")
    done = sign_again(repo, keys, roles=role or [], passphrase=passphrase_prompt())
    lines = [f"signed again: {', '.join(done.roles)}; all signatures hold until {done.signed_until:%Y-%m-%d %H:%M} UTC"]
    lines += [f"{name} expires soon, and its keys are not in {keys}" for name in done.waiting]
    return Outcome(_document(done), "\n".join(lines))


def withdraw(
    bundle_sha256: Annotated[str, typer.Argument(metavar="DIGEST", help="Digest of the bundle.")],
    *,
    keys: Keys,
    repo: Repo = DEFAULT_REPO,
    dry_run: DryRun = False,
) -> Outcome:
    """Take a released bundle back: devices refuse to install it from then on. No group may want it any more.

    Example:
      edgekd ship withdraw 3b0c...e1 --keys ~/edgekd-keys
    """
    require_tuf()
    from edgekd.ship.trust import check_withdraw
    from edgekd.ship.trust import withdraw as take_back

    if dry_run:
        dropped = check_withdraw(repo, bundle_sha256)
    else:
        dropped = take_back(repo, keys, bundle_sha256, passphrase=passphrase_prompt())
    document = {"bundle_sha256": bundle_sha256, "dropped_blobs": list(dropped), "is_dry_run": dry_run}
    return Outcome(
        document, f"{'would take' if dry_run else 'took'} back {bundle_sha256}, {len(dropped)} files with it"
    )


def _document(facts: object) -> dict[str, object]:
    """Return a dataclass of facts as plain data, times as text."""
    found = dataclasses.asdict(facts)  # type: ignore[call-overload]
    return {key: value.isoformat() if hasattr(value, "isoformat") else value for key, value in found.items()}


def _fact(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not key or not sign or not value:
        raise ConfigError(f"--select {text!r} is not KEY=VALUE")
    return key, value
