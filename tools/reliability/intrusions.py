"""What the holder of the operator's key can do to a device beyond pushing files and asking the agent: nothing.

A device in a network namespace, provisioned and running a release. Its key is used as badly as it can be: over SSH,
with its user's number and any program at all, and with things in staging that are no plain files. Then the device is
made what one was when the agent and the login were one user, and provisioned again. Needs root.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from edgekd.ship.fleet.repository import RepositorySource
from edgekd.ship.fleet.source import Parcel
from edgekd.ship.transport import AgentPlace, Need, Session, SshTransport
from edgekd.ship.transport.answers import needs_from, status_from
from edgekd.ship.transport.asking import ask_socket, run_words
from edgekd.targets.ssh_connection import SshKeys, connected, parse_address
from edgekd.targets.ssh_line import Pauses
from tools.reliability import models, namespaces, ssh_server
from tools.reliability.fleet_lab import GROUP
from tools.reliability.namespaces import Namespaced, Site

_DATA = "/var/lib/edgekd"
_DOOR = "/var/lib/edgekd-push"
KEPT = (
    f"{_DATA}/trust/root.json",
    f"{_DATA}/device.json",
    f"{_DATA}/journal",
    f"{_DATA}/current/manifest.json",
    f"{_DATA}/current/engine/build.json",
    "/opt/edgekd/agent/edgekd-agent.pyz",
    "/etc/ssh/edgekd_authorized_keys",
    "/etc/ssh/sshd_config.d/edgekd.conf",
)
_READABLE = ("/opt/edgekd", "/etc/ssh")
_PATIENCE_S = 60.0
_INTRUDER = Path(__file__).with_name("intruder.py")

KINDS = (
    "link",
    "device link",
    "dangling link",
    "pipe",
    "folder",
    "hard link",
    "socket",
    "unreadable file",
    "sparse file, far too long",
    "sparse file",
    "full folder",
)


def run(scratch: Path) -> dict[str, Any]:
    """Use the key badly, then turn the device back into one of one user and provision it again.

    Args:
        scratch: Where files go; not in memory on top of an overlay.

    Returns:
        Plain figures; `failures` names what could be done.
    """
    if reason := namespaces.unavailable():
        return {"skipped": reason}
    with namespaces.fleet_in_namespaces(scratch, 1) as site:
        (device,) = site.devices
        site.edgekd("provision", "--login", "root")
        first = site.publish(models.Recipe(version=1))
        site.edgekd("deploy")
        failures = [] if device.runs() == first else ["the first release could not be deployed"]
        before = _state(device)
        over_ssh, found = asyncio.run(_over_ssh(site, device))
        as_user, more = asyncio.run(_as_user(site, device))
        failures += [*found, *more]
        site.publish(models.Recipe(version=2, padding_bytes=5 << 20))
        in_staging, more = asyncio.run(_in_staging(site, device, first))
        failures += more
        if _state(device) != before:
            failures.append("what the device trusts or runs has changed")
        failures += _second_deploy(site, device)
        failures += _upgraded(site, device)
    return {
        "tried": over_ssh + as_user + in_staging,
        "over_ssh": over_ssh,
        "as_its_user": as_user,
        "in_staging": in_staging,
        "upgraded_from_one_user": 1,
        "failures": failures,
    }


def _state(device: Namespaced) -> dict[str, bytes]:
    """Return the bytes of what nobody may change; `journal` and metadata grow by what the agent is rightly asked."""
    upper = device.folder / "upper"
    paths = (path for path in KEPT if not path.endswith("journal"))
    return {path: (upper / path.lstrip("/")).read_bytes() for path in paths if "/current/" not in path}


async def _over_ssh(site: Site, device: Namespaced) -> tuple[int, list[str]]:
    attempts = [*_programs(), *_files(), *_ways_through(), *_words()]
    failures = []
    for name, attempt in attempts:
        try:
            async with connected(parse_address(f"edgekd-push@{device.address}"), _keys(site)) as connection:
                if await asyncio.wait_for(attempt(connection), _PATIENCE_S):
                    failures.append(f"over SSH: {name}")
        except asyncio.TimeoutError:
            failures.append(f"over SSH: {name}: no end")
    return len(attempts), failures


_Attempt = tuple[str, Callable[[Any], Awaitable[bool]]]


def _programs() -> list[_Attempt]:
    agent = ["python3", "/opt/edgekd/agent/edgekd-agent.pyz", "--root", _DATA, "status", "--json"]
    asked = [["id", "-u"], ["sh", "-c", "id -u"], ["python3", "-c", "print(0)"], agent, ["scp", "-t", "/"], ["/bin/sh"]]

    def running(words: list[str]) -> Callable[[Any], Awaitable[bool]]:
        async def attempt(connection: Any) -> bool:
            said = await run_words(connection, words)
            return said.exit_code == 0 or "sftp connections only" not in said.stdout

        return attempt

    async def terminal(connection: Any) -> bool:
        return await _is_done(connection.run("id -u", term_type="xterm", request_pty="force"))

    return [*((f"ran {words[0]}", running(words)) for words in asked), ("had a terminal", terminal)]


def _files() -> list[_Attempt]:
    def using(act: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[bool]]:
        async def attempt(connection: Any) -> bool:
            async with connection.start_sftp_client() as sftp:
                return await _is_done(act(sftp))

        return attempt

    async def through_a_link(sftp: Any, path: str) -> None:
        link = "/staging/blobs/link"
        if await sftp.lexists(link):
            await sftp.remove(link)
        await sftp.symlink(path, link)
        await sftp.stat(link)

    found: list[_Attempt] = []
    for path in (*KEPT, "/etc/passwd", "/proc/self/root/etc/passwd", f"/staging/../..{_DATA}/journal"):
        acts: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "seen": lambda sftp, path=path: sftp.stat(path),
            "written": lambda sftp, path=path: sftp.open(path, "wb"),
            "removed": lambda sftp, path=path: sftp.remove(path),
            "reached through a link": lambda sftp, path=path: through_a_link(sftp, path),
            "linked": lambda sftp, path=path: sftp.link(path, "/staging/blobs/hard"),
        }
        found += [(f"{path} {name}", using(act)) for name, act in acts.items()]
    for place in ("/", "/staging", "/agent"):
        found.append((f"{place} written", using(lambda sftp, place=place: sftp.open(f"{place}/x", "wb"))))
        found.append((f"{place} opened up", using(lambda sftp, place=place: sftp.chmod(place, 0o777))))
    for place in ("/staging/blobs", "/staging/metadata", "/agent", "/agent/agent.sock", "/edgekd-agent"):
        found.append((f"{place} renamed", using(lambda sftp, place=place: sftp.posix_rename(place, f"{place}2"))))
        found.append((f"{place} removed", using(lambda sftp, place=place: sftp.remove(place))))
    return found


def _ways_through() -> list[_Attempt]:
    async def reached(opening: Awaitable[Any]) -> bool:
        return await _is_done(opening)

    sockets = ("agent/agent.sock", "/agent/agent.sock", f"{_DATA}/serve.sock", f"{_DOOR}/agent/agent.sock", "/run/x")
    found: list[_Attempt] = [
        (f"socket {path}", lambda connection, path=path: reached(connection.open_unix_connection(path)))
        for path in sockets
    ]
    found += [
        (
            f"port {port} of {host}",
            lambda connection, host=host, port=port: reached(connection.open_connection(host, port)),
        )
        for host, port in (("127.0.0.1", 22), ("127.0.0.1", 8765), ("edgekd-agent", 22), ("::1", 22))
    ]
    found.append(("a port opened", lambda connection: reached(connection.start_server(print, "", 0))))
    found.append(
        ("a socket opened", lambda connection: reached(connection.start_unix_server(print, "/staging/blobs/s")))
    )
    found.append(("a tunnel", lambda connection: reached(connection.open_tun())))
    return found


def _words() -> list[_Attempt]:
    def asking(*words: str) -> Callable[[Any], Awaitable[bool]]:
        async def attempt(connection: Any) -> bool:
            return (await ask_socket(connection, "edgekd-agent", words, "device")).exit_code != 2

        return attempt

    async def shouting(connection: Any) -> bool:
        _, writer = await connection.open_unix_connection("edgekd-agent", encoding=None)
        for _ in range(64):
            writer.write(b"x" * 65536)
        writer.close()
        return (await ask_socket(connection, "edgekd-agent", ("hello",), "device")).exit_code != 0

    asked = [
        ("upgrade", "/staging/blobs/x", "--sha256", "0" * 64, "--into", "/opt/edgekd"),
        ("serve", "--socket", "/staging/blobs/s"),
        ("attend", "--socket", "/staging/blobs/s", "--user", "root"),
        ("recover",),
        ("verify", _DATA),
        ("hello", "--root", "/staging/blobs"),
        ("--root", "/staging/blobs", "hello"),
        ("install",),
        ("install", "--detach", "--confirm-minutes", "0"),
        ("lock", "--owner"),
        ("forgive", "../../etc"),
    ]
    return [*((f"asked {' '.join(words)}", asking(*words)) for words in asked), ("shouted the agent down", shouting)]


async def _is_done(act: Awaitable[Any]) -> bool:
    """Say whether something that must be refused was not."""
    import asyncssh

    try:
        await act
    except (asyncssh.Error, asyncssh.ChannelListenError, OSError):
        return False
    return True


async def _as_user(site: Site, device: Namespaced) -> tuple[int, list[str]]:
    given = json.dumps({"kept": KEPT, "readable": _READABLE, "door": _DOOR, "data": _DATA})
    async with connected(parse_address(f"root@{device.address}"), _keys(site)) as connection:
        said = await asyncio.wait_for(run_words(connection, _as_it("try", given)), _PATIENCE_S)
    try:
        count, done = json.loads(said.stdout)
    except ValueError as error:
        raise RuntimeError(said.stderr) from error
    return count, [f"as its user: {name}" for name in done]


def _as_it(*words: str) -> list[str]:
    number = ["--reuid", "edgekd-push", "--regid", "edgekd-push", "--init-groups", "--no-new-privs"]
    return ["setpriv", *number, "python3", "-c", _INTRUDER.read_text(), *words]


async def _in_staging(site: Site, device: Namespaced, runs: str) -> tuple[int, list[str]]:
    """Lay strange things in the place of a blob and of the timestamp; the agent must refuse each, soon, and say why."""
    parcel = RepositorySource(site.folder / "fleet-repo").parcel(GROUP, root_version=1)
    transport = SshTransport(_keys(site), AgentPlace(), Pauses(give_up_s=30))
    failures, count = [], 0
    address = f"edgekd-push@{device.address}"
    async with (
        transport.session(address, print) as session,
        connected(parse_address(f"root@{device.address}"), _keys(site)) as root,
    ):
        await session.put_metadata(parcel.metadata)
        need = max(needs_from((await session.agent("want")).document, device.name), key=lambda one: one.size_bytes)
        await _rest_pushed(session, parcel, need, device)
        for kind in KINDS:
            began = time.monotonic()
            problem = await _stumbled(session, root, device, kind, need)
            count += 1
            if device.runs() != runs:
                problem = "something else runs"
            if time.monotonic() - began > _PATIENCE_S:
                problem = "it took too long"
            failures += [f"in staging, a blob that is a {kind}: {problem}"] if problem else []
        for kind in KINDS[:-1]:
            count += 1
            problem = await _misled(session, root, kind)
            failures += [f"in staging, a timestamp that is a {kind}: {problem}"] if problem else []
            await _swept(root, f"{_DOOR}/staging/metadata/timestamp.json")
    return count, failures


async def _rest_pushed(session: Session, parcel: Parcel, but: Need, device: Namespaced) -> None:
    for need in needs_from((await session.agent("want")).document, device.name):
        if need.sha256 != but.sha256:
            await session.push(parcel.blobs[need.sha256], need, lambda done, total: None)


async def _stumbled(session: Session, root: Any, device: Namespaced, kind: str, need: Need) -> str:
    place = f"{_DOOR}/staging/blobs/{need.sha256}.part"
    await _laid(root, kind, place, str(need.size_bytes))
    before = _taken_bytes(device)
    wanted = await session.agent("want")
    if wanted.exit_code:
        return f"want ended with {wanted.exit_code}: {wanted.document}"
    answer = await session.agent("install", "--detach")
    while (status := status_from((await session.agent("status")).document, device.name)).is_busy:
        await asyncio.sleep(0.1)
    if answer.exit_code or status.last is None or status.last.kind not in ("damaged", "missing"):
        return f"install: {answer.document}, {status.last}"
    if (more := _taken_bytes(device) - before) > 1 << 20:
        return f"{more} bytes more are taken on the disk"
    if kind == "full folder":
        await _swept(root, place)
    return ""


def _taken_bytes(device: Namespaced) -> int:
    """Return what the agent and staging take of the disk; the disk itself may be shared with others."""
    folders = (device.folder / "upper/var/lib" / name for name in ("edgekd", "edgekd-push"))
    return sum(512 * path.lstat().st_blocks for folder in folders for path in folder.rglob("*"))


async def _misled(session: Session, root: Any, kind: str) -> str:
    await _laid(root, kind, f"{_DOOR}/staging/metadata/timestamp.json", "100000000")
    answer = await session.agent("want")
    return "" if answer.exit_code == 6 else f"want ended with {answer.exit_code}: {answer.document}"


async def _laid(root: Any, kind: str, place: str, size: str) -> None:
    detail = size if kind == "sparse file" else f"{_DATA}/trust/root.json"
    said = await run_words(root, _as_it("lay", kind, place, detail))
    if said.exit_code:
        raise RuntimeError(f"{kind}: {said.stderr}")


async def _swept(root: Any, place: str) -> None:
    await run_words(root, ["rm", "-rf", place, f"{place}2"])


def _second_deploy(site: Site, device: Namespaced) -> list[str]:
    """After all that, the release that was published meanwhile is deployed, and gone back from."""
    wanted = site.publish(models.Recipe(version=3, padding_bytes=1 << 20))
    before = device.runs()
    document, code = site.edgekd("deploy")
    if code or device.runs() != wanted:
        return [f"the next release could not be deployed: {document}"]
    document, code = site.edgekd("rollback", "--all")
    return [] if code == 0 and device.runs() == before else [f"no way back: {document}"]


def _upgraded(site: Site, device: Namespaced) -> list[str]:
    """Make the device what it was with one user, provision it, and deploy to it."""
    runs, generation = device.runs(), _generation(device)
    asyncio.run(_one_user_again(site, device))
    document, code = site.edgekd("provision", "--login", "root")
    problems = [] if code == 0 else [f"the device of one user was not provisioned: {document}"]
    if device.runs() != runs or _generation(device) != generation:
        problems.append("provisioning changed what runs")
    upper = device.folder / "upper"
    if not (upper / "var/lib/edgekd/staging").is_symlink() or (upper / "home/edgekd/.ssh/authorized_keys").exists():
        problems.append("the old login is still there")
    if (upper / "etc/ssh/edgekd_authorized_keys").read_text().count("colleague") != 1:
        problems.append("the key of another operator was lost")
    wanted = site.publish(models.Recipe(version=4))
    document, code = site.edgekd("deploy")
    return problems if code == 0 and device.runs() == wanted else [*problems, f"no deployment after it: {document}"]


def _generation(device: Namespaced) -> list[tuple[str, int]]:
    root = device.folder / "upper/var/lib/edgekd"
    return sorted((str(path), path.lstat().st_ino) for path in (root / "generations").rglob("*"))


_ONE_USER = """\
set -e
old='restrict,command="python3 -I /opt/edgekd/login.py"'
rm -f /etc/systemd/system/edgekd-attend.service
kill "$(cat /run/edgekd-attend.pid)"
sed -i 's|^\\(edgekd:.*\\):[^:]*:[^:]*$|\\1:/home/edgekd:/bin/sh|' /etc/passwd
rm -rf /var/lib/edgekd-push /var/lib/edgekd/staging /etc/ssh/edgekd_authorized_keys /etc/ssh/sshd_config.d/edgekd.conf
userdel edgekd-push
mkdir -p /home/edgekd/.ssh /var/lib/edgekd/staging/blobs /var/lib/edgekd/staging/metadata
touch /opt/edgekd/login.py
printf '%s %s\\n' "$old" "$1" "$old" "ssh-ed25519 AAAA colleague" >/home/edgekd/.ssh/authorized_keys
chown -R edgekd:edgekd /home/edgekd /var/lib/edgekd/staging
"""


async def _one_user_again(site: Site, device: Namespaced) -> None:
    key = (Path(_keys(site).identity or "").with_suffix(".pub")).read_text().strip()
    async with connected(parse_address(f"root@{device.address}"), _keys(site)) as root:
        said = await run_words(root, ["sh", "-c", _ONE_USER, "sh", key])
    if said.exit_code:
        raise RuntimeError(said.stderr)


def _keys(site: Site) -> SshKeys:
    return SshKeys(site.folder / "known_hosts", site.folder.parent / "keys" / "user")


def unavailable() -> str:
    """Say why this cannot be done here; empty when it can."""
    return namespaces.unavailable() or ssh_server.unavailable()
