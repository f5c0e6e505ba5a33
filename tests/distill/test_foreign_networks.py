"""Teachers as people write them: pooled and flattened in `forward`, or with a convolution as the classifier."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgekd.core.artifacts import NetSpec
from edgekd.core.errors import ConfigError
from edgekd.distill import RunOptions, check_recipe, load_recipe, recipe_names, run_recipe
from edgekd.distill.net import TracedNet, modules_after, trace_spec
from edgekd.distill.roles import penultimate_of
from edgekd.distill.terms.pairs import resolve_pairs
from edgekd.models import build, load_teacher

SPEC = NetSpec("python", 0, 0, 8, 1, 4, (0.0,), (1.0,), {"model": "mine.py:net"})
MADE_ANEW = {"ekd", "online-checkpoints", "sftn-full", "takd", "dgkd", "dgkd-stochastic", "dual-student"}
MADE_ANEW |= {"ensemble", "rl-kd"}
OTHER_DATA = {"gkd-cls", "modality-gram"}  # texts, two modalities
PRETRAINED = {"tl", "tl-kd"}


class Plain(nn.Module):
    def __init__(self, classifier):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16)
        self.conv3, self.bn3 = nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32)
        self.classifier = classifier

    def maps(self, x):
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(x)))

    def forward(self, x):
        return self.classifier(F.adaptive_avg_pool2d(self.maps(x), 1).flatten(1))


class Unpadded(Plain):
    """No map of it has the size of one of the students'."""

    def __init__(self, classifier):
        super().__init__(classifier)
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(1, 8, 2), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 32, 3)


class ConvHead(Plain):
    def forward(self, x):
        return self.classifier(self.maps(x)).mean((2, 3))


@pytest.fixture
def plain():
    torch.manual_seed(0)
    return Plain(nn.Linear(32, 4))


@pytest.fixture
def conv_head():
    torch.manual_seed(0)
    return ConvHead(nn.Conv2d(32, 4, 1))


@pytest.fixture
def refused(student, dataset):
    """Says which recipes do not take a teacher, and why."""

    def go(teacher):
        reasons = {}
        for name in recipe_names():
            try:
                check_recipe(
                    load_recipe(name), student=student, teacher=(SPEC, teacher), dataset=dataset, batch_size=32
                )
            except ConfigError as error:
                reasons[name] = str(error)
        return reasons

    return go


@pytest.mark.parametrize("kind", ["plain", "conv_head"])
def test_every_recipe_takes_it_or_says_why_not(kind, refused, request):
    reasons = refused(request.getfixturevalue(kind))
    assert reasons.keys() == MADE_ANEW | OTHER_DATA | PRETRAINED
    assert all("not one of edgekd's families" in reasons[name] for name in MADE_ANEW)


def test_maps_of_other_sizes_go_together_at_the_end(student, refused):
    torch.manual_seed(0)
    teacher = Unpadded(nn.Linear(32, 4))
    reasons, flows = refused(teacher), {"fsp", "knowledge-selection"}
    assert reasons.keys() == MADE_ANEW | OTHER_DATA | PRETRAINED | flows
    assert all("it needs two pairs" in reasons[name] for name in flows)
    shapes = [trace_spec(_traced(spec, net), (1, 8, 8)) for spec, net in ((student, build(student)), (SPEC, teacher))]
    assert not {shape[1:] for shape in shapes[0].maps.values()} & {shape[1:] for shape in shapes[1].maps.values()}
    assert resolve_pairs(*shapes, "all") == (("net.layer3.0", "bn3"),)


def _traced(spec, net):
    return TracedNet(net.eval(), penultimate=penultimate_of(spec, net))


def test_the_feature_is_what_enters_its_classifier(plain):
    net = _traced(SPEC, plain)
    assert net.penultimate == "classifier:input"
    assert trace_spec(net, (1, 8, 8)).feature_width == 32
    net.tap([net.penultimate], input_gradient=True, gradients=[net.penultimate])
    inputs = torch.rand(3, 1, 8, 8)
    trace, pooled = net(inputs), plain.maps(inputs).mean((2, 3))
    torch.testing.assert_close(trace.feats[net.penultimate], pooled)
    leaf = pooled.detach().requires_grad_()
    top = plain.classifier(leaf).softmax(dim=1).amax(dim=1).sum()
    torch.testing.assert_close(trace.feat_gradients[net.penultimate], torch.autograd.grad(top, leaf)[0])
    assert modules_after(net, net.penultimate, (1, 8, 8)) == [plain.classifier]
    assert plain.classifier in modules_after(net, "bn3", (1, 8, 8))


def test_the_feature_of_a_convolution_that_classifies_is_the_mean_of_its_input(conv_head):
    net = _traced(SPEC, conv_head)
    assert net.penultimate == "classifier:input"
    assert trace_spec(net, (1, 8, 8)).feature_width == 32
    net.tap([net.penultimate])
    inputs = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(net(inputs).feats[net.penultimate], conv_head.maps(inputs).mean((2, 3)))
    assert modules_after(net, net.penultimate, (1, 8, 8)) == [conv_head.classifier]


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("kind", ["plain", "conv_head"])
def test_a_method_on_features_learns_from_it_compiled_as_not(kind, student, dataset, settings, request):
    def loss(mode):
        changed = settings.model_copy(update={"epochs": 1, "compile": mode})
        nets = {"student": student, "teacher": (SPEC, request.getfixturevalue(kind))}
        outcome = run_recipe(load_recipe("pkt"), **nets, dataset=dataset, settings=changed, options=RunOptions(0))
        return outcome.history[-1].loss

    assert loss("no") == pytest.approx(loss("default"), rel=1e-4)


def test_without_such_a_feature_methods_on_logits_and_maps_remain(student, dataset):
    torch.manual_seed(0)
    teacher = (SPEC, ConvHead(nn.Conv2d(32, 4, 2)))
    for name in ("kd", "at", "sp"):
        check_recipe(load_recipe(name), student=student, teacher=teacher, dataset=dataset, batch_size=32)
    with pytest.raises(ConfigError, match="reads one feature vector an input, and '.*' is a map"):
        check_recipe(load_recipe("mas"), student=student, teacher=teacher, dataset=dataset, batch_size=32)


STUDENT = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.conv3, self.bn3 = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, classes)

    def forward(self, x):
        x = torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        x = torch.relu(self.bn3(self.conv3(x)))
        return self.fc(torch.flatten(x.mean((2, 3)), 1))

def student(num_classes):
    return Small(num_classes)
"""


@pytest.fixture
def own_student(tmp_path):
    (tmp_path / "mine.py").write_text(STUDENT)
    facts = {"in_channels": 1, "num_classes": 4, "resolution": 8, "mean": (0.3,), "std": (0.2,)}
    return load_teacher(f"{tmp_path / 'mine.py'}:student", role="student", **facts, weights=None)[0]


def test_every_recipe_takes_a_student_of_ones_own_or_says_why_not(own_student, teacher, dataset):
    reasons = {}
    for name in recipe_names():
        try:
            check_recipe(load_recipe(name), student=own_student, teacher=teacher, dataset=dataset, batch_size=32)
        except ConfigError as error:
            reasons[name] = str(error)
    between = {"takd", "dgkd", "dgkd-stochastic", "dual-student", "rl-kd"}
    assert reasons.keys() == between | OTHER_DATA | PRETRAINED | {"sftn", "sftn-full"}, reasons
    assert all("no assistant between" in reasons[name] for name in between)


def test_a_student_of_ones_own_is_drawn_by_the_seed_and_starts_anew(own_student, dataset, settings):
    def trained(seed, **options):
        changed = settings.model_copy(update={"epochs": 1, "lr": 1e-30})
        run = RunOptions(seed, **options)
        outcome = run_recipe(
            load_recipe("plain"), student=own_student, teacher=None, dataset=dataset, settings=changed, options=run
        )
        return outcome.student.state_dict()["net.conv1.weight"]

    assert torch.equal(trained(0), trained(0)) and not torch.equal(trained(0), trained(1))
    given = {"net.conv1.weight": torch.full((4, 1, 3, 3), 0.5)}
    torch.testing.assert_close(trained(0, start=given), given["net.conv1.weight"])
