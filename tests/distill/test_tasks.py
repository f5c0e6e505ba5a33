"""Recipes on tasks other than classes of inputs: what becomes of terms, what fits, what is refused, what is learnt."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import jaccard_score, r2_score
from torch import nn

from edgekd.core.errors import ConfigError
from edgekd.data import IGNORED, ArrayImages, Batch, Dataset, Split, Task
from edgekd.distill import RunOptions, TrainSettings, check_recipe, evaluate, fidelities_of, load_recipe, run_recipe
from edgekd.distill.adapting import recipe_for
from edgekd.distill.evaluation import fidelity_of
from edgekd.distill.net import TracedNet, trace_spec
from edgekd.distill.recipe import Recipe
from edgekd.distill.step import Step
from edgekd.distill.terms import build_term
from edgekd.distill.trace import Trace, TraceSpec
from edgekd.distill.views import VIEWS
from edgekd.distill.weighers import WEIGHERS, Moment
from edgekd.models import build, modalities_of, spec_for

MAPS = Task("segmentation", ("ground", "bright", "dark"))
VALUES = Task("regression", ("brightness", "slope"))
DENSE = TraceSpec(3, {"m": (2, 4, 4)}, "m", positions=(4, 4), kind="segmentation")
GAUSSIAN = TraceSpec(4, {"v": (5,)}, "v", {"b.logits": (4,), "b.code": (6,)}, kind="regression")
STEP = Step(0, 1, 0)


def _dataset(task, count=96):
    """Pictures of noise with a bright and a dark square, labelled by pixel, or by mean and tilt of their ground."""

    def split(seed):
        rng = np.random.default_rng(seed)
        level, tilt = rng.uniform(-1, 1, (2, count))
        ramp = np.linspace(-40, 40, 8)[None, None, :] * tilt[:, None, None]
        pixels = 128 + 50 * level[:, None, None] + ramp + rng.normal(0, 4, (count, 8, 8))
        maps = np.zeros((count, 8, 8), np.int64)
        for row in range(count if task is MAPS else 0):
            for label, shade in ((1, 255), (2, 0)):
                top, left = rng.integers(0, 6, 2)
                pixels[row, top : top + 3, left : left + 3] = shade
                maps[row, top : top + 3, left : left + 3] = label
        labels = maps if task is MAPS else np.stack([level, tilt], axis=1).astype(np.float32)
        return Split(ArrayImages(pixels.clip(0, 255).astype(np.uint8)[..., None]), labels, task)

    return Dataset(task.kind, split(0), split(1), split(2), (0.5,), (0.2,), task.kind)


@pytest.fixture(scope="module")
def maps():
    return _dataset(MAPS)


@pytest.fixture(scope="module")
def values():
    return _dataset(VALUES)


@pytest.fixture(scope="module")
def modalities():
    rng = np.random.default_rng(0)
    pictures, labels = rng.integers(0, 256, (64, 8, 8, 2), np.uint8), np.arange(64) % 4
    split = Split(ArrayImages(pictures), labels, Task("classification", tuple("abcd")))
    return Dataset("two", split, split, split, (0.5, 0.5), (0.3, 0.3), "two")


def _spec(dataset, family, depth, width):
    return spec_for(
        family, depth=depth, width=width, in_channels=dataset.in_channels, num_classes=dataset.task.num_outputs,
        resolution=dataset.resolution, mean=dataset.mean, std=dataset.std,
    )  # fmt: skip


def _families(dataset):
    return {"segmentation": "fcn", "regression": "resnet", "two": "towers"}[
        dataset.name
    ], 3 if dataset.name == "two" else 8


def _check(dataset, method):
    family, depth = _families(dataset)
    recipe = load_recipe(method) if isinstance(method, str) else method
    teacher = _spec(dataset, family, depth, 6)
    student = _spec(dataset, family, depth, 4)
    check_recipe(recipe, student=student, teacher=(teacher, build(teacher)), dataset=dataset, batch_size=32)


def _run(dataset, method, teacher=None, seed=0, width=4, epochs=6):
    family, depth = _families(dataset)
    settings = TrainSettings(epochs=epochs, batch_size=16, lr=0.05, augment="none", device="cpu", max_grad_norm=1.0)
    spec = _spec(dataset, family, depth, width)
    recipe = load_recipe(method) if isinstance(method, str) else method
    options = RunOptions(seed=seed)
    outcome = run_recipe(recipe, student=spec, teacher=teacher, dataset=dataset, settings=settings, options=options)
    return spec, outcome


def _batch(labels, inputs=None):
    rows = len(labels)
    inputs = torch.zeros(rows, 1, 4, 4) if inputs is None else inputs
    return Batch(inputs, labels, torch.arange(rows), torch.ones(rows, dtype=torch.bool))


def _trace(logits, **aux):
    return Trace(logits, {}, aux, torch.zeros(len(logits), 1, 4, 4))


VECTORS_ONLY = {"byot", "mag", "mas", "sskd"}
ROWS_OF_LOGITS = {"ctkd", "dist", "dkd", "logit-standardization", "mlkd", "nkd"}
FEATURES = {
    "ab", "at", "cc", "cka", "curriculum-extraction", "cwd", "fitnet", "fitnet-normalized", "fsp", "ft", "info-nce",
    "kcd", "knowledge-selection", "mgd", "nst", "ofd", "pkd", "pkt", "reviewkd", "rkd", "sp", "vid", "xcl",
}  # fmt: skip


@pytest.mark.parametrize("method", sorted({"plain", "kd", *FEATURES}))
def test_methods_on_logits_and_maps_fit_segmentation(maps, method):
    _check(maps, method)


@pytest.mark.parametrize("method", sorted(VECTORS_ONLY | ROWS_OF_LOGITS))
def test_methods_on_vectors_and_rows_of_logits_refuse_segmentation_before_training(maps, method):
    words = "one feature vector an input" if method in VECTORS_ONLY else "one row of logits an input"
    with pytest.raises(ConfigError, match=rf"{words}.*use method kd or cwd"):
        _check(maps, method)


@pytest.mark.parametrize("method", sorted({"plain", "kd", "mag", "mas", "multi-granularity", "byot", "xcl", *FEATURES}))
def test_methods_without_classes_fit_regression(values, method):
    _check(values, method)


@pytest.mark.parametrize("method", sorted({"sskd", "sftn", "sftn-full", *ROWS_OF_LOGITS}))
def test_methods_on_classes_refuse_regression_before_training(values, method):
    with pytest.raises(ConfigError, match="reads logits of classes, this task is regression"):
        _check(values, method)


@pytest.mark.parametrize("method, words", [("crd", "other classes of inputs"), ("gkd", "the top class's probability")])
def test_methods_on_the_class_of_an_input_refuse_both_before_training(maps, values, method, words):
    for dataset in (maps, values):
        with pytest.raises(ConfigError, match=words):
            _check(dataset, method)


@pytest.mark.parametrize("method", ["plain", "kd", "dkd", "mas", "fitnet", "sp", "crd", "kcd", "gkd", "xcl"])
def test_methods_fit_networks_of_several_modalities(modalities, method):
    _check(modalities, method)


def test_gaussian_terms_are_refused_where_labels_are_classes(modalities):
    recipe = Recipe(name="t", title="t", stages=[{"name": "student", "terms": [{"type": "gaussian-nll"}]}])
    with pytest.raises(ConfigError, match="gaussian-nll is for regression, this task is classification"):
        _check(modalities, recipe)


def test_recipes_are_written_for_classes_and_put_into_gaussians(values):
    recipe = load_recipe("mas")
    assert recipe_for(recipe, MAPS) is recipe
    adapted = recipe_for(recipe, VALUES)
    branches, student = ([(t.type, t.weight, t.options) for t in stage.terms] for stage in adapted.stages)
    assert ("gaussian-kl", 1.0, {"part": "aux:abstract.logits", "target": "logits"}) in branches
    assert ("gaussian-nll", 1.0, {"part": "aux:detailed.logits"}) in branches
    assert student[:2] == [("gaussian-nll", 0.2, {}), ("gaussian-kl", 0.8, {})]
    assert [kind for kind, _, _ in student[2:]] == ["kd", "kd"]
    beside = {"learner": "teacher", "source": {"type": "self"}, "terms": [{"type": "cross-entropy"}]}
    terms = [{"type": "kd"}]
    joint = Recipe(name="j", title="j", stages=[{"name": "student", "terms": terms, "beside": [beside]}])
    (stage,) = recipe_for(joint, VALUES).stages
    assert (stage.terms[0].type, stage.beside[0].terms[0].type) == ("gaussian-kl", "gaussian-nll")


def test_trace_spec_says_what_outputs_are(maps, values, modalities):
    spec = _spec(maps, "fcn", 8, 4)
    dense = trace_spec(TracedNet(build(spec), penultimate="net.fuse.2", kind="segmentation"), (1, 8, 8))
    assert (dense.logits_shape, dense.kind, dense.feats[dense.penultimate]) == ((3, 8, 8), "segmentation", (8, 8, 8))
    with pytest.raises(ConfigError, match="one feature vector an input"):
        _ = dense.feature_width
    spec = _spec(modalities, "towers", 3, 4)
    net = TracedNet(build(spec), penultimate="net.hidden.1", modalities=modalities_of(spec))
    towers = trace_spec(net, (2, 8, 8))
    assert towers.logits_shape == (4,)
    assert [towers.feats[path] for path in towers.modalities] == [(16,), (16,)]
    net.tap(towers.modalities)
    assert set(net(torch.rand(3, 2, 8, 8)).feats) == set(towers.modalities)


def test_gradients_of_the_top_class_are_refused_where_there_is_none(values):
    net = TracedNet(build(_spec(values, "resnet", 8, 4)), penultimate="net.flatten", kind="regression")
    with pytest.raises(ConfigError, match="gradient of the top class's probability; regression has none"):
        net.tap([], input_gradient=True)


def test_what_averages_or_weighs_by_class_probabilities_refuses_regression(values):
    with pytest.raises(ConfigError, match="source ensemble reads class probabilities, this task is regression"):
        _check(values, "ensemble")
    term = {"type": "gaussian-kl", "weight": {"type": "teacher-confidence"}}
    recipe = Recipe(name="t", title="t", stages=[{"name": "student", "terms": [term]}])
    with pytest.raises(ConfigError, match="weigher teacher-confidence reads class probabilities"):
        _check(values, recipe)


def test_confidence_in_maps_is_the_mean_over_pixels():
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 2, 5)
    moment = Moment(torch.zeros(3, 1), _trace(logits), (_trace(logits),), _batch(torch.zeros(3)), STEP)
    entropy = torch.distributions.Categorical(logits=logits.movedim(1, 3)).entropy().mean(dim=(1, 2))
    found = WEIGHERS["teacher-confidence"]()(moment)
    torch.testing.assert_close(found, (1 - entropy / math.log(4)).unsqueeze(1))


def test_cross_entropy_of_maps_is_the_mean_over_counted_pixels():
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 3, 4, 4), torch.randint(0, 3, (4, 4, 4))
    labels[1, :2] = IGNORED
    term = build_term("cross-entropy", DENSE, DENSE, {})
    found = term(_trace(logits), _trace(logits), _batch(labels), STEP).mean()
    torch.testing.assert_close(found, F.cross_entropy(logits, labels, ignore_index=IGNORED))


def test_neither_ignored_pixels_nor_rows_without_a_label_touch_cross_entropy_of_maps():
    torch.manual_seed(0)
    term = build_term("cross-entropy", DENSE, DENSE, {})
    logits, labels = torch.randn(4, 3, 4, 4), torch.randint(0, 3, (4, 4, 4))
    labels[:, 0] = IGNORED
    batch = dataclasses.replace(_batch(labels), is_labelled=torch.tensor([True, True, False, True]))
    poisoned_logits, poisoned_labels = logits.clone(), labels.clone()
    poisoned_logits[:, :, 0] = 1e5
    poisoned_logits[2] = -1e5
    poisoned_labels[2] = (labels[2] + 1) % 3
    clean = term(_trace(logits), _trace(logits), batch, STEP)
    poisoned_logits.requires_grad_()
    poisoned = dataclasses.replace(batch, labels=poisoned_labels)
    other = term(_trace(poisoned_logits), _trace(logits), poisoned, STEP)
    assert torch.equal(clean, other)
    other.mean().backward()
    assert poisoned_logits.grad[2].abs().max() == 0
    assert poisoned_logits.grad[:, :, 0].abs().max() == 0
    kept = [0, 1, 3]
    expected = F.cross_entropy(logits[kept], labels[kept], ignore_index=IGNORED)
    torch.testing.assert_close(clean.mean(), expected)


def test_kd_of_maps_is_the_mean_over_pixels():
    torch.manual_seed(0)
    mine, theirs = torch.randn(2, 4, 3, 4, 4)
    term = build_term("kd", DENSE, DENSE, {"temperature": 2.0})
    student, teacher = (F.log_softmax(logits / 2, dim=1) for logits in (mine, theirs))
    expected = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1).mean() * 4
    torch.testing.assert_close(term(_trace(mine), _trace(theirs), _batch(torch.zeros(4)), STEP).mean(), expected)
    with pytest.raises(ConfigError, match="they must agree"):
        build_term("kd", DENSE, dataclasses.replace(DENSE, positions=(8, 8)), {})


def test_rows_without_a_label_never_touch_the_gaussian_likelihood():
    torch.manual_seed(0)
    term = build_term("gaussian-nll", GAUSSIAN, GAUSSIAN, {})
    outputs, labels = torch.randn(3, 4), torch.randn(3, 2)
    labelled = torch.tensor([True, False, True])
    batch = dataclasses.replace(_batch(labels), is_labelled=labelled)
    poisoned = labels.clone()
    poisoned[1] = math.nan
    values = term(_trace(outputs), _trace(outputs), dataclasses.replace(batch, labels=poisoned), STEP)
    assert values[1] == 0
    expected = F.gaussian_nll_loss(outputs[labelled, :2], labels[labelled], outputs[labelled, 2:].exp()) * 2
    torch.testing.assert_close(values.mean(), expected)


def test_gaussian_terms_read_the_parts_they_are_told():
    torch.manual_seed(0)
    own, branch, theirs = torch.randn(3, 3, 4)
    labels = torch.randn(3, 2)
    nll = build_term("gaussian-nll", GAUSSIAN, GAUSSIAN, {"part": "aux:b.logits"})
    expected = F.gaussian_nll_loss(branch[:, :2], labels, branch[:, 2:].exp(), reduction="sum") / 3
    torch.testing.assert_close(
        nll(_trace(own, **{"b.logits": branch}), _trace(own), _batch(labels), STEP).mean(), expected
    )
    kl = build_term("gaussian-kl", GAUSSIAN, GAUSSIAN, {"part": "aux:b.logits", "target": "logits", "rows": "labelled"})
    batch = dataclasses.replace(_batch(labels), is_labelled=torch.tensor([True, True, False]))
    found = kl(_trace(own, **{"b.logits": branch}), _trace(theirs), batch, STEP)
    pair = [torch.distributions.Normal(x[:2, :2], (x[:2, 2:] / 2).exp()) for x in (theirs, branch)]
    torch.testing.assert_close(found.mean(), torch.distributions.kl_divergence(*pair).sum(1).mean())
    for name in ("gaussian-nll", "gaussian-kl"):
        with pytest.raises(ConfigError, match=r"aux:b\.code: it has shape \(6,\), not \(4,\)"):
            build_term(name, GAUSSIAN, GAUSSIAN, {"part": "aux:b.code"})


def test_rotated_views_keep_labels_of_their_pictures_apart(maps):
    labels = torch.arange(2)[:, None, None].expand(2, 4, 4).contiguous()
    turned = VIEWS["rotations"]()(_batch(labels), STEP)
    assert turned.labels.shape == (8, 4, 4)
    assert turned.labels[:, 0, 0].tolist() == [0] * 4 + [1] * 4
    assert turned.is_labelled.tolist() == [True, False, False, False] * 2


def test_maps_are_learnt_and_judged_as_scikit_learn_does(maps):
    spec, outcome = _run(maps, "plain", epochs=25)
    with torch.no_grad():
        pictures = torch.from_numpy(maps.test.inputs.gather(np.arange(96))).permute(0, 3, 1, 2) / 255
        logits = outcome.student(pictures)
    found = evaluate(outcome.student, maps.test)
    expected = jaccard_score(maps.test.labels.ravel(), logits.argmax(1).numpy().ravel(), average="macro")
    assert found.score == pytest.approx(expected, abs=1e-9)
    assert found.nll == pytest.approx(F.cross_entropy(logits, torch.from_numpy(maps.test.labels)).item(), rel=1e-4)
    assert found.score > 0.6
    follower = _run(maps, "kd", teacher=(spec, outcome.student), epochs=25)[1]
    assert set(follower.history[0].terms) == {"cross-entropy", "kd"}
    assert evaluate(follower.student, maps.test).score > 0.5


def test_ignored_pixels_are_not_evaluated(maps):
    torch.manual_seed(0)
    labels = maps.val.labels.copy()
    labels[:, 3:] = IGNORED
    split = dataclasses.replace(maps.val, labels=labels)
    logits = torch.randn(len(split), 3, 8, 8)
    found = evaluate(_Answers(logits), split)
    assert found.nll == pytest.approx(
        F.cross_entropy(logits[:, :, :3], torch.from_numpy(labels[:, :3])).item(), rel=1e-5
    )
    decided = logits.argmax(1).numpy()[:, :3]
    assert found.score == pytest.approx(jaccard_score(labels[:, :3].ravel(), decided.ravel(), average="macro"))


def test_values_are_learnt_and_judged_as_scikit_learn_does(values):
    spec, outcome = _run(values, "plain", epochs=10)
    with torch.no_grad():
        pictures = torch.from_numpy(values.test.inputs.gather(np.arange(96))).permute(0, 3, 1, 2) / 255
        outputs = outcome.student(pictures)
    found = evaluate(outcome.student, values.test)
    assert found.score == pytest.approx(r2_score(values.test.labels, outputs[:, :2].numpy()), abs=1e-5)
    labels = torch.from_numpy(values.test.labels)
    density = torch.distributions.Normal(outputs[:, :2], (outputs[:, 2:] / 2).exp()).log_prob(labels)
    assert found.nll == pytest.approx(-density.sum(1).mean().item() - math.log(2 * math.pi), abs=1e-3)
    assert found.score > 0.6
    assert set(outcome.history[0].terms) == {"gaussian-nll"}
    follower = _run(values, "kd", teacher=(spec, outcome.student), epochs=4)[1]
    assert set(follower.history[0].terms) == {"gaussian-nll", "gaussian-kl"}
    assert evaluate(follower.student, values.test).score > 0


class _Answers(nn.Module):
    """A network that gives the same outputs for the same rows of a split, in order."""

    def __init__(self, outputs):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.outputs, self.at = outputs, 0

    def forward(self, inputs):
        start, self.at = self.at, (self.at + len(inputs)) % len(self.outputs)
        return self.outputs[start : start + len(inputs)]


@pytest.mark.parametrize("task", [MAPS, VALUES], ids=["maps", "values"])
def test_fidelity_is_agreement_and_divergence_over_the_whole_split(task):
    torch.manual_seed(0)
    count, channels = 300, task.num_outputs
    shape = (count, channels, 4, 4) if task is MAPS else (count, channels)
    mine, theirs = torch.randn(shape), torch.randn(shape)
    labels = np.zeros((count, 4, 4), np.int64) if task is MAPS else np.zeros((count, 2), np.float32)
    split = Split(ArrayImages(np.zeros((count, 4, 4, 1), np.uint8)), labels, task)
    same, figures = fidelities_of([_Answers(theirs), _Answers(mine)], _Answers(theirs), split)
    assert same == {"agreement": 1.0, "kl": 0.0}
    assert torch.is_grad_enabled()
    assert fidelity_of(mine, theirs, task) == pytest.approx(figures, abs=1e-12)
    if task is MAPS:
        assert figures["agreement"] == pytest.approx((mine.argmax(1) == theirs.argmax(1)).double().mean().item())
        student, teacher = (F.log_softmax(x.double(), 1) for x in (mine, theirs))
        kl = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1).mean()
    else:
        assert figures["agreement"] == pytest.approx(r2_score(theirs[:, :2], mine[:, :2]), abs=1e-4)
        student, teacher = (torch.distributions.Normal(x[:, :2], (x[:, 2:] / 2).exp()) for x in (mine, theirs))
        kl = torch.distributions.kl_divergence(teacher, student).sum(1).mean()
    assert figures["kl"] == pytest.approx(kl.item(), rel=1e-5)
