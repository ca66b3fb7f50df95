"""``capad-guard``: make the rig safe when the daemon is gone.

It replays the safe plan that the daemon compiled while all was well: bytes, and how to judge the
answers. It must work when everything else is broken, and its first byte must leave at once. So it
imports nothing but the standard library, and of that only modules written in C until the first
request is out; it reads no configuration and needs no driver. A script, started as
``python -I -S``; also the console script of the same name.

One thread a link (``_thread``: ``threading`` costs half as much as the interpreter's start), so
that a port that is missing, or whose opening blocks, delays no other.
"""

import _thread
import errno
import fcntl
import os
import select
import sys
import termios
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeAlias

    Json: TypeAlias = dict[str, Any]

__all__ = ["main", "number_in", "plan_in", "reply_in"]

PLAN_FILE, PLAN_VERSION = "safe_plan.json", 1
LOCK_FILE = "capad.lock"
VERDICTS_FILE, HISTORY_FILE = "guard_verdicts.json", "guard.jsonl"
PROVEN, COMMANDED, UNREACHABLE = "proven", "commanded", "unreachable"
EXIT_PROVEN, EXIT_COMMANDED, EXIT_UNREACHABLE, EXIT_USAGE, EXIT_REFUSED = 0, 3, 4, 64, 75

RETRY_S = 0.05
BUSY_S = 0.5
"""How long a port may stay locked by another process before it is given up."""
SILENCE_S = 0.002
PATIENCE = (1, 1, 2, 1, 4, 1, 8)
"""Round by round, in the link's own time for a reply."""
MAX_REPLY_S = 2.0
MAX_SEEN = 4096
HISTORY_BYTES = 1 << 20

USAGE = """\
usage: capad-guard [--runtime-dir DIR] [--force | --unfinished]

Drive the outputs to the safe state that capad compiled into DIR/safe_plan.json, read them back,
and write the verdicts to DIR/guard_verdicts.json. DIR is $RUNTIME_DIRECTORY, else /run/capad.

  --force       also while another program drives the rig, or has a port locked
  --unfinished  only if capad left a plan, and no capad-guard has come to its end since (it was
                killed itself): for the unit, before each start

exit codes: 0 all proven, 3 something was accepted and can't be read back, 4 something is
unreachable (or there is no usable plan), 64 usage, 75 refused: another program, capad or
capa run, drives the rig itself.
"""


class PlanError(Exception):
    """There is no plan, or it is not to be trusted."""


# --- the plan ------------------------------------------------------------------------------------


def plan_in(data: bytes) -> "Json":
    """Return the plan in the text of its file.

    Raises:
        PlanError: it is damaged, or another version's; says which.
    """
    import binascii  # in C

    try:
        outer = _parsed(data.decode("ascii"))
        version, crc, plan = outer["version"], outer["crc32"], outer["plan"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PlanError(f"it is damaged ({type(error).__name__}: {error})") from None
    if version != PLAN_VERSION or isinstance(version, bool):
        raise PlanError(f"it has version {version!r}, this guard knows {PLAN_VERSION}")
    _, mark, body = data.partition(b'"plan": ')
    if not mark or crc != f"{binascii.crc32(body):08x}" or not isinstance(plan, dict):
        raise PlanError("it is damaged (its check sum is wrong)")
    return plan


def _parsed(text: str) -> "Any":  # noqa: ANN401 - whatever JSON holds
    """Parse JSON with the C scanner alone: ``json`` imports ``re``, as long as a bare start.

    ``_json`` is CPython's own; where it is missing, has changed, or finds a mistake (which it
    can't even raise while ``json.decoder`` is not loaded), ``json`` does it, later.
    """
    try:
        import _json

        scan = _json.make_scanner(_ScannerOptions())  # type: ignore[arg-type] # any such object
        value, end = scan(text, 0)
    except (ImportError, AttributeError, TypeError, StopIteration, SystemError, ValueError):
        value, end = None, -1
    if end >= 0 and not text[end:].strip():
        return value
    import json

    return json.loads(text)


class _ScannerOptions:
    """What ``json.JSONDecoder`` hands to the scanner."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float


def _bytes_of(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = b""
        while chunk := os.read(fd, 1 << 20):
            data += chunk
    finally:
        os.close(fd)
    return data


def _read_plan(directory: str) -> "Json":
    path = f"{directory}/{PLAN_FILE}"
    try:
        data = _bytes_of(path)
    except FileNotFoundError:
        raise PlanError(f"{path} is missing: capad did not get to write it") from None
    except OSError as error:
        raise PlanError(f"{path} can't be read: {error.strerror}") from None
    try:
        return plan_in(data)
    except PlanError as error:
        raise PlanError(f"{path}: {error}; capad writes it anew when it starts") from None


def _is_finished(directory: str) -> bool:
    """Whether nothing is left to do for the plan: a guardian came to its end after it was written.

    By the plan's own time of writing, which the verdicts name, so that no clock has to be right;
    not by verdicts from beside a living capad, which went on. Without a plan to go by there is
    nothing to do, either.
    """
    try:
        plan = _read_plan(directory)
    except PlanError:
        return True
    try:
        last = _parsed(_bytes_of(f"{directory}/{VERDICTS_FILE}").decode())
        through = (last["plan_written_utc"], last["beside_pid"]) == (plan["written_utc"], "")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        through = False
    return through or bool(plan["simulated"])


# --- judging -------------------------------------------------------------------------------------


def reply_in(shape: "Json", seen: bytes) -> bytes | None:
    """Return the last reply of this shape within what was seen; None while there is none.

    What lies about it is passed over: a frame has its length and CRC, a line its whole pattern.
    """
    if shape["kind"] == "modbus":
        prefix, length = bytes.fromhex(shape["prefix"]), shape["length"]
        return _frame_in(prefix, length, seen, has_crc=not shape["tcp"])
    if shape["kind"] == "line":
        return _line_in(shape, seen)
    reply = bytes.fromhex(shape["reply"])
    return reply if reply in seen else None


def _frame_in(prefix: bytes, length: int, seen: bytes, *, has_crc: bool) -> bytes | None:
    at = seen.rfind(prefix)
    while at >= 0:
        frame = seen[at : at + length]
        if len(frame) == length and not (has_crc and _crc(frame)):
            return frame
        at = seen.rfind(prefix, 0, at + len(prefix) - 1)
    return None


def _crc(frame: bytes) -> int:
    """Return the Modbus CRC; over a frame with its own CRC it is 0 (Modbus over Serial Line)."""
    crc = 0xFFFF
    for byte in frame:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc


def _line_in(shape: "Json", seen: bytes) -> bytes | None:
    *lines, _ = seen.split(bytes.fromhex(shape["end"]))
    for line in reversed(lines):
        if match := _match(shape, line):
            found: bytes = match.group()
            return found
    return None


def _match(shape: "Json", line: bytes) -> "Any":  # noqa: ANN401 - re.Match, not imported here
    import re  # only now: the first request is out

    return re.search(rb"(?:%b)\Z" % bytes.fromhex(shape["pattern"]), line)


def number_in(read_back: "Json", reply: bytes) -> float | None:
    """Return what a reply says, in the channel's unit; None if that is not a finite number."""
    number = read_back["number"]
    if "group" in number:
        raw = _decimal(_match(read_back["reply"], reply).group(number["group"]))
    else:
        raw = _register_number(number, reply)
    value: float = read_back["gain"] * raw + read_back["offset"]
    return value if abs(value) < float("inf") else None


def _decimal(text: bytes | None) -> float:
    """Return a decimal number; NaN for anything else, which proves nothing."""
    plain = (text or b"").strip()
    if not plain or plain.strip(b"+-.0123456789eE"):
        return float("nan")
    try:
        return float(plain)
    except ValueError:
        return float("nan")


def _register_number(number: "Json", reply: bytes) -> float:
    import struct

    kind, at = number["type"], number["at"]
    width = 4 if kind in ("int32", "float32") else 2
    data = reply[at : at + width]
    if width == 4 and number["word_order"] == "low_high":
        data = data[2:] + data[:2]
    formats = {"float32": ">f", "int32": ">i", "int16": ">h", "uint16": ">H"}
    return float(struct.unpack(formats[kind], data)[0])


def _refusal_in(shape: "Json", seen: bytes) -> str | None:
    """Say that a Modbus device refused; None if it did not."""
    if shape["kind"] != "modbus":
        return None
    prefix, tcp = bytes.fromhex(shape["prefix"]), shape["tcp"]
    at = 6 if tcp else 0  # behind the header: its transaction, and a length of 3
    head = prefix[:4] + b"\0\3" if tcp else b""
    head += bytes((prefix[at], prefix[at + 1] | 0x80))
    frame = _frame_in(head, len(head) + (1 if tcp else 3), seen, has_crc=not tcp)
    return None if frame is None else f"refused by the device: exception {frame[at + 2]:02X}"


# --- ports ---------------------------------------------------------------------------------------


class Port:
    """An open pipe, read and written without blocking.

    ``echoes`` says that its adapter hears what it sends: each request comes back first.
    """

    def __init__(self, fd: int, drain_s: float, *, echoes: bool = False) -> None:
        self._fd = fd
        self._drain_s = drain_s
        self._echoes = echoes
        self._last_s = 0.0
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def close(self) -> None:
        """Close; what a dead adapter did not take is thrown away, not waited for."""
        if os.isatty(self._fd):  # no socket, and not gone
            termios.tcflush(self._fd, termios.TCIOFLUSH)
        os.close(self._fd)

    def send(self, request: bytes, gap_s: float) -> None:
        """Throw away what came unasked, keep the protocol's silence, write."""
        babbles_until_s = time.monotonic() + self._drain_s
        heard = self._receive(0.0)
        while heard and time.monotonic() < babbles_until_s:
            heard = self._receive(max(gap_s, SILENCE_S))
        wait_s = self._last_s + gap_s - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
        while request:
            try:
                request = request[os.write(self._fd, request) :]
            except BlockingIOError:
                writable = select.poll()
                writable.register(self._fd, select.POLLOUT)
                if not writable.poll(1000):
                    raise OSError(errno.EIO, "it takes no bytes") from None
        self._last_s = time.monotonic()

    def ask(self, request: bytes, shape: "Json", timeout_s: float, gap_s: float) -> "Answer":
        """Send a request and wait for its reply, or for a refusal."""
        self.send(request, gap_s)
        until_s = time.monotonic() + timeout_s
        seen, echo = b"", request if self._echoes else b""
        while (left_s := until_s - time.monotonic()) > 0:
            seen = (seen + self._receive(left_s))[-MAX_SEEN:]
            if echo not in seen:
                continue
            seen, echo = seen[seen.find(echo) + len(echo) :], b""
            reply = reply_in(shape, seen)
            if reply is not None:
                return Answer(reply, "")
            if why := _refusal_in(shape, seen):
                return Answer(None, why)
        heard = f"{seen[-64:]!r} is no reply to it" if seen else "not a byte came"
        if echo:
            heard += ", not even its echo (local_echo)"
        return Answer(None, f"no reply within {timeout_s:g} s: {heard}")

    def _receive(self, timeout_s: float) -> bytes:
        """Return what came within the time, at least a byte unless nothing did."""
        if not self._poll.poll(max(0.0, timeout_s * 1000)):
            return b""
        try:
            chunk = os.read(self._fd, 4096)
        except BlockingIOError:
            return b""
        if not chunk:
            raise OSError(errno.EPIPE, "the other end closed it")
        self._last_s = time.monotonic()
        return chunk


class Answer:
    """A reply, or why there is none."""

    def __init__(self, reply: bytes | None, why: str) -> None:
        self.reply = reply
        self.why = why


class BusyError(OSError):
    """Another process has the port locked."""


def _open(link: "Json", *, force: bool, left_s: float) -> Port:
    if link["transport"] == "tcp":
        fd = _connect(link["port"], left_s)
        return Port(fd, link["drain_s"], echoes=link.get("local_echo", False))
    fd = os.open(link["port"], os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _lock(fd, force=force)
        _set_up(fd, link)
    except BaseException:
        os.close(fd)
        raise
    return Port(fd, link["drain_s"], echoes=link.get("local_echo", False))


def _lock(fd: int, *, force: bool) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not force:
            raise BusyError(
                errno.EBUSY, f"locked by {_holder(fd)}; is capad alive? --force drives it anyway"
            ) from None


def _holder(fd: int) -> str:
    """Name who holds a lock on a file, as far as /proc tells us."""
    seen = os.fstat(fd)
    file = f"{os.major(seen.st_dev):02x}:{os.minor(seen.st_dev):02x}:{seen.st_ino}"
    try:
        with open("/proc/locks") as locks:  # noqa: PTH123 - pathlib would be one more import
            pids = [f[4] for f in map(str.split, locks) if f[1] == "FLOCK" and f[5] == file]
        with open(f"/proc/{pids[0]}/comm") as name:  # noqa: PTH123 - as above
            return f"process {pids[0]} ({name.read().strip()})"
    except (OSError, IndexError):
        return "another process"


def _set_up(fd: int, link: "Json") -> None:
    """Set the line as the daemon had it: raw, with the profile's settings.

    A pseudo-terminal has no parity; glibc calls a request for it invalid the second time.
    """
    is_pty = os.path.realpath(link["port"]).startswith("/dev/pts/")
    odd_baud = not hasattr(termios, f"B{link['baud']}")
    speed = termios.B38400 if odd_baud else getattr(termios, f"B{link['baud']}")
    size = termios.CS7 if link["bytesize"] == 7 and not is_pty else termios.CS8
    flags = size | termios.CREAD | termios.CLOCAL
    flags |= termios.CSTOPB if link["stopbits"] == 2 else 0
    parity = "N" if is_pty else link["parity"]
    flags |= {"N": 0, "E": termios.PARENB, "O": termios.PARENB | termios.PARODD}[parity]
    characters = termios.tcgetattr(fd)[6]
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    try:
        termios.tcsetattr(fd, termios.TCSANOW, [0, 0, flags, 0, speed, speed, characters])
        if odd_baud:
            _set_odd_baud(fd, link["baud"])
    except termios.error as error:
        raise OSError(errno.EINVAL, f"it does not take its settings ({error})") from None
    if not is_pty:
        _ask_for_haste(fd)


def _ask_for_haste(fd: int) -> None:
    """Have an FTDI adapter hand over bytes after 1 ms instead of 16; others do not know it.

    The daemon had asked for it; an adapter that was plugged in since has forgotten.
    ``struct serial_struct`` of Linux (``linux/serial.h``): the flags are its fifth int.
    """
    get, put, low_latency, at = 0x541E, 0x541F, 1 << 13, 16  # TIOCGSERIAL, TIOCSSERIAL
    try:
        settings = bytearray(fcntl.ioctl(fd, get, bytes(72)))
        flags = int.from_bytes(settings[at : at + 4], sys.byteorder) | low_latency
        settings[at : at + 4] = flags.to_bytes(4, sys.byteorder)
        fcntl.ioctl(fd, put, bytes(settings))
    except OSError:
        pass  # it is as fast as it is


def _set_odd_baud(fd: int, baud: int) -> None:
    """Set a rate that has no name: ``struct termios2`` of Linux, with BOTHER."""
    import struct

    layout, at_cflag, mask, other = struct.Struct("4I20B2I"), 2, 0o010017, 0o010000
    get, put = 0x802C542A, 0x402C542B  # TCGETS2, TCSETS2 (asm-generic)
    fields = list(layout.unpack(fcntl.ioctl(fd, get, bytes(layout.size))))
    fields[at_cflag] = fields[at_cflag] & ~mask | other
    fields[-2:] = [baud, baud]
    fcntl.ioctl(fd, put, layout.pack(*fields))


def _connect(address: str, left_s: float) -> int:
    """Connect to ``host:port`` by the C half of ``socket``, which imports a hundred things."""
    import _socket

    host, _, number = address.rpartition(":")
    found = _socket.getaddrinfo(host.strip("[]"), int(number), 0, _socket.SOCK_STREAM)
    why: OSError = OSError(errno.EHOSTUNREACH, "no address")
    for family, kind, protocol, _, place in found:
        own = _socket.socket(family, kind, protocol)
        own.settimeout(max(left_s, 0.01))
        try:
            own.connect(place)
        except OSError as error:
            own.close()
            why = error
            continue
        own.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        own.setblocking(False)
        return own.detach()
    raise why


# --- driving -------------------------------------------------------------------------------------


class LinkGuard:
    """One link's writes, driven until they are proven or time is up; records, never raises."""

    def __init__(self, link: "Json", verdicts: "dict[str, Json]", *, force: bool) -> None:
        self._link = link
        self._verdicts = verdicts
        self._force = force
        self._pending: dict[str, Json] = {w["channel"]: w for w in link["writes"]}
        self._round = 0

    def run(self, until_s: float) -> None:
        """Open, write, prove; again until all is settled."""
        busy_until_s = time.monotonic() + BUSY_S
        while self._pending and (left_s := until_s - time.monotonic()) > 0:
            try:
                port = _open(self._link, force=self._force, left_s=left_s)
            except OSError as error:
                self._note_all(f"{self._link['port']}: {error.strerror or error}")
                if isinstance(error, BusyError) and time.monotonic() > busy_until_s:
                    return
                time.sleep(RETRY_S)
                continue
            try:
                self._drive(port, until_s)
            except OSError as error:
                self._note_all(f"lost {self._link['port']}: {error.strerror or error}")
                time.sleep(RETRY_S)
            else:
                return
            finally:
                port.close()

    def _drive(self, port: Port, until_s: float) -> None:
        """Write what is pending, then read it back, round by round.

        Returns when all is settled, or when there is no time left for another reply.
        """
        while self._pending and (
            self._round == 0 or until_s - time.monotonic() > self._link["reply_timeout_s"]
        ):
            accepted = [w for w in [*self._pending.values()] if self._written(port, w, until_s)]
            for write in accepted:
                self._prove(port, write, until_s)
            self._round += 1
            if self._pending:
                time.sleep(RETRY_S)

    def _patience_s(self, write: "Json", until_s: float) -> float:
        """Return how long to wait: now and then longer, for a device that is merely slow.

        In between no longer than the first time: a request that noise has drowned is not answered.
        """
        patience_s: float = write["reply_timeout_s"] * PATIENCE[self._round % len(PATIENCE)]
        longest_s: float = max(MAX_REPLY_S, write["reply_timeout_s"])
        return min(patience_s, longest_s, max(0.0, until_s - time.monotonic()))

    def _written(self, port: Port, write: "Json", until_s: float) -> bool:
        request, patience_s = bytes.fromhex(write["request"]), self._patience_s(write, until_s)
        verdict = self._verdicts[write["channel"]]
        verdict["attempts"] += 1
        answer = port.ask(request, write["accepted"], patience_s, write["gap_s"])
        if answer.reply is None:
            self._note(write, UNREACHABLE, answer.why)
            return False
        return True

    def _prove(self, port: Port, write: "Json", until_s: float) -> None:
        read = write["read_back"]
        if read is None:
            self._settle(write, COMMANDED, "accepted; it can't be read back")
            return
        request, patience_s = bytes.fromhex(read["request"]), self._patience_s(write, until_s)
        answer = port.ask(request, read["reply"], patience_s, write["gap_s"])
        if answer.reply is None:
            self._note(write, UNREACHABLE, f"accepted, but not read back: {answer.why}")
            return
        value = number_in(read, answer.reply)
        self._verdicts[write["channel"]]["readback"] = value
        if value is not None and abs(value - write["value"]) <= write["tolerance"]:
            self._settle(write, PROVEN, f"read back {value:g}")
            return
        wanted = f"{write['value']:g} (within {write['tolerance']:g})"
        shown = "no number" if value is None else f"{value:g}"
        self._note(write, UNREACHABLE, f"accepted, but reads back {shown}, not {wanted}")

    def _settle(self, write: "Json", verdict: str, detail: str) -> None:
        self._note(write, verdict, detail)
        del self._pending[write["channel"]]

    def _note_all(self, detail: str) -> None:
        for write in self._pending.values():
            self._note(write, UNREACHABLE, detail)

    def _note(self, write: "Json", verdict: str, detail: str) -> None:
        now_s = time.monotonic()
        self._verdicts[write["channel"]].update(verdict=verdict, detail=detail, at_s=now_s)


def _drive_all(plan: "Json", *, force: bool) -> "dict[str, Json]":
    """Drive every link at once; return the verdicts as they are when all is done or time is up."""
    verdicts = {
        write["channel"]: _verdict(write, link["name"], f"no answer from {link['port']}")
        for link in plan["links"]
        for write in link["writes"]
    }
    until_s = time.monotonic() + plan["deadline_s"]
    ended, end = os.pipe()
    running = 0
    for link in plan["links"]:
        guard = LinkGuard(link, verdicts, force=force)
        running += _started(guard.run, until_s, end)
    waiting = select.poll()
    waiting.register(ended, select.POLLIN)
    while running and (left_s := until_s + RETRY_S - time.monotonic()) > 0:
        if waiting.poll(left_s * 1000):
            running -= len(os.read(ended, running))
    found = {channel: dict(verdict) for channel, verdict in verdicts.items()}
    for lack in plan["not_compiled"]:
        found[lack["channel"]] = _verdict(lack, "", f"it could not be compiled: {lack['why']}")
    return found


def _started(run: "Callable[[float], None]", until_s: float, end: int) -> bool:
    """Run in a thread of its own that says when it is through, however it got there."""

    def thread() -> None:
        try:
            run(until_s)
        except Exception as error:  # noqa: BLE001 - its channels stay unreachable, which is said
            _say(3, f"capad-guard: a link was given up: {type(error).__name__}: {error}")
        finally:
            os.write(end, b".")

    _thread.start_new_thread(thread, ())
    return True


def _verdict(write: "Json", link: str, detail: str) -> "Json":
    return {
        "channel": write["channel"],
        "device": write["device"],
        "link": link,
        "value": write["value"],
        "verdict": UNREACHABLE,
        "readback": None,
        "detail": detail,
        "attempts": 0,
        "at_s": time.monotonic(),
    }


# --- telling -------------------------------------------------------------------------------------


def _say(priority: int, text: str) -> None:
    """Write a line to stderr, with the journal's priority unless a person reads it."""
    mark = "" if sys.stderr.isatty() else f"<{priority}>"
    try:
        sys.stderr.write(f"{mark}{text}\n")
        sys.stderr.flush()
    except OSError:
        pass  # nobody listens; the work and the files remain


def _utc(at_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_s)) + f".{int(at_s % 1 * 1000):03}Z"


def _save(directory: str, record: "Json") -> None:
    """Replace the verdicts, append to the history; a disk that refuses is said, not raised."""
    import json

    text = json.dumps(record, ensure_ascii=False).encode() + b"\n"
    temporary = f"{directory}/.{VERDICTS_FILE}.{os.getpid()}.capa-tmp"
    try:
        _write(temporary, text, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.replace(temporary, f"{directory}/{VERDICTS_FILE}")  # noqa: PTH105 - no pathlib here
        _sync(directory)
        history = f"{directory}/{HISTORY_FILE}"
        _write(history, text, os.O_WRONLY | os.O_CREAT | os.O_APPEND, limit=HISTORY_BYTES)
    except OSError as error:
        _say(3, f"capad-guard: the verdicts can't be kept in {directory}: {error.strerror}")


def _write(path: str, data: bytes, flags: int, *, limit: int | None = None) -> None:
    # A person may be root here, and whose folder this is may have put a link in its place.
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        if limit is not None and os.fstat(fd).st_size > limit:
            os.ftruncate(fd, 0)
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _exit_code(verdicts: "Sequence[str]") -> int:
    if UNREACHABLE in verdicts:
        return EXIT_UNREACHABLE
    return EXIT_COMMANDED if COMMANDED in verdicts else EXIT_PROVEN


def _conclude(directory: str, record: "Json", code: int) -> int:
    """Say every verdict, keep them, and return the exit code."""
    for channel, verdict in record["verdicts"].items():
        priority = {PROVEN: 6, COMMANDED: 4}.get(verdict["verdict"], 2)
        words = f"{channel} = {verdict['value']:g}: {verdict['verdict']}, {verdict['detail']}"
        _say(priority, f"capad-guard: {words}")
    if record["error"]:
        advice = "start capad, which makes the rig safe first, or set the instruments by hand"
        _say(2, f"capad-guard: NOTHING WAS MADE SAFE: {record['error']}; {advice}")
    _save(directory, {**record, "ended_utc": _utc(time.time()), "exit_code": code})
    return code


# --- the command ---------------------------------------------------------------------------------


def _arguments(words: "Sequence[str]") -> tuple[str, str]:
    """Return the runtime directory, and how: "force", "unfinished" or "".

    Raises:
        ValueError: a word that is not understood.
    """
    directory = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0] or "/run/capad"
    how, rest = "", list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word in ("--force", "--unfinished") and how in ("", word[2:]):
            how = word[2:]
        elif name == "--runtime-dir" and (equals or rest):
            directory = value if equals else rest.pop(0)
        else:
            raise ValueError(f"{word!r} is not understood")
    return directory, how


def _daemon_at_work(directory: str) -> str:
    """Return the pid of whatever drives the rig of this directory; empty if nothing does."""
    try:
        fd = os.open(f"{directory}/{LOCK_FILE}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
    finally:
        os.close(fd)
    return ""


def _record(*, how: str, beside_pid: str) -> "Json":
    """Begin the record of this start: when, how, and what systemd says of the end.

    ``resumed`` says that it is the next start's, because no other came to its end.
    """
    service = {
        key: os.environ[key.upper()]
        for key in ("service_result", "exit_code", "exit_status")
        if key.upper() in os.environ
    }
    return {
        "version": 1,
        "started_utc": _utc(time.time()),
        "profile": None,
        "plan_written_utc": None,
        "service": service,
        "resumed": how == "unfinished",
        "beside_pid": beside_pid,
        "error": "",
        "verdicts": {},
    }


def _guard(directory: str, *, how: str, beside_pid: str) -> int:
    """Do it; whatever goes wrong is said, recorded, and an exit code."""
    record = _record(how=how, beside_pid=beside_pid)
    try:
        plan = _read_plan(directory)
        if plan["simulated"]:
            _say(6, "capad-guard: the instruments were simulated and ended with capad")
            return EXIT_PROVEN
        verdicts = _drive_all(plan, force=how == "force")
        whose = {"profile": plan["profile"], "plan_written_utc": plan["written_utc"]}
        record = {**record, **whose, "verdicts": verdicts}
        code = _exit_code([verdict["verdict"] for verdict in verdicts.values()])
    except PlanError as error:
        code, record["error"] = EXIT_UNREACHABLE, str(error)
    except Exception as error:  # noqa: BLE001 - the last resort: said in one line, and exit 4
        code, record["error"] = EXIT_UNREACHABLE, f"{type(error).__name__}: {error}"
    return _conclude(directory, record, code)


def main(argv: "Sequence[str] | None" = None) -> int:
    """Run ``capad-guard``; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    if "--help" in words or "-h" in words:
        sys.stdout.write(USAGE)
        return 0
    try:
        directory, how = _arguments(words)
    except ValueError as error:
        sys.stderr.write(f"capad-guard: {error}\n{USAGE}")
        return EXIT_USAGE
    pid = _daemon_at_work(directory)
    if pid and how != "force":
        _say(
            4,
            f"capad-guard: another program (pid {pid}: capad, or capa run) drives this rig and "
            "makes it safe itself; --force drives it beside that",
        )
        return EXIT_REFUSED
    if how == "unfinished":
        if _is_finished(directory):
            return EXIT_PROVEN
        _say(4, "capad-guard: none came to its end since capad last drove the rig; again")
    sys.setswitchinterval(0.001)
    return _guard(directory, how=how, beside_pid=pid)


if __name__ == "__main__":
    sys.exit(main())
