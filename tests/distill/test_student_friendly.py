"""Student-friendly teachers: branches like the student's last layers, what they teach the teacher, any base after."""

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.core.artifacts import NetSpec
from edgekd.core.errors import ConfigError
from edgekd.distill import load_recipe
from edgekd.distill.branches import StudentBranch, tail_after
from edgekd.distill.net import TracedNet, trace_spec
from edgekd.distill.roles import open_session, penultimate_of
from edgekd.distill.specs import RampSpec
from edgekd.distill.stage import build_stage
from edgekd.distill.step import Step
from edgekd.distill.terms import BranchKL
from edgekd.distill.trace import TraceSpec
from edgekd.models import build

STEP = Step(0, 4, 0)
BRANCHES = ("branch1", "branch2")
NOTHING = RampSpec(start=0.0, end=0.0, over=1.0)


def _is_equal(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _open(recipe, student, teacher):
    return open_session(recipe, student=student, teacher=teacher, input_shape=(1, 8, 8), seed=0)


def _teachers(recipe):
    """The stage in which the teacher becomes friendly."""
    return next(stage for stage in recipe.stages if stage.name == "teacher")


def _alone(recipe, **changes):
    return recipe.model_copy(update={"stages": (_teachers(recipe).model_copy(update=changes),)})


def _is_of_branch(term):
    return "branch" in str(term.options.get("part"))


@pytest.mark.parametrize("name", ["sftn", "sftn-full"])
@pytest.mark.parametrize("weight", [0.0, NOTHING])
def test_branches_that_count_nothing_leave_ordinary_teacher_training(train, name, weight):
    recipe = load_recipe(name)
    terms = tuple(t.model_copy(update={"weight": weight}) if _is_of_branch(t) else t for t in _teachers(recipe).terms)
    ordinary = _alone(recipe, terms=terms[:1]).model_copy(update={"attach": {}})
    with_branches = train(_alone(recipe, terms=terms), epochs=4).net("teacher")
    assert set(with_branches.attachments) == set(BRANCHES)
    expected = train(ordinary, epochs=4).net("teacher")
    assert _is_equal(with_branches.backbone, expected.backbone)
    friendly = train(_alone(recipe), epochs=4).net("teacher")
    assert not _is_equal(friendly.backbone, expected.backbone)


@pytest.mark.parametrize("kind", ["cross-entropy", "branch-kl"])
def test_branch_losses_reach_the_teachers_first_layer_through_the_features(student, teacher, batch, kind):
    recipe = load_recipe("sftn")
    terms = tuple(t for t in _teachers(recipe).terms if t.type == kind and _is_of_branch(t))
    if kind == "branch-kl":
        terms = tuple(t.__class__(type=t.type, is_detached=True, **t.options) for t in terms)
    session = _open(recipe, student, teacher)
    build_stage(_alone(recipe, terms=terms).stages[0], session).learners(batch, STEP).total.backward()
    net = session.net("teacher")
    assert net.backbone.net.conv1.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in net.backbone.net.linear.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.attachments.parameters())


def test_drawn_branches_learn_before_they_may_pull_a_trained_teacher(train, teacher, batch):
    recipe = load_recipe("sftn")
    first = recipe.stages[0]
    assert {term.model_dump_json() for term in first.terms} == {
        term.model_dump_json() for term in _teachers(recipe).terms if _is_of_branch(term)
    }
    drawn, learned = (
        train(recipe.model_copy(update={"stages": (stage,)}), epochs=12).net("teacher").eval()
        for stage in (first.model_copy(update={"lr": 1e-12}), first)
    )
    assert _is_equal(learned.backbone, teacher[1])
    with torch.no_grad():
        before, after = (sum(_cross_entropies(net(batch.inputs), batch.labels)) for net in (drawn, learned))
    assert after < 0.7 * before


def _cross_entropies(trace, labels):
    return [nn.functional.cross_entropy(trace.aux[f"{branch}.logits"], labels).item() for branch in BRANCHES]


def test_the_divergence_reaches_the_teachers_own_logits(student, teacher, batch):
    recipe = load_recipe("sftn")
    terms = tuple(t for t in _teachers(recipe).terms if t.type == "branch-kl")
    session = _open(recipe, student, teacher)
    build_stage(_alone(recipe, terms=terms).stages[0], session).learners(batch, STEP).total.backward()
    assert session.net("teacher").backbone.net.linear.weight.grad.abs().sum() > 0


def test_the_teacher_comes_nearer_to_its_branches_than_they_come_alone(train, batch):
    def divergence(*parts):
        net = train(_alone(load_recipe("sftn"), train=parts), epochs=12).net("teacher").eval()
        with torch.no_grad():
            trace = net(batch.inputs)
        p = trace.logits.double().softmax(1).numpy()
        branches = [trace.aux[f"{name}.logits"].double().softmax(1).numpy() for name in BRANCHES]
        return np.mean([(p * np.log(p / q)).sum(axis=1).mean() for q in branches])

    assert divergence("backbone", "attachments") < 0.5 * divergence("attachments")


@pytest.mark.parametrize("name", ["sftn", "sftn-full"])
def test_the_teachers_loss_is_the_papers_sum(student, teacher, batch, name):
    recipe = load_recipe(name)
    session = _open(recipe, student, teacher)
    losses = build_stage(_teachers(recipe), session).learners(batch, STEP)
    with torch.no_grad():
        trace = session.net("teacher")(batch.inputs)
    labels = batch.labels.numpy()

    def log_softmax(logits):
        z = logits.double().numpy()
        return z - np.log(np.exp(z).sum(axis=1, keepdims=True))

    own, branches = log_softmax(trace.logits), [log_softmax(trace.aux[f"{branch}.logits"]) for branch in BRANCHES]
    rows = np.arange(len(labels))
    expected = -own[rows, labels].mean()
    for branch in branches:
        expected += 3 / len(branches) * (np.exp(own) * (own - branch)).sum(axis=1).mean()
        expected -= 1 / len(branches) * branch[rows, labels].mean()
    assert losses.total.item() == pytest.approx(expected, rel=1e-5)


def test_removing_the_branches_leaves_the_teachers_answers(student, teacher, batch):
    session = _open(load_recipe("sftn"), student, teacher)
    net = session.net("teacher").eval()
    with torch.no_grad():
        assert torch.equal(net(batch.inputs).logits, teacher[1](batch.inputs))


NETS = [
    NetSpec("resnet", 14, 4, 32, 3, 5, (0.5,) * 3, (0.2,) * 3),
    NetSpec("wrn", 10, 8, 16, 3, 5, (0.5,) * 3, (0.2,) * 3),
    NetSpec("vgg", 8, 4, 32, 3, 5, (0.5,) * 3, (0.2,) * 3),
    NetSpec("mobilenetv2", 7, 4, 32, 3, 5, (0.5,) * 3, (0.2,) * 3),
    NetSpec("repvgg", 7, 4, 64, 3, 5, (0.5,) * 3, (0.2,) * 3),
]


def _traced(spec):
    torch.manual_seed(0)
    net = build(spec).eval()
    return TracedNet(net, penultimate=penultimate_of(spec, net))


@pytest.mark.parametrize("spec", NETS, ids=lambda spec: spec.family)
def test_a_tail_turns_a_feature_into_the_networks_answer(spec):
    net = _traced(spec)
    paths = list(trace_spec(net, spec.input_shape).feats)
    net.tap(paths)
    with torch.no_grad():
        trace = net(torch.rand(2, *spec.input_shape))
        for path in paths:
            tail = tail_after(net.backbone, path)
            assert torch.equal(tail(trace.feats[path]), trace.logits), path
    owned = {id(parameter) for parameter in net.parameters()}
    assert not owned & {id(parameter) for parameter in tail.parameters()}


@pytest.mark.parametrize("student", NETS, ids=lambda spec: spec.family)
@pytest.mark.parametrize("at", ["first", "middle", "last"])
def test_a_branch_fits_every_map_to_every_students_layers(student, at):
    net = _traced(student)
    specs = {"student": trace_spec(net, student.input_shape)}
    wanted = specs["student"].maps[next(iter(specs["student"].maps))]
    for side in {1, 3, wanted[1] // 2, wanted[1], 2 * wanted[1], 57}:
        spec = TraceSpec(5, {"a": (6, side, side)}, "a")
        branch = StudentBranch(spec, "b", {"student": net}, specs, at=at).eval()
        assert branch({"a": torch.rand(2, 6, side, side)})["b.logits"].shape == (2, 5)


@pytest.mark.parametrize(
    "side, kind, kernel, stride", [(8, nn.Conv2d, 1, 1), (32, nn.Conv2d, 3, 4), (4, nn.ConvTranspose2d, 4, 2)]
)
def test_the_transform_is_the_papers_where_sizes_differ_by_powers_of_two(side, kind, kernel, stride):
    student = NetSpec("resnet", 8, 4, 8, 1, 5, (0.5,), (0.2,))
    net = _traced(student)
    specs = {"student": trace_spec(net, (1, 8, 8))}
    spec = TraceSpec(5, {"a": (6, side, side)}, "a")
    transform = StudentBranch(spec, "b", {"student": net}, specs, at="first").transform
    conv = transform[0]
    assert (type(conv), conv.kernel_size[0], conv.stride[0]) == (kind, kernel, stride)
    assert transform[:3](torch.rand(2, 6, side, side)).shape == (2, 4, 8, 8)


def test_a_branch_has_layers_like_the_students_with_weights_of_its_own(student, teacher):
    session = _open(load_recipe("sftn"), student, teacher)
    backbone = session.net("student").backbone
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    first, second = (session.net("teacher").attachments[name].tail for name in BRANCHES)
    count = [sum(p.numel() for p in module.parameters()) for module in (first, second)]
    parts = (backbone.net.layer2, backbone.net.layer3, backbone.net.linear)
    layers = [sum(p.numel() for p in part.parameters()) for part in parts]
    assert count == [sum(layers), sum(layers[1:])]
    assert not torch.equal(first[-1][-1].weight, backbone.net.linear.weight)
    assert not torch.equal(first[-1][-1].weight, second[-1][-1].weight)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_a_student_that_cannot_be_cut_is_refused():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(1, 2, 1)

    with pytest.raises(ConfigError, match="Odd is no nn.Sequential"):
        tail_after(nn.Sequential(Odd()), "0.first")
    with pytest.raises(ConfigError, match="unknown module path 'x'"):
        tail_after(nn.Sequential(nn.ReLU()), "x")


def test_a_base_comes_after_the_prepared_teacher():
    sftn = load_recipe("sftn")
    for base in ("sp", "mag+sp", "sskd", "dgkd"):
        recipe = load_recipe(f"sftn+{base}")
        assert recipe.name == f"sftn+{base}"
        assert recipe.stages == (*sftn.stages[:-1], *load_recipe(base).stages)
        assert recipe.roles == load_recipe(base).roles
        assert recipe.attach["teacher"] == {**load_recipe(base).attach.get("teacher", {}), **sftn.attach["teacher"]}


def test_over_kd_it_is_what_it_is_alone(train):
    assert _is_equal(train("sftn+kd").net("student"), train("sftn").net("student"))
    assert not _is_equal(train("kd").net("student"), train("sftn").net("student"))


def test_the_base_learns_from_the_prepared_teacher(train):
    sftn, sp = load_recipe("sftn"), load_recipe("sp")
    prepared = train(sftn.model_copy(update={"stages": sftn.stages[:-1]})).net("teacher").backbone.eval()
    given = (NetSpec("resnet", 8, 8, 8, 1, 4, (0.3,), (0.2,)), prepared)
    assert _is_equal(train("sftn+sp").net("student"), train(sp, teacher=given).net("student"))


@pytest.mark.parametrize(
    "name, fragment",
    [
        ("sftn+plain", "'plain' reads no teacher"),
        ("sftn+self-distillation", "reads no teacher"),
        ("sftn+ekd", "'ekd' trains its teacher anew"),
        ("sftn+sftn-full", "trains its teacher anew"),
        ("kd+sftn", "'kd' takes no base"),
        ("sftn+", "unknown method ''"),
    ],
)
def test_a_base_that_makes_no_use_of_the_teacher_is_refused(name, fragment):
    with pytest.raises(ConfigError, match=fragment):
        load_recipe(name)


def test_branch_kl_refuses_what_is_no_vector_of_classes():
    spec = TraceSpec(4, {}, "", {"b.logits": (4,), "b.code": (7,)})
    with pytest.raises(ConfigError, match="must agree"):
        BranchKL(spec, spec, part="aux:b.code")
    with pytest.raises(ConfigError, match="positive"):
        BranchKL(spec, spec, part="aux:b.logits", temperature=0.0)
