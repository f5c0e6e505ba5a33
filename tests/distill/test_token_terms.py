"""Terms on states of tokens, and gradients at the embedding, on small BERTs; numpy is the oracle."""

import dataclasses

import numpy as np
import pytest
import torch

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.net import TracedNet, trace_spec
from edgekd.distill.step import Step
from edgekd.distill.terms import build_term
from edgekd.distill.terms.tokens import state_pairs
from edgekd.models import FAMILIES, build, parse_net, spec_for

pytest.importorskip("transformers", reason="extra 'text' is not installed")

BERT = FAMILIES["bert"]
STEP = Step(0, 1, 0)
LENGTHS = [6, 2, 4]


def _net(text, seed):
    family, choice = parse_net(text)
    spec = spec_for(family, **choice, in_channels=0, num_classes=3, resolution=6, mean=(), std=(), vocabulary=30)
    torch.manual_seed(seed)
    backbone = build(spec)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return TracedNet(backbone, penultimate=BERT.penultimate, embedded=BERT.embedded)


@pytest.fixture(scope="module")
def tokens():
    numbers = torch.randint(1, 30, (3, 6), generator=torch.Generator().manual_seed(5))
    return numbers.where(torch.arange(6) < torch.tensor(LENGTHS)[:, None], 0)


@pytest.fixture
def batch(tokens):
    return Batch(tokens, torch.zeros(3, dtype=torch.long), torch.arange(3), torch.ones(3, dtype=torch.bool))


def _value(term, student, teacher, batch, **options):
    built = build_term(term, trace_spec(student, (6,)), trace_spec(teacher, (6,)), options)
    student.tap(built.needs.student)
    teacher.tap(built.needs.teacher)
    with torch.no_grad():
        mine, theirs = student(batch.inputs), teacher(batch.inputs)
        return built, mine, theirs, built(mine, theirs, batch, STEP).numpy()


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_cls_hint_is_the_mean_squared_difference_of_unit_cls_states_of_every_second_layer(batch):
    _, mine, theirs, value = _value("cls-hint", _net("bert3-w32", 0), _net("bert6-w32", 1), batch)
    expected = np.zeros(3)
    for own, other in ((0, 1), (1, 3)):  # the last pair (2, 5) is left out
        s = _unit(mine.feats[f"net.states.{own}"][:, 0].double().numpy())
        t = _unit(theirs.feats[f"net.states.{other}"][:, 0].double().numpy())
        expected += ((s - t) ** 2).mean(axis=1) / 2
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_cls_hint_without_normalisation_is_the_plain_mean_squared_difference(batch):
    student, teacher = _net("bert2-w32", 0), _net("bert2-w32", 1)
    _, mine, theirs, value = _value("cls-hint", student, teacher, batch, pairs="last", normalise=False)
    difference = mine.feats["net.states.1"][:, 0] - theirs.feats["net.states.1"][:, 0]
    np.testing.assert_allclose(value, (difference.numpy() ** 2).mean(axis=1), rtol=1e-5)


def test_hidden_relation_counts_the_tokens_of_each_text_alone(batch):
    _, mine, theirs, value = _value("hidden-relation", _net("bert3-w32", 0), _net("bert6-w32", 1), batch)

    def relation(trace, first, last, row):
        one, two = (trace.feats[f"net.states.{layer}"][row, : LENGTHS[row]].double().numpy() for layer in (first, last))
        return one.T @ two / LENGTHS[row]

    for row in range(3):
        flows = [((0, 1), (1, 3)), ((1, 2), (3, 5))]
        gaps = [((relation(mine, *own, row) - relation(theirs, *other, row)) ** 2).mean() for own, other in flows]
        assert value[row] == pytest.approx(np.mean(gaps), rel=1e-4)


@pytest.mark.parametrize("term", ["cls-hint", "hidden-relation"])
def test_a_network_is_at_no_distance_from_itself(term, batch):
    net = _net("bert3-w32", 0)
    assert _value(term, net, _net("bert3-w32", 0), batch)[3].max() == 0
    built, *_ = _value(term, net, net, batch)
    assert not list(built.parameters())


@pytest.mark.parametrize("term", ["cls-hint", "hidden-relation"])
def test_a_narrower_student_is_projected_and_the_projection_learns(term, batch):
    student, teacher = _net("bert2-w32", 0), _net("bert4-w64", 1)
    built = build_term(term, trace_spec(student, (6,)), trace_spec(teacher, (6,)), {"pairs": "all"})
    assert {tuple(parameter.shape) for parameter in built.parameters()} == {(64, 32), (64,)}
    student.tap(built.needs.student)
    teacher.tap(built.needs.teacher)
    built(student(batch.inputs), teacher(batch.inputs), batch, STEP).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in built.parameters())


def test_layers_are_paired_by_depth():
    def paired(student, teacher, pairs):
        found = state_pairs(trace_spec(_net(student, 0), (6,)), trace_spec(_net(teacher, 1), (6,)), pairs)
        return [(int(on[-1]), int(to[-1])) for on, to in found]

    assert paired("bert3-w32", "bert6-w32", "all") == [(0, 1), (1, 3), (2, 5)]
    assert paired("bert2-w32", "bert6-w32", "all") == [(0, 2), (1, 5)]
    assert paired("bert3-w32", "bert3-w32", "inner") == [(0, 0), (1, 1)]
    assert paired("bert1-w32", "bert4-w32", "last") == [(0, 3)]
    explicit = [("net.states.0", "net.states.5")]
    assert paired("bert1-w32", "bert6-w32", explicit) == [(0, 5)]


@pytest.mark.parametrize(
    ("term", "options", "message"),
    [
        ("cls-hint", {}, "no layers to pair: student has 1"),
        ("hidden-relation", {}, "needs two pairs"),
        ("cls-hint", {"pairs": [["net.feature", "net.states.0"]]}, r"student module 'net.feature' gives \(32,\)"),
        ("cls-hint", {"pairs": [["net.states.0", "net.states.9"]]}, "unknown module to tap"),
        ("fitnet", {}, "no feature maps of student and teacher go together.*cls-hint"),
    ],
)
def test_pairings_that_make_no_sense_are_refused(term, options, message):
    specs = [trace_spec(_net(text, 0), (6,)) for text in ("bert1-w32", "bert2-w32")]
    with pytest.raises(ConfigError, match=message):
        build_term(term, *specs, options)


@pytest.mark.parametrize("embeddings", ["trained", "frozen"])
def test_input_gradient_of_tokens_is_that_of_finite_differences_at_their_embeddings(tokens, embeddings):
    net = _net(f"bert:depth=2,width=32,embeddings={embeddings}", 0).double()
    net.tap((), input_gradient=True)
    trace = net(tokens)
    gradient = trace.input_gradient
    assert gradient.shape == (3, 6, 32)
    assert not gradient[tokens == 0].any()
    place, step = (0, 3, 7), 1e-5
    ends = []
    for sign in (1, -1):

        def shifted(module, arguments, output, sign=sign):
            moved = output.clone()
            moved[place] += sign * step
            return moved

        handle = net.backbone.get_submodule(BERT.embedded).register_forward_hook(shifted)
        with torch.no_grad():
            ends.append(net.backbone(tokens).softmax(dim=1).amax(dim=1).sum())
        handle.remove()
    torch.testing.assert_close(gradient[place], (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-10)
    gradient.square().sum().backward()
    words = net.backbone.get_submodule("net.bert.embeddings.word_embeddings").weight
    assert (words.grad is None) == (embeddings == "frozen")
    assert net.backbone.get_submodule("net.classifier").weight.grad.abs().sum() > 0


def _with_gradients(student, teacher, tokens):
    student.tap((), input_gradient=True)
    teacher.tap((), input_gradient=True)
    return student(tokens), teacher(tokens).detached()


def test_gradient_match_gives_each_token_a_direction_and_padding_none(batch):
    mine, theirs = _with_gradients(_net("bert2-w32", 0), _net("bert3-w32", 1), batch.inputs)
    specs = [trace_spec(_net(text, 0), (6,)) for text in ("bert2-w32", "bert3-w32")]
    value = build_term("gradient-match", *specs, {})(mine, theirs, batch, STEP)
    distances = 0.0
    for row, length in enumerate(LENGTHS):
        s, t = (_unit(trace.input_gradient[row, :length].detach().double().numpy()) for trace in (mine, theirs))
        distances += ((s - t) ** 2).sum()
    assert value.mean().item() == pytest.approx(distances / sum(LENGTHS), rel=1e-5)


def test_steps_on_gradient_match_alone_turn_the_students_gradients_to_the_teachers(batch):
    teacher, student = _net("bert2-w32", 1), _net("bert:depth=1,width=32,embeddings=frozen", 0)
    teacher.freeze()
    words = "net.bert.embeddings.word_embeddings.weight"
    frozen = student.backbone.state_dict()[words].clone()
    term = build_term("gradient-match", trace_spec(student, (6,)), trace_spec(teacher, (6,)), {})
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)

    def cosine():
        mine, theirs = _with_gradients(student, teacher, batch.inputs)
        each = torch.nn.functional.cosine_similarity(mine.input_gradient, theirs.input_gradient, dim=2)
        return each[batch.inputs != 0].mean().item()

    before = cosine()
    for _ in range(30):
        optimizer.zero_grad()
        term(*_with_gradients(student, teacher, batch.inputs), batch, STEP).mean().backward()
        optimizer.step()
    assert cosine() > before + 0.2
    assert torch.equal(student.backbone.state_dict()[words], frozen)


def test_input_gradient_of_a_frozen_teacher_carries_no_graph(tokens):
    net = _net("bert2-w32", 0)
    net.freeze()
    net.tap(("net.states.1",), input_gradient=True)
    with torch.no_grad():
        trace = net(tokens)
    assert not trace.input_gradient.requires_grad and trace.input_gradient.abs().sum() > 0
    assert torch.equal(trace.input_gradient, dataclasses.replace(trace).detached().input_gradient)


def _confidence_with_states_moved(net, tokens, path, place, by):
    def moved(module, arguments, output):
        output = output.clone()
        output[place] += by
        return output

    handle = net.backbone.get_submodule(path).register_forward_hook(moved)
    with torch.no_grad():
        confidence = net.backbone(tokens).softmax(dim=1).amax(dim=1).sum()
    handle.remove()
    return confidence


def test_the_gradient_at_a_layer_is_that_of_finite_differences_of_its_states(tokens):
    net, path, step = _net("bert3-w32", 0).double(), "net.states.1", 1e-5
    net.tap((), input_gradient=True, gradients=[path])
    with torch.no_grad():
        gradient = net(tokens).feat_gradients[path]
    assert gradient.shape == (3, 6, 32)
    for place in ((0, 0, 7), (1, 0, 3), (2, 3, 30)):
        ends = [_confidence_with_states_moved(net, tokens, path, place, sign * step) for sign in (1, -1)]
        torch.testing.assert_close(gradient[place], (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-10)


def _matched(student, teacher, batch, **options):
    term = build_term("gradient-match", trace_spec(student, (6,)), trace_spec(teacher, (6,)), options)
    for net, paths in ((student, term.needs.student_gradients), (teacher, term.needs.teacher_gradients)):
        net.tap((), input_gradient=True, gradients=paths)
    mine, theirs = student(batch.inputs), teacher(batch.inputs).detached()
    return mine, theirs, term(mine, theirs, batch, STEP)


def test_gkd_cls_adds_the_gradients_of_cls_states_of_the_inner_layers(batch):
    student, teacher = _net("bert3-w32", 0), _net("bert6-w32", 1)
    *_, of_inputs = _matched(student, teacher, batch)
    mine, theirs, value = _matched(student, teacher, batch, layers="inner")
    expected = of_inputs.detach().double().numpy()
    for own, other in ((0, 1), (1, 3)):
        s = _unit(mine.feat_gradients[f"net.states.{own}"][:, 0].detach().double().numpy())
        t = _unit(theirs.feat_gradients[f"net.states.{other}"][:, 0].double().numpy())
        assert ((s - t) ** 2).sum(axis=1).min() > 0.1 and ((s - t) ** 2).sum(axis=1).max() <= 4
        expected = expected + ((s - t) ** 2).sum(axis=1)
    np.testing.assert_allclose(value.detach().numpy(), expected, rtol=1e-4)
    assert not any(gradient.requires_grad for gradient in theirs.feat_gradients.values())


def test_a_student_learns_from_gradients_at_its_layers(batch):
    student, teacher = _net("bert2-w32", 0).double(), _net("bert2-w32", 1).double()
    weight = student.backbone.get_submodule("net.classifier").weight

    def value():
        return _matched(student, teacher, batch, layers="all")[-1].mean()

    value().backward()
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[1, 4] += sign * 1e-6
        ends.append(value().item())
        with torch.no_grad():
            weight[1, 4] -= sign * 1e-6
    assert weight.grad[1, 4].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-8)


def test_a_network_s_gradients_are_at_no_distance_from_themselves(batch):
    *_, value = _matched(_net("bert3-w32", 0), _net("bert3-w32", 0), batch, layers="all")
    assert value.abs().max() < 1e-10


def test_gradients_of_other_widths_are_refused():
    specs = [trace_spec(_net(text, 0), (6,)) for text in ("bert2-w32", "bert2-w64")]
    with pytest.raises(ConfigError, match=r"states of 'net.states.0' have width 32, those of 'net.states.0' 64"):
        build_term("gradient-match", *specs, {"layers": "inner"})
