"""Distributions made by hand in a folder: installed as an installer would leave them."""

import base64
import csv
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

GOOD = '''\
"""A procedure that does nothing."""

from typing import ClassVar

from pydantic import BaseModel

from capa.experiment.procedures.base import Problem, Procedure, ProcedureContext


class Config(BaseModel):
    """No settings."""


class Idle(Procedure):
    """Does nothing."""

    id: ClassVar[str] = "{id}"
    name: ClassVar[str] = "Idle"
    version: ClassVar[str] = "1.0.0"
    config_model: ClassVar[type[BaseModel]] = Config
    required_capabilities: ClassVar[tuple[str, ...]] = ()
    required_channels: ClassVar[tuple] = ()
    uses_method: ClassVar[bool] = False

    async def preflight(self, ctx: ProcedureContext) -> list[Problem]:
        return []

    async def run(self, ctx: ProcedureContext) -> None:
        return None
'''


def good(plugin_id: str) -> str:
    """The source of a module with one good procedure, ``Idle``."""
    return GOOD.format(id=plugin_id)


def install(
    site: Path,
    name: str,
    files: Mapping[str, str],
    entries: Mapping[str, str],
    *,
    version: str = "1.0.0",
    extra: Mapping[str, str] | None = None,
) -> None:
    """Put files and their dist-info under ``site``; ``extra`` goes into the dist-info unlisted."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    points = "".join(f"{key} = {value}\n" for key, value in entries.items())
    tree = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: by hand\n",
        f"{info}/entry_points.txt": f"[capa.procedures]\n{points}",
    }
    for path, text in {
        **tree,
        **{f"{info}/{key}": text for key, text in (extra or {}).items()},
    }.items():
        write(site / path, text)
    (site / info / "RECORD").write_text(_record(site, [*tree, f"{info}/RECORD"]))


def write(path: Path, text: str) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _record(site: Path, names: list[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for name in names:
        data = (site / name).read_bytes() if (site / name).is_file() else None
        writer.writerow(
            [name, "" if data is None else _sum(data), "" if data is None else len(data)]
        )
    return text.getvalue()


def _sum(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"sha256={digest}"
