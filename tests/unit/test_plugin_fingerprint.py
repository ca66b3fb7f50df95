"""The hash over an installation: what it covers, and what it does not depend on."""

import json
import shutil
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capa.plugins import fingerprint as fingerprint_module
from capa.plugins.fingerprint import FingerprintError, fingerprint
from tests.support.plugin_tree import install, write

FILES = {"hello/__init__.py": "", "hello/one.py": "x = 1\n", "hello/data/table.csv": "1,2\n"}


def made(site: Path, **extra: str) -> Distribution:
    install(site, "hello", FILES, {"hello.one": "hello.one:Idle"}, extra=extra)
    return found(site)


def found(site: Path) -> Distribution:
    return PathDistribution(site / "hello-1.0.0.dist-info")


def test_two_installs_of_one_distribution_have_one_hash(tmp_path: Path) -> None:
    notes = {"INSTALLER": "uv\n", "REQUESTED": "", "direct_url.json": "{}", "uv_cache.json": "{}"}
    one, other = made(tmp_path / "one"), made(tmp_path / "other", **notes)
    assert fingerprint(one).hash == fingerprint(other).hash


def test_byte_code_does_not_count_and_byte_code_without_a_source_does(tmp_path: Path) -> None:
    before = fingerprint(made(tmp_path)).hash
    write(tmp_path / "hello/__pycache__/one.cpython-311.pyc", "cached")
    assert fingerprint(found(tmp_path)).hash == before
    write(tmp_path / "hello/two.pyc", "no source beside it")
    assert fingerprint(found(tmp_path)).hash != before


def test_launchers_do_not_count_and_other_files_outside_do(tmp_path: Path) -> None:
    site = tmp_path / "lib"
    entries = {"hello.one": "hello.one:Idle\n[console_scripts]\nhello = hello.one:main"}

    def taken(launcher: str, shared: str) -> str:
        files = {**FILES, "../bin/hello": launcher, "../share/hello.txt": shared}
        install(site, "hello", files, entries)
        return fingerprint(found(site)).hash

    assert taken("#!/a/python", "x") == taken("#!/b/python", "x")
    assert taken("#!/a/python", "x") != taken("#!/a/python", "y")


def test_a_namespace_shared_with_others_is_not_the_distributions_own(tmp_path: Path) -> None:
    files = {"lab/hello/__init__.py": "", "lab/hello/one.py": ""}
    install(tmp_path, "hello", files, {"hello.one": "lab.hello.one:Idle"})
    before = fingerprint(found(tmp_path)).hash
    write(tmp_path / "lab/other/__init__.py", "of another distribution")
    assert fingerprint(found(tmp_path)).hash == before
    write(tmp_path / "lab/hello/sub/new.py", "")
    assert fingerprint(found(tmp_path)).hash != before


def test_a_file_that_is_a_link_counts_by_its_content(tmp_path: Path) -> None:
    made(tmp_path / "site")
    target = tmp_path / "elsewhere.py"
    target.write_text("x = 1\n")
    module = tmp_path / "site/hello/one.py"
    before = fingerprint(found(tmp_path / "site")).hash
    module.unlink()
    module.symlink_to(target)
    assert fingerprint(found(tmp_path / "site")).hash == before
    target.write_text("x = 2\n")
    assert fingerprint(found(tmp_path / "site")).hash != before


def test_folders_that_are_linked_in_a_circle_are_walked_once(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "hello/loop").symlink_to(tmp_path / "hello")
    assert fingerprint(found(tmp_path)).hash.startswith("sha256:")


def test_an_installation_without_a_record_can_not_be_hashed(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "hello-1.0.0.dist-info/RECORD").unlink()
    with pytest.raises(FingerprintError, match="hello has no record of its files"):
        fingerprint(found(tmp_path))


def editable(site: Path, link: str, text: str) -> Distribution:
    """An editable install: a link file and a dist-info, the code elsewhere."""
    origin = json.dumps({"url": "file:///x", "dir_info": {"editable": True}})
    entries = {"hello.one": "hello.one:Idle"}
    install(site, "hello", {link: text}, entries, extra={"direct_url.json": origin})
    return found(site)


def links(source: Path) -> dict[str, tuple[str, str]]:
    """The ways in which builders point at a source tree."""
    mapping = f"MAPPING: dict[str, str] = {{'hello': {str(source / 'hello')!r}}}\n"
    call = f"F.map_module('hello', {str(source / 'hello' / '__init__.py')!r})\n"
    return {
        "a folder on the path": ("_editable_impl_hello.pth", f"{source}\n"),
        "a mapping": ("__editable___hello_finder.py", mapping),
        "a call": ("_editable_impl_hello.py", call.replace("/__init__.py", "")),
    }


@pytest.mark.parametrize("way", ["a folder on the path", "a mapping", "a call"])
def test_an_edited_source_file_of_an_editable_install_changes_the_hash(
    tmp_path: Path, way: str
) -> None:
    source = tmp_path / "src"
    for name, text in FILES.items():
        write(source / name, text)
    site, (link, text) = tmp_path / "site", links(source)[way]
    taken = {fingerprint(editable(site, link, text)).hash}
    for name in FILES:
        (source / name).write_text(f"# edited {name}\n")
        taken.add(fingerprint(found(site)).hash)
    write(source / "hello/new.py", "")
    taken.add(fingerprint(found(site)).hash)
    assert len(taken) == 1 + len(FILES) + 1
    assert (source / "hello/one.py").resolve() in fingerprint(found(site)).files


def test_beside_an_editable_package_only_what_can_be_imported_counts(tmp_path: Path) -> None:
    source = tmp_path / "project"
    for name, text in FILES.items():
        write(source / name, text)
    site = tmp_path / "site"
    before = fingerprint(editable(site, "_editable_impl_hello.pth", f"{source}\n")).hash
    for name in (".git/index", "README.md", "notes/plan.txt", "demo-out/run.py", ".venv/x.py"):
        write(source / name, "changed every day")
    write(source / "venv/pyvenv.cfg", "")
    write(source / "venv/lib.py", "")
    assert fingerprint(found(site)).hash == before
    write(source / "helper.py", "the package may import it")
    assert fingerprint(found(site)).hash != before


def test_paths_that_an_ordinary_module_names_are_not_walked(tmp_path: Path) -> None:
    install(tmp_path, "hello", {"hello.py": "PATH = '/proc'\n"}, {"hello.one": "hello:Idle"})
    names = {path.name for path in fingerprint(found(tmp_path)).files}
    assert names == {"hello.py", "METADATA", "WHEEL", "entry_points.txt"}


NAMES = st.sampled_from([*FILES, "hello-1.0.0.dist-info/METADATA", "hello-1.0.0.dist-info/WHEEL"])
NEW = st.from_regex(r"\A(?:[a-z]{1,6}/){0,2}[a-z]{1,6}(?:\.[a-z]{1,3})?\Z").map("hello/{}".format)
CHANGES = st.one_of(
    st.tuples(st.just("change"), NAMES),
    st.tuples(st.just("remove"), NAMES),
    st.tuples(st.just("rename"), NAMES),
    st.tuples(st.just("add"), NEW),
)


@given(change=CHANGES, content=st.binary(max_size=20))
@settings(max_examples=60)
def test_whatever_file_is_changed_added_renamed_or_removed_the_hash_changes(
    change: tuple[str, str], content: bytes
) -> None:
    kind, name = change
    with TemporaryDirectory() as folder:
        site = Path(folder)
        before = fingerprint(made(site)).hash
        file = site / name
        match kind:
            case "change":
                file.write_bytes(file.read_bytes() + content + b"!")
            case "remove":
                file.unlink()
            case "rename":
                file.rename(file.with_name(f"{file.name}x"))
            case _:
                if file.exists() or any(parent.is_file() for parent in file.parents):
                    return
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
        assert fingerprint(found(site)).hash != before


@given(at=st.integers(0, 5), bit=st.integers(0, 7))
@settings(max_examples=20)
def test_a_single_bit_changes_the_hash_and_putting_it_back_restores_it(at: int, bit: int) -> None:
    with TemporaryDirectory() as folder:
        site = Path(folder)
        before = fingerprint(made(site)).hash
        file = site / "hello/one.py"
        data = bytearray(file.read_bytes())
        data[at] ^= 1 << bit
        file.write_bytes(data)
        assert fingerprint(found(site)).hash != before
        data[at] ^= 1 << bit
        file.write_bytes(data)
        assert fingerprint(found(site)).hash == before


def test_the_hash_does_not_depend_on_where_it_is_installed(tmp_path: Path) -> None:
    before = fingerprint(made(tmp_path / "one")).hash
    shutil.move(tmp_path / "one", tmp_path / "moved")
    assert fingerprint(found(tmp_path / "moved")).hash == before


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path)

    def denied(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(fingerprint_module, "_digest", denied)
    with pytest.raises(FingerprintError, match=r"Permission denied; its hash can't be taken"):
        fingerprint(found(tmp_path))


@pytest.mark.parametrize("row", ["hello/one.py,sha256=x,many", "a,b,3,d,e"])
def test_a_damaged_record_is_said(tmp_path: Path, row: str) -> None:
    made(tmp_path)
    (tmp_path / "hello-1.0.0.dist-info/RECORD").write_text(f"{row}\n")
    with pytest.raises(FingerprintError, match="RECORD is damaged"):
        fingerprint(found(tmp_path))
