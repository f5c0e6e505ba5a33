"""Terms on logits: what they refuse, what they make of rows without labels, and what their recipes amount to."""

import math

import pytest
import torch
from edgekd_kernels import functional as K

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill import load_recipe
from edgekd.distill.learner import Learner, WeightedTerm
from edgekd.distill.net import TracedNet
from edgekd.distill.parameters import parameter_groups
from edgekd.distill.specs import LearnerSpec
from edgekd.distill.terms import (
    ChannelWiseKD,
    CurriculumTemperature,
    DecoupledKD,
    MultiLevelKD,
    NormalizedKD,
    RelationalCorrelation,
    StandardizedKD,
    Step,
)
from edgekd.distill.trace import Trace, TraceSpec
from edgekd.distill.weighers import Constant

SPEC = TraceSpec(4, {}, "")


def _trace(logits, **feats):
    return Trace(logits, feats, {}, torch.zeros(len(logits), 1, 4, 4))


def _batch(labels):
    labels = torch.tensor(labels)
    return Batch(torch.zeros(len(labels), 1, 4, 4), labels, torch.arange(len(labels)), labels >= 0)


def _pair(n=6, classes=4):
    torch.manual_seed(0)
    return torch.randn(n, classes, requires_grad=True), torch.randn(n, classes)


@pytest.mark.parametrize("term, loss", [(DecoupledKD, K.dkd), (NormalizedKD, K.nkd)])
def test_label_terms_average_over_labelled_rows_only(term, loss):
    s, t = _pair()
    values = term(SPEC, SPEC)(_trace(s), _trace(t), _batch([0, -1, 2, 3, -1, 1]), Step(0, 10, 0))
    kept = [0, 2, 3, 5]
    torch.testing.assert_close(values.mean(), loss(s[kept], t[kept], torch.tensor([0, 2, 3, 1])).mean())
    values.mean().backward()
    assert s.grad[[1, 4]].abs().sum() == 0 and (s.grad[kept].abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("term, loss", [(DecoupledKD, K.dkd), (NormalizedKD, K.nkd)])
def test_label_terms_pass_their_options_on(term, loss):
    s, t = _pair()
    options = {"temperature": 3.0} | ({"alpha": 0.5, "beta": 2.0} if term is DecoupledKD else {"gamma": 0.7})
    labels = torch.arange(6) % 4
    values = term(SPEC, SPEC, **options)(_trace(s), _trace(t), _batch(labels.tolist()), Step(0, 10, 0))
    torch.testing.assert_close(values, loss(s, t, labels, **options))


def test_decoupled_terms_refuse_too_few_classes_before_training():
    two = TraceSpec(2, {}, "")
    with pytest.raises(ConfigError, match="dkd needs at least 3 classes, this task has 2"):
        DecoupledKD(two, two)
    NormalizedKD(two, two)
    with pytest.raises(ConfigError, match="temperature must be positive"):
        NormalizedKD(SPEC, SPEC, temperature=0.0)
    with pytest.raises(ConfigError, match="must agree"):
        DecoupledKD(SPEC, two)


def test_the_weight_of_dkd_rises_over_the_first_twenty_of_240_epochs():
    cross_entropy, dkd = load_recipe("dkd").stages[0].terms
    assert (cross_entropy.weight, dkd.weight.start, dkd.weight.end) == (1.0, 0.0, 1.0)
    assert dkd.weight.over == pytest.approx(20 / 240)
    assert dkd.options == {"alpha": 1.0, "beta": 8.0, "temperature": 4.0}


UNLABELLED = [
    (RelationalCorrelation, K.dist, {"beta": 0.5, "gamma": 1.5, "temperature": 3.0}),
    (StandardizedKD, K.standardized_kl, {"temperature": 3.0}),
]


@pytest.mark.parametrize("term, loss, options", UNLABELLED)
def test_terms_on_logits_pass_their_options_on_and_read_no_labels(term, loss, options):
    s, t = _pair()
    built = term(SPEC, SPEC, **options)
    torch.testing.assert_close(built(_trace(s), _trace(t), _batch([-1] * 6), Step(0, 10, 0)), loss(s, t, **options))
    assert not list(built.parameters())


@pytest.mark.parametrize("term", [term for term, _, _ in UNLABELLED])
def test_terms_on_logits_refuse_misfits_before_training(term):
    with pytest.raises(ConfigError, match="must agree"):
        term(SPEC, TraceSpec(5, {}, ""))
    with pytest.raises(ConfigError, match="temperature must be positive"):
        term(SPEC, SPEC, temperature=-1.0)


@pytest.mark.parametrize(
    "name, weights",
    [
        ("nkd", [1.0, 1.0]),
        ("dist", [1.0, 1.0]),
        ("logit-standardization", [0.1, 9.0]),
        ("cwd", [1.0, 50.0]),
        ("ctkd", [0.1, 0.9]),
        ("mlkd", [0.1, 0.9]),
    ],
)
def test_recipes_have_the_published_weights(name, weights):
    assert [term.weight for term in load_recipe(name).stages[0].terms] == weights


def _maps(student, teacher):
    return TraceSpec(4, {"m": student}, ""), TraceSpec(4, {"m": teacher}, "")


def test_cwd_projects_without_bias_where_widths_differ_and_pools_the_larger_map():
    student, teacher = _maps((2, 4, 4), (3, 2, 2))
    term = ChannelWiseKD(student, teacher, pairs=[("m", "m")], temperature=2.0)
    mine, theirs = torch.rand(5, 2, 4, 4), torch.rand(5, 3, 2, 2)
    pooled = mine.unflatten(2, (2, 2)).unflatten(4, (2, 2)).mean(dim=(3, 5))
    projected = torch.einsum("oi,bihw->bohw", term.projectors[0].weight[:, :, 0, 0], pooled)
    logits = torch.zeros(5, 4)
    actual = term(_trace(logits, m=mine), _trace(logits, m=theirs), _batch([0] * 5), Step(0, 10, 0))
    torch.testing.assert_close(actual, K.cwd(projected, theirs, temperature=2.0))
    assert [name for name, _ in term.named_parameters()] == ["projectors.0.weight"]
    assert (term.needs.student, term.needs.teacher) == (("m",), ("m",))


def test_cwd_trains_nothing_where_widths_agree_and_adds_pairs_up():
    student, teacher = (TraceSpec(4, {"a": (2, 4, 4), "b": (3, 2, 2)}, "") for _ in range(2))
    term = ChannelWiseKD(student, teacher, pairs="all")
    assert not list(term.parameters())
    one, other = ({"a": torch.rand(2, 2, 4, 4), "b": torch.rand(2, 3, 2, 2)} for _ in range(2))
    logits = torch.zeros(2, 4)
    actual = term(_trace(logits, **one), _trace(logits, **other), _batch([0, 1]), Step(0, 10, 0))
    torch.testing.assert_close(actual, K.cwd(one["a"], other["a"]) + K.cwd(one["b"], other["b"]))


def test_cwd_refuses_maps_of_one_position_and_cold_temperatures():
    with pytest.raises(ConfigError, match="a map of one position"):
        ChannelWiseKD(*_maps((2, 1, 1), (2, 1, 1)))
    with pytest.raises(ConfigError, match="temperature must be positive"):
        ChannelWiseKD(*_maps((2, 2, 2), (2, 2, 2)), temperature=0.0)


def _curriculum(**options):
    s, t = _pair()
    term = CurriculumTemperature(SPEC, SPEC, **options)

    def loss(index):
        return term(_trace(s.detach()), _trace(t), _batch([0] * 6), Step(index, 240, 0)).mean()

    return term, loss


def _after_one_step_on_theta(term, loss, index):
    optimizer = torch.optim.SGD(term.parameters(), lr=0.5)
    before = loss(index)
    before.backward()
    optimizer.step()
    return before.item(), loss(index).item()


def test_a_step_on_the_temperature_raises_the_loss_once_the_curriculum_is_there():
    before, after = _after_one_step_on_theta(*_curriculum(), index=10)
    assert after > before + 1e-7
    before, after = _after_one_step_on_theta(*_curriculum(gradient_scale=1.0), index=10)
    assert after < before - 1e-7


@pytest.mark.parametrize("options, index", [({"gradient_scale": 0.0}, 100), ({}, 0)])
def test_the_temperature_stays_without_a_gradient_scale_and_at_the_start(options, index):
    term, loss = _curriculum(**options)
    before, after = _after_one_step_on_theta(term, loss, index)
    assert term.theta.item() == 1.0
    assert before == after == pytest.approx(K.kd_kl(*_pair(), temperature=15.62117).mean().item(), rel=1e-4)


def test_the_gradient_scale_follows_half_a_cosine_over_the_first_ten_of_240_epochs():
    def gradient(index):
        term, loss = _curriculum()
        loss(index).backward()
        return term.theta.grad.item()

    full = gradient(10)
    shares = [gradient(index) / full for index in (0, 2, 5, 8, 10, 239)]
    expected = [0.0, (1 - math.cos(0.2 * math.pi)) / 2, 0.5, (1 - math.cos(0.8 * math.pi)) / 2, 1.0, 1.0]
    assert shares == pytest.approx(expected, abs=1e-5)


def test_the_temperature_takes_no_weight_decay():
    net = TracedNet(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4)), penultimate="0")
    term = CurriculumTemperature(SPEC, SPEC)
    learner = Learner("student", net, [WeightedTerm("ctkd", {"teacher": term}, Constant(1.0))], ())
    groups = parameter_groups(LearnerSpec(terms=[{"type": "curriculum-temperature"}]), learner, (1, 4, 4))
    assert [(len(group.parameters), group.is_decayed) for group in groups] == [(2, True), (1, False)]
    assert groups[1].parameters[0] is term.theta


def test_ctkd_moves_its_temperature_when_a_student_trains(run, monkeypatch):
    seen = []
    original = CurriculumTemperature.forward

    def watched(self, *arguments):
        seen.append(self.theta.item())
        return original(self, *arguments)

    monkeypatch.setattr(CurriculumTemperature, "forward", watched)
    run("ctkd")
    assert seen[0] == seen[1] == 1.0
    assert seen[-1] != 1.0


def test_curriculum_temperature_refuses_bounds_that_make_no_sense():
    for options, fragment in (
        ({"over": 0.0}, r"over must be in \(0, 1\]"),
        ({"over": 1.5}, r"over must be in \(0, 1\]"),
        ({"span": -1.0}, "span must not be negative"),
        ({"least": 0.0}, "temperature must be positive"),
    ):
        with pytest.raises(ConfigError, match=fragment):
            CurriculumTemperature(SPEC, SPEC, **options)


def test_mlkd_passes_its_temperatures_on_and_refuses_none():
    s, t = _pair()
    term = MultiLevelKD(SPEC, SPEC, temperatures=(1.5, 3.0))
    expected = K.mlkd(s, t, temperatures=(1.5, 3.0))
    torch.testing.assert_close(term(_trace(s), _trace(t), _batch([-1] * 6), Step(0, 10, 0)), expected)
    with pytest.raises(ConfigError, match="temperatures is empty"):
        MultiLevelKD(SPEC, SPEC, temperatures=())
    with pytest.raises(ConfigError, match="positive"):
        MultiLevelKD(SPEC, SPEC, temperatures=(2.0, 0.0))
    with pytest.raises(ConfigError, match="must agree"):
        MultiLevelKD(SPEC, TraceSpec(5, {}, ""))


def test_reconstructions_say_so():
    assert "reconstruction" in load_recipe("mlkd").deviations
