"""`edgekd cache`: what is kept, and removing it."""

import json

import pytest


@pytest.fixture
def folder(tmp_path):
    for key in ("abc1", "abd2"):
        block = tmp_path / key / "logits-1" / "view-00000" / "x.zst"
        block.parent.mkdir(parents=True)
        block.write_bytes(bytes(1_500_000))
        facts = {"teacher": "f" * 64, "data": "d" * 64, "augmentation": "RandomCrop", "views_seed": 3}
        (tmp_path / key / "key.json").write_text(json.dumps(facts))
    return tmp_path


def test_what_is_kept_is_listed(edgekd, folder):
    done = edgekd("cache", "list", str(folder))
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("abc1 ")]
    assert "RandomCrop, seed 3" in row and "logits-1 x 1" in row and "1.5 MB" in row and "f" * 12 + " " in row
    found = json.loads(edgekd("cache", "list", str(folder), "--json").stdout)
    assert [one["key"] for one in found["caches"]] and found["caches"][0]["views"] == {"logits-1": 1}
    assert edgekd("cache", "list", str(folder / "none")).exit_code == 1


def test_one_is_removed_and_only_that(edgekd, folder):
    assert "would remove" in edgekd("cache", "rm", str(folder), "abc", "--dry-run").stdout
    assert (folder / "abc1").exists()
    assert edgekd("cache", "rm", str(folder), "ab").exit_code == 1
    done = edgekd("cache", "rm", str(folder), "abc")
    assert done.exit_code == 0 and "1.5 MB" in done.stdout
    assert not (folder / "abc1").exists() and (folder / "abd2").exists()


def test_the_folder_of_the_user_is_empty_before_the_first_run_with_it(edgekd, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "mine"))
    done = edgekd("cache", "list")
    assert done.exit_code == 0 and f"no teacher caches in {tmp_path / 'mine'}" in done.stdout
    assert json.loads(edgekd("cache", "list", "--json").stdout)["caches"] == []
