"""A stand-in for the agent that believes everything: it only counts blocks, takes blobs, and remembers an operator."""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

BLOCK_BYTES = 8 << 20


def main(words):
    root = Path(words[words.index("--root") + 1])
    rest = [word for word in words[words.index("--root") + 2 :] if word != "--json"]
    with open(root / "calls", "a") as calls:
        calls.write(" ".join(rest) + "\n")
    try:
        document, code = globals()[f"do_{rest[0]}"](root, *rest[1:]), 0
    except SystemExit as end:
        document, code = {"error": {"kind": "failed", "message": str(end.code)}}, 1
    print(json.dumps({"schema_version": 1, **document}))
    return code


def read(path, otherwise=None):
    return json.loads(path.read_text()) if path.exists() else otherwise


def do_hello(root):
    device = read(root / "device.json")
    document = {"agent": "0.1.0", "device_id": device["device_id"], "group": device["group"], "root_version": 1}
    return {**document, "free_bytes": 1 << 30, "state": "idle", "current": read(root / "current"), "facts": {}}


def do_want(root):
    desired = read(root / "staging" / "metadata" / "desired.json")
    missing = []
    for sha256, size_bytes in desired["blobs"].items():
        if not (root / "blobs" / sha256).exists():
            part = root / "staging" / "blobs" / f"{sha256}.part"
            missing.append({"sha256": sha256, "size_bytes": size_bytes, "blocks": blocks_of(part, size_bytes)})
    current = read(root / "current")
    bad = read(root / "bad", {}).get(desired["release"]["bundle_sha256"])
    return {"release": desired["release"], "is_current": current == desired["release"], "bad": bad, "missing": missing}


def blocks_of(part, size_bytes):
    if not part.exists():
        return []
    with open(root_log(part), "a") as log:
        log.write(f"{part.stat().st_size}\n")
    found = []
    with open(part, "rb") as stream:
        while len(block := stream.read(BLOCK_BYTES)) == BLOCK_BYTES:
            found.append(hashlib.sha256(block).hexdigest())
    return found


def root_log(part):
    return part.with_suffix(".sizes")


def do_install(root, *flags):
    desired = read(root / "staging" / "metadata" / "desired.json")
    for sha256, size_bytes in desired["blobs"].items():
        part = root / "staging" / "blobs" / f"{sha256}.part"
        if not part.exists():
            continue
        content = part.read_bytes()
        if len(content) != size_bytes or hashlib.sha256(content).hexdigest() != sha256:
            raise SystemExit(f"{sha256} is damaged")
        (root / "blobs").mkdir(exist_ok=True)
        os.replace(part, root / "blobs" / sha256)
    (root / "current").write_text(json.dumps(desired["release"]))
    return {"result": "started"}


def do_status(root):
    operator = read(root / "operator")
    document = {
        "state": "idle",
        "is_busy": False,
        "current": read(root / "current"),
        "previous": None,
        "candidate": None,
        "last": None,
    }
    return {**document, "progress": {}, "operator": operator}


def do_lock(root, flag, owner):
    holder = read(root / "operator")
    if holder and holder["owner"] != owner:
        raise SystemExit(f"reserved by {holder['owner']} for {int(time.time() - holder['since_s'])} s")
    (root / "operator").write_text(json.dumps({"owner": owner, "since_s": time.time()}))
    return {}


def do_unlock(root, flag, owner):
    (root / "operator").unlink(missing_ok=True)
    return {}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
