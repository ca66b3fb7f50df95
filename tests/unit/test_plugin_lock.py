"""The lock, its journal, and drift: what is trusted, since when, by whom and why."""

import json
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from capa.config.problems import ProblemsError
from capa.plugins import lock as lock_module
from capa.plugins.drift import Drift, DriftKind, Installed, drift_of
from capa.plugins.lock import (
    LockedPlugin,
    LockError,
    PluginsLock,
    journal_of,
    read_lock,
    trust,
    untrust,
)

HASH = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def plugin(**changes: str) -> LockedPlugin:
    parts = {
        "id": "hello.one",
        "package": "hello-one",
        "version": "1.0.0",
        "entry_point": "hello.one:One",
        "distribution_hash": HASH,
    }
    return LockedPlugin(**{**parts, **changes})


def put(path: Path, one: LockedPlugin, reason: str = "read it") -> None:
    trust(path, one, reason=reason, who="maria", now=lambda: NOON)


def journal(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal_of(path).read_text().splitlines()]


def refusal(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(ProblemsError) as caught:
        read_lock(path)
    return str(caught.value)


def test_what_is_trusted_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "plugins.lock"
    put(path, plugin())
    assert read_lock(path) == PluginsLock(plugins=(plugin(),))
    table = tomllib.loads(path.read_text())
    assert table["version"] == 1
    assert table["plugins"] == [plugin().model_dump()]


def test_the_journal_says_when_who_why_and_what(tmp_path: Path) -> None:
    path = tmp_path / "plugins.lock"
    put(path, plugin(), "read it line by line")
    put(path, plugin(version="1.1.0", distribution_hash=OTHER), "new cooldown")
    first, second = journal(path)
    assert first == {
        "at_utc": "2026-11-20T12:00:00+00:00",
        "who": "maria",
        "action": "trust",
        "reason": "read it line by line",
        "id": "hello.one",
        "changed": ["id", "package", "version", "entry_point", "distribution_hash"],
        "before": None,
        "after": plugin().model_dump(),
    }
    assert second["changed"] == ["version", "distribution_hash"]
    assert (second["before"]["version"], second["after"]["version"]) == ("1.0.0", "1.1.0")


def test_trusting_again_replaces_the_record_and_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "plugins.lock"
    put(path, plugin(id="z.last"))
    put(path, plugin())
    put(path, plugin(version="2.0"))
    lock = read_lock(path)
    assert lock is not None
    assert [(one.id, one.version) for one in lock.plugins] == [
        ("hello.one", "2.0"),
        ("z.last", "1.0.0"),
    ]


def test_untrust_takes_the_record_out_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "plugins.lock"
    put(path, plugin())
    untrust(path, "hello.one", reason="retired", who="li")
    assert read_lock(path) == PluginsLock()
    last = journal(path)[-1]
    assert (last["action"], last["who"], last["after"]) == ("untrust", "li", None)


def test_untrust_of_what_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "plugins.lock"
    put(path, plugin())
    with pytest.raises(LockError, match=r"hello\.on is not in the lock; did you mean `hello\.one`"):
        untrust(path, "hello.on", reason="retired", who="li")


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_nothing_is_trusted_without_a_reason(tmp_path: Path, reason: str) -> None:
    path = tmp_path / "plugins.lock"
    with pytest.raises(LockError, match="a reason is needed"):
        put(path, plugin(), reason)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_can_not_be_written_leaves_a_line_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plugins.lock"
    put(path, plugin())

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lock_module, "write_atomically", full)
    with pytest.raises(LockError, match="No space left on device; nothing is trusted that was not"):
        put(path, plugin(version="2.0"))
    assert [line["action"] for line in journal(path)] == ["trust", "trust", "failed"]
    assert read_lock(path) == PluginsLock(plugins=(plugin(),))


def test_a_torn_last_line_of_the_journal_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "plugins.lock"
    put(path, plugin())
    with journal_of(path).open("a") as file:
        file.write('{"at_utc": "2026')
    put(path, plugin(version="2.0"))
    lines = journal_of(path).read_text().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[2])["after"]["version"] == "2.0"


def test_no_lock_is_no_lock(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "plugins.lock") is None


def test_a_lock_of_another_version_is_not_guessed_at(tmp_path: Path) -> None:
    text = refusal(tmp_path / "p.lock", "version = 2\n[[gates]]\n")
    assert "p.lock:1: version 2 is unknown; this capa reads version 1" in text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("plugins = []\n", "has no version; put `version = 1` at its top"),
        ("version = true\n", "version True is unknown"),
        ("version = 1\n[[plugins\n", "is not TOML"),
        ("", "is empty"),
        ('version = 1\n[[plugins]]\nid = "a"\n', "is missing"),
        ("version = 1\nplugin = []\n", "did you mean `plugins`?"),
    ],
)
def test_a_lock_that_is_none_is_refused_with_the_place(
    tmp_path: Path, text: str, says: str
) -> None:
    assert says in refusal(tmp_path / "plugins.lock", text)


def test_a_hash_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plugins.lock"
    put(path, plugin())
    text = refusal(path, path.read_text().replace(HASH, "sha256:abc"))
    assert "must be 'sha256:' and 64 hexadecimal digits" in text


def test_an_id_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plugins.lock"
    put(path, plugin())
    block = path.read_text().split("\n\n", 1)[-1]
    assert "stands there more than once" in refusal(path, f"{path.read_text()}\n{block}")


def test_a_broken_lock_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "plugins.lock"
    path.write_text("version = 9\n")
    with pytest.raises(ProblemsError):
        put(path, plugin())
    assert path.read_text() == "version = 9\n"


def installed(**changes: Any) -> Installed:  # noqa: ANN401 - a hash may be None
    parts = {
        "id": "hello.one",
        "package": "hello-one",
        "version": "1.0.0",
        "entry_point": "hello.one:One",
        "hash": HASH,
    }
    return Installed(**{**parts, **changes})


def drift(*items: Installed) -> list[tuple[DriftKind, str]]:
    return [(one.kind, one.id) for one in drift_of(PluginsLock(plugins=(plugin(),)), items)]


def test_what_is_as_it_was_trusted_has_not_drifted() -> None:
    assert drift(installed()) == []
    assert drift(installed(package="Hello_One")) == []


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"version": "1.0.1"}, DriftKind.VERSION),
        ({"hash": OTHER}, DriftKind.HASH),
        ({"hash": None}, DriftKind.HASH),
        ({"entry_point": "hello.two:One"}, DriftKind.ENTRY_POINT),
    ],
)
def test_each_difference_is_a_drift_of_its_kind(changes: dict[str, Any], kind: DriftKind) -> None:
    assert drift(installed(**changes)) == [(kind, "hello.one")]


def test_what_is_trusted_and_gone_is_missing_from_the_install() -> None:
    assert drift() == [(DriftKind.MISSING_FROM_INSTALL, "hello.one")]


def test_what_is_installed_and_not_trusted_is_missing_from_the_lock() -> None:
    found = drift(installed(), installed(id="hello.two", entry_point="hello.two:Two"))
    assert found == [(DriftKind.MISSING_FROM_LOCK, "hello.two")]


def test_another_packages_plug_in_of_that_name_is_not_the_trusted_one() -> None:
    assert drift(installed(package="evil")) == [
        (DriftKind.MISSING_FROM_LOCK, "hello.one"),
        (DriftKind.MISSING_FROM_INSTALL, "hello.one"),
    ]


def test_a_drift_says_both_sides() -> None:
    said = str(Drift(DriftKind.HASH, "hello.one", "hello-one", HASH, OTHER))
    assert said == f"hash of hello.one is {OTHER}, the lock has {HASH}"
