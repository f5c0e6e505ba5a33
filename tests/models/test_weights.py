import dataclasses
import os
import pickle
from pathlib import Path

import pytest
import safetensors
import torch
from torch import nn

from edgekd.core.errors import ConfigError, StorageError
from edgekd.models import build, load_weights, save_weights, spec_for, starting_weights


def small(*, width=4, num_classes=3, seed=0):
    torch.manual_seed(seed)
    spec = spec_for(
        "resnet", depth=8, width=width, in_channels=1, num_classes=num_classes, resolution=8, mean=(0.5,), std=(0.3,)
    )
    return build(spec)


def bare_state(module):
    return {name.removeprefix("net."): value for name, value in module.state_dict().items()}


def assert_same_weights(first, second):
    mine, theirs = first.state_dict(), second.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_saved_weights_load_bit_for_bit(tmp_path):
    source, target = small(seed=1), small(seed=2)
    source(torch.rand(4, 1, 8, 8))
    file = save_weights(source, tmp_path / "deep" / "w.safetensors", {"method": "kd", "seed": "1"})
    load_weights(target, tmp_path / "deep" / "w.safetensors")
    assert_same_weights(source, target)
    assert file.is_intact()
    with safetensors.safe_open(file.path, framework="pt") as stored:
        assert stored.metadata() == {"method": "kd", "seed": "1"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["w.safetensors"]


def test_equal_content_gives_equal_bytes(tmp_path):
    facts = {f"fact{index}": str(index) for index in range(9)}
    digests = {
        save_weights(
            small(), tmp_path / f"{index}.safetensors", facts if index % 2 else dict(reversed(facts.items()))
        ).sha256
        for index in range(6)
    }
    assert len(digests) == 1


def test_shared_and_transposed_tensors_are_saved(tmp_path):
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    module[0].bias = nn.Parameter(torch.rand(3, 3).T[0])
    save_weights(module, tmp_path / "w.safetensors", {})
    target = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    load_weights(target, tmp_path / "w.safetensors")
    assert_same_weights(module, target)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".th"])
@pytest.mark.parametrize("is_nested", [True, False])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_pickled_state_dicts_load_in_every_form(tmp_path, suffix, is_nested, prefix):
    source, target = small(seed=1), small(seed=2)
    state = {f"{prefix}{name}": value for name, value in bare_state(source).items() if "num_batches" not in name}
    path = tmp_path / f"w{suffix}"
    torch.save({"best_prec1": 91.7, "state_dict": state} if is_nested else state, path)
    load_weights(target, path)
    assert_same_weights(source, target)


def test_weights_of_a_wrapped_network_load_into_a_wrapped_one_from_pickle(tmp_path):
    source, target = small(seed=1), small(seed=2)
    torch.save({f"module.{name}": value for name, value in source.state_dict().items()}, tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    assert_same_weights(source, target)


def test_weights_of_another_network_are_refused_with_every_difference(tmp_path):
    module, before = small(), small()
    state = bare_state(small(seed=3, num_classes=5))
    del state["bn1.weight"]
    state["fc.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ConfigError) as caught:
        load_weights(module, tmp_path / "w.pt")
    message = str(caught.value)
    assert "missing: bn1.weight\n" in message
    assert "unexpected: fc.weight\n" in message
    assert "other shape: linear.weight (file [5, 16], network [3, 16])" in message
    assert_same_weights(module, before)


def test_long_lists_of_differences_are_cut(tmp_path):
    torch.save({f"w{index}": torch.zeros(1) for index in range(11)}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"unexpected: w0, .* and 3 more"):
        load_weights(small(), tmp_path / "w.pt")


def test_missing_running_statistics_are_not_forgiven(tmp_path):
    state = bare_state(small())
    del state["bn1.running_mean"]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"missing: bn1\.running_mean$"):
        load_weights(small(), tmp_path / "w.pt")


@dataclasses.dataclass
class Payload:
    marker: str

    def __reduce__(self):
        return (os.system, (f"touch {self.marker}",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("writer", [torch.save, lambda payload, path: path.write_bytes(pickle.dumps(payload))])
def test_code_in_a_pickle_never_runs(tmp_path, writer):
    marker, path = tmp_path / "ran", tmp_path / "w.pth"
    writer({"state_dict": Payload(str(marker))}, path)
    with pytest.raises(StorageError, match="never unpickles"):
        load_weights(small(), path)
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 7, 300, -40])
def test_truncated_files_are_reported_as_damaged(tmp_path, suffix, kept):
    source, path = small(), tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(source.state_dict(), path)
    else:
        save_weights(source, path, {})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(StorageError, match="damaged"):
        load_weights(small(), path)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([torch.zeros(1)], "expected a state dict, found list"),
        ({}, "expected a state dict, found dict"),
        ({"conv1.weight": torch.zeros(1), "epoch": 3}, "not tensors: epoch"),
    ],
)
def test_other_documents_are_refused(tmp_path, document, words):
    torch.save(document, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=words):
        load_weights(small(), tmp_path / "w.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    module, before, broken = small(), small(), small(seed=4)
    broken.get_submodule("net.bn1").weight.data[1] = value
    save_weights(broken, tmp_path / "w.safetensors", {})
    with pytest.raises(StorageError, match=r"NaN or infinite values: net\.bn1\.weight"):
        load_weights(module, tmp_path / "w.safetensors")
    assert_same_weights(module, before)


def test_wrong_paths_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_weights(small(), tmp_path / "absent.pt")
    (tmp_path / "w.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"expected a file ending in \.safetensors"):
        load_weights(small(), tmp_path / "w.bin")
    with pytest.raises(ConfigError, match=r"written as \.safetensors"):
        save_weights(small(), tmp_path / "w.pt", {})
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(StorageError, match="cannot be read"):
        load_weights(small(), tmp_path / "folder.pt")


def test_unwritable_place_is_reported_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        save_weights(small(), tmp_path / "file" / "w.safetensors", {})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_starting_weights_are_those_of_the_file_and_a_classifier_for_other_classes_stays_out(tmp_path):
    source = small(num_classes=3, seed=1)
    path = tmp_path / "w.safetensors"
    save_weights(source, path, {})
    same = starting_weights(small(), path, head=("net.linear",))
    assert same.keys() == source.state_dict().keys()
    assert all(torch.equal(same[name], value) for name, value in source.state_dict().items())
    other = starting_weights(small(num_classes=5), path, head=("net.linear",))
    assert same.keys() - other.keys() == {"net.linear.weight", "net.linear.bias"}
    assert all(torch.equal(other[name], source.state_dict()[name]) for name in other)


def test_starting_weights_may_lack_a_classifier_and_be_those_of_the_bare_network(tmp_path):
    source = small(seed=1)
    headless = {name: value for name, value in bare_state(source).items() if not name.startswith("linear.")}
    torch.save({"state_dict": headless}, tmp_path / "w.pth")
    found = starting_weights(small(), tmp_path / "w.pth", head=("net.linear",))
    assert found.keys() == {f"net.{name}" for name in headless}
    assert all(torch.equal(found[f"net.{name}"], value) for name, value in headless.items())


def test_starting_weights_of_another_architecture_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(small(width=8), path, {})
    with pytest.raises(ConfigError, match=r"does not hold the weights of this network\n  other shape: conv1"):
        starting_weights(small(width=4), path, head=("net.linear",))
    with pytest.raises(ConfigError, match="no such file"):
        starting_weights(small(), tmp_path / "none.safetensors", head=("net.linear",))


def test_a_refused_pickle_is_told_in_one_message(tmp_path, recwarn):
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"w": Path("x")}, protocol=4))
    with pytest.raises(StorageError, match="which edgekd never unpickles"):
        load_weights(small(), tmp_path / "w.pth")
    assert [str(one.message) for one in recwarn] == []
