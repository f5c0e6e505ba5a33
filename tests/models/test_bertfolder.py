"""BERTs as transformers saves them: the network loaded answers as transformers' own does."""

import json

import pytest
import torch

from edgekd.core.errors import ConfigError
from edgekd.models import load_teacher, teacher_start

transformers = pytest.importorskip("transformers", reason="extra 'text' is not installed")

FACTS = {"in_channels": 0, "num_classes": 3, "resolution": 8, "mean": (), "std": (), "weights": None, "vocabulary": 40}


def _config(**changes):
    sizes = {
        "vocab_size": 40,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "max_position_embeddings": 20,
    }
    return transformers.BertConfig(**{**sizes, "num_labels": 3, **changes})


@pytest.fixture
def tokens():
    numbers = torch.randint(1, 40, (5, 8), generator=torch.Generator().manual_seed(1))
    return numbers.where(torch.arange(8) < torch.tensor([8, 3, 1, 5, 7])[:, None], 0)


def _saved(model, folder):
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model.eval()


def test_a_whole_classifier_answers_as_transformers_own(tmp_path, tokens):
    theirs = _saved(transformers.BertForSequenceClassification(_config()), tmp_path)
    spec, net = load_teacher(f"hf:{tmp_path}", **FACTS)
    assert spec.name == "bert2-w64@8"
    assert dict(spec.options) | {"heads": "4", "hidden": "96", "pooling": "pooler"} == dict(spec.options)
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=(tokens != 0).long()).logits
        torch.testing.assert_close(net(tokens), expected, rtol=1e-5, atol=1e-5)
    assert teacher_start(f"hf:{tmp_path}", spec).keys() == net.state_dict().keys()


def test_an_encoder_alone_gives_all_but_the_classifier(tmp_path, tokens):
    theirs = _saved(transformers.BertModel(_config()), tmp_path)
    spec, net = load_teacher(f"hf:{tmp_path}", **FACTS)
    seen = {}
    net.get_submodule("net.feature").register_forward_hook(lambda m, i, out: seen.update(out=out))
    with torch.no_grad():
        net(tokens)
        expected = theirs(tokens, attention_mask=(tokens != 0).long()).last_hidden_state[:, 0]
    torch.testing.assert_close(seen["out"], expected, rtol=1e-5, atol=1e-5)
    missing = net.state_dict().keys() - teacher_start(f"hf:{tmp_path}", spec).keys()
    assert missing == {"net.classifier.weight", "net.classifier.bias"}


def test_old_names_of_norms_and_half_precision_are_understood(tmp_path, tokens):
    from safetensors.torch import load_file, save_file

    _saved(transformers.BertModel(_config()), tmp_path)
    _, before = load_teacher(f"hf:{tmp_path}", **FACTS)
    state = load_file(tmp_path / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value.half()
        for name, value in state.items()
    }
    save_file(old, tmp_path / "model.safetensors")
    _, after = load_teacher(f"hf:{tmp_path}", **FACTS)
    for name, value in before.state_dict().items():
        if "classifier" not in name:
            assert torch.equal(value.half().float(), after.state_dict()[name]), name


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"vocabulary": 41}, r"knows 40 tokens, the data have 41: set data.vocabulary=.*/vocab.txt"),
        ({"num_classes": 4}, "classifies into 3 classes, the data have 4: save its encoder"),
        ({"resolution": 21}, "texts of 20 tokens, not of 21: set data.length"),
    ],
)
def test_data_that_do_not_fit_are_refused(tmp_path, facts, message):
    _saved(transformers.BertForSequenceClassification(_config()), tmp_path)
    with pytest.raises(ConfigError, match=message):
        load_teacher(f"hf:{tmp_path}", **{**FACTS, **facts})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta', only 'bert'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps is 1e-05"),
        ({"vocab_size": "many"}, "vocab_size is 'many', it must be a number"),
        ({"num_hidden_layers": 3}, r"(?s)does not hold the weights.*missing: bert.encoder.layer.2"),
        ({"num_hidden_layers": 1}, r"(?s)does not hold the weights.*unexpected: bert.encoder.layer.1"),
        ({"intermediate_size": 90}, r"\(file \[96\], network \[90\]\)"),
    ],
)
def test_other_networks_are_refused(tmp_path, changes, message):
    _saved(transformers.BertModel(_config()), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ConfigError, match=message):
        load_teacher(f"hf:{tmp_path}", **FACTS)


def test_folders_without_the_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no config.json"):
        load_teacher(f"hf:{tmp_path}", **FACTS)
    _saved(transformers.BertModel(_config()), tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="no configuration but a list"):
        load_teacher(f"hf:{tmp_path}", **FACTS)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="no model.safetensors"):
        load_teacher(f"hf:{tmp_path}", **FACTS)
