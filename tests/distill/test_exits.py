"""Be your own teacher: exits, their targets, and what they may not touch."""

import pytest
import torch

from edgekd.core.artifacts import NetSpec
from edgekd.core.errors import ConfigError
from edgekd.distill import load_recipe
from edgekd.distill.attachments import EarlyExit
from edgekd.distill.net import TracedNet
from edgekd.distill.recipe import Recipe
from edgekd.distill.session import Session
from edgekd.distill.specs import StageSpec
from edgekd.distill.stage import add_attachments, build_stage
from edgekd.distill.terms import Step
from edgekd.distill.trace import TraceSpec
from edgekd.models import build


def _session(recipe=None):
    torch.manual_seed(0)
    spec = NetSpec("resnet", 8, 4, 16, 1, 4, (0.3,), (0.2,))
    session = Session({"student": TracedNet(build(spec), penultimate="net.flatten")}, (1, 16, 16), 0)
    add_attachments(recipe or load_recipe("byot"), session)
    return session


def _only(*kinds, **options):
    terms = [t for t in load_recipe("byot").stages[0].terms if t.type in kinds and t.options]
    return StageSpec(name="student", source={"type": "self"}, terms=terms, **options)


def test_exits_give_features_of_the_deepest_width_and_logits():
    session = _session()
    trace = session.net("student")(torch.rand(3, 1, 16, 16))
    assert {name: tuple(value.shape) for name, value in trace.aux.items()} == {
        "exit1.feature": (3, 16),
        "exit1.logits": (3, 4),
        "exit2.feature": (3, 16),
        "exit2.logits": (3, 4),
    }


def test_self_distillation_never_reaches_the_final_classifier(dataset):
    from edgekd.data import eval_batches

    session = _session()
    stage = build_stage(_only("kd", "feature-mse"), session)
    batch = next(iter(eval_batches(dataset.train, batch_size=8)))
    resized = type(batch)(torch.nn.functional.interpolate(batch.inputs, 16), batch.labels, batch.ids, batch.is_labelled)
    stage.learners(resized, Step(0, 1, 0)).total.backward()
    backbone = session.net("student").backbone
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in backbone.net.linear.parameters())
    assert backbone.net.conv1.weight.grad.abs().sum() > 0


def test_without_terms_on_exits_it_is_plain_training(run):
    byot = load_recipe("byot")
    plain = Recipe(
        name="t",
        title="t",
        attach=byot.attach,
        stages=[{"name": "student", "source": {"type": "self"}, "terms": [{"type": "cross-entropy"}]}],
    )
    one, other = run(plain).student.state_dict(), run("plain").student.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_the_target_of_every_exit_is_the_detached_deepest_feature():
    session = _session()
    stage = build_stage(_only("feature-mse"), session)
    session.net("student").eval()
    inputs = torch.rand(5, 1, 16, 16)
    from edgekd.data import Batch

    batch = Batch(inputs, torch.zeros(5, dtype=torch.int64), torch.arange(5), torch.ones(5, dtype=torch.bool))
    losses = stage.learners(batch, Step(0, 1, 0))
    trace = session.net("student")(inputs)
    deepest = trace.feats["net.flatten"]
    expected = sum(0.03 * (trace.aux[f"exit{i}.feature"] - deepest).square().mean() for i in (1, 2))
    torch.testing.assert_close(losses.total, expected)


def test_an_exit_on_the_last_map_is_refused():
    recipe = Recipe(
        name="t", title="t", attach={"student": {"e": {"type": "exit", "at": 9}}}, stages=load_recipe("byot").stages
    )
    with pytest.raises(ConfigError, match="exit 'e' at map 9: the network has 3 maps"):
        _session(recipe)


def test_a_network_without_maps_before_its_last_is_refused_in_words():
    spec = TraceSpec(4, {"m": (2, 4, 4), "v": (5,)}, "v")
    with pytest.raises(ConfigError, match="exit 'e' goes on a feature map before the last one, the network has 1"):
        EarlyExit(spec, "e", at=0)
