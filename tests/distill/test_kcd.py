"""KCD: alignments against brute force, planted permutations, and what shuffling a teacher may not change."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.core.artifacts import NetSpec
from edgekd.core.errors import ConfigError
from edgekd.data import ArrayImages, Batch, Split, network_inputs
from edgekd.distill import RunOptions, TrainSettings, load_recipe, run_recipe
from edgekd.distill.channel_alignment import align_channels, channel_moments
from edgekd.distill.preparation import prepare
from edgekd.distill.recipe import Recipe
from edgekd.distill.roles import open_session
from edgekd.distill.stage import build_stage
from edgekd.distill.terms import Preparation, Step, build_term
from edgekd.distill.trace import Trace, TraceSpec
from edgekd.models import build

STEP = Step(0, 10, 0)


def _spec(channels, size=4):
    return TraceSpec(3, {"m": (channels, size, size)}, "m")


def _trace(feature_map):
    return Trace(torch.zeros(len(feature_map), 3), {"m": feature_map}, {}, torch.zeros(len(feature_map), 1, 8, 8))


def _batch(rows):
    return Batch(torch.zeros(rows, 1, 8, 8), torch.zeros(rows).long(), torch.arange(rows), torch.ones(rows).bool())


def _prepared(student_map, teacher_map, notes=None, **options):
    """A term that has seen these maps, in two batches."""
    options = {"pairs": [("m", "m")], **options}
    term = build_term("aligned-features", _spec(*student_map.shape[1:3]), _spec(*teacher_map.shape[1:3]), options)

    def traces(rows):
        half = len(student_map) // 2
        for part in (slice(None, half), slice(half, None)):
            yield _trace(student_map[part]), _trace(teacher_map[part])

    note = (lambda message: None) if notes is None else notes.append
    term.prepare(Preparation(torch.zeros(4).long(), 1, torch.device("cpu"), traces, note=note))
    return term


def _maps(channels, rows=16, size=4, seed=0):
    return torch.randn(rows, channels, size, size, generator=torch.Generator().manual_seed(seed))


def _columns(feature_map):
    return feature_map.double().permute(0, 2, 3, 1).reshape(-1, feature_map.shape[1]).numpy()


def _related(mine, theirs, seed=3):
    """Two maps whose channels are noisy mixtures of common ones."""
    rng = np.random.default_rng(seed)
    common = _maps(4, seed=seed)
    mixed = [torch.tensor(rng.normal(size=(width, 4)), dtype=torch.float32) for width in (mine, theirs)]
    return [torch.einsum("cd,bdhw->bchw", mix, common) + _maps(len(mix), seed=seed + i) for i, mix in enumerate(mixed)]


@pytest.mark.parametrize("mine, theirs", [(4, 4), (3, 5)])
def test_permute_finds_the_best_assignment_of_all(mine, theirs):
    student, teacher = _related(mine, theirs)
    s, t = _columns(student), _columns(teacher)
    correlation = np.array([[np.corrcoef(s[:, i], t[:, j])[0, 1] for j in range(theirs)] for i in range(mine)])
    choices = itertools.permutations(range(theirs), mine)
    best = max(choices, key=lambda chosen: sum(correlation[i, j] for i, j in enumerate(chosen)))
    moments = channel_moments([(student[:5], teacher[:5]), (student[5:], teacher[5:])])
    np.testing.assert_allclose(moments.correlation.numpy(), correlation, atol=1e-10)
    aligned = align_channels(moments, "permute", ridge=1.0)
    assert aligned.weight.argmax(dim=1).tolist() == list(best)
    np.testing.assert_allclose(aligned.agreement.numpy(), [correlation[i, j] for i, j in enumerate(best)], atol=1e-10)
    assert (aligned.weight != 0).sum() == mine


def test_greedy_takes_the_largest_remaining_correlation_and_may_miss_the_best_sum():
    strong, weak = np.array([[0.9, 0.8], [0.85, 0.1]]), {}
    for name in ("greedy", "permute"):
        moments = channel_moments([(_maps(2), _maps(2, seed=1))])
        moments = type(moments)(**{**moments.__dict__, "correlation": torch.tensor(strong)})
        weak[name] = align_channels(moments, name, ridge=1.0).weight.ne(0).long().argmax(dim=1).tolist()
    assert weak == {"greedy": [0, 1], "permute": [1, 0]}


def test_linear_is_ridge_regression_of_standard_scores_brought_to_deviation_one():
    student, teacher = _related(3, 5)
    s, t = _columns(student), _columns(teacher)
    zs, zt = ((x - x.mean(axis=0)) / x.std(axis=0) for x in (s, t))
    penalty = np.sqrt(0.3 * len(t)) * np.eye(5)
    coefficients = np.linalg.lstsq(np.vstack([zt, penalty]), np.vstack([zs, np.zeros((5, 3))]), rcond=None)[0]
    expected = zt @ coefficients / (zt @ coefficients).std(axis=0)
    aligned = align_channels(channel_moments([(student, teacher)]), "linear", ridge=0.3)
    np.testing.assert_allclose(t @ aligned.weight.numpy().T + aligned.bias.numpy(), expected, atol=1e-9)
    correlations = [np.corrcoef(expected[:, i], s[:, i])[0, 1] for i in range(3)]
    np.testing.assert_allclose(aligned.agreement.numpy(), correlations, atol=1e-9)


@pytest.mark.parametrize("alignment", ["permute", "greedy", "linear"])
def test_a_shuffled_copy_of_the_student_is_recognised_exactly(alignment):
    student = _maps(6) * torch.arange(1, 7).view(-1, 1, 1) + 3
    order = torch.randperm(6, generator=torch.Generator().manual_seed(5))
    teacher = student[:, order]
    term = _prepared(student, teacher, alignment=alignment, ridge=1e-9)
    found = term.frozen[0].weight.abs().argmax(dim=1)
    assert torch.equal(found, torch.argsort(order))
    values = term(_trace(student), _trace(teacher), _batch(16), STEP)
    assert values.max() < 1e-10
    unaligned = (student - teacher).square().mean(dim=(1, 2, 3))
    assert unaligned.min() > 1


def test_the_loss_is_the_mean_squared_difference_of_standard_scores():
    student, teacher = _related(3, 5)
    term = _prepared(student, teacher)
    s, t = _columns(student), _columns(teacher)
    chosen = term.frozen[0].weight.argmax(dim=1).tolist()
    new_s, new_t = _maps(3, rows=2, seed=8) + 1, _maps(5, rows=2, seed=9)
    expected = []
    for i in range(2):
        total = 0.0
        for channel, other in enumerate(chosen):
            score = (new_s[i, channel].double().numpy() - s[:, channel].mean()) / s[:, channel].std()
            target = (new_t[i, other].double().numpy() - t[:, other].mean()) / t[:, other].std()
            total += ((score - target) ** 2).mean() / 3
        expected.append(total)
    values = term(_trace(new_s), _trace(new_t), _batch(2), STEP)
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-4)


def test_it_pools_the_larger_map_trains_nothing_and_reaches_the_student_alone():
    student, teacher = _maps(3, size=8), _maps(5, size=4).requires_grad_()
    term = _prepared(student, teacher.detach())
    leaf = student.clone().requires_grad_()
    term(_trace(leaf), _trace(teacher), _batch(16), STEP).mean().backward()
    assert leaf.grad.abs().sum() > 0 and teacher.grad is None
    assert not list(term.parameters()) and not term.state_dict()


def test_dead_channels_give_finite_numbers():
    student, teacher = _maps(3), _maps(4)
    student[:, 1], teacher[:, 2], teacher[:, 0] = 0.0, 0.0, 7.0
    for alignment in ("permute", "greedy", "linear"):
        term = _prepared(student, teacher, alignment=alignment)
        assert torch.isfinite(term(_trace(student), _trace(teacher), _batch(16), STEP)).all()
    dead = torch.zeros(4, 2, 4, 4)
    assert _prepared(dead, dead)(_trace(dead), _trace(dead), _batch(4), STEP).tolist() == [0.0] * 4


def test_a_channel_that_is_silent_when_aligned_does_not_outweigh_the_others_once_it_answers():
    student, teacher = _maps(4), _maps(4, seed=1)
    student[:, 1] *= 1e-4
    term = _prepared(student, teacher)
    awake = student.clone()
    awake[:, 1] = _maps(4, seed=2)[:, 1]
    deviations = _columns(student).std(axis=0)
    moved = ((_columns(awake) - _columns(student))[:, 1] / (0.1 * deviations.max())) ** 2 / 4
    before, after = (term(_trace(each), _trace(teacher), _batch(16), STEP).mean().item() for each in (student, awake))
    assert after - before == pytest.approx(moved.mean(), rel=0.05)


def test_a_quiet_channel_of_a_copy_is_recognised_and_its_loss_is_zero():
    student = _maps(5) * torch.tensor([1.0, 0.03, 2.0, 0.05, 1.5]).view(-1, 1, 1) + 1
    order = torch.tensor([3, 1, 4, 0, 2])
    teacher = student[:, order]
    term = _prepared(student, teacher)
    assert torch.equal(term.frozen[0].weight.abs().argmax(dim=1), torch.argsort(order))
    assert term(_trace(student), _trace(teacher), _batch(16), STEP).max() < 1e-9


def _top_channels(feature_map, k):
    """The k channels of largest mean activation, what the paper calls the channels that answer to a class."""
    return set(feature_map.mean(dim=(0, 2, 3)).argsort(descending=True)[:k].tolist())


def test_aligning_raises_the_share_of_common_top_channels_of_each_class():
    rng = torch.Generator().manual_seed(2)
    answers = [torch.rand(12, 1, 1, generator=rng) * 3 for _ in range(3)]
    student = torch.cat([answer + 0.3 * _maps(12, seed=10 + i) for i, answer in enumerate(answers)])
    order = torch.randperm(12, generator=rng)
    teacher = student[:, order] + 0.3 * _maps(12, rows=48, seed=20)
    found = _prepared(student, teacher).frozen[0].weight.argmax(dim=1)
    overlaps = []
    for other in (teacher, teacher[:, found]):
        rows = [slice(16 * label, 16 * (label + 1)) for label in range(3)]
        overlaps.append(sum(len(_top_channels(student[r], 4) & _top_channels(other[r], 4)) / 4 for r in rows) / 3)
    assert overlaps[1] > overlaps[0] + 0.3 and overlaps[1] > 0.9


def test_it_tells_how_well_the_channels_agree():
    notes = []
    student = _maps(4)
    _prepared(student, student[:, [2, 0, 3, 1]], notes)
    assert "correlate with them by 1.00 on average" in notes[0]


def test_the_rows_that_channels_are_aligned_by_are_of_all_classes_where_the_data_lie_class_by_class(dataset, student):
    train = dataset.train
    order = np.argsort(train.labels, kind="stable")
    by_class = Split(ArrayImages(train.inputs.gather(order)), train.labels[order], train.task)
    recipe = load_recipe("kcd")
    session = open_session(recipe, student=student, teacher=(student, build(student)), input_shape=(1, 8, 8), seed=0)
    stage, seen = build_stage(recipe.stages[0], session), []
    (term,) = (one for _, _, one in stage.learners.first.named_terms() if hasattr(one, "prepare"))
    term.prepare = lambda preparation: seen.extend(mine.inputs for mine, _ in preparation.traces(8))
    prepare(stage, session, by_class, torch.device("cpu"))
    (inputs,) = seen
    pictures = torch.from_numpy(network_inputs(by_class.inputs.gather(np.arange(len(by_class)))))
    rows = [int((pictures == picture).flatten(1).all(dim=1).nonzero()[0]) for picture in inputs]
    assert np.bincount(by_class.labels[rows]).tolist() == [2, 2, 2, 2]


def test_networks_and_options_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"each of the 5 channels.*which has 3; take alignment: linear"):
        build_term("aligned-features", _spec(5), _spec(3), {})
    assert build_term("aligned-features", _spec(5), _spec(3), {"alignment": "linear"}).frozen[0].weight.shape == (5, 3)
    for options in ({"images": 1}, {"ridge": 0.0}):
        with pytest.raises(ConfigError, match="aligned-features: images"):
            build_term("aligned-features", _spec(3), _spec(3), options)


class _Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1, stride=4), nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 12, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool, self.flatten, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4)

    def forward(self, inputs):
        return self.head(self.flatten(self.pool(self.relu(self.last(self.norm(self.first(inputs)))))))


def _shuffled(net, order):
    other = _Teacher()
    other.load_state_dict(net.state_dict())
    other.last.weight.data, other.last.bias.data = net.last.weight.data[order], net.last.bias.data[order]
    other.head.weight.data = net.head.weight.data[:, order]
    return other.eval()


@pytest.mark.parametrize("kind, is_blind", [("aligned-features", True), ("fitnet", False)])
def test_shuffling_the_teachers_channels_changes_hint_training_only(dataset, student, kind, is_blind):
    torch.manual_seed(3)
    net = _Teacher().eval()
    order = torch.randperm(12)
    spec = NetSpec("python", 0, 0, 8, 1, 4, (0.3,), (0.2,))
    terms = [{"type": "cross-entropy"}, {"type": kind, "pairs": [("net.layer3.0", "relu")]}]
    recipe = Recipe(name="t", title="t", stages=[{"name": "student", "terms": terms}])
    settings = TrainSettings(epochs=1, batch_size=32, augment="none", device="cpu")
    one, other = (
        run_recipe(
            recipe,
            student=student,
            teacher=(spec, teacher),
            dataset=dataset,
            settings=settings,
            options=RunOptions(),
        ).student.state_dict()
        for teacher in (net, _shuffled(net, order))
    )
    differences = [(one[name] - other[name]).abs().max().item() for name in one]
    assert (max(differences) < 1e-4) == is_blind


def _without_alignment(recipe):
    last = recipe.stages[-1]
    terms = tuple(term for term in last.terms if term.type != "aligned-features")
    return recipe.model_copy(update={"stages": (*recipe.stages[:-1], last.model_copy(update={"terms": terms}))})


def test_without_its_term_it_is_kd_also_after_a_reference_was_trained(run):
    kd = Recipe(name="t", title="t", stages=[{"name": "student", "terms": [{"type": "cross-entropy"}, {"type": "kd"}]}])
    expected = run(kd).student.state_dict()
    for name in ("kcd", "kcd-trained"):
        found = run(_without_alignment(load_recipe(name))).student.state_dict()
        assert all(torch.equal(found[key], expected[key]) for key in expected), name


def test_the_trained_reference_is_what_the_channels_are_aligned_to(run):
    def note_of(recipe):
        events = []
        run(recipe, listener=events.append)
        return next(event.message for event in events if event.kind == "note")

    trained = load_recipe("kcd-trained")
    reference, last = trained.stages
    unprepared = trained.model_copy(update={"stages": (reference, last.model_copy(update={"start": "fresh"}))})
    assert note_of(unprepared) == note_of(load_recipe("kcd")) != note_of(trained)
