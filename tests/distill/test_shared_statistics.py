"""A batch norm of two processes is torch's own of the whole batch: outputs, gradients, and gradients of gradients."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from tests.distill.test_ranks import in_two_processes

CHILD = Path(__file__).with_name("statistics_child.py")
SHAPES = {2: (6, 5), 3: (6, 5, 7), 4: (6, 16, 3, 5), 5: (4, 3, 2, 3, 2)}
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
# Relative to the largest number; a sixteen-bit result is rounded once.
CLOSE = {"float64": 1e-12, "float32": 2e-6, "bfloat16": 3.95e-3}
CASES = {
    f"{dims}d-{dtype}-{layout}{'' if affine else '-plain'}": {
        "dims": dims, "dtype": dtype, "layout": layout, "affine": affine, "momentum": None if affine else 0.3
    }
    for dims, dtype, layout, affine in product(SHAPES, DTYPES, ("first", "last"), (True, False))
    if layout == "first" or dims == 4
}  # fmt: skip
OF_ROWS = {"outputs", "of_inputs", "again_of_inputs", "twice_of_inputs", "twice_of_slopes"}
OF_ALL = {"mean", "variance"}
BY_PROCESS = {"of_weight", "of_bias", "again_of_weight", "again_of_bias", "twice_of_weight"}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What two processes found, put together, and what was given, for each case."""
    folder = tmp_path_factory.mktemp("statistics")
    random = torch.Generator().manual_seed(1)
    given = {}
    for name, case in CASES.items():
        shape, dtype = SHAPES[case["dims"]], DTYPES[case["dtype"]]
        # Far from zero and unlike from row to row: the two halves have means of their own.
        inputs = torch.randn(shape, generator=random).double() * 2 + 3
        inputs += torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1))
        slopes = torch.randn(shape, generator=random).double()
        affine = {name: torch.rand(shape[1], generator=random).double() + 0.5 for name in ("weight", "bias")}
        wide = torch.float64 if dtype is torch.float64 else torch.float32
        given[name] = {"inputs": inputs.to(dtype), "slopes": slopes.to(dtype)}
        given[name] |= {key: value.to(wide) for key, value in affine.items()}
        save_file(given[name], folder / f"{name}.safetensors")
    (folder / "cases.json").write_text(json.dumps(CASES))
    in_two_processes([folder], child=CHILD)
    parts = {name: [load_file(folder / f"{name}-rank{rank}.safetensors") for rank in (0, 1)] for name in CASES}
    return given, {name: _together(*pair) for name, pair in parts.items()}


def _together(one, other):
    assert all(torch.equal(one[name], other[name]) for name in OF_ALL)
    whole = {name: torch.cat([one[name], other[name]]) for name in OF_ROWS}
    return whole | {name: one[name] + other[name] for name in BY_PROCESS & set(one)} | {n: one[n] for n in OF_ALL}


def _expected(case, given):
    """The same by torch's own batch norm of the whole batch in 64 bits."""
    exact = {name: value.double().clone().requires_grad_() for name, value in given.items()}
    weight, bias = (exact["weight"], exact["bias"]) if case["affine"] else (None, None)
    channels = exact["inputs"].shape[1]
    mean, variance = torch.zeros(channels).double(), torch.ones(channels).double()
    share = 1.0 if case["momentum"] is None else case["momentum"]
    outputs = functional.batch_norm(exact["inputs"], mean, variance, weight, bias, training=True, momentum=share)
    learned = [exact["inputs"]] + ([weight, bias] if case["affine"] else [])
    first = torch.autograd.grad(outputs, learned, exact["slopes"], create_graph=True)
    penalty = sum(gradient.square().sum() for gradient in first[:2])
    second = torch.autograd.grad(penalty, [exact["inputs"], exact["slopes"], *learned[1:2]])
    named = {"outputs": outputs, "variance": variance, "mean": mean}
    named |= dict(zip(["of_inputs", "of_weight", "of_bias"], first, strict=False))
    named |= dict(zip(["again_of_inputs", "again_of_weight", "again_of_bias"], first, strict=False))
    return named | dict(zip(["twice_of_inputs", "twice_of_slopes", "twice_of_weight"], second, strict=False))


@pytest.mark.parametrize("name", CASES)
def test_two_processes_normalise_as_one_does_with_all_rows(found, name):
    given, together = found[0][name], found[1][name]
    expected = _expected(CASES[name], given)
    assert set(together) == set(expected)
    assert together["outputs"].dtype == together["of_inputs"].dtype == given["inputs"].dtype
    off = {
        key: (together[key].double() - value).abs().max().item() / value.abs().max().clamp(min=1e-3).item()
        for key, value in expected.items()
    }
    # Gradients of gradients cancel: their errors are those of larger numbers, and sixteen bits are left out of them.
    twice = {key: off.pop(key) for key in sorted(off) if key.startswith("twice")}
    assert {key: value for key, value in off.items() if value > CLOSE[CASES[name]["dtype"]]} == {}
    if CASES[name]["dtype"] != "bfloat16":
        assert {key: value for key, value in twice.items() if value > 20 * CLOSE[CASES[name]["dtype"]]} == {}
