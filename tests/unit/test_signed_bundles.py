"""Signatures: made with the box's key, checked by OpenSSH and coreutils without our code."""

import json
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from capa.storage import seal, work
from capa.storage.atomic import write_atomically
from capa.storage.chain import first_hash, row_hash
from capa.storage.manifest import Manifest, manifest_bytes
from capa.storage.seal import finalize_bundle
from capa.storage.sums import format_sums, sha256_of
from capa.storage.verify import verify_bundle
from tests.support.bundles import read_json, sha256sum_check, unsealed_bundle

pytestmark = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs ssh-keygen")


def new_key(path: Path, *options: str) -> Path:
    command = [
        "ssh-keygen",
        "-q",
        "-t",
        "ed25519",
        "-N",
        "",
        "-C",
        "box",
        *options,
        "-f",
        str(path),
    ]
    subprocess.run(command, check=True)
    return path


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_key(tmp_path_factory.mktemp("key") / "box")


@pytest.fixture
def signed(tmp_path: Path, key: Path) -> Path:
    path = unsealed_bundle(tmp_path, texts=["begun", "heating", "done"])
    result = finalize_bundle(path, sign_key=key)
    assert result.sealed, result.detail
    return path


def ssh_verifies(path: Path, key: Path) -> bool:
    """What OpenSSH alone says, of a key that somebody trusts."""
    trusted = path.parent / "allowed_signers"
    kind, text, *_ = key.with_suffix(".pub").read_text().split()
    trusted.write_text(f"box7 {kind} {text}\n")
    words = ("-Y", "verify", "-f", str(trusted), "-I", "box7", "-n", "capa-bundle")
    done = subprocess.run(
        ["ssh-keygen", *words, "-s", str(path / "manifest.sha256.sig")],
        input=(path / "manifest.sha256").read_bytes(),
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def sums_made_anew(path: Path) -> None:
    """Do what somebody does who alters a bundle and knows of the sums."""
    manifest = read_json(path)
    for name, entry in manifest["files"].items():
        entry |= {"sha256": sha256_of(path / name), "size": (path / name).stat().st_size}
    (path / "manifest.json").write_text(json.dumps(manifest))
    sums = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    sums["manifest.json"] = sha256_of(path / "manifest.json")
    (path / "manifest.sha256").write_bytes(format_sums(sums))


def codes(path: Path, allowed: Path | None = None) -> set[str]:
    return {problem.code for problem in verify_bundle(path, allowed_signers=allowed)}


def test_openssh_and_coreutils_alone_accept_a_signed_bundle(
    signed: Path, key: Path, tmp_path: Path
) -> None:
    assert sha256sum_check(signed).returncode == 0
    assert ssh_verifies(signed, key)
    assert not ssh_verifies(signed, new_key(tmp_path / "other"))
    assert codes(signed) == set()


def test_an_altered_file_shows_to_coreutils_and_altered_sums_to_openssh(
    signed: Path, key: Path
) -> None:
    (signed / "method.toml").write_text("x = 2\n")
    assert sha256sum_check(signed).returncode != 0
    assert ssh_verifies(signed, key)
    sums_made_anew(signed)
    assert sha256sum_check(signed).returncode == 0
    assert not ssh_verifies(signed, key)
    assert codes(signed) == {"bundle.signature_bad"}


def test_a_signature_that_was_taken_away_or_made_by_another_key_shows(
    signed: Path, key: Path, tmp_path: Path
) -> None:
    trusted = tmp_path / "trusted"
    trusted.write_text("box " + new_key(tmp_path / "other").with_suffix(".pub").read_text())
    assert codes(signed, trusted) == {"bundle.signature_bad"}
    trusted.write_text("box " + key.with_suffix(".pub").read_text())
    assert codes(signed, trusted) == set()
    (signed / "manifest.sha256.sig").unlink()
    assert codes(signed) == {"bundle.signature_missing"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("box7 {key} a comment\n", set()),
        ("alice,box7 {key}\n", set()),
        ('* namespaces="capa-bundle,git" {key}\n', set()),
        ("# box7 {key}\n", {"bundle.signature_bad"}),
        ('box7 namespaces="git" {key}\n', {"bundle.signature_bad"}),
        ('box7 valid-before="20200101" {key}\n', {"bundle.signature_bad"}),
        ("", {"bundle.signature_bad"}),
        (None, {"bundle.signature_unchecked"}),
    ],
)
def test_trusted_keys_are_read_as_openssh_reads_them(
    signed: Path, key: Path, tmp_path: Path, line: str | None, expected: set[str]
) -> None:
    trusted = tmp_path / "trusted"
    if line is not None:
        trusted.write_text(line.format(key=" ".join(public(key))))
    assert codes(signed, trusted) == expected


def public(key: Path) -> list[str]:
    return key.with_suffix(".pub").read_text().split()[:2]


def test_a_manifest_that_claims_a_trusted_key_is_believed_by_nobody(
    tmp_path: Path, key: Path
) -> None:
    """Somebody seals with a key of their own, and names it and the box's in one field."""
    path = unsealed_bundle(tmp_path, texts=["begun"])
    mine = new_key(tmp_path / "mine")
    assert finalize_bundle(path, sign_key=mine).sealed
    trusted = tmp_path / "trusted"
    trusted.write_text(f"box7 {' '.join(public(key))}\n")
    for claimed in (
        " ".join(public(key)),
        f"{' '.join(public(mine))}\nbox {' '.join(public(key))}",
        "",
    ):
        manifest = read_json(path)
        manifest["signer"]["public_key"] = claimed
        (path / "manifest.json").write_text(json.dumps(manifest))
        sums_made_anew(path)
        signed_by(mine, path)
        assert codes(path) == {"bundle.signature_bad"}
        assert codes(path, trusted) == {"bundle.signature_bad"}


def signed_by(key: Path, path: Path) -> None:
    (path / "manifest.sha256.sig").unlink()
    words = ["-q", "-Y", "sign", "-f", str(key), "-n", "capa-bundle", str(path / "manifest.sha256")]
    subprocess.run(["ssh-keygen", *words], check=True)


def test_a_chain_that_was_broken_before_the_seal_is_told_by_verify(tmp_path: Path) -> None:
    path = unsealed_bundle(tmp_path, texts=["begun", "heating", "done"])
    with closing(sqlite3.connect(path / "events.sqlite")) as connection, connection:
        connection.execute("UPDATE events SET message = 'cooling' WHERE id = 2")
    assert finalize_bundle(path).sealed
    (problem,) = verify_bundle(path)
    assert (problem.code, problem.blocking) == ("bundle.chain_was_broken", False)
    assert "at event 3" in problem.message


def test_a_manifest_that_is_silent_on_the_chain_is_not_whole(tmp_path: Path) -> None:
    path = unsealed_bundle(tmp_path, texts=["begun", "heating", "done"])
    assert finalize_bundle(path).sealed
    manifest = read_json(path)
    manifest["events_chain"] = None
    (path / "manifest.json").write_text(json.dumps(manifest))
    sums_made_anew(path)
    assert codes(path) == {"bundle.chain_not_stated"}


def test_a_bundle_without_the_events_that_its_manifest_states_is_not_whole(
    tmp_path: Path,
) -> None:
    path = unsealed_bundle(tmp_path, texts=["begun", "heating", "done"])
    assert finalize_bundle(path).sealed
    (path / "events.sqlite").unlink()
    manifest = read_json(path)
    del manifest["files"]["events.sqlite"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    sums_made_anew(path)
    assert sha256sum_check(path).returncode == 0
    (problem,) = verify_bundle(path)
    assert (problem.code, problem.blocking) == ("bundle.chain_missing", True)
    assert "3 events were sealed" in problem.message


BROKEN, ALTERED = "bundle.chain_broken", "bundle.chain_altered"
INSERT = "INSERT INTO events SELECT 4, 5, t_utc, kind, severity, source, 'x', '{}', 'ab' "


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("DELETE FROM events WHERE id = 1", {BROKEN, ALTERED}),
        ("DELETE FROM events WHERE id = 2", {BROKEN, ALTERED}),
        ("DELETE FROM events WHERE id = 3", {ALTERED}),
        ("UPDATE events SET message = 'cooling' WHERE id = 2", {BROKEN}),
        ("UPDATE events SET t_mono_ns = 1 WHERE id = 2", {BROKEN}),
        ("UPDATE events SET message = 'never' WHERE id = 3", {ALTERED}),
        (INSERT + "FROM events WHERE id = 3", {BROKEN, ALTERED}),
    ],
)
def test_a_removed_or_edited_event_shows_although_all_sums_were_made_anew(
    tmp_path: Path, statement: str, expected: set[str]
) -> None:
    path = unsealed_bundle(tmp_path, texts=["begun", "heating", "done"])
    assert finalize_bundle(path).sealed
    with closing(sqlite3.connect(path / "events.sqlite")) as connection, connection:
        assert connection.execute(statement).rowcount == 1
    sums_made_anew(path)
    assert sha256sum_check(path).returncode == 0
    assert codes(path) == expected


def test_a_chain_that_was_forged_from_end_to_end_shows_by_the_signature(
    signed: Path, key: Path
) -> None:
    """The chain is no secret: whoever makes it anew, and the manifest, needs the key as well."""
    with closing(sqlite3.connect(signed / "events.sqlite")) as connection, connection:
        connection.execute("UPDATE events SET message = 'cooling' WHERE id = 2")
        head = first_hash(signed.name)
        for (number,) in connection.execute("SELECT id FROM events ORDER BY id").fetchall():
            connection.execute("UPDATE events SET prev_hash = ? WHERE id = ?", (head, number))
            row = connection.execute("SELECT * FROM events WHERE id = ?", (number,)).fetchone()
            head = row_hash(row)
    manifest = read_json(signed)
    manifest["events_chain"]["head"] = head
    (signed / "manifest.json").write_text(json.dumps(manifest))
    sums_made_anew(signed)
    assert codes(signed) == {"bundle.signature_bad"}
    assert not ssh_verifies(signed, key)


@pytest.mark.parametrize("trouble", ["missing", "passphrase", "rsa", "garbage"])
def test_a_key_that_does_not_sign_is_a_note_and_the_bundle_is_sealed(
    tmp_path: Path, trouble: str
) -> None:
    key = tmp_path / "box"
    if trouble == "passphrase":
        new_key(key, "-N", "secret")
    elif trouble == "rsa":
        new_key(key, "-t", "rsa")
    elif trouble == "garbage":
        key.write_text("not a key\n")
    path = unsealed_bundle(tmp_path / "runs")
    assert finalize_bundle(path, sign_key=key).sealed
    manifest = read_json(path)
    assert manifest["signer"] is None
    assert "not signed" in " ".join(manifest["finalize_notes"])
    assert codes(path) == set()


class _KilledError(BaseException):
    """Stands for a kill: nothing may catch it."""


@pytest.mark.parametrize("nth", range(5))
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("again_with_key", [True, False])
def test_sealing_killed_around_any_write_ends_in_a_bundle_that_verifies(
    tmp_path: Path,
    key: Path,
    monkeypatch: pytest.MonkeyPatch,
    nth: int,
    after: bool,
    again_with_key: bool,
) -> None:
    path = unsealed_bundle(tmp_path)
    count = 0

    def killed(target: Path, data: bytes, **options: int) -> None:
        nonlocal count
        count += 1
        if count <= nth:
            write_atomically(target, data, **options)
            return
        if after:
            write_atomically(target, data, **options)
        raise _KilledError

    def manifest(folder: Path, content: Manifest) -> None:
        killed(folder / "manifest.json", manifest_bytes(content))

    with monkeypatch.context() as patch:
        patch.setattr(seal, "write_atomically", killed)
        patch.setattr(work, "write_manifest", manifest)
        with pytest.raises(_KilledError):
            finalize_bundle(path, sign_key=key)
    result = finalize_bundle(path, sign_key=key if again_with_key else None)
    assert result.sealed, result.detail
    assert sha256sum_check(path).returncode == 0
    assert ssh_verifies(path, key) == (read_json(path)["signer"] is not None)
    assert codes(path) == set()
