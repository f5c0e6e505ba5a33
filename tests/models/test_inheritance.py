"""Students that start from layers of their teacher: as deep and wide as it, they are the teacher."""

import dataclasses

import pytest
import torch

from edgekd.core.errors import ConfigError
from edgekd.models import build, inherited_weights, parse_net, spec_for

pytest.importorskip("transformers", reason="extra 'text' is not installed")


def _spec(text, **changes):
    family, choice = parse_net(text)
    facts = {"in_channels": 0, "num_classes": 3, "resolution": 8, "mean": (), "std": (), "vocabulary": 40} | changes
    return spec_for(family, **choice, **facts)


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(1)
    return build(_spec("bert6-w64")).eval()


def _started(spec, teacher, layers):
    torch.manual_seed(2)
    net = build(spec)
    weights = inherited_weights(spec, _spec("bert6-w64"), teacher.state_dict(), layers=layers)
    net.load_state_dict({**net.state_dict(), **weights})
    return net.eval(), weights


@pytest.mark.parametrize(("layers", "chosen"), [("first", [0, 1, 2]), ("spread", [1, 3, 5])])
def test_states_follow_the_chosen_layers(teacher, layers, chosen):
    net, _ = _started(_spec("bert3-w64"), teacher, layers)
    tokens = torch.randint(1, 40, (4, 8), generator=torch.Generator().manual_seed(0))
    encoder = teacher.get_submodule("net.bert.encoder.layer")
    seen = {}
    net.get_submodule("net.states.2").register_forward_hook(lambda m, i, out: seen.update(out=out))
    with torch.no_grad():
        net(tokens)
        parts = teacher.get_submodule("net.bert.embeddings")
        states = parts(tokens)
        for index in chosen:
            output = encoder[index](states)
            states = output[0] if isinstance(output, tuple) else output
    torch.testing.assert_close(seen["out"], states, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("depth", "chosen"), [(1, [5]), (2, [2, 5]), (4, [0, 2, 3, 5]), (6, [0, 1, 2, 3, 4, 5])])
def test_spread_layers_end_with_the_teachers_last(teacher, depth, chosen):
    _, weights = _started(_spec(f"bert{depth}-w64"), teacher, "spread")
    for own, theirs in enumerate(chosen):
        name = "attention.self.query.weight"
        expected = teacher.state_dict()[f"net.bert.encoder.layer.{theirs}.{name}"]
        assert torch.equal(weights[f"net.bert.encoder.layer.{own}.{name}"], expected)


def test_embeddings_are_taken_and_the_classifier_is_not(teacher):
    net, weights = _started(_spec("bert2-w64", resolution=5), teacher, "first")
    state = teacher.state_dict()
    words, places = "net.bert.embeddings.word_embeddings.weight", "net.bert.embeddings.position_embeddings.weight"
    assert torch.equal(net.state_dict()[words], state[words])
    assert torch.equal(net.state_dict()[places], state[places][:5])
    assert net.state_dict().keys() - weights.keys() == {"net.classifier.weight", "net.classifier.bias"}
    weights[words].zero_()
    assert state[words].abs().sum() > 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (_spec("bert2-w32"), "width is 32 and 64"),
        (_spec("bert:depth=2,width=64,heads=4"), "heads is 4 and 2"),
        (_spec("bert2-w64", vocabulary=50), "vocabulary is 50 and 40"),
        (_spec("bert8-w64", resolution=9), "depth is 8, the teacher has 6; length is 9, the teacher has 8"),
        (dataclasses.replace(_spec("bert2-w64"), family="resnet"), "these are resnet and bert"),
    ],
)
def test_students_that_do_not_fit_are_refused(teacher, spec, message):
    with pytest.raises(ConfigError, match=message):
        inherited_weights(spec, _spec("bert6-w64"), teacher.state_dict(), layers="first")
