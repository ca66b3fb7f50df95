"""The twin's control socket: faults, the plant and the outputs, as JSON lines."""

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import trio

from adapters.twin.rig import TwinRig
from capa.errors import CapaError

__all__ = ["CONTROL_NAME", "ask", "serve_control"]

CONTROL_NAME: Final = "control.sock"
ASK_S: Final = 5.0
MAX_LINE: Final = 65536

Json = dict[str, Any]


async def serve_control(
    rig: TwinRig,
    directory: Path,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests on ``DIR/control.sock``, one JSON object a line, until cancelled.

    - ``{"fault": KIND, "link": NAME | "device": NAME, "active": true, "value": 1.0}``
    - ``{"set": "sample.mass_g", "value": 10.0}``: meddle with the plant
    - ``{"get": "furnace.pv_degC"}``: the reply has ``value``
    - ``{"outputs": true}``: the reply has ``outputs``, by ``device.field``
    - ``{"memory": true}``: the reply has ``memory``, the non-volatile writes so far, by device

    Every reply has ``ok``, and ``error`` when that is false.
    """
    own = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _short(directory) as short:
        await own.bind(str(short / CONTROL_NAME))
    own.listen()
    task_status.started()

    async def converse(stream: trio.SocketStream) -> None:
        pending = b""
        with contextlib.suppress(trio.BrokenResourceError):
            while chunk := await stream.receive_some():
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    await stream.send_all(json.dumps(_answer(rig, line)).encode() + b"\n")
                if len(pending) > MAX_LINE:
                    return

    await trio.serve_listeners(converse, [trio.SocketListener(own)])


def ask(directory: Path, request: Mapping[str, Any]) -> Json:
    """Send one request to the twin that serves ``directory``; return its reply. Blocks.

    Raises:
        CapaError: there is no twin, or it does not answer.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as own, _short(directory) as short:
            own.settimeout(ASK_S)
            own.connect(str(short / CONTROL_NAME))
            own.sendall(json.dumps(request).encode() + b"\n")
            with own.makefile("rb") as replies:
                reply: Json = json.loads(replies.readline())
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise CapaError(f"no twin answers in {directory}: {why}; is it running?") from error
    return reply


@contextlib.contextmanager
def _short(directory: Path) -> Iterator[Path]:
    """Name a directory in few characters: a socket's path may have 107 only."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _answer(rig: TwinRig, line: bytes) -> Json:
    try:
        request = json.loads(line)
        if not isinstance(request, dict):
            return _refusal(f"expected a JSON object, not {line!r}")
        return {"ok": True, **_obey(rig, request)}
    except KeyError as error:
        return _refusal(f"unknown or missing: {error}")
    except (CapaError, ValueError, TypeError) as error:
        return _refusal(str(error))


def _refusal(error: str) -> Json:
    return {"ok": False, "error": error}


def _obey(rig: TwinRig, request: Json) -> Json:
    match request:
        case {"fault": str(kind)}:
            rig.fault(
                kind,
                link=_text(request, "link"),
                device=_text(request, "device"),
                active=request.get("active", True) is not False,
                value=_number(request, "value"),
            )
            return {}
        case {"set": str(quantity)}:
            rig.plant.set(quantity, float(request["value"]))
            return {}
        case {"get": str(quantity)}:
            return {"value": rig.plant.get(quantity)}
        case {"outputs": _}:
            return {"outputs": rig.outputs()}
        case {"memory": _}:
            return {"memory": rig.nv_writes()}
        case _:
            raise CapaError("expected one of the keys fault, set, get, outputs, memory")


def _text(request: Json, key: str) -> str | None:
    value = request.get(key)
    return None if value is None else str(value)


def _number(request: Json, key: str) -> float | None:
    value = request.get(key)
    return None if value is None else float(value)
