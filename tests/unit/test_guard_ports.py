"""How the guardian sets up a port: as the daemon had it, and in haste."""

import fcntl
import os
import struct
from collections.abc import Iterator

import pytest
from serial.serialposix import Serial

from capad import guard

LINK = {"port": "/dev/ttyUSB0", "baud": 19200, "bytesize": 8, "parity": "N", "stopbits": 1}


@pytest.fixture
def tty() -> Iterator[int]:
    near, far = os.openpty()
    yield far
    os.close(near)
    os.close(far)


def test_an_ftdi_adapter_is_asked_for_haste_and_nothing_else_of_it_is_changed(
    tty: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    was = struct.pack("5i52x", 4, 0, 0, 0, 0x10)  # struct serial_struct; ASYNC_SPD_HI
    told = []

    def driver(fd: int, request: int, data: bytes) -> bytes:
        told.append((request, data))
        return was

    monkeypatch.setattr(fcntl, "ioctl", driver)
    guard._set_up(tty, LINK)
    assert [request for request, _ in told] == [0x541E, 0x541F]
    assert told[1][1] == struct.pack("5i52x", 4, 0, 0, 0, 0x10 | 0x2000)


def test_the_guardian_asks_for_the_same_haste_as_the_daemon_does(
    tty: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon asks by way of pyserial, which the guardian does without."""
    told: list[int] = []

    def driver(fd: int, request: int, data: "bytes | memoryview") -> bytes:
        told.append(request)
        return bytes(72)

    with Serial(os.ttyname(tty)) as port:
        monkeypatch.setattr(fcntl, "ioctl", driver)
        port.set_low_latency_mode(True)
        by_the_daemon, told = told, []
        guard._ask_for_haste(tty)
        monkeypatch.undo()
    assert told == by_the_daemon


def test_an_adapter_that_knows_no_haste_is_used_as_it_is(tty: int) -> None:
    guard._set_up(tty, LINK)  # a pseudo-terminal: the driver refuses
