"""Anything at all given to the parsers: they answer with a value or with their one declared error.

The inputs are those of hypothesis: bytes, JSON of any shape, and valid documents with any part replaced.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekd_agent import ManifestError, manifest_bytes, parse_manifest
from edgekd_agent.archive import unpack
from edgekd_agent.trust import TrustError, desired_bytes, parse_desired, parse_device
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tuf_device import TrustingDevice
from tuf_repository import BOARD, DEVICE, Repository, canonical, sample_bundle

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["", "..", "/etc", "1.0", "0" * 64, "2026-01-31T12:00:00Z", BOARD, "canary", "root", "\ud800"])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
DESIRED = {
    "schema_version": 1,
    "group": "canary",
    "name": "digits",
    "version": 3,
    "bundle_sha256": "ab" * 32,
    "bundle_size_bytes": 1000,
    "selectors": [{"device": BOARD}],
}
DEVICE_FILE = {"schema_version": 1, "device_id": "robot-7", "group": "canary", "selector": {"device": BOARD}}


@st.composite
def documents(draw: st.DrawFn, valid: Any) -> bytes:
    """Draw bytes: noise, JSON of any shape, or `valid` with one place replaced, removed or damaged."""
    kind = draw(st.sampled_from(["noise", "json", "replaced", "removed", "damaged"]))
    if kind == "noise":
        return draw(st.binary(max_size=200))
    if kind == "json":
        return _encoded(draw(JSON))
    document = copy.deepcopy(valid)
    node, key = _place(draw, document)
    if kind == "removed":
        del node[key]
    elif kind == "replaced":
        node[key] = draw(JSON)
    content = _encoded(document)
    if kind == "damaged":
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(len(content), start + 8)))
        return content[:start] + draw(st.binary(max_size=8)) + content[end:]
    return content


def _place(draw: st.DrawFn, document: Any) -> tuple[Any, Any]:
    """Walk from the top to some place inside."""
    node, key = document, draw(st.sampled_from(sorted(document)))
    while isinstance(node[key], dict | list) and node[key] and draw(st.booleans()):
        node = node[key]
        key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
    return node, key


def _encoded(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("utf-8", "surrogatepass")


def manifest_is_read_or_refused(content: bytes) -> bool:
    """Read a `bundle.json`; return whether it was accepted. What was accepted is written back byte for byte."""
    try:
        manifest = parse_manifest(content)
    except ManifestError as error:
        if not error.problems or not all(problem.message for problem in error.problems):
            raise AssertionError("refused without a reason") from error
        return False
    if json.loads(manifest_bytes(manifest)) != json.loads(content):
        raise AssertionError("accepted as something else than it says")
    return True


def desired_is_read_or_refused(content: bytes) -> bool:
    """Read a desired state; return whether it was accepted."""
    try:
        desired = parse_desired(content)
    except TrustError as error:
        return _reason(error)
    if desired_bytes(desired) != content:
        raise AssertionError("accepted as something else than it says")
    return True


def device_is_read_or_refused(content: bytes) -> bool:
    """Read a `device.json`; return whether it was accepted."""
    try:
        device = parse_device(content)
    except TrustError as error:
        return _reason(error)
    if device.device_id != json.loads(content)["device_id"]:
        raise AssertionError("accepted as something else than it says")
    return True


def archive_is_read_or_refused(content: bytes) -> bool:
    """Unpack a tar; return whether it was accepted."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "bundle.tar"
        archive.write_bytes(content)
        (Path(folder) / "out").mkdir()
        try:
            unpack(archive, Path(folder) / "out")
        except ManifestError:
            return False
        return True


def _reason(error: TrustError) -> bool:
    if error.kind != "schema" or not error.message:
        raise AssertionError(f"refused as {error.kind}: {error.message}") from error
    return False


class Metadata:
    """Metadata files of any content, signed where a signature is needed to be read at all.

    Args:
        folder: A folder for a device.
    """

    def __init__(self, folder: Path) -> None:
        self._repository = Repository(sample_bundle())
        self._files = self._repository.pour()
        self._device = TrustingDevice(folder, DEVICE)
        others = json.loads(self._files["1.fleet.json"])["signed"]["targets"]["fleet/desired.json"]["hashes"]["sha256"]
        read = self._files.keys() - {"1.fleet.json", f"{others}.desired.json"}
        self.valid = {name: json.loads(self._files[name]) for name in sorted(read)}

    def is_read_or_refused(self, name: str, content: bytes) -> bool:
        """Bring one file with other content; return whether the device accepted it: only the same content may be."""
        self._device.provision(self._repository.roots[1])
        self._device.push({**self._files, name: content})
        try:
            self._device.ask()
        except TrustError:
            return False
        if content != self._files[name]:
            raise AssertionError(f"{name} was accepted with other content")
        return True

    def signed_timestamp(self, document: Any) -> bytes:
        """Return a timestamp of any content with a good signature by the right key."""
        from securesystemslib.formats import encode_canonical

        signer = self._repository.signers["timestamp"][0]
        try:
            payload = encode_canonical(document).encode("utf-8")
        except Exception:
            return _encoded({"signed": document, "signatures": []})
        signature = signer.sign(payload)
        return canonical({"signed": document, "signatures": [signature.to_dict()]})

    def signed_is_read_or_refused(self, content: bytes) -> bool:
        """Bring a timestamp that its own key signed; return whether it was accepted."""
        self._device.provision(self._repository.roots[1])
        self._device.push({**self._files, "timestamp.json": content})
        try:
            self._device.ask()
        except TrustError:
            return False
        return True


def run(scratch: Path, *, examples: int = 5000, **_: Any) -> dict[str, Any]:
    """Give the parsers any number of inputs.

    Args:
        scratch: A folder for a device.
        examples: Inputs for each parser; metadata get a tenth.

    Returns:
        Number of inputs and of those accepted by parser, and how many parsers did anything else, with an input for it.
    """
    metadata = Metadata(scratch / "device")
    names = sorted(metadata.valid)
    signed = metadata.valid["timestamp.json"]["signed"]
    strange = st.sampled_from(names).flatmap(lambda name: st.tuples(st.just(name), documents(metadata.valid[name])))
    own = documents(signed).map(lambda content: metadata.signed_timestamp(_decoded(content)))
    tar = st.binary(max_size=1 << 11)
    few = max(examples // 10, 1)
    found = {
        "bundle.json": _tried(manifest_is_read_or_refused, documents(json.loads(sample_bundle())), examples),
        "desired.json": _tried(desired_is_read_or_refused, documents(DESIRED), examples),
        "device.json": _tried(device_is_read_or_refused, documents(DEVICE_FILE), examples),
        "tar": _tried(archive_is_read_or_refused, tar, few),
        "metadata": _tried(lambda item: metadata.is_read_or_refused(*item), strange, few),
        "signed timestamp": _tried(metadata.signed_is_read_or_refused, own, few),
    }
    return {
        "inputs": sum(one["inputs"] for one in found.values()),
        "failures": sum(bool(one["unexpected"]) for one in found.values()),
        "by_parser": found,
    }


def _decoded(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode("latin-1")


def _tried(parser: Callable[[Any], bool], inputs: st.SearchStrategy[Any], examples: int) -> dict[str, Any]:
    tried = accepted = 0

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(content=inputs)
    def every_input(content: Any) -> None:
        nonlocal tried, accepted
        tried += 1
        accepted += parser(content)

    unexpected = ""
    try:
        every_input()
    except Exception as error:
        unexpected = f"{type(error).__name__}: {error} {getattr(error, '__notes__', '')}"
    return {"inputs": tried, "accepted": accepted, "unexpected": unexpected}
