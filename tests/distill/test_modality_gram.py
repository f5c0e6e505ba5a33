"""Modality Gram: what is compared, what it ignores, what is refused, and that it brings relations nearer."""

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.core.errors import ConfigError
from edgekd.data import ArrayImages, Batch, Dataset, Split, Task
from edgekd.distill import RunOptions, TrainSettings, check_recipe, load_recipe, run_recipe
from edgekd.distill.recipe import Recipe
from edgekd.distill.terms import Step, build_term
from edgekd.distill.trace import Trace, TraceSpec
from edgekd.models import build, modalities_of, spec_for

STEP = Step(0, 10, 0)
STUDENT = TraceSpec(4, {"s0": (3,), "s1": (3,), "s2": (3,)}, "s2", modalities=("s0", "s1", "s2"))
TEACHER = TraceSpec(4, {"t0": (5,), "t1": (5,), "t2": (5,)}, "t2", modalities=("t0", "t1", "t2"))


def _trace(spec, seed, rows=4):
    rng = torch.Generator().manual_seed(seed)
    feats = {path: torch.randn(rows, *shape, generator=rng, dtype=torch.float64) for path, shape in spec.feats.items()}
    return Trace(torch.zeros(rows, 4), feats, {}, torch.zeros(rows, 2, 8, 8))


def _batch(rows=4):
    return Batch(torch.zeros(rows, 2, 8, 8), torch.zeros(rows).long(), torch.arange(rows), torch.ones(rows).bool())


def _gram(trace, paths, row, normalise):
    vectors = [trace.feats[path][row].numpy() for path in paths]
    if normalise:
        vectors = [vector / np.sqrt((vector**2).sum()) for vector in vectors]
    return np.array([[float(a @ b) for b in vectors] for a in vectors])


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("scope", ["sample", "batch"])
def test_values_are_those_of_the_formula_over_pairs_of_modalities(normalise, scope):
    mine, theirs = _trace(STUDENT, 0), _trace(TEACHER, 1)
    gaps = [
        _gram(mine, STUDENT.modalities, row, normalise) - _gram(theirs, TEACHER.modalities, row, normalise)
        for row in range(4)
    ]
    gaps = gaps if scope == "sample" else [np.mean(gaps, axis=0)]
    expected = np.mean([sum(gap[i, j] ** 2 for i in range(3) for j in range(3) if i != j) / 6 for gap in gaps])
    term = build_term("modality-gram", STUDENT, TEACHER, {"normalise": normalise, "scope": scope})
    assert not list(term.parameters())
    assert term(mine, theirs, _batch(), STEP).mean().item() == pytest.approx(expected, rel=1e-10)


def _changed(trace, change):
    return Trace(trace.logits, {path: change(feat) for path, feat in trace.feats.items()}, {}, trace.inputs)


def test_rotating_and_scaling_a_networks_embeddings_changes_nothing_swapping_its_modalities_does():
    mine, theirs = _trace(STUDENT, 0), _trace(TEACHER, 1)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    term = build_term("modality-gram", STUDENT, TEACHER, {})
    base = term(mine, theirs, _batch(), STEP)
    torch.testing.assert_close(term(mine, _changed(theirs, lambda x: 3 * x @ rotation), _batch(), STEP), base)
    torch.testing.assert_close(term(_changed(mine, lambda x: 0.1 * x), theirs, _batch(), STEP), base)
    swapped = build_term("modality-gram", STUDENT, TEACHER, {"student_paths": ["s1", "s0", "s2"]})
    assert not torch.allclose(swapped(mine, theirs, _batch(), STEP), base)


def test_it_is_zero_exactly_where_the_relations_agree_whatever_the_widths():
    mine = _trace(STUDENT, 0)
    wide = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q[:3]
    same = Trace(mine.logits, {f"t{i}": mine.feats[f"s{i}"] @ wide for i in range(3)}, {}, mine.inputs)
    term = build_term("modality-gram", STUDENT, TEACHER, {})
    assert term(mine, same, _batch(), STEP).abs().max() < 1e-20
    assert term(mine, _trace(TEACHER, 1), _batch(), STEP).min() > 1e-3


def test_a_student_that_lacks_a_modality_follows_the_relations_of_those_that_both_have():
    mine, theirs = _trace(STUDENT, 0), _trace(TEACHER, 1)
    options = {"student_paths": ["s0", "s2"], "teacher_paths": ["t0", "t2"]}
    term = build_term("modality-gram", STUDENT, TEACHER, options)
    expected = [
        (_gram(mine, ("s0", "s2"), row, True)[0, 1] - _gram(theirs, ("t0", "t2"), row, True)[0, 1]) ** 2
        for row in range(4)
    ]
    np.testing.assert_allclose(term(mine, theirs, _batch(), STEP).numpy(), expected, rtol=1e-10)


def test_networks_without_two_modalities_of_one_width_are_refused():
    bare = TraceSpec(4, {"f": (3,)}, "f")
    with pytest.raises(ConfigError, match=r"the student has 0: take a family.*student_paths"):
        build_term("modality-gram", bare, TEACHER, {})
    with pytest.raises(ConfigError, match="at least two modalities, the teacher has 1"):
        build_term("modality-gram", STUDENT, TEACHER, {"teacher_paths": ["t0"]})
    with pytest.raises(ConfigError, match="the student has 3 modalities, the teacher 2; name those"):
        build_term("modality-gram", STUDENT, TEACHER, {"teacher_paths": ["t0", "t1"]})
    uneven = Trace(torch.zeros(4, 4), {"s0": torch.zeros(4, 3), "s1": torch.zeros(4, 2)}, {}, torch.zeros(4, 2, 8, 8))
    term = build_term("modality-gram", STUDENT, TEACHER, {"student_paths": ["s0", "s1"], "teacher_paths": ["t0", "t1"]})
    with pytest.raises(ConfigError, match="must agree in width"):
        term(uneven, _trace(TEACHER, 1), _batch(), STEP)


def test_a_task_of_one_modality_is_refused_before_training(student, teacher, dataset):
    recipe = load_recipe("modality-gram")
    with pytest.raises(ConfigError, match="modality-gram compares relations between at least two modalities"):
        check_recipe(recipe, student=student, teacher=teacher, dataset=dataset, batch_size=32)


def _angles(count, seed):
    """Two channels of one wave each; the label is the sign of the cosine of the angle between their phases."""
    rng = np.random.default_rng(seed)
    phases = rng.uniform(0, 2 * np.pi, (count, 2))
    across = 2 * np.pi * np.arange(8) / 8
    waves = np.cos(across[None, :, None] - phases[:, None, :])
    pixels = 128 + 80 * waves[:, None] + rng.normal(0, 8, (count, 8, 8, 2))
    labels = (np.cos(phases[:, 0] - phases[:, 1]) > 0).astype(np.int64)
    return Split(ArrayImages(pixels.clip(0, 255).astype(np.uint8)), labels, Task("classification", ("apart", "along")))


@pytest.fixture(scope="module")
def waves():
    return Dataset("waves", _angles(512, 0), _angles(128, 1), _angles(256, 2), (0.5, 0.5), (0.25, 0.25), "waves")


def _towers(width):
    return spec_for(
        "towers", depth=3, width=width, in_channels=2, num_classes=2, resolution=8, mean=(0.5, 0.5), std=(0.25, 0.25)
    )


def _trained(recipe, dataset, width, teacher, *, epochs, seed):
    settings = TrainSettings(epochs=epochs, batch_size=32, lr=0.05, augment="none", device="cpu")
    spec = _towers(width)
    outcome = run_recipe(
        recipe, student=spec, teacher=teacher, dataset=dataset, settings=settings, options=RunOptions(seed=seed)
    )
    return spec, outcome.student


def _cosines(given, split):
    """Cosine of the two embeddings of each input, read by hooks of our own."""
    spec, net = given
    seen = {}
    for path in modalities_of(spec):
        net.get_submodule(path).register_forward_hook(lambda _, __, out, path=path: seen.__setitem__(path, out))
    pixels = split.inputs.gather(np.arange(len(split)))
    with torch.no_grad():
        net(torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255))
    return nn.functional.cosine_similarity(*seen.values()).numpy()


def test_it_brings_relations_of_unseen_inputs_nearer_to_the_teachers_than_kd_alone(waves):
    teacher = _trained(load_recipe("plain"), waves, 8, None, epochs=15, seed=0)
    recipe = load_recipe("modality-gram")
    (stage,) = recipe.stages
    kd = recipe.model_copy(update={"stages": (stage.model_copy(update={"terms": stage.terms[:2]}),)})
    expected = _cosines(teacher, waves.test)
    gaps = {}
    for name, each in (("kd", kd), ("gram", recipe)):
        students = [_trained(each, waves, 3, teacher, epochs=8, seed=seed) for seed in range(2)]
        gaps[name] = np.mean([np.abs(_cosines(student, waves.test) - expected).mean() for student in students])
    assert gaps["gram"] < 0.5 * gaps["kd"]


def test_without_its_weight_it_is_kd(waves):
    recipe = load_recipe("modality-gram")
    (stage,) = recipe.stages
    teacher = (_towers(6), build(_towers(6)))
    terms = [{**term.model_dump(), "weight": 0.0 if term.type == "modality-gram" else 1.0} for term in stage.terms]
    silent = Recipe(name="t", title="t", stages=[{"name": "student", "terms": terms}])
    kd = Recipe(name="t", title="t", stages=[{"name": "student", "terms": terms[:2]}])
    one, other = (_trained(each, waves, 3, teacher, epochs=1, seed=0)[1].state_dict() for each in (silent, kd))
    assert all(torch.equal(one[name], other[name]) for name in other)
