"""Discovery: what is let in, what is refused and why, and what the lock keeps from running."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from capa.experiment.procedures.available import why_missing
from capa.plugins.discovery import Discovery, discover, load_builtins, load_procedures, report
from capa.plugins.drift import DriftKind
from capa.plugins.lock import LockedPlugin, trust
from capa.plugins.policy import (
    IMPORT_DEADLINE_S,
    PluginMode,
    PluginModeError,
    Policy,
    policy,
    policy_here,
)
from tests.support.plugin_tree import good, install, write

BUILTINS = {"capa.builtin.free_run", "capa.builtin.recipe_runner"}


@dataclass
class Site:
    """A folder on the import path, and a lock."""

    root: Path
    lock: Path

    def add(self, name: str, source: str, *, entry: str | None = None, **more: str) -> None:
        """Install a package of one module; its entry point is ``entry`` or ``name.one``."""
        target = more.pop("target", f"{name}.one:Idle")
        files = {f"{name}/__init__.py": "", f"{name}/one.py": source}
        version = more.pop("version", "1.0.0")
        install(self.root, name, files, {entry or f"{name}.one": target}, version=version)

    def good(self, name: str, **more: str) -> None:
        """Install a good plug-in whose import leaves the file ``name.imported``."""
        plugin_id = more.pop("plugin_id", f"{name}.one")
        mark = f"\nfrom pathlib import Path\nPath({str(self.mark(name))!r}).touch()\n"
        self.add(name, good(plugin_id) + mark, **more)

    def mark(self, name: str) -> Path:
        return self.root.parent / f"{name}.imported"

    def look(
        self, mode: str = "dev", *, only: str | None = None, deadline_s: float = 60
    ) -> Discovery:
        """Discover as a newly started process would."""
        self.forget()
        return discover(Policy(PluginMode(mode), self.lock, deadline_s), only=only)

    def trust(self, plugin_id: str) -> None:
        one = next(one for one in self.look().loaded if one.id == plugin_id)
        record = LockedPlugin(
            id=one.id,
            package=one.package,
            version=one.version,
            entry_point=one.entry_point,
            distribution_hash=one.hash or "",
        )
        trust(self.lock, record, reason="for the test", who="maria")
        for mark in self.root.parent.glob("*.imported"):
            mark.unlink()

    def forget(self) -> None:
        """Forget every module that came from here."""
        own = str(self.root.parent)
        for name, module in list(sys.modules.items()):
            places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", [])]
            if any(place.startswith(own) for place in places):
                del sys.modules[name]
        sys.path_importer_cache.clear()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    root = tmp_path / "site"
    root.mkdir()
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    found = Site(root, tmp_path / "plugins.lock")
    yield found
    found.forget()


def ids(found: Discovery) -> set[str]:
    return {one.id for one in found.loaded if not one.builtin}


def reason(found: Discovery, name: str) -> str:
    (one,) = [one for one in found.rejected if one.name == name]
    return one.reason


# --- what is found ------------------------------------------------------------------------------


def test_the_built_ins_are_there_and_need_no_hash(site: Site) -> None:
    found = site.look()
    assert set(found.procedures) >= BUILTINS
    assert all(one.hash is None for one in found.loaded if one.builtin)
    assert found.rejected == ()


def test_the_built_ins_come_by_themselves_and_import_nobody_elses_code(site: Site) -> None:
    site.good("hello")
    site.forget()
    ours = load_builtins()
    assert set(ours) >= BUILTINS
    assert not site.mark("hello").exists()


def test_an_installed_procedure_is_found_with_its_package_version_and_hash(site: Site) -> None:
    site.good("hello", version="0.3.0")
    (one,) = [one for one in site.look().loaded if not one.builtin]
    assert (one.id, one.package, one.version) == ("hello.one", "hello", "0.3.0")
    assert one.entry_point == "hello.one:Idle"
    assert one.hash is not None
    assert one.hash.startswith("sha256:")
    assert one.notes == ()


def test_an_entry_point_by_another_name_than_the_id_is_a_note_not_a_refusal(site: Site) -> None:
    site.good("hello", plugin_id="hello.procedure.idle")
    (one,) = [one for one in site.look().loaded if not one.builtin]
    assert one.id == "hello.procedure.idle"
    assert "give the entry point the same name" in one.notes[0]


# --- what is refused ----------------------------------------------------------------------------

BROKEN = {
    "raises": ("x = 1\nraise ValueError('no luck')\n", "ValueError: no luck (", "one.py, line 2)"),
    "exits": ("import sys\nsys.exit(3)\n", "raised SystemExit: 3", "one.py, line 2"),
    "syntax": ("a = 1\ndef run(:\n", "SyntaxError", "one.py, line 2"),
    "lacks": ("import no_such_module_here\n", "imports 'no_such_module_here'", "not installed"),
    "empty": ("class Idel: ...\n", "has no 'Idle'", "did you mean `Idel`?"),
    "library": ("import json\n\njson.loads('rubbish')\n", "JSONDecodeError", "one.py, line 3"),
    "thing": ("Idle = 5\n", "it is an int, not a class", ""),
    "meta": (
        "class M(type):\n    def __getattribute__(cls, name):\n        raise SystemExit\n"
        "class Idle(metaclass=M): ...\n",
        "",
        "",
    ),
    "sync": (good("sync.one").replace("async def run", "def run"), "`run` must be `async def`", ""),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plug_in_is_refused_in_words_and_takes_no_other_with_it(
    site: Site, name: str
) -> None:
    source, says, place = BROKEN[name]
    site.add(name, source)
    site.good("zz_after")
    site.good("aa_before")
    found = site.look()
    assert ids(found) == {"zz_after.one", "aa_before.one"}
    assert set(found.procedures) >= BUILTINS
    assert says in reason(found, f"{name}.one")
    assert place in reason(found, f"{name}.one")


def test_ctrl_c_while_a_plug_in_is_imported_is_the_operators(site: Site) -> None:
    site.add("hello", "raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        site.look()


def test_an_import_that_hangs_is_left_behind_and_named_with_its_line(site: Site) -> None:
    hang = "import threading\nfrom hangs import gate\ngate.wait()\n" + good("hangs.one")
    site.add("hangs", hang)
    write(site.root / "hangs" / "__init__.py", "import threading\ngate = threading.Event()\n")
    site.good("zz_after")
    site.good("aa_before")
    found = site.look(deadline_s=0.2)
    sys.modules["hangs"].gate.set()  # let go of the thread
    assert ids(found) == {"zz_after.one", "aa_before.one"}
    assert set(found.procedures) >= BUILTINS
    place = site.root / "hangs" / "one.py"
    assert reason(found, "hangs.one") == (
        "its import did not return within 0.2 s (hangs.one:Idle of the package hangs, at "
        f"{place}, line 3); a plug-in's module only defines its class: move what waits or "
        "computes there into `run`"
    )


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("hello.one", "names no class; write module.path:Class"),
        ("hello.two:Idle", "there is no module 'hello.two'; compare the entry point"),
        ("helo.one:Idle", "there is no module 'helo'"),
        ("not a target", "names no class; write module.path:Class"),
    ],
)
def test_an_entry_point_that_leads_nowhere_is_refused(site: Site, target: str, says: str) -> None:
    site.add("hello", good("hello.one"), target=target)
    assert says in reason(site.look(), "hello.one")


def test_an_id_of_a_built_in_stays_the_built_ins(site: Site) -> None:
    site.good("hello", plugin_id="capa.builtin.free_run")
    found = site.look()
    said = reason(found, "hello.one")
    assert "'capa.builtin.free_run' (hello.one:Idle) is taken by" in said
    assert "builtin.free_run:FreeRun, a built-in of capa" in said
    assert found.procedures["capa.builtin.free_run"].__name__ == "FreeRun"


def test_an_entry_point_that_is_named_after_a_built_in_does_not_take_it_away(site: Site) -> None:
    site.good("hello", plugin_id="capa.builtin.free_run", entry="capa.builtin.free_run")
    site.add("boom", "raise RuntimeError", entry="capa.builtin.batch")
    found = site.look()
    assert found.procedures["capa.builtin.free_run"].__name__ == "FreeRun"
    assert found.procedures["capa.builtin.batch"].__name__ == "Batch"
    assert {one.package for one in found.rejected} == {"hello", "boom"}


def test_of_two_with_one_id_the_one_that_is_named_after_it_runs(site: Site) -> None:
    site.good("aa", plugin_id="shared.id")
    site.good("bb", plugin_id="shared.id", entry="shared.id")
    found = site.look()
    (one,) = [one for one in found.loaded if not one.builtin]
    assert (one.id, one.package) == ("shared.id", "bb")
    assert reason(found, "aa.one") == (
        "its id 'shared.id' is that of bb.one:Idle (package bb, entry point 'shared.id'), too, "
        "which has the id's name; give aa.one:Idle of aa an id of its own, and its entry point "
        "that name"
    )


@pytest.mark.parametrize("entry", ["", "shared.id"])
def test_of_two_with_the_same_right_to_an_id_neither_runs_and_both_are_named(
    site: Site, entry: str
) -> None:
    site.good("aa", plugin_id="shared.id", entry=entry)
    site.good("bb", plugin_id="shared.id", entry=entry)
    site.good("cc")
    found = site.look()
    assert ids(found) == {"cc.one"}
    assert set(found.procedures) >= BUILTINS
    says = [one.reason for one in found.rejected]
    assert len(says) == 2
    for said in says:
        assert f"aa.one:Idle (package aa, entry point '{entry or 'aa.one'}')" in said
        assert f"bb.one:Idle (package bb, entry point '{entry or 'bb.one'}')" in said
        assert "so none runs; uninstall all but one of the packages" in said
    assert "so none runs" in why_missing(found.procedures, "shared.id")


def test_an_id_whose_own_plug_in_is_broken_does_not_lead_to_another(site: Site) -> None:
    site.add("aa", "raise ValueError\n", entry="shared.id")
    site.good("bb", plugin_id="shared.id")
    found = site.look()
    assert ids(found) == set()
    assert "is that of aa.one:Idle (package aa" in reason(found, "bb.one")


def test_in_production_an_id_is_its_who_is_trusted_whatever_else_is_installed(site: Site) -> None:
    site.good("bb", plugin_id="shared.id")
    site.trust("shared.id")
    site.good("aa", plugin_id="shared.id", entry="shared.id")
    found = site.look("production")
    (one,) = [one for one in found.loaded if not one.builtin]
    assert (one.id, one.package) == ("shared.id", "bb")
    assert not site.mark("aa").exists()


def test_a_package_that_calls_itself_capa_is_no_built_in(site: Site) -> None:
    install(
        site.root,
        "capa",
        {"stranger/one.py": good("stranger.one"), "stranger/__init__.py": ""},
        {"stranger.one": "stranger.one:Idle"},
    )
    assert "not trusted" in reason(site.look("production"), "stranger.one")


# --- production ---------------------------------------------------------------------------------


def test_without_a_lock_production_has_only_the_built_ins_and_imports_nothing(site: Site) -> None:
    site.good("hello")
    found = site.look("production")
    assert ids(found) == set()
    assert "there is no usable plugins.lock" in reason(found, "hello.one")
    assert not site.mark("hello").exists()


def test_what_is_trusted_runs_in_production(site: Site) -> None:
    site.good("hello")
    site.trust("hello.one")
    found = site.look("production")
    assert ids(found) == {"hello.one"}
    assert found.rejected == ()
    assert found.drift == ()
    assert site.mark("hello").exists()


def test_what_is_not_trusted_is_never_imported_in_production(site: Site) -> None:
    site.good("hello")
    site.trust("hello.one")
    site.good("other")
    found = site.look("production")
    assert ids(found) == {"hello.one"}
    assert "other.one (other) is installed and not in the lock" in reason(found, "other.one")
    assert not site.mark("other").exists()


@pytest.mark.parametrize("file", ["__init__.py", "one.py", "data/table.csv"])
def test_one_changed_byte_is_refused_before_it_is_imported(site: Site, file: str) -> None:
    files = {"hello/__init__.py": "", "hello/one.py": good("hello.one"), "hello/data/table.csv": ""}
    install(site.root, "hello", files, {"hello.one": "hello.one:Idle"})
    site.trust("hello.one")
    mark = f"open({str(site.mark('hello'))!r}, 'w')\n"
    changed = site.root / "hello" / file
    changed.write_text(changed.read_text() + mark)
    found = site.look("production")
    assert ids(found) == set()
    assert "not trusted: hash of hello.one is sha256:" in reason(found, "hello.one")
    assert "capa plugins trust hello.one --reason" in reason(found, "hello.one")
    assert [one.kind for one in found.drift] == [DriftKind.HASH]
    assert not site.mark("hello").exists()


def test_a_module_that_would_come_from_elsewhere_is_not_what_was_trusted(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.good("hello")
    site.trust("hello.one")
    mark = f"open({str(site.mark('hello'))!r}, 'w')\n"
    write(tmp_path / "shadow" / "hello" / "__init__.py", mark)
    write(tmp_path / "shadow" / "hello" / "one.py", good("hello.one"))
    monkeypatch.syspath_prepend(str(tmp_path / "shadow"))
    found = site.look("production")
    assert ids(found) == set()
    assert "which is no file of hello" in reason(found, "hello.one")
    assert not site.mark("hello").exists()


def test_what_was_changed_and_trusted_anew_in_a_running_process_waits_for_a_restart(
    site: Site,
) -> None:
    site.good("hello")
    site.trust("hello.one")
    under = Policy(PluginMode.PRODUCTION, site.lock)
    assert ids(discover(under)) == {"hello.one"}
    module = site.root / "hello" / "one.py"
    module.write_text(module.read_text() + "# edited\n")
    kept = {name: module for name, module in sys.modules.items() if name.startswith("hello")}
    site.trust("hello.one")
    sys.modules.update(kept)
    found = discover(under)
    assert ids(found) == set()
    assert "restart to run what is trusted" in reason(found, "hello.one")
    assert ids(site.look("production")) == {"hello.one"}


def test_a_class_with_another_id_than_the_trusted_one_is_refused(site: Site) -> None:
    site.good("hello", plugin_id="hello.other")
    site.trust("hello.other")
    text = site.lock.read_text().replace("hello.other", "hello.one")
    site.lock.write_text(text)
    said = reason(site.look("production"), "hello.one")
    assert said == "not trusted: its id is 'hello.other', the lock trusts 'hello.one'"


def test_a_trusted_one_whose_entry_point_has_another_name_runs(site: Site) -> None:
    site.good("hello", plugin_id="hello.other")
    site.trust("hello.other")
    assert ids(site.look("production")) == {"hello.other"}


def test_another_version_is_drift_of_version_and_hash(site: Site) -> None:
    site.good("hello", version="1.0.0")
    site.trust("hello.one")
    for file in sorted((site.root / "hello-1.0.0.dist-info").iterdir()):
        file.unlink()
    (site.root / "hello-1.0.0.dist-info").rmdir()
    site.good("hello", version="1.1.0")
    found = site.look("production")
    assert {one.kind for one in found.drift} == {DriftKind.VERSION, DriftKind.HASH}
    assert "version of hello.one is 1.1.0, the lock has 1.0.0" in reason(found, "hello.one")


def test_another_entry_point_is_drift(site: Site) -> None:
    site.good("hello")
    site.trust("hello.one")
    points = site.root / "hello-1.0.0.dist-info" / "entry_points.txt"
    points.write_text("[capa.procedures]\nhello.one = hello.one:Other\n")
    kinds = {one.kind for one in site.look("production").drift}
    assert kinds == {DriftKind.ENTRY_POINT, DriftKind.HASH}


def test_what_is_trusted_and_gone_is_drift(site: Site) -> None:
    site.good("hello")
    site.trust("hello.one")
    for folder in ("hello", "hello-1.0.0.dist-info"):
        for file in sorted((site.root / folder).iterdir()):
            file.unlink()
    found = site.look("production")
    assert [one.kind for one in found.drift] == [DriftKind.MISSING_FROM_INSTALL]


@pytest.mark.parametrize("text", ["version = 2\n", "rubbish", ""])
def test_a_lock_that_can_not_be_used_trusts_nothing_and_says_so(site: Site, text: str) -> None:
    site.good("hello")
    site.lock.write_text(text)
    found = site.look("production")
    assert ids(found) == set()
    assert set(found.procedures) >= BUILTINS
    assert str(site.lock) in str(found.problems[0])
    assert not site.mark("hello").exists()


# --- dev ----------------------------------------------------------------------------------------


def test_dev_loads_all_and_shows_what_differs(site: Site) -> None:
    site.good("hello")
    site.trust("hello.one")
    site.good("other")
    module = site.root / "hello" / "one.py"
    module.write_text(module.read_text() + "# edited\n")
    found = site.look("dev")
    assert ids(found) == {"hello.one", "other.one"}
    assert [(one.kind, one.id) for one in found.drift] == [
        (DriftKind.HASH, "hello.one"),
        (DriftKind.MISSING_FROM_LOCK, "other.one"),
    ]


def test_dev_without_a_lock_has_nothing_to_drift_from(site: Site) -> None:
    site.good("hello")
    assert site.look("dev").drift == ()


def test_asking_for_one_imports_no_other(site: Site) -> None:
    site.good("hello")
    site.good("other")
    assert ids(site.look(only="hello.one")) == {"hello.one"}
    assert not site.mark("other").exists()


# --- which mode, which lock ---------------------------------------------------------------------


def test_the_environment_wins_over_the_settings_and_dev_is_the_rest() -> None:
    assert policy(environ={}).mode is PluginMode.DEV
    assert policy("production", environ={}).mode is PluginMode.PRODUCTION
    assert policy("dev", environ={"CAPA_PLUGIN_MODE": "production"}).mode is PluginMode.PRODUCTION
    assert policy("production", environ={"CAPA_PLUGIN_MODE": ""}).mode is PluginMode.PRODUCTION


def test_a_mode_that_is_none_is_never_guessed() -> None:
    with pytest.raises(PluginModeError, match="CAPA_PLUGIN_MODE='prod' is no mode; say 'produc"):
        policy("production", environ={"CAPA_PLUGIN_MODE": "prod"})


def test_the_deadline_of_an_import_is_set_and_the_environment_wins() -> None:
    assert policy(environ={}).import_deadline_s == IMPORT_DEADLINE_S == 10
    assert policy(environ={}, import_deadline_s=30).import_deadline_s == 30
    told = {"CAPA_PLUGIN_IMPORT_DEADLINE_S": "2.5"}
    assert policy(environ=told, import_deadline_s=30).import_deadline_s == 2.5


@pytest.mark.parametrize("told", ["soon", "0", "-1", "nan", "inf"])
def test_a_deadline_that_is_none_is_refused(told: str) -> None:
    with pytest.raises(PluginModeError, match=r"_DEADLINE_S='.*' is no time; write it in seconds"):
        policy(environ={"CAPA_PLUGIN_IMPORT_DEADLINE_S": told})


def test_the_tool_goes_by_the_daemons_settings(tmp_path: Path) -> None:
    settings = tmp_path / "capad.toml"
    settings.write_text(
        '[plugins]\nmode = "production"\nlock = "trusted.lock"\nimport_deadline_s = 30\n'
    )
    here = Policy(PluginMode.PRODUCTION, tmp_path / "trusted.lock", 30)
    assert policy_here(None, settings) == here
    said = policy_here(tmp_path / "other.lock", settings)
    assert said == Policy(PluginMode.PRODUCTION, tmp_path / "other.lock", 30)
    assert policy_here(None, tmp_path / "none.toml").lock == Path("plugins.lock")


def test_settings_that_can_not_be_read_are_not_taken_for_none(tmp_path: Path) -> None:
    settings = tmp_path / "capad.toml"
    settings.write_text("rubbish")
    with pytest.raises(PluginModeError, match=r"capad\.toml: .*; see capad --check"):
        policy_here(None, settings)


# --- what the daemon gets and says --------------------------------------------------------------


def test_the_daemon_gets_the_usable_ones_and_the_log_says_what_was_left_out(site: Site) -> None:
    site.good("hello")
    site.add("raises", BROKEN["raises"][0])
    site.forget()
    with capture_logs() as logs:
        procedures = load_procedures(Policy(PluginMode.DEV, site.lock))
    assert {one for one in procedures if not one.startswith("capa.builtin.")} == {"hello.one"}
    (warning,) = [line for line in logs if line["event"] == "plugin.rejected"]
    assert warning["message"].startswith("procedure 'raises.one' of raises is left out: importing")


def test_production_says_each_thing_once(site: Site) -> None:
    site.good("hello")
    site.trust("hello.one")
    site.good("other")
    with capture_logs() as logs:
        report(site.look("production"))
    assert [line["event"] for line in logs] == ["plugin.rejected"]
