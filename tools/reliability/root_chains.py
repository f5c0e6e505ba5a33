"""Chains of roots from version 1 to 5, legal and illegal, against a device that trusts version 1.

Along a chain the key of the timestamp is replaced with every root, so a device that stops early cannot verify what it
was brought.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from edgekd_agent.trust import TrustError, trusted_root_version
from tuf_device import TrustingDevice
from tuf_repository import NOW, Repository, canonical, sample_bundle

_LAST = 5


@dataclass(frozen=True)
class Chain:
    """A chain of roots.

    Attributes:
        name: What is special about it.
        outcomes: `"followed"`, or the reasons that are right for refusing it.
        root_version: Root that the device trusts afterwards.
        extend: Adds versions 2 to 5 to a repository.
    """

    name: str
    outcomes: tuple[str, ...]
    root_version: int
    extend: Callable[[Repository], None]


CHAINS: list[Chain] = []
Extend = Callable[[Repository], None]


def chain(name: str, *outcomes: str, to: int) -> Callable[[Extend], Extend]:
    """Register a chain under its name with what must become of it."""

    def register(extend: Extend) -> Extend:
        CHAINS.append(Chain(name, outcomes, to, extend))
        return extend

    return register


def outcome(one: Chain, folder: Path) -> tuple[str, int]:
    """Bring a chain to a new device; return what became of it and the root the device trusts afterwards."""
    repository = Repository(sample_bundle())
    device = TrustingDevice(folder).provision(repository.roots[1])
    one.extend(repository)
    device.push(repository.pour())
    try:
        device.ask()
        found = "followed"
    except TrustError as error:
        found = error.kind
    return found, trusted_root_version(device.trust)


def run(scratch: Path, **_: Any) -> dict[str, Any]:
    """Bring every chain.

    Args:
        scratch: A folder for devices.

    Returns:
        Number of chains, of legal ones that were followed to their end, of illegal ones that were followed, and of
        all that ended otherwise than they must.
    """
    found = {one.name: outcome(one, scratch / f"device{number}") for number, one in enumerate(CHAINS)}
    legal = [one for one in CHAINS if "followed" in one.outcomes]
    illegal = [one for one in CHAINS if "followed" not in one.outcomes]
    wrong = [one for one in CHAINS if found[one.name][0] not in one.outcomes or found[one.name][1] != one.root_version]
    return {
        "chains": len(CHAINS),
        "legal": len(legal),
        "legal_followed": sum(found[one.name][0] == "followed" for one in legal),
        "illegal": len(illegal),
        "illegal_followed": sum(found[one.name][0] == "followed" for one in illegal),
        "failures": len(wrong),
        "found": {name: list(value) for name, value in found.items()},
    }


def _next(repository: Repository, *, number: int = 3, threshold: int = 2, replaced: int = 3) -> None:
    """Sign a root that follows by the rules, with some root keys and the timestamp's key replaced."""
    old = repository.signers["root"]
    root = repository.root
    old_threshold = root.roles["root"].threshold
    root.version += 1
    repository.new_keys("timestamp")
    kept = old[replaced:]
    repository.new_keys("root", number - len(kept))
    for signer in kept:
        root.add_key(signer.public_key, "root")
    repository.signers["root"] += kept
    root.roles["root"].threshold = threshold
    signers = {signer.public_key.keyid: signer for signer in (*old[:old_threshold], *repository.signers["root"])}
    repository.sign_root(list(signers.values()))


@chain("all root keys replaced four times", "followed", to=_LAST)
def _all_replaced(repository: Repository) -> None:
    for _ in range(2, _LAST + 1):
        _next(repository)


@chain("one root key replaced four times", "followed", to=_LAST)
def _one_replaced(repository: Repository) -> None:
    for _ in range(2, _LAST + 1):
        _next(repository, replaced=1)


@chain("threshold raised to 3 of 3, then 4 of 5", "followed", to=_LAST)
def _raised(repository: Repository) -> None:
    for number, threshold in ((3, 3), (5, 4), (5, 4), (5, 4)):
        _next(repository, number=number, threshold=threshold)


@chain("threshold lowered to 1 of 1", "followed", to=_LAST)
def _lowered(repository: Repository) -> None:
    for number, threshold in ((3, 2), (1, 1), (1, 1), (1, 1)):
        _next(repository, number=number, threshold=threshold)


@chain("roots on the way have expired, the last has not", "followed", to=_LAST)
def _expired_on_the_way(repository: Repository) -> None:
    end = repository.root.expires
    for version in range(2, _LAST + 1):
        repository.root.expires = end if version == _LAST else NOW - timedelta(days=30)
        _next(repository)


@chain("the last root has expired", "expired", to=_LAST)
def _last_expired(repository: Repository) -> None:
    for version in range(2, _LAST + 1):
        repository.root.expires = NOW - timedelta(days=1) if version == _LAST else NOW + timedelta(days=1)
        _next(repository)


@chain("version 3 is missing", "signature", to=2)
def _missing(repository: Repository) -> None:
    _all_replaced(repository)
    del repository.roots[3]


@chain("the file of version 3 holds version 4", "signature", "rollback", to=2)
def _jump(repository: Repository) -> None:
    _all_replaced(repository)
    repository.roots[3] = repository.roots[4]


@chain("a version is left out and its keys signed the next", "rollback", to=2)
def _left_out(repository: Repository) -> None:
    _next(repository)
    repository.root.version += 1
    for _ in range(2):
        _next(repository)
    repository.roots[3] = repository.roots.pop(4)


@chain("the file of version 2 holds version 1 again", "rollback", to=1)
def _again(repository: Repository) -> None:
    _all_replaced(repository)
    repository.roots[2] = repository.roots[1]


def _third(sign: Callable[[Repository, list[Any], list[Any]], None]) -> Extend:
    """Make a chain that is legal but for who signs version 3."""

    def extend(repository: Repository) -> None:
        first = repository.signers["root"]
        _next(repository)
        second = repository.signers["root"]
        _next(repository)
        sign(repository, first, second)
        for _ in range(4, _LAST + 1):
            _next(repository)

    return extend


chain("version 3 is signed by one of three old keys", "signature", to=2)(
    _third(lambda repository, _, second: _sign(repository, [*second[:1], *repository.signers["root"]]))
)
chain("version 3 is signed by its own keys only", "signature", to=2)(
    _third(lambda repository, _, __: _sign(repository, repository.signers["root"]))
)
chain("version 3 is signed by the old keys only", "signature", to=2)(
    _third(lambda repository, _, second: _sign(repository, second))
)
chain("version 3 is signed by the keys of version 1", "signature", to=2)(
    _third(lambda repository, first, __: _sign(repository, [*first, *repository.signers["root"]]))
)
chain("version 3 is signed by nobody", "signature", to=2)(_third(lambda repository, _, __: _sign(repository, [])))


def _sign(repository: Repository, signers: list[Any]) -> None:
    repository.roots[3] = repository.signed(repository.root, signers)


def _edited(edit: Callable[[dict[str, Any]], None]) -> Extend:
    """Make a legal chain whose version 3 was edited after it was signed."""

    def extend(repository: Repository) -> None:
        _all_replaced(repository)
        document = json.loads(repository.roots[3])
        edit(document)
        repository.roots[3] = canonical(document)

    return extend


chain("version 3 asks for no signature", "schema", to=2)(
    _edited(lambda document: document["signed"]["roles"]["root"].update(threshold=0))
)
chain("version 3 lost a role", "schema", to=2)(_edited(lambda document: document["signed"]["roles"].pop("timestamp")))
chain("version 3 calls itself another role", "schema", to=2)(
    _edited(lambda document: document["signed"].update(_type="targets"))
)
chain("version 3 is not TUF 1", "schema", to=2)(
    _edited(lambda document: document["signed"].update(spec_version="2.0.0"))
)
