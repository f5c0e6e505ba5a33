"""Whose fault it is when an engine fails: that of the inputs, or of the release."""

from types import SimpleNamespace

import numpy as np
import pytest
from edgekd_agent.engine.running import Refused
from edgekd_agent.serve.holding import BadRequest, Held

TABLE = np.eye(4, dtype=np.float32)
GOLDEN = np.array([[1, 2]])


class Lookup:
    """Sums rows of a table, as a network of texts does with the numbers of tokens."""

    input_name = "tokens"
    input_dtype = np.dtype(np.int64)
    is_broken = False

    def run(self, inputs):
        if self.is_broken or inputs.max() >= len(TABLE):
            raise Refused("health", f"indices element out of data bounds, idx={inputs.max()}")
        return {"logits": TABLE[inputs].sum(axis=1)}


@pytest.fixture
def held():
    build = SimpleNamespace(opt_profile=SimpleNamespace(min=(1, 2), max=(8, 2)))
    health = SimpleNamespace(metric="max_abs", tolerance=1e-6)
    generation = SimpleNamespace(manifest=SimpleNamespace(build=build, health=health))
    return Held(generation, Lookup(), (GOLDEN, TABLE[GOLDEN].sum(axis=1)))


def test_tokens_that_are_in_no_table_are_the_clients_fault_while_golden_inputs_are_answered(held):
    assert held.infer(np.array([[3, 3]]))["logits"].tolist() == [[0.0, 0.0, 0.0, 2.0]]
    with pytest.raises(BadRequest, match="does not take these tokens: .*idx=9"):
        held.infer(np.array([[0, 9]]))


def test_an_engine_that_fails_on_golden_inputs_too_is_at_fault_itself(held):
    held.engine.is_broken = True
    assert "out of data bounds" in held.self_test()
    with pytest.raises(Refused):
        held.infer(np.array([[0, 1]]))


def test_pictures_on_which_an_engine_fails_are_never_the_clients_fault(held):
    held.engine.input_dtype = np.dtype(np.float32)
    held.engine.run = lambda inputs: {"logits": np.full((len(inputs), 4), np.inf if inputs.max() > 5 else 1.0)}
    held.golden = (np.ones((1, 2), np.float32), np.ones((1, 4), np.float32))
    assert held.self_test() == ""
    with pytest.raises(Refused):
        held.infer(np.full((1, 2), 9.0, np.float32))
