"""A board over a real SSH server: built, measured and fetched whole."""

import json

import pytest

from edgekd.core.digest import sha256_of_file
from edgekd.profile.document import profile_from_document
from tests.boards.conftest import wait_for


@pytest.mark.parametrize("kind", ["openssh", "asyncssh"])
def test_engine_is_built_and_measured_on_the_board_and_brought_back(make_bench, make_model, tmp_path, kind) -> None:
    bench, model = make_bench(kind, "orin"), make_model()
    result = bench.build(model, tmp_path / "out")
    assert result.error is None, result.error
    folder = tmp_path / "out" / "board"
    assert (folder / "model.plan").read_bytes().startswith(b"ptrt" + model.file.sha256.encode())
    assert json.loads((folder / "times.json").read_text())[0]["computeMs"] == 1.1
    assert json.loads((folder / "profile.json").read_text())[0] == {"count": 50}
    assert json.loads((folder / "layers.json").read_text())["Layers"]
    assert "VDD_IN 5004mW" in (folder / "tegrastats.log").read_text()
    assert ",VDD_IN,5000,1200" in (folder / "hwmon.csv").read_text()
    assert "PASSED" in (folder / "build.log").read_text()
    facts = json.loads((folder / "facts.json").read_text())
    assert (facts["l4t"], facts["trtexec"]["version"], facts["cuda"]) == ("36.4.3", "10.3.0", "12.6.11")
    sidecar = json.loads((folder / "build.json").read_text())
    assert sidecar["file"]["sha256"] == sha256_of_file(folder / "model.plan")
    assert (sidecar["target"], sidecar["facts"]["version"], sidecar["facts"]["typing"]) == ("sm_87", "10.3.0", "strong")
    assert sidecar["facts"]["measured"] == "measured.json"
    measured = profile_from_document(json.loads((folder / "measured.json").read_text()), "measured.json")
    assert measured.report.kind == "measured" and measured.report.target == facts["model"]
    assert measured.energy is not None and measured.layers
    assert wait_for(lambda: bench.board.processes() == [])
