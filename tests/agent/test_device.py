"""`agent.json`."""

import json

import pytest
from edgekd_agent.__main__ import main
from edgekd_agent.device import Settings, read_site
from edgekd_agent.errors import AgentError
from edgekd_agent.layout import Layout


def written(folder, document) -> Layout:
    layout = Layout(folder)
    layout.settings.write_text(json.dumps(document))
    return layout


def test_device_without_settings_has_the_usual_ones(tmp_path) -> None:
    assert read_site(Layout(tmp_path)).settings == Settings()


def test_settings_are_read(tmp_path) -> None:
    given = {"schema_version": 1, "confirm_by": "heartbeat", "confirm_minutes": 2, "build_memory_mib": 512}
    settings = read_site(written(tmp_path, given)).settings
    assert (settings.confirm_by, settings.confirm_minutes, settings.build_memory_mib) == ("heartbeat", 2, 512)
    assert settings.port == Settings().port


def test_every_problem_is_named(tmp_path) -> None:
    given = {"schema_version": 2, "confirm_by": "hope", "port": "8765", "reserve_mib": -1, "soak_s": True, "typo": 1}
    given["build_memory_mib"] = 1.5
    given["confirm_minutes"] = None
    with pytest.raises(AgentError) as caught:
        read_site(written(tmp_path, given))
    for word in ("schema_version", "confirm_by", "port", "reserve_mib", "soak_s", "'typo'", "build_memory_mib"):
        assert word in caught.value.message
    assert "confirm_minutes" in caught.value.message
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(("key", "value"), [("port", 65536), ("confirm_beats", 0)])
def test_numbers_out_of_their_range_are_named(tmp_path, key, value) -> None:
    with pytest.raises(AgentError, match=f"{key}: {value} is not allowed"):
        read_site(written(tmp_path, {"schema_version": 1, key: value}))


@pytest.mark.parametrize("words", [("serve", "--port", "70000"), ("install", "--confirm-minutes", "nan")])
def test_options_out_of_their_range_are_a_wrong_use(tmp_path, words, capsys) -> None:
    assert main(["--root", str(tmp_path), *words]) == 2
    assert "is not allowed" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[]", "not json", '{"schema_version": 1, "soak_s": NaN}', "{" * 5000])
def test_settings_that_are_no_object_are_refused(tmp_path, text) -> None:
    (tmp_path / "agent.json").write_text(text)
    with pytest.raises(AgentError):
        read_site(Layout(tmp_path))
