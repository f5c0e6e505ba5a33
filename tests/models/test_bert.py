"""The BERT classifier against transformers' own forward passes, and what the exported form rests on."""

import sys

import pytest
import torch

from edgekd.core.errors import ConfigError, PreconditionError
from edgekd.models import FAMILIES, build, count_macs, count_params, discover_taps, parse_net, spec_between, spec_for
from edgekd.models.bert import BertClassifier, Shape

transformers = pytest.importorskip("transformers", reason="extra 'text' is not installed")

SHAPE = Shape(layers=2, width=64, heads=2, hidden=96, vocabulary=50, length=12)
LENGTHS = torch.tensor([12, 5, 1, 8])


def _network(**changes):
    torch.manual_seed(0)
    return BertClassifier(SHAPE, 3, **changes).eval()


@pytest.fixture
def tokens():
    numbers = torch.randint(1, 50, (4, 12), generator=torch.Generator().manual_seed(1))
    return numbers.where(torch.arange(12) < LENGTHS[:, None], 0)


def test_logits_are_those_of_transformers_own_classifier(tokens):
    net = _network(is_pooled=True)
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    known = {name: getattr(net.bert.config, name) for name in (*sizes, "max_position_embeddings")}
    config = transformers.BertConfig(**known, num_labels=3, attn_implementation="sdpa")
    theirs = transformers.BertForSequenceClassification(config).eval()
    state = {f"bert.{name}": value for name, value in net.bert.state_dict().items()}
    state |= {f"bert.pooler.{name}": value for name, value in net.feature.state_dict().items()}
    state |= {f"classifier.{name}": value for name, value in net.classifier.state_dict().items()}
    theirs.load_state_dict(state)
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=(tokens != 0).long()).logits
        torch.testing.assert_close(net(tokens), expected, rtol=1e-5, atol=1e-6)


def test_taps_are_transformers_hidden_states(tokens):
    net, seen = _network(), {}
    theirs = transformers.BertModel(net.bert.config, add_pooling_layer=False).eval()
    theirs.load_state_dict(net.bert.state_dict())
    for path in ("states.0", "states.1", "feature"):
        net.get_submodule(path).register_forward_hook(lambda m, i, out, path=path: seen.update({path: out}))
    with torch.no_grad():
        net(tokens)
        hidden = theirs(tokens, attention_mask=(tokens != 0).long(), output_hidden_states=True).hidden_states
    is_token = (tokens != 0)[..., None]
    for path, expected in (("states.0", hidden[1]), ("states.1", hidden[2])):
        torch.testing.assert_close(seen[path].where(is_token, 0), expected.where(is_token, 0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(seen["feature"], hidden[-1][:, 0], rtol=1e-5, atol=1e-6)


def test_padding_changes_nothing(tokens):
    net = _network()
    with torch.no_grad():
        torch.testing.assert_close(net(tokens[1:2, :5]), net(tokens[1:2]))
        assert torch.isfinite(net(torch.zeros_like(tokens))).all()


def test_gradients_at_the_embedding_are_those_of_finite_differences_and_differentiable_again(tokens):
    net = _network().double()
    shift = torch.zeros(4, 12, 64, dtype=torch.float64, requires_grad=True)
    net.embedded.register_forward_hook(lambda m, i, out: out + shift)

    def confidence():
        return net(tokens).softmax(dim=1).amax(dim=1).sum()

    (gradient,) = torch.autograd.grad(confidence(), shift, create_graph=True)
    assert gradient[tokens == 0].abs().max() == 0  # a filled-up place reaches no token that counts
    direction = torch.randn(shift.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ends = []
        for step in (1e-5, -1e-5):
            shift.copy_(step * direction)
            ends.append(confidence())
    torch.testing.assert_close((gradient * direction).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-9)
    gradient.square().sum().backward()
    weight = net.bert.encoder.layer[0].attention.self.query.weight
    assert weight.grad.abs().sum() > 0


def test_nothing_is_dropped_by_default_while_training(tokens):
    net = _network().train()
    assert torch.equal(net(tokens), net(tokens))
    torch.manual_seed(0)
    dropping = BertClassifier(Shape(2, 64, 2, 96, 50, 12, dropout=0.5), 3).train()
    assert not torch.equal(dropping(tokens), dropping(tokens))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (Shape(1, 64, 3, 96, 50, 12), "width 64 is not a multiple of 3"),
        (Shape(0, 64, 2, 96, 50, 12), "at least 1"),
        (Shape(1, 64, 2, 96, 1, 12), "vocabulary of 1"),
        (Shape(1, 64, 2, 96, 50, 12, dropout=1.0), "dropout is 1.0"),
    ],
)
def test_impossible_sizes_are_refused(shape, message):
    with pytest.raises(ConfigError, match=message):
        BertClassifier(shape, 3)


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers.models.bert.modeling_bert", None)
    with pytest.raises(PreconditionError, match=r"edgekd\[text\]"):
        BertClassifier(SHAPE, 3)


def _spec(text="bert2-w64", **changes):
    family, choice = parse_net(text)
    facts = {"in_channels": 0, "num_classes": 3, "resolution": 12, "mean": (), "std": (), "vocabulary": 50} | changes
    return spec_for(family, **choice, **facts)


def test_the_zoo_builds_what_a_name_says_and_nothing_is_normalised():
    spec = _spec("bert:depth=3,width=64,heads=4,hidden=100,pooling=pooler,dropout=0.1")
    assert (spec.name, spec.input_shape) == ("bert3-w64@12", (12,))
    net = build(spec).get_submodule("net")
    config = net.bert.config
    assert (config.num_hidden_layers, config.num_attention_heads, config.intermediate_size) == (3, 4, 100)
    assert (config.hidden_dropout_prob, type(net.feature).__name__) == (0.1, "PooledCls")
    assert [name for name, _ in build(spec).named_children()] == ["net"]
    plain = build(_spec()).get_submodule("net")
    assert (plain.bert.config.num_attention_heads, plain.bert.config.intermediate_size) == (2, 256)


def test_equal_seeds_give_equal_weights_drawn_as_bert_draws_them():
    def weights(seed):
        torch.manual_seed(seed)
        return build(_spec("bert2-w128")).state_dict()

    one, two = weights(3), weights(3)
    assert all(torch.equal(one[name], two[name]) for name in one)
    drawn = [name for name in one if one[name].dim() == 2 and one[name].numel() > 5000]
    assert drawn and all(one[name].std().item() == pytest.approx(0.02, rel=0.06) for name in drawn)
    assert not one["net.classifier.bias"].any()


def test_its_size_is_the_closed_form():
    d, h, v, length, layers, classes = 64, 256, 50, 12, 2, 3
    per_layer = 4 * (d * d + d) + (d * h + h) + (h * d + d) + 4 * d
    module = build(_spec())
    assert count_params(module) == (v + length + 2) * d + 2 * d + layers * per_layer + d * classes + classes
    assert count_macs(module, (12,)) == layers * length * (4 * d * d + 2 * d * h) + d * classes


def test_its_taps_are_the_states_after_each_layer_and_the_feature():
    spec = _spec("bert3-w64")
    taps = discover_taps(build(spec), spec.input_shape)
    assert [tap.path for tap in taps] == [*FAMILIES["bert"].default_taps(spec), FAMILIES["bert"].penultimate]
    assert [tap.shape for tap in taps] == [(12, 64)] * 3 + [(64,)]


def test_an_assistant_lies_between_two_of_them():
    between = spec_between(_spec("bert1-w32"), _spec("bert4-w128"), share=0.5)
    assert (between.family, between.vocabulary) == ("bert", 50)
    sizes = [count_params(build(spec)) for spec in (_spec("bert1-w32"), between, _spec("bert4-w128"))]
    assert sizes == sorted(set(sizes))


def test_frozen_tables_get_no_gradient_and_the_rest_does():
    net = build(_spec("bert:depth=1,width=64,embeddings=frozen"))
    net(torch.ones(2, 12, dtype=torch.long)).sum().backward()
    without = {name for name, value in net.named_parameters() if value.grad is None}
    tables = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    assert without == {f"net.bert.embeddings.{table}.weight" for table in tables}


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        ("bert0", {}, "depth 0 is not 1 or more"),
        ("bert2", {"resolution": 2}, "length is 2, it must be at least 3 tokens"),
        ("bert2", {"vocabulary": 0, "in_channels": 3, "mean": (0.5,) * 3, "std": (0.5,) * 3}, "bert takes tokens"),
        ("resnet8", {}, "resnet takes pictures, the data are tokens"),
        ("bert:heads=0", {}, "heads '0'"),
        ("bert:dropout=0.5", {}, "dropout '0.5'"),
    ],
)
def test_specs_that_make_no_sense_are_refused(text, changes, message):
    with pytest.raises(ConfigError, match=message):
        _spec(text, **changes)
