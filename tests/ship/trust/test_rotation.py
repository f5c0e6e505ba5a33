"""Keys change as the specification allows, devices follow, and what the old keys signed is worth nothing."""

import json
import shutil
from datetime import timedelta

import pytest
from edgekd_agent.trust import TrustError, trusted_root_version

from edgekd.core.errors import ConfigError, PreconditionError, SignatureError
from edgekd.ship.trust import add_group, import_root, publish, refresh, renew_root, revoke, rotate, show, sign_root

from .conftest import START

DAY = timedelta(days=1)


@pytest.fixture
def published(field, bundle):
    publish(field.repo, field.keys, bundle, "canary", now=START)
    field.push()
    field.release()
    return field


def _keys(field) -> dict[str, tuple[str, ...]]:
    return {facts.role: facts.keys for facts in show(field.repo).roles}


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp", "canary"])
def test_device_follows_when_all_keys_of_a_role_are_replaced(published, role):
    before = _keys(published)
    rotated = rotate(published.repo, published.keys, role, now=START + DAY)
    after = _keys(published)
    assert not set(before[role]) & set(after[role])
    assert len(before[role]) == len(after[role])
    assert sorted(rotated.replaced.items()) == sorted(zip(before[role], after[role], strict=True))
    published.push()
    assert published.release(DAY).version == 1
    assert trusted_root_version(published.trust) == rotated.root_version == (1 if role == "canary" else 2)


def test_snapshot_and_timestamp_keep_sharing_their_key(published):
    rotate(published.repo, published.keys, "timestamp", now=START + DAY)
    after = _keys(published)
    assert after["snapshot"] == after["timestamp"]


def test_device_that_slept_through_five_roots_follows_the_chain(published):
    for step, role in enumerate(["root", "timestamp", "targets", "root"], start=1):
        rotate(published.repo, published.keys, role, now=START + step * DAY)
    published.push()
    assert published.release(5 * DAY).version == 1
    assert trusted_root_version(published.trust) == 5


def test_missing_link_of_the_chain_is_refused_and_earlier_links_are_kept(published):
    for step in (1, 2, 3):
        rotate(published.repo, published.keys, "root", now=START + step * DAY)
    rotate(published.repo, published.keys, "timestamp", now=START + 4 * DAY)
    published.push()
    (published.staging / "3.root.json").unlink()
    with pytest.raises(TrustError) as caught:
        published.release(5 * DAY)
    assert caught.value.kind == "signature"
    assert trusted_root_version(published.trust) == 2
    published.push()
    assert published.release(5 * DAY).version == 1


def test_revoked_key_signs_nothing_any_more_and_not_its_own_removal(published):
    gone = _keys(published)["root"][0]
    rotated = revoke(published.repo, published.keys, gone[:12], now=START + DAY)
    assert list(rotated.replaced) == [gone]
    roots = published.repo / "metadata" / "2.root.json"
    assert gone not in roots.read_text()
    published.push()
    assert published.release(DAY).version == 1


@pytest.mark.parametrize("keyid", ["", "abc", "00000000000000"])
def test_key_that_is_not_one_of_the_repository_cannot_be_revoked(field, keyid):
    with pytest.raises(ConfigError, match="names 0 keys|give 8"):
        revoke(field.repo, field.keys, keyid, now=START)


@pytest.fixture
def offline(published, tmp_path):
    """Move every root key to a folder of its own, as people take them home."""
    homes = []
    for index, path in enumerate(sorted(published.keys.glob("root.*.pem"))):
        homes.append(tmp_path / f"home{index}")
        homes[-1].mkdir(mode=0o700)
        shutil.move(path, homes[-1])
    return homes


def test_root_waits_until_enough_people_signed_and_nothing_changes_before(published, offline, tmp_path):
    rotated = rotate(published.repo, published.keys, "targets", now=START + DAY)
    assert (rotated.signatures_missing, rotated.root_version) == (2, 2)
    assert not (published.repo / "metadata" / "2.root.json").exists()
    published.push()
    assert published.release(DAY).version == 1
    assert trusted_root_version(published.trust) == 1
    carried = shutil.copyfile(rotated.pending, tmp_path / "carried.json")
    assert sign_root(carried, offline[0]) == 1
    once = import_root(published.repo, published.keys, carried, now=START + DAY)
    assert once.signatures_missing == 1
    carried = shutil.copyfile(rotated.pending, tmp_path / "carried.json")
    sign_root(carried, offline[2])
    done = import_root(published.repo, published.keys, carried, now=START + DAY)
    assert (done.pending, done.signatures_missing) == (None, 0)
    published.push()
    assert published.release(DAY).version == 1
    assert trusted_root_version(published.trust) == 2
    assert not list((published.repo / "pending").iterdir())


def test_import_refuses_another_root_a_stranger_and_the_same_signature_twice(published, offline, tmp_path):
    rotated = rotate(published.repo, published.keys, "root", now=START + DAY)
    carried = shutil.copyfile(rotated.pending, tmp_path / "carried.json")
    other = shutil.copyfile(published.repo / "metadata" / "1.root.json", tmp_path / "other.json")
    with pytest.raises(SignatureError, match="another root"):
        import_root(published.repo, published.keys, other, now=START + DAY)
    with pytest.raises(SignatureError, match="no new signature"):
        import_root(published.repo, published.keys, carried, now=START + DAY)
    sign_root(carried, offline[0])
    import_root(published.repo, published.keys, carried, now=START + DAY)
    with pytest.raises(SignatureError, match="no new signature"):
        import_root(published.repo, published.keys, carried, now=START + DAY)


def test_forged_signature_is_not_taken(published, offline, tmp_path):
    rotated = rotate(published.repo, published.keys, "targets", now=START + DAY)
    carried = shutil.copyfile(rotated.pending, tmp_path / "carried.json")
    for home in offline[:2]:
        sign_root(carried, home)
    document = json.loads(carried.read_bytes())
    for signature in document["signatures"]:
        signature["sig"] = "00" * 64
    carried.write_text(json.dumps(document))
    with pytest.raises(SignatureError, match="no new signature"):
        import_root(published.repo, published.keys, carried, now=START + DAY)
    assert not (published.repo / "metadata" / "2.root.json").exists()


def test_more_signatures_than_needed_are_dropped(published, offline, tmp_path):
    rotated = rotate(published.repo, published.keys, "targets", now=START + DAY)
    carried = shutil.copyfile(rotated.pending, tmp_path / "carried.json")
    for home in offline:
        sign_root(carried, home)
    assert import_root(published.repo, published.keys, carried, now=START + DAY).pending is None
    root = json.loads((published.repo / "metadata" / "2.root.json").read_bytes())
    assert len(root["signatures"]) == 2
    published.push()
    assert published.release(DAY).version == 1


def test_while_a_root_waits_no_other_change_of_keys_begins_but_releases_go_on(published, offline, bundle):
    rotated = rotate(published.repo, published.keys, "targets", now=START + DAY)
    with pytest.raises(ConfigError, match="waits for signatures"):
        rotate(published.repo, published.keys, "canary", now=START + DAY)
    publish(published.repo, published.keys, bundle, "fleet", now=START + DAY)
    refresh(published.repo, published.keys, now=START + 2 * DAY)
    assert show(published.repo).pending == rotated.pending


def test_new_group_gets_a_key_and_its_own_desired_state(published, bundle):
    keyid = add_group(published.repo, published.keys, "lab", now=START + DAY)
    assert _keys(published)["lab"] == (keyid,)
    publish(published.repo, published.keys, bundle, "lab", now=START + DAY)
    published.push()
    assert published.release(DAY).group == "canary"
    with pytest.raises(ConfigError, match="new name"):
        add_group(published.repo, published.keys, "lab", now=START + DAY)


def test_root_is_renewed_with_the_same_keys(published):
    before = _keys(published)
    assert renew_root(published.repo, published.keys, now=START + 300 * DAY).root_version == 2
    assert _keys(published) == before
    refresh(published.repo, published.keys, now=START + 300 * DAY)
    published.push()
    assert published.release(300 * DAY).version == 1


def test_sign_root_needs_a_root_key(published, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(PreconditionError, match="no root key"):
        sign_root(published.repo / "metadata" / "1.root.json", tmp_path / "empty")
