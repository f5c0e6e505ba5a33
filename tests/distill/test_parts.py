"""The seven parts one by one: traces, attachments, terms, sources, weighers, the learner, the schedule."""

import math

import pytest
import torch
from torch import nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.attachments import GranularBranch, GranularEncoder
from edgekd.distill.learner import Learner, Learners, WeightedTerm
from edgekd.distill.loop import make_accelerator
from edgekd.distill.net import TracedNet, trace_spec
from edgekd.distill.parameters import parameter_groups
from edgekd.distill.schedules import learning_rate
from edgekd.distill.settings import TrainSettings
from edgekd.distill.sources import FrozenNets, LiveNets
from edgekd.distill.specs import LearnerSpec
from edgekd.distill.terms import (
    CrossEntropy,
    FitNetHint,
    KnowledgeDistillation,
    Step,
    VariationalInformation,
)
from edgekd.distill.trace import Trace, TraceSpec, select, shape_of
from edgekd.distill.weighers import Constant, LinearRamp, Moment

STEP = Step(0, 10, 0)
SHAPES = TraceSpec(4, {"flatten": (3,)}, "flatten")


class Tiny(nn.Module):
    def __init__(self, width=3, classes=4):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1, stride=2)
        self.bn = nn.BatchNorm2d(width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.flatten(self.pool(self.bn(self.conv(x)))))


def _net(**kwargs):
    torch.manual_seed(0)
    return TracedNet(Tiny(**kwargs), penultimate="flatten")


def _batch(n=6, unlabelled=()):
    generator = torch.Generator().manual_seed(1)
    labelled = torch.tensor([i not in unlabelled for i in range(n)])
    labels = torch.tensor([-1 if i in unlabelled else i % 4 for i in range(n)])
    return Batch(torch.rand(n, 1, 8, 8, generator=generator), labels, torch.arange(n), labelled)


def _learner(net, terms, weigher, *sources):
    return Learner("student", net, [WeightedTerm("v", terms, weigher)], sources)


def _losses(learner, batch=None):
    return Learners([learner])(batch or _batch(), STEP)


def _trace(logits, **feats):
    return Trace(logits, feats, {}, torch.zeros(len(logits), 1, 8, 8))


def test_a_trace_carries_what_was_tapped_and_the_logits_of_the_backbone():
    net = _net().eval()
    net.tap(["bn", "flatten"])
    inputs = torch.rand(2, 1, 8, 8)
    trace = net(inputs)
    assert torch.equal(trace.logits, net.backbone(inputs))
    assert torch.equal(trace.feats["bn"], net.backbone.bn(net.backbone.conv(inputs)))
    assert trace.feats["flatten"].shape == (2, 3)
    assert trace.inputs is inputs


def test_taps_leave_no_hooks_behind_even_after_a_failure():
    net = _net()
    net.tap(["bn"])
    net(torch.rand(2, 1, 8, 8))
    with pytest.raises(RuntimeError):
        net(torch.rand(2, 5, 8, 8))
    assert not net.backbone.bn._forward_hooks


def test_an_unknown_tap_lists_near_paths():
    with pytest.raises(ConfigError, match="unknown module to tap 'flaten'; did you mean flatten"):
        _net().tap(["flaten"])


def test_attachments_read_the_penultimate_feature():
    net = _net().eval()
    net.attach({"a": GranularBranch(SHAPES, "a", code_width=5)})
    trace = net(torch.rand(2, 1, 8, 8))
    feature = net.backbone.flatten(net.backbone.pool(net.backbone.bn(net.backbone.conv(trace.inputs))))
    torch.testing.assert_close(trace.aux["a.code"], net.attachments["a"].encoder(feature))
    torch.testing.assert_close(trace.aux["a.logits"], net.attachments["a"].decoder(trace.aux["a.code"]))
    assert trace.feats == {}


def test_branches_have_the_papers_shapes():
    branch = GranularBranch(TraceSpec(100, {"f": (128,)}, "f"), "a", code_width=64)
    linears = [(m.in_features, m.out_features) for m in branch.modules() if isinstance(m, nn.Linear)]
    assert linears == [(128, 128), (128, 64), (64, 128), (128, 100)]
    encoder = GranularEncoder(TraceSpec(100, {"f": (16,)}, "f"), "a", code_width=256)
    assert [(m.in_features, m.out_features) for m in encoder.modules() if isinstance(m, nn.Linear)] == [
        (16, 16),
        (16, 256),
    ]


def test_train_only_freezes_parameters_and_buffers_of_the_rest():
    net = _net()
    net.attach({"a": GranularBranch(SHAPES, "a", code_width=5)})
    net.train_only(("attachments",))
    before = {k: v.clone() for k, v in net.backbone.state_dict().items()}
    for _ in range(3):
        sum(v.sum() for v in net(torch.rand(4, 1, 8, 8)).aux.values()).backward()
    assert all(p.grad is None for p in net.backbone.parameters())
    assert all(p.grad is not None for p in net.attachments.parameters())
    assert all(torch.equal(before[k], v) for k, v in net.backbone.state_dict().items())


def test_trace_spec_reports_shapes_and_restores_modes_and_buffers():
    net = _net()
    net.backbone.bn.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    spec = trace_spec(net, (1, 8, 8))
    assert spec.num_classes == 4
    assert spec.feats["bn"] == (3, 4, 4)
    assert spec.feats["flatten"] == (3,)
    assert net.training and net.backbone.conv.training and not net.backbone.bn.training
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_a_net_of_another_resolution_resizes_its_inputs():
    net = TracedNet(Tiny(), penultimate="flatten", resolution=16)
    net.tap(["conv"])
    assert net(torch.rand(2, 1, 8, 8)).feats["conv"].shape[-1] == 8


def test_select_and_shape_of_name_what_is_missing():
    trace, spec = _trace(torch.zeros(2, 4)), TraceSpec(4, {"conv": (3, 4, 4)}, "conv", {"a.code": (5,)})
    assert select(trace, "logits") is trace.logits
    assert shape_of(spec, "aux:a.code") == (5,)
    assert shape_of(spec, "conv") == (3, 4, 4)
    for name in ("aux:x", "cnv"):
        with pytest.raises(ConfigError):
            select(trace, name)
        with pytest.raises(ConfigError):
            shape_of(spec, name)


def test_cross_entropy_sees_labelled_rows_only():
    spec = TraceSpec(4, {}, "")
    term = CrossEntropy(spec, spec)
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    batch = _batch(unlabelled=(1, 4))
    values = term(_trace(logits), _trace(logits), batch, STEP)
    expected = -sum(torch.log_softmax(logits[i], 0)[i % 4] for i in (0, 2, 3, 5)) / 4
    torch.testing.assert_close(values.mean(), expected)
    values.mean().backward()
    assert logits.grad[1].abs().sum() == 0 and logits.grad[4].abs().sum() == 0
    assert logits.grad[0].abs().sum() > 0


def test_cross_entropy_of_a_batch_without_labels_is_zero():
    spec = TraceSpec(4, {}, "")
    values = CrossEntropy(spec, spec)(
        _trace(torch.randn(2, 4)), _trace(torch.randn(2, 4)), _batch(2, unlabelled=(0, 1)), STEP
    )
    assert values.tolist() == [0.0, 0.0]


def test_fitnet_projects_pools_and_averages_over_pairs():
    student = TraceSpec(4, {"a": (2, 8, 8), "b": (3, 4, 4)}, "")
    teacher = TraceSpec(4, {"x": (5, 4, 4), "y": (6, 4, 4)}, "")
    term = FitNetHint(student, teacher, pairs=[("a", "x"), ("b", "y")])
    mine = _trace(torch.zeros(3, 4), a=torch.rand(3, 2, 8, 8), b=torch.rand(3, 3, 4, 4))
    theirs = _trace(torch.zeros(3, 4), x=torch.rand(3, 5, 4, 4), y=torch.rand(3, 6, 4, 4))
    pooled = mine.feats["a"].unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean(dim=(3, 5))
    first = (term.projectors[0](pooled) - theirs.feats["x"]).square().mean(dim=(1, 2, 3))
    second = (term.projectors[1](mine.feats["b"]) - theirs.feats["y"]).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(term(mine, theirs, _batch(3), STEP), (first + second) / 2)


def test_vid_starts_at_variance_five_trains_it_and_spares_it_decay():
    student, teacher = TraceSpec(4, {"bn": (3, 4, 4)}, "flatten"), TraceSpec(4, {"bn": (6, 4, 4)}, "flatten")
    term = VariationalInformation(student, teacher)
    variance = torch.nn.functional.softplus(term.raw_variances[0]) + 1e-5
    torch.testing.assert_close(variance, torch.full((6,), 5.0))
    assert all(m.bias is None for m in term.modules() if isinstance(m, nn.Conv2d))
    net, guide = _net(), _net(width=6)
    for each in (net, guide):
        each.tap(["bn"])
    learner = _learner(net, {"t": term}, Constant(1.0), FrozenNets({"t": guide}))
    groups = parameter_groups(LearnerSpec(terms=[{"type": "vid"}]), learner, (1, 8, 8))
    assert [group.is_decayed for group in groups] == [True, False]
    assert [id(p) for p in groups[1].parameters] == [id(term.raw_variances[0])]
    _losses(learner).total.backward()
    assert term.raw_variances[0].grad.abs().min() > 0


def test_vid_learns_small_variances_where_the_teacher_can_be_predicted_and_large_ones_for_noise():
    torch.manual_seed(0)
    spec = TraceSpec(4, {"m": (2, 4, 4)}, "")
    term = VariationalInformation(spec, spec)
    optimizer = torch.optim.Adam(term.parameters(), lr=0.03)
    for _ in range(400):
        mine = torch.rand(16, 2, 4, 4)
        theirs = torch.cat([0.5 * mine[:, :1], 2 * torch.randn(16, 1, 4, 4)], dim=1)
        optimizer.zero_grad()
        term(
            _trace(torch.zeros(16, 4), m=mine), _trace(torch.zeros(16, 4), m=theirs), _batch(16), STEP
        ).mean().backward()
        optimizer.step()
    variance = torch.nn.functional.softplus(term.raw_variances[0])
    assert variance[0] < 0.1
    assert 3.0 < variance[1] < 5.5


def test_terms_refuse_networks_that_do_not_fit():
    student, teacher = TraceSpec(4, {}, ""), TraceSpec(5, {}, "")
    with pytest.raises(ConfigError, match="must agree"):
        KnowledgeDistillation(student, teacher)
    with pytest.raises(ConfigError, match="positive"):
        KnowledgeDistillation(student, student, temperature=0.0)
    with pytest.raises(ConfigError, match="no feature maps"):
        FitNetHint(student, teacher)
    with pytest.raises(ConfigError, match="unknown module to tap"):
        FitNetHint(TraceSpec(4, {"a": (1, 2, 2)}, ""), teacher, pairs=[("a", "b")])
    with pytest.raises(ConfigError, match="not"):
        CrossEntropy(TraceSpec(4, {}, "", {"c": (7,)}), teacher, part="aux:c")


def test_the_frozen_source_gives_the_mean_of_logits_before_any_softmax():
    net = _net().eval()
    net.attach({"a": GranularBranch(SHAPES, "a", code_width=5)})
    batch = _batch()
    own = net(batch.inputs)
    target = FrozenNets({"t": net}, ("logits", "aux:a.logits"))(batch, STEP, {})["t"]
    torch.testing.assert_close(target.logits, (own.logits + own.aux["a.logits"]) / 2)
    assert not target.logits.requires_grad


def test_the_own_source_cuts_the_graph():
    net = _net()
    net.attach({"a": GranularBranch(SHAPES, "a", code_width=5)})
    net.tap(["bn"])
    own = net(_batch().inputs)
    target = LiveNets({"self": net}, {"self": "student"})(_batch(), STEP, {"student": own})["self"]
    assert own.logits.requires_grad
    assert not any(t.requires_grad for t in (target.logits, *target.feats.values(), *target.aux.values()))


def test_a_ramp_rises_linearly_and_stays():
    ramp = LinearRamp(0.0, 2.0, 0.5)
    own = _trace(torch.zeros(1, 4))
    moments = [Moment(torch.ones(1, 1), own, (), _batch(1), Step(i, 10, 0)) for i in (0, 1, 5, 9)]
    assert [ramp(moment) for moment in moments] == [0.0, 0.4, 2.0, 2.0]


class _Fixed:
    """Targets `a` and `b` whose logits are 3 and 5."""

    def __init__(self, rows):
        self.rows, self.nets = rows, {}

    def __call__(self, batch, step, live):
        return {"a": _trace(torch.full((self.rows, 4), 3.0)), "b": _trace(torch.full((self.rows, 4), 5.0))}


def test_the_learner_adds_weighted_means_over_samples_and_sums_over_sources():
    class Values(nn.Module):
        def __init__(self, supervised):
            super().__init__()
            from edgekd.distill.terms import Needs

            self.needs = Needs(is_supervised=supervised)

        def forward(self, student, teacher, batch, step):
            return teacher.logits[:, 0]

    class PerSample:
        def __call__(self, moment):
            return torch.tensor([[1.0, 10.0], [2.0, 20.0]])

    learner = _learner(_net(), {"a": Values(False), "b": Values(False)}, PerSample(), _Fixed(2))
    losses = _losses(learner, _batch(2))
    assert losses.total.item() == pytest.approx((3 + 50 + 6 + 100) / 2)
    assert losses.by_term["v"].item() == pytest.approx(4.0)


def test_a_supervised_term_counts_once_however_many_sources_there_are():
    spec = TraceSpec(4, {}, "")
    torch.manual_seed(0)
    learner = _learner(_net().eval(), {"self": CrossEntropy(spec, spec)}, Constant(1.0), _Fixed(6))
    batch = _batch()
    expected = torch.nn.functional.cross_entropy(learner.net(batch.inputs).logits, batch.labels)
    torch.testing.assert_close(_losses(learner, batch).total, expected)


@pytest.mark.parametrize(
    "schedule, progress, expected",
    [
        ("constant", 0.9, 0.1),
        ("multistep", 0.49, 0.1),
        ("multistep", 0.5, 0.01),
        ("multistep", 0.9, 0.001),
        ("cosine", 0.0, 0.1),
        ("cosine", 0.5, 0.05),
        ("cosine", 0.25, 0.05 * (1 + math.cos(math.pi / 4))),
    ],
)
def test_learning_rate_follows_its_schedule(schedule, progress, expected):
    settings = TrainSettings(lr=0.1, schedule=schedule)
    assert learning_rate(settings, (0.5, 0.75), progress) == pytest.approx(expected)


def test_learning_rate_warms_up_linearly_and_cosine_starts_after_it():
    settings = TrainSettings(lr=0.1, schedule="cosine", warmup=0.2)
    assert learning_rate(settings, (), 0.1) == pytest.approx(0.05)
    assert learning_rate(settings, (), 0.2) == pytest.approx(0.1)
    assert learning_rate(settings, (), 0.6) == pytest.approx(0.05)


def test_make_accelerator_runs_on_the_cpu_when_asked():
    assert make_accelerator(TrainSettings(device="cpu")).device.type == "cpu"
