"""GKD: input gradients against finite differences, the second derivative, and what one step on the term does."""

import copy

import numpy as np
import pytest
import torch
from edgekd_kernels import functional as K
from torch import nn

from edgekd.core.artifacts import NetSpec
from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill import check_recipe, load_recipe
from edgekd.distill.net import TracedNet
from edgekd.distill.sources import frozen_trace
from edgekd.distill.terms import Step, build_term
from edgekd.distill.trace import Trace, TraceSpec
from edgekd.models import build

STEP, SPEC = Step(0, 10, 0), TraceSpec(3, {}, "")


class Smooth(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.act, self.flatten = nn.Conv2d(2, width, 3, padding=1), nn.Tanh(), nn.Flatten()
        self.head = nn.Linear(16 * width, 3)

    def forward(self, inputs):
        return self.head(self.flatten(self.act(self.conv(inputs))))


def _net(width=3, seed=0):
    torch.manual_seed(seed)
    net = TracedNet(Smooth(width).double(), penultimate="flatten")
    net.tap((), input_gradient=True)
    return net


def _batch(rows=4, seed=1):
    inputs = torch.rand(rows, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Batch(inputs, torch.zeros(rows).long(), torch.arange(rows), torch.ones(rows).bool())


def _term(**options):
    return build_term("gradient-match", SPEC, SPEC, options)


def _confidence(net, inputs):
    return torch.softmax(net.backbone(inputs), dim=1).max(dim=1).values


def test_the_input_gradient_of_a_trace_is_that_of_finite_differences_of_the_top_class_s_probability():
    net, batch = _net(), _batch()
    gradient = net(batch.inputs).input_gradient.detach()
    for index in [(0, 0, 0, 0), (1, 1, 2, 3), (3, 0, 3, 1)]:
        shift = torch.zeros_like(batch.inputs)
        shift[index] = 1e-6
        with torch.no_grad():
            rise = _confidence(net, batch.inputs + shift) - _confidence(net, batch.inputs - shift)
        assert gradient[index].item() == pytest.approx(rise[index[0]].item() / 2e-6, rel=1e-5)


@pytest.mark.parametrize("per", ["sample", "position"])
def test_the_student_learns_from_the_second_derivative(per):
    student, teacher, batch = _net(), _net(width=5, seed=2), _batch()
    target = frozen_trace(teacher, batch, STEP)

    def value():
        return _term(per=per)(student(batch.inputs), target, batch, STEP).mean()

    value().backward()
    weight = student.backbone.conv.weight
    for index in [(0, 0, 0, 0), (2, 1, 1, 2)]:
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[index] += sign * 1e-6
            values.append(value().item())
            with torch.no_grad():
                weight[index] -= sign * 1e-6
        assert weight.grad[index].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4, abs=1e-9)
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("per", ["sample", "position"])
def test_identical_networks_give_0_also_after_a_scale_of_the_confidence(per):
    net, batch = _net(), _batch()
    trace = net(batch.inputs)
    assert _term(per=per)(trace, frozen_trace(copy.deepcopy(net), batch, STEP), batch, STEP).abs().max() < 1e-20
    other = frozen_trace(_net(seed=5), batch, STEP)
    scaled = Trace(other.logits, {}, {}, other.inputs, 7.5 * other.input_gradient)
    base = _term(per=per)(trace, other, batch, STEP)
    torch.testing.assert_close(_term(per=per)(trace, scaled, batch, STEP), base)
    assert 0 < base.mean() <= 4


def test_a_step_on_the_term_alone_raises_the_mean_cosine():
    student, teacher, batch = _net(), _net(width=5, seed=2), _batch(rows=16)
    target = frozen_trace(teacher, batch, STEP)

    def mean_cosine():
        inputs = batch.inputs.clone().requires_grad_()
        gradients = [
            torch.autograd.grad(_confidence(net, inputs).sum(), inputs)[0].flatten(1) for net in (student, teacher)
        ]
        return torch.nn.functional.cosine_similarity(*gradients).mean().item()

    before = mean_cosine()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    _term()(student(batch.inputs), target, batch, STEP).mean().backward()
    optimizer.step()
    assert mean_cosine() > before + 1e-3


def _with_gradient(gradient):
    return Trace(torch.zeros(len(gradient), 3), {}, {}, torch.zeros(len(gradient), 1), gradient)


def test_a_position_is_a_pixel_of_a_picture_and_a_token_of_a_text():
    rng = np.random.default_rng(0)
    s, t = (torch.tensor(rng.normal(size=(2, 3, 4, 5))) for _ in range(2))
    expected = K.gradient_match(*(g.permute(0, 2, 3, 1).reshape(2, 20, 3) for g in (s, t)))
    actual = _term(per="position")(_with_gradient(s), _with_gradient(t), _batch(2), STEP)
    torch.testing.assert_close(actual, expected)
    tokens = [torch.tensor(rng.normal(size=(2, 6, 8))) for _ in range(2)]
    actual = _term(per="position")(*map(_with_gradient, tokens), _batch(2), STEP)
    torch.testing.assert_close(actual, K.gradient_match(*tokens))
    whole = _term(per="sample")(*map(_with_gradient, tokens), _batch(2), STEP)
    cosine = torch.nn.functional.cosine_similarity(*(g.flatten(1) for g in tokens))
    torch.testing.assert_close(whole, 2 - 2 * cosine)


def test_networks_with_other_inputs_are_refused_before_training(dataset, student):
    spec = NetSpec("resnet", 8, 4, 16, 1, 4, (0.3,), (0.2,))
    with pytest.raises(ConfigError, match=r"\(1, 8, 8\) and the teacher's \(1, 16, 16\)"):
        check_recipe(load_recipe("gkd"), student=student, teacher=(spec, build(spec)), dataset=dataset, batch_size=32)


def test_without_its_term_it_is_kd(run):
    recipe = load_recipe("gkd")
    (stage,) = recipe.stages
    terms = tuple(t.model_copy(update={"weight": 0.0}) if t.type == "gradient-match" else t for t in stage.terms)
    silent = recipe.model_copy(update={"stages": (stage.model_copy(update={"terms": terms}),)})
    kept = recipe.model_copy(update={"stages": (stage.model_copy(update={"terms": stage.terms[:2]}),)})
    one, other = run(silent).student.state_dict(), run(kept).student.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in other)
    both = run(recipe).student.state_dict()
    assert any(not torch.equal(both[name], other[name]) for name in other)
