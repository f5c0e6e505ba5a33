"""Registry, error messages, digests and seeds."""

import hashlib

import numpy as np
import pytest

from edgekd.core import digest
from edgekd.core.errors import BundleError, ConfigError, EdgeKDError, ExitCode, missing_package, unknown_name
from edgekd.core.registry import Registry
from edgekd.core.seeds import derive_seed


def test_registry_refuses_duplicates_and_lists_near_names():
    registry = Registry("student family")
    registry.add("resnet", 1)
    registry.register("repvgg")(2)
    assert (registry["resnet"], registry["repvgg"], list(registry), len(registry)) == (1, 2, ["repvgg", "resnet"], 2)
    with pytest.raises(ValueError, match="twice"):
        registry.add("resnet", 3)
    with pytest.raises(ConfigError, match="unknown student family 'resnets'; did you mean resnet"):
        registry["resnets"]


def test_unknown_name_lists_everything_when_nothing_is_near():
    assert "known: a, b" in str(unknown_name("thing", "zzzz", ["b", "a"]))


def test_errors_carry_their_documented_exit_codes():
    assert ConfigError("x").exit_code == 2
    assert BundleError("x").exit_code == 6
    assert missing_package("timm", "timm", "this").exit_code == 5
    assert EdgeKDError("x").exit_code == 1
    assert [code.value for code in ExitCode] == [0, 1, 2, 3, 4, 5, 6, 130]


def test_missing_package_says_what_to_install():
    assert "pip install 'edgekd[rtx]'" in str(missing_package("tensorrt_rtx", "rtx", "building"))


def test_sha256_of_file_equals_hashlib_over_several_blocks(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "f").write_bytes(content)
    assert digest.sha256_of_file(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_sha256_of_json_ignores_key_order_and_refuses_nan():
    assert digest.sha256_of_json({"a": 1, "b": 2}) == digest.sha256_of_json({"b": 2, "a": 1})
    with pytest.raises(ValueError):
        digest.sha256_of_json(float("nan"))


def test_sha256_of_arrays_sees_names_dtypes_shapes_and_values():
    base = digest.sha256_of_arrays({"x": np.zeros((2, 3), np.float32)})
    others = [
        {"y": np.zeros((2, 3), np.float32)},
        {"x": np.zeros((3, 2), np.float32)},
        {"x": np.zeros((2, 3), np.int32)},
        {"x": np.ones((2, 3), np.float32)},
    ]
    assert len({base, *map(digest.sha256_of_arrays, others)}) == 5


def test_derive_seed_is_fixed_and_separates_names():
    assert derive_seed(0, "order", 1) == int(hashlib.sha256(b"0/order/1").hexdigest()[:16], 16) >> 1
    assert len({derive_seed(0), derive_seed(1), derive_seed(0, "a"), derive_seed(0, "b"), derive_seed(0, "a", 1)}) == 5
    assert all(0 <= derive_seed(seed, "x") < 2**63 for seed in range(100))
