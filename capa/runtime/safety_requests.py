"""Requests to the safety monitor by files: for whoever may write in the runtime directory.

``<id>.request.json`` is put into ``RUNTIME-DIR/safety/``; the daemon takes it, and answers with
``<id>.reply.json``. Who asked is the owner of the file, whatever name it gives.
"""

import json
import os
import pwd
import secrets
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capa.errors import CapaError
from capa.storage.atomic import clear_temporaries, write_atomically

__all__ = ["SafetyRequest", "answer", "ask", "open_box", "take"]

_REQUEST, _REPLY = ".request.json", ".reply.json"
_MOST_BYTES = 16 * 1024
_OLD_REPLY_S = 300.0


@dataclass(frozen=True, slots=True)
class SafetyRequest:
    """What is asked for (``show``, ``clear`` or ``release``), and by whom."""

    id: str
    do: str
    by: str = ""
    reason: str = ""
    user: str = ""


def open_box(runtime_dir: Path) -> Path:
    """Make the folder, writable for its group; blocks."""
    box = runtime_dir / "safety"
    box.mkdir(parents=True, exist_ok=True)
    box.chmod(0o770)
    clear_temporaries(box)
    return box


def take(box: Path) -> list[SafetyRequest]:
    """Take the requests that wait, oldest names first, out of the folder; blocks.

    What is no request is answered as such, replies that nobody fetched are removed.
    """
    found = []
    for path in sorted(box.iterdir()):
        if path.name.endswith(_REQUEST):
            request = _read(path)
            path.unlink(missing_ok=True)
            if isinstance(request, SafetyRequest):
                found.append(request)
            else:
                answer(box, path.name.removesuffix(_REQUEST), {"ok": False, "text": request})
        elif path.name.endswith(_REPLY):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _OLD_REPLY_S:
                    path.unlink()
    return found


def answer(box: Path, request_id: str, reply: Mapping[str, Any]) -> None:
    """Answer a request; blocks."""
    write_atomically(box / f"{request_id}{_REPLY}", json.dumps(reply).encode(), mode=0o660)


def ask(
    runtime_dir: Path, do: str, *, by: str = "", reason: str = "", within_s: float = 5.0
) -> dict[str, Any]:
    """Ask a running daemon, and wait for its answer; blocks.

    Raises:
        CapaError: the folder is not there or may not be written, or nobody answered.
    """
    box = runtime_dir / "safety"
    request_id = secrets.token_hex(6)
    request, reply = box / f"{request_id}{_REQUEST}", box / f"{request_id}{_REPLY}"
    text = json.dumps({"do": do, "by": by, "reason": reason})
    try:
        _put(request, text.encode())
    except OSError as error:
        raise CapaError(
            f"{box}: {error.strerror}; is capad running with this runtime directory, and may you "
            "write there?"
        ) from error
    deadline_s = time.monotonic() + within_s
    while not reply.exists():
        if time.monotonic() > deadline_s:
            request.unlink(missing_ok=True)
            raise CapaError(f"capad did not answer within {within_s:g} s; is it running?")
        time.sleep(0.05)
    said = json.loads(reply.read_bytes())
    reply.unlink(missing_ok=True)
    return dict(said)


def _put(path: Path, data: bytes) -> None:
    """Write a file that the daemon's user can read, whatever the umask of who asks.

    The folder keeps others out.
    """
    aside = path.with_name(f".{path.name}.tmp")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        os.fchmod(descriptor, 0o644)
    aside.rename(path)


def _read(path: Path) -> SafetyRequest | str:
    """Read one request, or say why it is none; a link is never followed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return f"the request can't be read: {error.strerror}"
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_BYTES:
            return "the request is no small file"
        data = file.read(_MOST_BYTES)
    try:
        wanted = json.loads(data)
        fields = {key: str(wanted.get(key, "")) for key in ("do", "by", "reason")}
    except (ValueError, AttributeError):
        return "the request is not JSON"
    return SafetyRequest(path.name.removesuffix(_REQUEST), **fields, user=_user(found.st_uid))


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
