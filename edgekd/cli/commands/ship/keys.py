"""`edgekd ship keys`: make a repository and its keys, replace them, and see how all of that stands."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli.commands.ship.signing_options import (
    DEFAULT_REPO,
    Keys,
    Repo,
    new_passphrase,
    passphrase_prompt,
    require_tuf,
)
from edgekd.cli.outcome import Outcome, delivering
from edgekd.cli.table import format_table
from edgekd.cli.writing import DryRun

if TYPE_CHECKING:
    from edgekd.ship.trust import KeyChange, RepositoryFacts, Rotated

_ID_CHARS = 16
_Days = typer.Option(min=1, help="Days that its signatures last.")

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Make the keys of a fleet, replace them, see how they stand."
)


@app.callback()
def keys() -> None:
    """Look after the keys of a fleet."""


def init(
    *,
    keys: Keys,
    group: Annotated[list[str], typer.Option(help="A group of devices; may be repeated.")],
    repo: Repo = DEFAULT_REPO,
    root_keys: Annotated[int, typer.Option(min=1, max=16, help="Number of root keys.")] = 3,
    threshold: Annotated[int, typer.Option(min=1, max=16, help="How many of them must sign a root.")] = 2,
    root_days: Annotated[int, _Days] = 365,
    targets_days: Annotated[int, _Days] = 90,
    group_days: Annotated[int, _Days] = 90,
    snapshot_days: Annotated[int, _Days] = 14,
    timestamp_days: Annotated[int, _Days] = 14,
    dry_run: DryRun = False,
) -> Outcome:
    """Make a repository and its keys. Devices are provisioned with its first root.

    On a terminal a passphrase for the keys is asked for; elsewhere EDGEKD_KEY_PASSPHRASE gives it. Afterwards move each
    root.*.pem to a place of its own: only a change of keys needs them.

    Example:
      edgekd ship keys init --repo fleet-repo --keys ~/edgekd-keys --group canary --group fleet
    """
    require_tuf()
    from edgekd.ship.trust import Lifetimes, check_init
    from edgekd.ship.trust import init as make

    lifetimes = Lifetimes(root_days, targets_days, group_days, snapshot_days, timestamp_days)
    if dry_run:
        check_init(repo, keys, group, lifetimes=lifetimes, root_keys=root_keys, root_threshold=threshold)
        document = {"is_dry_run": True, "would_write": [str(repo), str(keys)]}
        return Outcome(
            document, f"would make {repo} for {', '.join(group)}, and {root_keys + 2 + len(group)} keys in {keys}"
        )
    passphrase = new_passphrase()
    made = make(
        repo,
        keys,
        group,
        lifetimes=lifetimes,
        root_keys=root_keys,
        root_threshold=threshold,
        passphrase=lambda: passphrase,
    )
    is_open = passphrase is None
    document = {
        "repo": str(made.repo),
        "root": str(made.root),
        "keys": made.keys,
        "threshold": made.threshold,
        "is_encrypted": not is_open,
    }
    lines = [
        f"{repo}: {', '.join(group)}; keys in {keys}" + (", NOT encrypted" if is_open else ", encrypted"),
        f"provision devices with {made.root}",
        f"move each root.*.pem of {keys} to a place of its own; {threshold} of {root_keys} must sign a change of keys",
    ]
    return Outcome(document, "\n".join(lines))


def rotate(
    role: Annotated[str, typer.Argument(help="root, targets, snapshot, timestamp or a group.")],
    *,
    keys: Keys,
    repo: Repo = DEFAULT_REPO,
    dry_run: DryRun = False,
) -> Outcome:
    """Replace all keys of a role by new ones.

    Where root keys are elsewhere, the new root waits for them: see keys sign and keys import.

    Example:
      edgekd ship keys rotate timestamp --keys ~/edgekd-keys
    """
    require_tuf()
    from edgekd.ship.trust import plan_rotation
    from edgekd.ship.trust import rotate as replace_keys

    if dry_run:
        return _planned(plan_rotation(repo, role), repo)
    return _rotated(replace_keys(repo, keys, role, passphrase=passphrase_prompt()))


def revoke(
    keyid: Annotated[str, typer.Argument(metavar="KEY", help="The key: 8 or more digits of its identifier.")],
    *,
    keys: Keys,
    repo: Repo = DEFAULT_REPO,
    dry_run: DryRun = False,
) -> Outcome:
    """Replace one key, lost or stolen, by a new one wherever it may sign.

    Example:
      edgekd ship keys revoke 1f2e3d4c5b6a7988 --keys ~/edgekd-keys
    """
    require_tuf()
    from edgekd.ship.trust import plan_revocation
    from edgekd.ship.trust import revoke as replace_key

    if dry_run:
        return _planned(plan_revocation(repo, keyid), repo)
    return _rotated(replace_key(repo, keys, keyid, passphrase=passphrase_prompt()))


def renew(*, keys: Keys, repo: Repo = DEFAULT_REPO, dry_run: DryRun = False) -> Outcome:
    """Sign the root again with the same keys before it expires.

    Example:
      edgekd ship keys renew --keys ~/edgekd-keys
    """
    require_tuf()
    from edgekd.ship.trust import plan_renewal, renew_root

    if dry_run:
        return _planned(plan_renewal(repo), repo)
    return _rotated(renew_root(repo, keys, passphrase=passphrase_prompt()))


def add(
    group: Annotated[str, typer.Argument(help="Name of the group.")],
    *,
    keys: Keys,
    repo: Repo = DEFAULT_REPO,
    dry_run: DryRun = False,
) -> Outcome:
    """Add a group of devices with a key of its own.

    Example:
      edgekd ship keys add lab --keys ~/edgekd-keys
    """
    require_tuf()
    from edgekd.ship.trust import add_group, check_group

    if dry_run:
        check_group(repo, group)
        return Outcome(
            {"is_dry_run": True, "would_write": [str(repo), str(keys)]}, f"would add group {group} and its key"
        )
    keyid = add_group(repo, keys, group, passphrase=passphrase_prompt())
    return Outcome({"group": group, "key": keyid}, f"group {group} has key {keyid[:_ID_CHARS]}")


def sign(
    root: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The root that waits, a copy of it.")],
    *,
    keys: Keys,
    dry_run: DryRun = False,
) -> Outcome:
    """Sign a root that waits, where root keys are kept; then carry it back and import it.

    Example:
      edgekd ship keys sign 2.root.json --keys /media/stick
    """
    require_tuf()
    from edgekd.ship.trust import describe_root, sign_root

    said = describe_root(root)
    if dry_run:
        return Outcome({"is_dry_run": True, "would_write": [str(root)], "root": said}, _root_text(said))
    count = sign_root(root, keys, passphrase=passphrase_prompt())
    return Outcome({"root": said, "signatures": count}, f"{_root_text(said)}\nit has {count} signature(s) now")


def import_signatures(
    root: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The signed copy.")],
    *,
    keys: Keys,
    repo: Repo = DEFAULT_REPO,
    dry_run: DryRun = False,
) -> Outcome:
    """Take signatures that were made elsewhere; with enough of them the change of keys is done.

    Example:
      edgekd ship keys import 2.root.json --keys ~/edgekd-keys
    """
    require_tuf()
    from edgekd.ship.trust import check_import, import_root

    if dry_run:
        missing = check_import(repo, root)
        document = {"is_dry_run": True, "would_write": [str(repo)], "signatures_missing": missing}
        return Outcome(document, f"would take its signatures; {missing} would still be missing")
    return _rotated(import_root(repo, keys, root, passphrase=passphrase_prompt()))


def show(
    *,
    repo: Repo = DEFAULT_REPO,
    keys: Annotated[
        Path | None, typer.Option("--keys", file_okay=False, help="Say which private keys are here.")
    ] = None,
) -> Outcome:
    """Show roles, keys, expiry, what groups want and what was released.

    Example:
      edgekd ship keys show --keys ~/edgekd-keys
    """
    require_tuf()
    from edgekd.ship.trust import show as look

    found = look(repo, keys)
    return Outcome(_facts_document(found), _facts_text(found, is_folder_given=keys is not None))


def _planned(plan: KeyChange, repo: Path) -> Outcome:
    document = {"is_dry_run": True, "would_write": [str(repo)], **dataclasses.asdict(plan)}
    keys = ", ".join(key[:_ID_CHARS] for key in plan.keys) or "no key"
    return Outcome(document, f"would replace {keys}; signed anew: {', '.join(plan.roles)}; root {plan.root_version}")


def _rotated(done: Rotated) -> Outcome:
    document: dict[str, Any] = {**dataclasses.asdict(done), "pending": str(done.pending) if done.pending else None}
    lines = [f"key {old[:_ID_CHARS]} is replaced by {new[:_ID_CHARS]}" for old, new in done.replaced.items()]
    if done.pending is not None:
        lines += [
            f"nothing has changed for devices yet: {done.pending} needs {done.signatures_missing} more signature(s)",
            f"copy it to where root keys are, run: edgekd ship keys sign {done.pending.name} --keys DIR",
            f"and bring it back: edgekd ship keys import {done.pending.name} --keys DIR",
        ]
    else:
        lines.append(f"signed anew: {', '.join(done.roles)}; the root is version {done.root_version}")
    return Outcome(document, "\n".join(lines))


def _root_text(said: dict[str, Any]) -> str:
    lines = [f"root {said['version']}, until {said['expires']}"]
    lines += [f"  {role}: {rule['threshold']} of {', '.join(key[:_ID_CHARS] for key in rule['keys'])}"
              for role, rule in said["roles"].items()]  # fmt: skip
    return "\n".join(lines)


def _facts_document(found: RepositoryFacts) -> dict[str, Any]:
    roles = [
        {
            **dataclasses.asdict(role),
            "expires": role.expires.isoformat(),
            "key_files": [str(file) for file in role.key_files],
            "wants": dict(zip(("name", "version", "bundle_sha256"), role.wants, strict=False)) or None,
        }
        for role in found.roles
    ]
    releases = [dict(zip(("name", "version", "bundle_sha256"), release, strict=True)) for release in found.releases]
    return {"roles": roles, "pending": str(found.pending) if found.pending else None, "releases": releases}


def _facts_text(found: RepositoryFacts, *, is_folder_given: bool) -> str:
    rows = []
    for role in found.roles:
        expiry = f"{role.expires:%Y-%m-%d}" + (" EXPIRED" if role.is_expired else "")
        here = f"{len(role.key_files)} here" if is_folder_given else ""
        wants = f"{role.wants[0]} {role.wants[1]}" if role.wants else ""
        ids = " ".join(key[:_ID_CHARS] for key in role.keys)
        rows.append([role.role, str(role.version), expiry, f"{role.threshold} of {len(role.keys)}", here, ids, wants])
    lines = [format_table(["role", "version", "expires", "signed by", "", "keys", "wants"], rows), "", "released:"]
    lines += [f"  {name} {version}  {digest}" for name, version, digest in found.releases] or ["  nothing"]
    return "\n".join([*lines, *([f"waits for signatures: {found.pending}"] if found.pending else [])])


app.command("init")(delivering(init))
app.command("rotate")(delivering(rotate))
app.command("revoke")(delivering(revoke))
app.command("renew")(delivering(renew))
app.command("add")(delivering(add))
app.command("sign")(delivering(sign))
app.command("import")(delivering(import_signatures))
app.command("show")(delivering(show))
