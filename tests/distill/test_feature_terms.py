"""Terms on feature maps: which maps they read, how pairs add up, what they train, what they refuse."""

import pytest
import torch
from edgekd_kernels import functional as K
from torch import nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.attachments import Paraphraser
from edgekd.distill.terms import FactorTransfer, Paraphrasing, Step, build_term
from edgekd.distill.trace import Trace, TraceSpec

STEP = Step(0, 10, 0)
STUDENT = TraceSpec(4, {"a": (2, 8, 8), "b": (3, 4, 4), "flatten": (3,)}, "flatten")
TEACHER = TraceSpec(4, {"x": (5, 8, 8), "y": (3, 4, 4), "flatten": (3,)}, "flatten")
MAP_TERMS = [
    "fitnet",
    "fitnet-normalized",
    "vid",
    "pkd",
    "attention-transfer",
    "neuron-selectivity",
    "mgd",
    "reviewkd",
    "ofd",
    "activation-boundary",
    "pooled-pyramid",
]


def _trace(spec, n=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    feats = {path: torch.randn(n, *shape, generator=generator) for path, shape in spec.feats.items()}
    return Trace(torch.zeros(n, 4), feats, {}, torch.zeros(n, 1, 8, 8))


def _batch(n=3):
    return Batch(torch.zeros(n, 1, 8, 8), torch.zeros(n, dtype=torch.int64), torch.arange(n), torch.ones(n).bool())


@pytest.fixture
def mine():
    return _trace(STUDENT)


@pytest.fixture
def theirs():
    return _trace(TEACHER, seed=1)


def _term(kind, **options):
    torch.manual_seed(0)
    return build_term(kind, STUDENT, TEACHER, options)


@pytest.mark.parametrize("kind", MAP_TERMS)
def test_terms_read_the_maps_they_declare_and_every_parameter_learns(kind, mine, theirs):
    term = _term(kind, pairs="all")
    assert set(term.needs.student) >= {"a", "b"} and set(term.needs.teacher) >= {"x", "y"}
    for path in term.needs.student:
        mine.feats[path].requires_grad_()
    values = term(mine, theirs, _batch(), STEP)
    assert values.shape == (3,) and torch.isfinite(values).all()
    values.mean().backward()
    assert all(mine.feats[path].grad.abs().sum() > 0 for path in term.needs.student)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in term.parameters())


@pytest.mark.parametrize("kind", MAP_TERMS)
def test_terms_refuse_vectors_and_unknown_paths_before_training(kind):
    with pytest.raises(ConfigError, match=r"student module 'flatten' gives .*not a map.*maps: a, b"):
        _term(kind, pairs=[("flatten", "x")])
    with pytest.raises(ConfigError, match="teacher module 'flatten'"):
        _term(kind, pairs=[("a", "flatten")])
    with pytest.raises(ConfigError, match="unknown module to tap 'c'"):
        _term(kind, pairs=[("c", "x")])


def test_attention_transfer_adds_its_pairs_and_trains_nothing(mine, theirs):
    term = _term("attention-transfer", p=4.0)
    expected = sum(K.attention_transfer(mine.feats[a], theirs.feats[b], p=4.0) for a, b in (("a", "x"), ("b", "y")))
    torch.testing.assert_close(term(mine, theirs, _batch(), STEP), expected)
    assert not list(term.parameters())
    with pytest.raises(ConfigError, match="1 or more, got 0"):
        _term("attention-transfer", p=0.0)


def test_pkd_adapts_the_width_only_where_it_differs_and_adds_its_pairs(mine, theirs):
    term = _term("pkd")
    assert [type(adapter) for adapter in term.adapters] == [nn.Conv2d, nn.Identity]
    expected = K.pkd(term.adapters[0](mine.feats["a"]), theirs.feats["x"]) + K.pkd(mine.feats["b"], theirs.feats["y"])
    torch.testing.assert_close(term(mine, theirs, _batch(), STEP), expected)


def test_the_normalised_hint_pools_projects_and_averages_over_pairs(mine, theirs):
    term = _term("fitnet-normalized", pairs=[("a", "y"), ("b", "y")])
    pooled = mine.feats["a"].unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean(dim=(3, 5))
    first = K.hint_l2(term.projectors[0](pooled), theirs.feats["y"])
    second = K.hint_l2(term.projectors[1](mine.feats["b"]), theirs.feats["y"])
    torch.testing.assert_close(term(mine, theirs, _batch(), STEP), (first + second) / 2)


def test_the_pooled_pyramid_compares_maps_at_each_resolution_and_averages_over_pairs(mine, theirs):
    term = _term("pooled-pyramid", pairs=[("a", "x"), ("b", "y")], levels=(2, 1))
    expected = []
    for (on, to), projector in zip(term.pairs, term.projectors, strict=True):
        difference = projector(mine.feats[on]) - theirs.feats[to]
        half = difference.shape[-1] // 2
        quarters = difference.unflatten(2, (2, half)).unflatten(4, (2, half)).mean(dim=(3, 5))
        levels = (difference, quarters, difference.mean(dim=(2, 3)))
        sums = [weight * level.square().flatten(1).mean(dim=1) for weight, level in zip((4, 2, 1), levels, strict=True)]
        expected.append(sum(sums) / 7)
    torch.testing.assert_close(term(mine, theirs, _batch(), STEP), (expected[0] + expected[1]) / 2)


def test_a_pyramid_of_one_level_is_the_hint(mine, theirs):
    torch.testing.assert_close(
        _term("pooled-pyramid", levels=())(mine, theirs, _batch(), STEP),
        _term("fitnet", pairs="all")(mine, theirs, _batch(), STEP),
    )


def test_the_pooled_pyramid_refuses_levels_without_windows():
    with pytest.raises(ConfigError, match=r"levels must be positive, got \[2, 0\]"):
        _term("pooled-pyramid", levels=(2, 0))


def test_the_normalised_hint_is_blind_to_the_teachers_lengths(mine, theirs):
    term = _term("fitnet-normalized")
    louder = Trace(theirs.logits, {path: 7 * feat for path, feat in theirs.feats.items()}, {}, theirs.inputs)
    torch.testing.assert_close(term(mine, louder, _batch(), STEP), term(mine, theirs, _batch(), STEP))


def test_mgd_without_a_mask_is_the_squared_error_of_the_generated_map(mine, theirs):
    term = _term("mgd", mask_ratio=0.0, pairs="all")
    total = torch.zeros(3)
    for (on, to), adapter, generator in zip(term.pairs, term.adapters, term.generators, strict=True):
        total += (generator(adapter(mine.feats[on])) - theirs.feats[to]).square().sum(dim=(1, 2, 3))
    torch.testing.assert_close(term(mine, theirs, _batch(), STEP), total)
    kinds = [type(layer) for layer in term.generators[0]]
    assert kinds == [nn.Conv2d, nn.ReLU, nn.Conv2d]
    assert [layer.kernel_size for layer in term.generators[0] if isinstance(layer, nn.Conv2d)] == [(3, 3), (3, 3)]


def test_mgd_masks_whole_channels_at_its_rate_and_follows_torchs_generator():
    term = _term("mgd", mask_ratio=0.15)
    ones = torch.ones(64, 128, 3, 3)
    torch.manual_seed(5)
    masked = term._masked(ones)
    assert set(masked.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(masked, masked[..., :1, :1].expand_as(masked))
    assert (masked == 0).float().mean().item() == pytest.approx(0.15, abs=0.02)
    assert len({tuple(row.tolist()) for row in masked[:, :, 0, 0]}) == 64
    torch.manual_seed(5)
    assert torch.equal(term._masked(ones), masked)
    assert not torch.equal(term._masked(ones), masked)


def test_mgd_masks_the_student_and_never_the_target(mine, theirs):
    term = _term("mgd", mask_ratio=0.5)
    torch.manual_seed(6)
    values = term(mine, theirs, _batch(), STEP)
    torch.manual_seed(6)
    masked = term._masked(mine.feats["b"])
    assert 0 < (masked == 0).sum() < masked.numel()
    torch.testing.assert_close(values, K.mgd(term.generators[0](masked), theirs.feats["y"]))


@pytest.mark.parametrize("ratio", [-0.1, 1.0])
def test_mgd_refuses_a_mask_ratio_that_leaves_nothing_or_is_none(ratio):
    with pytest.raises(ConfigError, match="mask_ratio"):
        _term("mgd", mask_ratio=ratio)


def test_reviewkd_sends_deep_maps_to_shallow_levels_and_not_the_other_way(mine, theirs):
    term = _term("reviewkd").eval()
    assert term.levels == (("flatten", "flatten"), ("b", "y"), ("a", "x"))
    assert [fusion.attention is None for fusion in term.fusions] == [True, False, False]
    for feat in mine.feats.values():
        feat.requires_grad_()
    _, deeper = term.fusions[0](mine.feats["flatten"][:, :, None, None], None, (1, 1))
    middle, deeper = term.fusions[1](mine.feats["b"], deeper, (4, 4))
    shallow, _ = term.fusions[2](mine.feats["a"], deeper, (8, 8))
    reaches = torch.autograd.grad(middle.sum(), list(mine.feats.values()), retain_graph=True, allow_unused=True)
    assert [grad is not None for grad in reaches] == [False, True, True]
    reaches = torch.autograd.grad(shallow.sum(), list(mine.feats.values()))
    assert all(grad.abs().sum() > 0 for grad in reaches)


def test_reviewkd_mixes_by_two_sigmoid_shares_and_adds_the_levels(mine, theirs):
    term = _term("reviewkd", with_penultimate=False).eval()
    deep, shallow = term.fusions
    first = deep.reduce(mine.feats["b"])
    level = shallow.reduce(mine.feats["a"])
    coarse = first.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    shares = torch.sigmoid(shallow.attention(torch.cat([level, coarse], dim=1)))
    second = level * shares[:, 0].unsqueeze(1) + coarse * shares[:, 1].unsqueeze(1)
    expected = K.pooled_mse(deep.predict(first), theirs.feats["y"])
    expected = expected + K.pooled_mse(shallow.predict(second), theirs.feats["x"])
    torch.testing.assert_close(term(mine, theirs, _batch(), STEP), expected)


def test_reviewkd_fits_a_teacher_of_another_size(mine):
    teacher = TraceSpec(4, {"x": (5, 6, 6), "flatten": (7,)}, "flatten")
    term = build_term("reviewkd", STUDENT, teacher, {"pairs": [("a", "x")]})
    values = term(mine, _trace(teacher), _batch(), STEP)
    assert values.shape == (3,) and torch.isfinite(values).all()


def test_neuron_selectivity_adds_its_pairs_and_trains_nothing(mine, theirs):
    term = _term("neuron-selectivity")
    expected = K.nst(mine.feats["a"], theirs.feats["x"]) + K.nst(mine.feats["b"], theirs.feats["y"])
    torch.testing.assert_close(term(mine, theirs, _batch(), STEP), expected)
    assert not list(term.parameters())


def test_ofd_counts_shallower_pairs_half_and_takes_the_teachers_mean_negative_response_as_margin(mine, theirs):
    term = _term("ofd")
    values = term(mine, theirs, _batch(), STEP)
    each = []
    for (on, to), projector in zip(term.pairs, term.projectors, strict=True):
        rows = theirs.feats[to].transpose(0, 1).flatten(1)
        margin = torch.stack([row[row < 0].mean() for row in rows])
        each.append(K.partial_l2(projector(mine.feats[on]), theirs.feats[to], margin))
    torch.testing.assert_close(values, each[0] / 2 + each[1])


def test_ofds_margin_is_the_mean_over_all_batches_and_rests_in_evaluation_mode(mine):
    term = _term("ofd", pairs=[("b", "y")])
    batches = [_trace(TEACHER, n=n, seed=n) for n in (2, 5)]
    for each in batches:
        term(_trace(STUDENT, n=len(each.logits)), each, _batch(len(each.logits)), STEP)
    rows = torch.cat([each.feats["y"] for each in batches]).transpose(0, 1).flatten(1).double()
    expected = torch.stack([row[row < 0].mean() for row in rows])
    term.eval()
    term(mine, _trace(TEACHER, seed=9), _batch(), STEP)
    torch.testing.assert_close(term.negatives[0](torch.zeros(1, 3, 4, 4)), expected)


def test_ofd_has_a_zero_margin_behind_a_relu_and_forgives_a_student_below_it(mine, theirs):
    behind = Trace(theirs.logits, {path: feat.relu() for path, feat in theirs.feats.items()}, {}, theirs.inputs)
    term = _term("ofd", pairs=[("b", "y")])
    projected = term.projectors[0](mine.feats["b"])
    expected = (projected - behind.feats["y"]).square() * ~((behind.feats["y"] == 0) & (projected <= 0))
    torch.testing.assert_close(term(mine, behind, _batch(), STEP), expected.sum(dim=(1, 2, 3)))
    assert torch.equal(term.negatives[0].total, torch.zeros(3, dtype=torch.float64))


def test_activation_boundary_counts_shallower_pairs_half_and_sees_only_whether_the_teacher_fires(mine, theirs):
    term = _term("activation-boundary", margin=0.5)
    each = [
        K.activation_boundary(projector(mine.feats[on]), theirs.feats[to], margin=0.5)
        for (on, to), projector in zip(term.pairs, term.projectors, strict=True)
    ]
    expected = each[0] / 2 + each[1]
    torch.testing.assert_close(term(mine, theirs, _batch(), STEP), expected)
    signs = Trace(theirs.logits, {path: (feat > 0).float() for path, feat in theirs.feats.items()}, {}, theirs.inputs)
    torch.testing.assert_close(term(mine, signs, _batch(), STEP), expected)
    with pytest.raises(ConfigError, match="positive, got 0"):
        _term("activation-boundary", margin=0.0)


PARAPHRASED = TraceSpec(4, TEACHER.feats, "flatten", {"p.factor": (2, 4, 4), "p.reconstruction": (3, 4, 4), "v": (7,)})


def test_a_paraphraser_compresses_the_last_map_and_restores_its_shape():
    paraphraser = Paraphraser(TEACHER, "p", rate=0.5)
    assert paraphraser.reads == ("y",)
    feats = {"y": torch.randn(5, 3, 4, 4)}
    outputs = paraphraser(feats)
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "p.factor": (5, 2, 4, 4),
        "p.reconstruction": (5, 3, 4, 4),
    }
    torch.testing.assert_close(outputs["p.reconstruction"], paraphraser.decoder(outputs["p.factor"]))
    with pytest.raises(ConfigError, match="rate must be positive"):
        Paraphraser(TEACHER, "p", rate=0.0)
    with pytest.raises(ConfigError, match="no feature map"):
        Paraphraser(TraceSpec(4, {"flatten": (3,)}, "flatten"), "p")


def test_paraphrasing_is_the_error_of_the_reconstruction(theirs):
    term = Paraphrasing(PARAPHRASED, PARAPHRASED, part="aux:p.reconstruction")
    restored = torch.randn(3, 3, 4, 4)
    own = Trace(theirs.logits, theirs.feats, {"p.reconstruction": restored}, theirs.inputs)
    expected = (restored - theirs.feats["y"]).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(term(own, theirs, _batch(), STEP), expected)
    assert term.needs.teacher == ("y",)
    with pytest.raises(ConfigError, match="must be one network"):
        Paraphrasing(PARAPHRASED, PARAPHRASED, part="aux:p.factor")


def test_factor_transfer_compares_the_translated_last_map_with_the_teachers_factor(mine, theirs):
    term = FactorTransfer(STUDENT, PARAPHRASED, target="aux:p.factor")
    factor = torch.randn(3, 2, 4, 4)
    guide = Trace(theirs.logits, {}, {"p.factor": factor}, theirs.inputs)
    values = term(mine, guide, _batch(), STEP)
    torch.testing.assert_close(values, K.factor_transfer(term.translator(mine.feats["b"]), factor))
    values.mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in term.parameters())
    assert term.needs.student == ("b",)
    with pytest.raises(ConfigError, match="not a map"):
        FactorTransfer(STUDENT, PARAPHRASED, target="aux:v")
    with pytest.raises(ConfigError, match="unknown attachment output"):
        FactorTransfer(STUDENT, TEACHER)
