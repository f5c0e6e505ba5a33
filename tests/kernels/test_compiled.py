"""Every Triton kernel compiled for real GPUs, on a machine that has none: no spills, memory that fits, no TF32.

The full product of configurations and architectures is `python tools/bench/kernel_resources.py --check`; here each
configuration is compiled for one architecture, the largest ones for two more. What compiling cannot show: races, and
addresses that go wrong.
"""

import dataclasses

import pytest

pytest.importorskip("triton")

import kernel_resources

GOOD = kernel_resources.Resources("f", "k", "fp32", "", 86, 40, 0, 0, 0, 99 * 1024, False, True, 0, False)


@pytest.fixture(scope="module")
def process():
    with kernel_resources.compiler() as pool:
        yield pool


@pytest.mark.parametrize("sm", kernel_resources.ARCHITECTURES)
@pytest.mark.parametrize("family", kernel_resources.families())
def test_kernels_compile_without_spills_or_tf32_and_fit_shared_memory(process, family, sm):
    indices = kernel_resources.sample(family, sm)
    found = process.submit(kernel_resources.compiled, family, indices, sm).result()
    assert len(found) == len(indices)
    assert [problem for resources in found for problem in resources.problems()] == []


@pytest.mark.parametrize("family", kernel_resources.families())
def test_every_variant_has_its_turn(family):
    everything = set(range(len(kernel_resources.variants(family))))
    assert set().union(*(kernel_resources.sample(family, sm) for sm in kernel_resources.ARCHITECTURES)) == everything


@pytest.mark.parametrize(
    "change, words",
    [
        ({"stack_bytes": 8, "spill_stores_bytes": 4}, "spills 4 bytes, loads 0 back"),
        ({"stack_bytes": 8, "spill_loads_bytes": 8}, "spills 0 bytes, loads 8 back"),
        ({"shared_bytes": 99 * 1024 + 1}, "is the limit"),
        ({"has_tf32": True}, "TF32"),
        ({"half_products": 1}, "without tensor cores"),
    ],
)
def test_each_rule_can_be_broken(change, words):
    assert GOOD.problems() == []
    (problem,) = dataclasses.replace(GOOD, **change).problems()
    assert words in problem


def test_the_table_has_the_most_of_each_kernel_on_each_architecture():
    more = dataclasses.replace(GOOD, registers=90, spill_stores_bytes=4, spill_loads_bytes=8)
    other = dataclasses.replace(GOOD, sm=90, stack_bytes=16)
    first, second = kernel_resources.most_of([GOOD, other, more])
    assert (first.kernel, first.sm, first.configurations, first.registers, first.spilled_bytes) == ("k", 86, 2, 90, 12)
    assert (second.sm, second.configurations, second.stack_bytes, second.shared_bytes) == (90, 1, 16, 99 * 1024)


def test_a_stack_without_spills_breaks_no_rule():
    assert dataclasses.replace(GOOD, stack_bytes=8).problems() == []
