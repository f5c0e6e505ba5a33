"""Private keys are for their owner only, lie apart, are encrypted on request, and are Ed25519."""

import os
import shutil
import stat
import subprocess
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from edgekd.core.errors import ConfigError, PreconditionError, SignatureError
from edgekd.ship.trust import Lifetimes, init, publish, refresh, rotate, show

from .conftest import START


def test_keys_are_made_for_their_owner_only_even_under_a_lax_umask(tmp_path):
    before = os.umask(0)
    try:
        init(tmp_path / "repo", tmp_path / "keys", ["canary"], now=START)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    files = sorted((tmp_path / "keys").glob("*.pem"))
    assert [path.name.split(".")[0] for path in files] == ["canary", "online", "root", "root", "root", "targets"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_no_private_key_is_in_the_repository(field):
    for path in field.repo.rglob("*"):
        assert path.is_dir() or b"PRIVATE KEY" not in path.read_bytes()


def test_key_that_others_may_read_is_refused(field, bundle):
    (key,) = field.keys.glob("targets.*.pem")
    key.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        publish(field.repo, field.keys, bundle, "canary", now=START)


def test_passphrase_encrypts_and_only_it_opens(tmp_path, bundle):
    repo, keys = tmp_path / "repo", tmp_path / "keys"
    init(repo, keys, ["canary"], passphrase=lambda: "correct horse", now=START)
    for path in keys.glob("*.pem"):
        content = path.read_bytes()
        assert content.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
        assert load_pem_private_key(content, b"correct horse")
    for passphrase in (lambda: None, lambda: "wrong"):
        with pytest.raises(PreconditionError, match="EDGEKD_KEY_PASSPHRASE|does not open"):
            publish(repo, keys, bundle, "canary", passphrase=passphrase, now=START)
    assert publish(repo, keys, bundle, "canary", passphrase=lambda: "correct horse", now=START).is_changed


def test_passphrase_comes_from_the_environment(tmp_path, bundle, monkeypatch):
    monkeypatch.setenv("EDGEKD_KEY_PASSPHRASE", "from the environment")
    init(tmp_path / "repo", tmp_path / "keys", ["canary"], now=START)
    assert publish(tmp_path / "repo", tmp_path / "keys", bundle, "canary", now=START).is_changed
    monkeypatch.delenv("EDGEKD_KEY_PASSPHRASE")
    with pytest.raises(PreconditionError, match="is encrypted"):
        refresh(tmp_path / "repo", tmp_path / "keys", now=START)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command is absent")
def test_key_that_openssl_encrypted_again_with_scrypt_is_read(tmp_path, bundle):
    repo, keys = tmp_path / "repo", tmp_path / "keys"
    init(repo, keys, ["canary"], passphrase=lambda: "weak", now=START)
    for key in keys.glob("*.pem"):
        words = ["openssl", "pkcs8", "-topk8", "-scrypt", "-in", key, "-passin", "pass:weak", "-passout", "pass:strong"]
        subprocess.run([*words, "-out", tmp_path / "again.pem"], check=True, capture_output=True)
        key.write_bytes((tmp_path / "again.pem").read_bytes())
    assert publish(repo, keys, bundle, "canary", passphrase=lambda: "strong", now=START).is_changed


def test_unencrypted_keys_ask_for_nothing(field, bundle):
    def never():
        raise AssertionError("asked for a passphrase that is not needed")

    publish(field.repo, field.keys, bundle, "canary", passphrase=never, now=START)


def test_key_of_another_kind_or_of_nobody_is_refused(field, bundle):
    (key,) = field.keys.glob("targets.*.pem")
    other = generate_private_key(SECP256R1())
    key.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(SignatureError, match="no Ed25519 key"):
        publish(field.repo, field.keys, bundle, "canary", now=START)
    key.write_bytes(next(field.keys.glob("online.*.pem")).read_bytes())
    with pytest.raises(SignatureError, match="not the private half"):
        publish(field.repo, field.keys, bundle, "canary", now=START)
    key.write_bytes(b"nonsense")
    with pytest.raises(PreconditionError, match="not a PEM private key"):
        publish(field.repo, field.keys, bundle, "canary", now=START)


@pytest.mark.parametrize(
    ("repo", "keys"), [("a", "a"), ("a", "a/keys"), ("a/repo", "a")], ids=["the same", "inside", "around"]
)
def test_keys_and_repository_must_lie_apart(tmp_path, repo, keys):
    with pytest.raises(ConfigError, match="lie in each other"):
        init(tmp_path / repo, tmp_path / keys, ["canary"], now=START)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("groups", "options", "words"),
    [
        ([], {}, "give each once"),
        (["canary", "canary"], {}, "give each once"),
        (["Canary"], {}, "'Canary'"),
        (["root"], {}, "'root'"),
        (["a/b"], {}, "'a/b'"),
        (["canary"], {"root_threshold": 4}, "4 of 3"),
        (["canary"], {"root_threshold": 0}, "0 of 3"),
        (["canary"], {"lifetimes": Lifetimes(timestamp_days=0)}, "timestamp_days is 0"),
    ],
)
def test_wrong_arguments_make_nothing(tmp_path, groups, options, words):
    with pytest.raises(ConfigError, match=words):
        init(tmp_path / "repo", tmp_path / "keys", groups, now=START, **options)
    assert not list(tmp_path.iterdir())


def test_nothing_is_made_over_what_is_there(field, tmp_path):
    with pytest.raises(ConfigError, match="made once"):
        init(field.repo, tmp_path / "new-keys", ["canary"], now=START)
    with pytest.raises(ConfigError, match="empty folder"):
        init(tmp_path / "new-repo", field.keys, ["canary"], now=START)
    assert not (tmp_path / "new-keys").exists()


def test_failed_rotation_leaves_no_stray_key(field):
    next(field.keys.glob("targets.*.pem")).unlink()
    before = sorted(field.keys.iterdir())
    with pytest.raises(PreconditionError):
        rotate(field.repo, field.keys, "canary", now=START)
    assert sorted(field.keys.iterdir()) == before


def test_show_tells_which_keys_are_here_and_what_has_expired(field, bundle):
    publish(field.repo, field.keys, bundle, "canary", now=START)
    next(field.keys.glob("root.*.pem")).unlink()
    facts = {one.role: one for one in show(field.repo, field.keys, now=START + timedelta(days=20)).roles}
    assert (facts["root"].threshold, len(facts["root"].keys), len(facts["root"].key_files)) == (2, 3, 2)
    assert [role for role, one in facts.items() if one.is_expired] == ["snapshot", "timestamp"]
    assert facts["canary"].wants[:2] == ("digits-student", 1)
    assert facts["fleet"].wants == ()


def test_lifetimes_are_those_asked_for(tmp_path):
    lifetimes = Lifetimes(root_days=30, targets_days=20, group_days=10, snapshot_days=5, timestamp_days=2)
    init(tmp_path / "repo", tmp_path / "keys", ["canary"], lifetimes=lifetimes, now=START)
    days = {one.role: (one.expires - START).days for one in show(tmp_path / "repo").roles}
    assert days == {"root": 30, "targets": 20, "canary": 10, "snapshot": 5, "timestamp": 2}


def test_refresh_signs_what_is_past_half_its_life_and_names_what_it_cannot(field, bundle):
    publish(field.repo, field.keys, bundle, "canary", now=START)
    assert refresh(field.repo, field.keys, now=START + timedelta(days=1)).roles == ("snapshot", "timestamp")
    next(field.keys.glob("fleet.*.pem")).unlink()
    done = refresh(field.repo, field.keys, now=START + timedelta(days=50))
    assert done.roles == ("canary", "snapshot", "targets", "timestamp")
    assert done.waiting == ("fleet",)
    assert done.signed_until == START + timedelta(days=64)
    field.push()
    assert field.release(timedelta(days=60)).version == 1


def test_refresh_needs_only_the_online_key_most_of_the_time(field, bundle):
    publish(field.repo, field.keys, bundle, "canary", now=START)
    for path in field.keys.glob("*.pem"):
        if not path.name.startswith("online"):
            path.unlink()
    refresh(field.repo, field.keys, now=START + timedelta(days=13))
    field.push()
    assert field.release(timedelta(days=26)).version == 1


def test_refresh_of_a_role_that_cannot_be_is_refused(field):
    for role in ("root", "nobody"):
        with pytest.raises(ConfigError, match="unknown role"):
            refresh(field.repo, field.keys, roles=[role], now=START)
    (key,) = field.keys.glob("canary.*.pem")
    key.unlink()
    with pytest.raises(PreconditionError, match="canary needs 1 more"):
        refresh(field.repo, field.keys, roles=["canary"], now=START)
