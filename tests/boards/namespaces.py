"""A network namespace for a pretended board: its server is reached through a virtual cable, as over a network."""

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

_COUNT = itertools.count(1)


def unavailable() -> str:
    """Say why there are none here; empty when there are."""
    if os.getuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "nsenter") if not shutil.which(name)]
    return f"{' and '.join(missing)} not installed" if missing else ""


@contextmanager
def namespace() -> Iterator[tuple[str, list[str]]]:
    """Yield the address in a new namespace, and the words that a command to be run there begins with."""
    number = next(_COUNT)
    name, cable = f"edgekd-board-{os.getpid()}-{number}", f"eb{os.getpid() % 10000}-{number % 1000}"
    subnet = f"10.214.{os.getpid() % 250}.{4 * (number % 60)}".rpartition(".")
    here, there = (f"{subnet[0]}.{int(subnet[2]) + host}" for host in (1, 2))
    enter = ["nsenter", f"--net=/run/netns/{name}"]  # `ip netns exec` would leave this machine's mounts behind, too
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for words in (
            ["link", "add", cable, "type", "veth", "peer", "name", f"{cable}f", "netns", name],
            ["addr", "add", f"{here}/30", "dev", cable],
            ["link", "set", cable, "up"],
            ["-n", name, "addr", "add", f"{there}/30", "dev", f"{cable}f"],
            ["-n", name, "link", "set", f"{cable}f", "up"],
            ["-n", name, "link", "set", "lo", "up"],
        ):
            subprocess.run(["ip", *words], check=True)
        yield there, enter
    finally:
        subprocess.run(["ip", "link", "del", cable], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", name], check=False)
