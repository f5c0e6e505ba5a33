"""The manifest reader accepts exactly the format and names every fault."""

import copy
import json
import os

import pytest
from edgekd_agent import Manifest, ManifestError, manifest_bytes, parse_manifest, read_manifest
from edgekd_agent.reader import MAX_MANIFEST_BYTES
from hypothesis import given, settings
from hypothesis import strategies as st


def _messages(content: bytes) -> str:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(content)
    assert caught.value.problems
    assert all(problem.kind == "manifest" for problem in caught.value.problems)
    return "\n".join(problem.message for problem in caught.value.problems)


def _put(document, keys, value):
    changed = copy.deepcopy(document)
    node = changed
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    return changed


def test_manifest_survives_a_round_trip_byte_for_byte(document, encode):
    manifest = parse_manifest(encode(document))
    assert isinstance(manifest, Manifest)
    assert manifest.targets[0].sm == 87
    assert manifest.build.opt_profile.max == (4, 1, 8, 8)
    assert manifest_bytes(manifest) == encode(document)


def test_manifest_bytes_agree_with_the_canonical_json_of_edgekd(document, encode):
    from edgekd.core.digest import canonical_json

    document["targets"][0]["title"] = "Jétson “Orin” \U0001f600"
    assert manifest_bytes(parse_manifest(encode(document))) == canonical_json(document)


@pytest.mark.parametrize("version", [0, 2, "1", None, True, 1.0])
def test_unknown_schema_version_is_the_only_problem_reported(document, encode, version):
    document["schema_version"] = version
    document["future"] = "field"
    message = _messages(encode(document))
    assert "schema_version" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("keys", "name"),
    [(("extra",), "extra"), (("build", "extra"), "extra"), (("artifacts", 0, "mode"), "mode")],
)
def test_unknown_key_is_refused_at_every_level(document, encode, keys, name):
    assert f"unknown key '{name}'" in _messages(encode(_put(document, keys, 1)))


@pytest.mark.parametrize("section", ["name", "targets", "artifacts", "build", "health", "provenance"])
def test_missing_key_is_refused(document, encode, section):
    del document[section]
    assert f"bundle.{section}: missing" in _messages(encode(document))


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (("version",), "3", "bundle.version: expected int, found str"),
        (("version",), True, "bundle.version: expected int, found bool"),
        (("version",), 0, "version 0 is below 1"),
        (("name",), "../x", "name '../x'"),
        (("name",), "a\n", "name"),
        (("created",), "yesterday", "created 'yesterday'"),
        (("created",), "2026-02-30T12:00:00Z", "created"),
        (("min_agent",), "new", "min_agent"),
        (("targets",), [], "at least one"),
        (("targets",), {}, "expected a list"),
        (("targets", 0, "kind"), "toaster", "'toaster' is none of"),
        (("build",), None, "expected an object, found null"),
        (("build", "strongly_typed"), 1, "expected bool, found int"),
        (("build", "flags"), ["TF32", "TF32"], "build.flags"),
        (("build", "flags"), ["TF32", "REFIT"], "build.flags"),
        (("build", "model"), "other.onnx", "build.model"),
        (("build", "model"), "golden.npz", "build.model"),
        (("build", "workspace_mib"), 0, "workspace_mib"),
        (("build", "opt_profile", "opt"), [5, 1, 8, 8], "opt_profile"),
        (("build", "opt_profile", "min"), [0, 1, 8, 8], "opt_profile"),
        (("build", "opt_profile", "max"), [4, 1, 8], "opt_profile"),
        (("build", "opt_profile", "input_name"), "", "opt_profile"),
        (("health", "golden"), "onnx/model-fp32.onnx", "health.golden"),
        (("health", "metric"), "vibes", "'vibes' is none of"),
        (("health", "tolerance"), -0.1, "tolerance"),
        (("health", "budget_ms"), {"p42": 1.0}, "p42"),
        (("health", "budget_ms"), {"p99": 0.0}, "leaves no time"),
        (("health", "budget_ms"), {"p99": "8"}, "expected float, found str"),
        (("health", "budget_ms"), [], "expected an object"),
        (("health", "warmup"), -1, "warmup"),
        (("health", "max_memory_mib"), 0, "max_memory_mib"),
        (("provenance", "recipe_sha256"), "", "SHA-256"),
        (("provenance", "parents"), ["xyz"], "SHA-256"),
        (("artifacts", 0, "size_bytes"), -1, "size -1"),
        (("artifacts", 0, "size_bytes"), (4 << 30) + 1, "size"),
        (("artifacts", 0, "sha256"), "AB" * 32, "sha256"),
        (("artifacts", 0, "media_type"), "text/plain", "media type"),
        (("artifacts", 0, "role"), "Golden", "role"),
        (("artifacts", 0, "role"), "model-fp32", "a role is given twice"),
    ],
)
def test_wrong_value_is_refused_with_its_name(document, encode, keys, value, words):
    assert words in _messages(encode(_put(document, keys, value)))


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd.json", "../golden.npz", "a/../golden.npz", "a//golden.npz", "./golden.npz", "a/./b.npz", "", "a/",
        "..", "a\\b.npz", "a\0.npz", "golden.npz\n", "~/golden.npz", ".hidden.npz", "C:golden.npz", "gölden.npz",
        "a" * 200 + ".npz",
    ],
)  # fmt: skip
def test_unsafe_path_is_refused(document, encode, path):
    assert "not a plain relative path" in _messages(encode(_put(document, ("artifacts", 0, "path"), path)))


@pytest.mark.parametrize("path", ["weights.pkl", "weights.pt", "run.sh", "plain"])
def test_file_of_a_kind_that_can_carry_code_is_refused(document, encode, path):
    assert "media type" in _messages(encode(_put(document, ("artifacts", 0, "path"), path)))


@pytest.mark.parametrize("path", ["bundle.json", "BUNDLE.JSON"])
def test_manifest_cannot_list_itself(document, encode, path):
    assert "does not list itself" in _messages(encode(_put(document, ("artifacts", 0, "path"), path)))


@pytest.mark.parametrize("path", ["golden.npz", "GOLDEN.npz"])
def test_repeated_path_is_refused(document, encode, path):
    document["artifacts"].insert(0, {**document["artifacts"][0], "path": path, "role": "again"})
    assert "a path is given twice" in _messages(encode(document))


def test_unsorted_artifacts_are_refused(document, encode):
    document["artifacts"].reverse()
    assert "not sorted" in _messages(encode(document))


def test_too_many_files_and_too_many_bytes_are_refused(document, encode):
    one = document["artifacts"][0]
    document["artifacts"] = [{**one, "path": f"f{i:04}.npz", "role": f"r{i}"} for i in range(257)]
    assert "at most 256" in _messages(encode(document))
    document["artifacts"] = [{**one, "path": f"f{i}.npz", "role": f"r{i}", "size_bytes": 4 << 30} for i in range(3)]
    assert f"{12 << 30} bytes, at most {8 << 30}" in _messages(encode(document))


def test_every_problem_is_reported_at_once(document, encode):
    document.update(version=0, created="?", min_agent="?")
    assert len(_messages(encode(document)).splitlines()) == 3


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a":1,"a":2}', b'{"a":NaN}', b'{"a":1e999}', b"[" * 100_000,
        b'{"schema_version":' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_bytes_that_are_not_strict_json_are_refused(content):
    assert _messages(content)


def test_repeated_key_is_refused_even_with_equal_values(document, encode):
    content = encode(document).replace(b'"version":3', b'"version":3,"version":3')
    assert "twice" in _messages(content)


def test_non_canonical_spelling_is_refused(document, encode):
    assert "canonical" in _messages(json.dumps(document).encode())
    assert "canonical" in _messages(encode(document) + b"\n")
    assert "canonical" in _messages(encode(document).replace(b'"warmup":20', b'"warmup":2e1'))


def test_whole_number_is_read_as_float_where_a_float_belongs(document, encode):
    document["health"]["tolerance"] = 1
    assert parse_manifest(encode(document)).health.tolerance == 1.0
    document["health"]["tolerance"] = 10**400
    assert "tolerance" in _messages(encode(document))


def test_key_that_no_encoder_can_print_is_escaped(document, encode):
    document["\ud800\x1b[31m"] = 1
    message = _messages(encode(document))
    assert message.isprintable()


def test_read_manifest_refuses_links_folders_and_endless_files(bundle, tmp_path):
    (tmp_path / "link.json").symlink_to(bundle / "bundle.json")
    (tmp_path / "long.json").write_bytes(b" " * (MAX_MANIFEST_BYTES + 1))
    os.mkfifo(tmp_path / "fifo.json")
    for name, words in [
        ("link.json", "cannot be read"), ("long.json", "longer than"), ("fifo.json", "not a regular file"),
        ("absent.json", "cannot be read"), (".", "not a regular file"),
    ]:  # fmt: skip
        with pytest.raises(ManifestError, match=words):
            read_manifest(tmp_path / name)
    assert read_manifest(bundle / "bundle.json").version == 3


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_manifest_is_refused_or_says_something_else(valid_bytes, data):
    """Any change of any byte is either refused or is a different manifest; never an unexpected exception."""
    position = data.draw(st.integers(0, len(valid_bytes) - 1))
    content = valid_bytes[:position] + bytes([data.draw(st.integers(0, 255))]) + valid_bytes[position + 1 :]
    try:
        manifest = parse_manifest(content)
    except ManifestError:
        return
    assert manifest_bytes(manifest) == content


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(value=json_values, path=st.sampled_from(["targets", "artifacts", "build", "health", "provenance", "name"]))
def test_arbitrary_json_in_any_section_never_escapes_as_another_exception(valid_bytes, value, path):
    document = json.loads(valid_bytes)
    document[path] = value
    try:
        parse_manifest(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())
    except ManifestError as error:
        assert error.problems
