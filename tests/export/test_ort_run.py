import sys
from pathlib import Path

import numpy as np
import pytest

from edgekd.core.errors import ExportError, PreconditionError
from edgekd.export import run_onnx


@pytest.mark.parametrize("batch", [1, 4, 6, 9])
def test_run_onnx_gives_every_image_its_logits_at_any_batch(net, model, images, oracle, batch):
    found = run_onnx(Path(model.file.path).read_bytes(), images, batch=batch)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, oracle(net, images), rtol=1e-4, atol=1e-5)


def test_run_onnx_reports_what_onnxruntime_cannot_load(images):
    with pytest.raises(ExportError, match="cannot run the model"):
        run_onnx(b"not a model", images, batch=1)


def test_run_onnx_names_the_extra_when_onnxruntime_is_missing(model, images, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(PreconditionError, match=r"edgekd\[cpu\]"):
        run_onnx(Path(model.file.path).read_bytes(), images, batch=1)
