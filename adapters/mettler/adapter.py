"""Mettler-Toledo balances over MT-SICS: one ``SI`` a poll; keys and a preset tare on demand."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

from adapters.mettler.codec import (
    CR_LF,
    Answer,
    GeneralError,
    ModuleFault,
    SicsReply,
    SicsStatus,
    Weight,
    decode_reply,
    encode_command,
)
from adapters.mettler.options import GRAMS_PER, MettlerOptions
from adapters.mettler.preflight import MettlerSettings
from capa.channels.sample import Status
from capa.devices.adapter import FieldInfo, FieldWrite, Identity, Reading, WriteAck
from capa.devices.base import BaseAdapter
from capa.devices.lines import LineReply
from capa.devices.link import Answer as LinkAnswer
from capa.devices.link import Link, Priority
from capa.devices.momentary import Keys, key_field
from capa.devices.plausible import Look, SecondLook, Verdict, look_at_number
from capa.devices.spec import DeviceSpec
from capa.errors import DeviceError

__all__ = ["FIELDS", "MettlerAdapter"]

_KEYS: Mapping[str, tuple[str, str]] = {
    "tare": ("T", "tares with the next stable weight"),
    "tare_now": ("TI", "tares at once, stable or not"),
    "clear_tare": ("TAC", "forgets the tare"),
    "zero": ("Z", "sets zero with the next stable weight"),
    "zero_now": ("ZI", "sets zero at once, stable or not"),
}
_WAITING = frozenset({"S", "T", "Z"})
_DONE = frozenset({SicsStatus.DONE, SicsStatus.STABLE, SicsStatus.DYNAMIC})
_WHY_NOT: Mapping[SicsStatus, str] = {
    SicsStatus.NOT_NOW: "can't do it now: it is busy, or the weight did not come to rest",
    SicsStatus.WRONG_PARAMETER: "does not take this value",
    SicsStatus.OVERLOAD: "is above the range in which it may",
    SicsStatus.UNDERLOAD: "is below the range in which it may",
}

FIELDS = {
    info.name: info
    for info in (
        FieldInfo("mass", "g", description="net weight as the display has it, in gram"),
        FieldInfo("stable", "1", description="1 when the balance vouches for the mass, else 0"),
        FieldInfo(
            "tare_preset",
            "g",
            "set_tare",
            resolution=0.01,
            description="the tare as a number (TA), in gram; read back, not polled",
        ),
        *(key_field(name, what) for name, (_, what) in _KEYS.items()),
    )
}


class MettlerAdapter(BaseAdapter):
    """One balance, alone on its line."""

    def __init__(self, spec: DeviceSpec, link: Link) -> None:
        can = frozenset({"tare", "zero"})
        super().__init__(spec, link, fields=FIELDS, capabilities=can)
        self._options = MettlerOptions.model_validate(spec.options)
        self._keys = Keys(FIELDS)
        options = self._options
        self._look = SecondLook((options.second_look_digits,)) if options.second_look else None
        self.settings = MettlerSettings(spec, partial(self._ask, options.poll), self.counters)

    async def open(self) -> Identity:
        """Ask for a weight, then for type, firmware and serial number; read-only.

        The weight comes first, as ``SI`` and ``S`` end a stream (``SIR``) that somebody left on
        and ``I2`` may not. Their answer may be lost in the stream: the rig tries again.

        Raises:
            DeviceError: the weigh module reports a fault, or the unit is not the profile's.
        """
        if self._look is not None:
            self._look.forget()
        reply = (await self._ask(self._options.poll, Priority.POLL)).value
        if isinstance(reply.value, ModuleFault):
            raise DeviceError(f"{self.name}: the balance reports {reply.value}")
        if isinstance(reply.value, Weight):
            self._grams(reply.value)
        model, firmware, serial = [await self._told(ask) for ask in ("I2", "I3", "I4")]
        return Identity(self.family, model=model, serial=serial, firmware=firmware)

    async def poll(self) -> Sequence[Reading]:
        """Ask for the weight as it is, and once more at once if it has jumped."""
        answer = await self._ask(self._options.poll, Priority.POLL)
        restless = False
        look = _look(answer.value)
        if self._look is not None and look is not None and self._look.doubts(look):
            answer = await self._ask(self._options.poll, Priority.POLL)
            again = _look(answer.value)
            verdict = Verdict.CHANGED if again is None else self._look.judge(look, again)
            if verdict.is_trouble:
                self._count(verdict)
            restless = verdict.settles
        at_s = answer.at_s
        readings = self._weighed(answer.value, at_s, restless=restless)
        return [*readings, *self._keys.readings(at_s)]

    def _weighed(self, reply: Answer, at_s: float, *, restless: bool) -> list[Reading]:
        native = f"{reply.id} {reply.status} {reply.data}".rstrip()
        match reply.value, reply.status:
            case Weight() as weight, status:
                stable = status is SicsStatus.STABLE
                mass = self._grams(weight)
                calm = Status.OK if stable and not restless else Status.SETTLING
                return _readings(mass, stable, calm, at_s, native)
            case ModuleFault(), _:
                self._count("module_fault")
                return _readings(math.nan, None, Status.SENSOR_FAIL, at_s, native)
            case _, SicsStatus.OVERLOAD:
                return _readings(math.nan, False, Status.OVERLOAD, at_s, native)
            case _, SicsStatus.UNDERLOAD:
                return _readings(math.nan, False, Status.UNDERRANGE, at_s, native)
            case _, SicsStatus.NOT_NOW:
                self._count("busy")
                return _readings(math.nan, False, Status.STALE, at_s, native)
            case _:
                raise DeviceError(f"{self.name} answered {self._options.poll} with {native!r}")

    def _grams(self, weight: Weight) -> float:
        asserted = self._options.unit
        if weight.unit not in GRAMS_PER:
            raise DeviceError(
                f"{self.name}: the balance shows {weight.unit!r}; set it to g, mg or kg"
            )
        if asserted is not None and weight.unit != asserted:
            raise DeviceError(
                f"{self.name}: the balance shows {weight.unit}, "
                f'the profile says unit = "{asserted}"'
            )
        return weight.value * GRAMS_PER[weight.unit]

    # --- keys and the preset tare ---------------------------------------------------------------

    async def write(self, write: FieldWrite, *, priority: Priority) -> WriteAck:
        """Press a key, or enter a tare in gram (``TA``), which is answered with what was taken."""
        if write.field == "tare_preset":
            return await self._enter_tare(write.value, priority)
        if write.field not in self._keys:
            return WriteAck(False, f"{self.name}.{write.field} cannot be written")
        refusal = self._keys.refusal(write)
        if refusal:
            return WriteAck(False, f"{self.name}: {refusal}")
        command, _ = _KEYS[write.field]
        ack = self._judged(command, (await self._exchanged(command, priority)).value)
        if ack.accepted:
            self._keys.press(write.field)
        return ack

    async def _enter_tare(self, grams: float, priority: Priority) -> WriteAck:
        unit = self._options.unit or "g"
        answer = await self._exchanged("TA", priority, f"{grams / GRAMS_PER[unit]:.5f}", unit)
        ack = self._judged("TA", answer.value)
        taken = answer.value.value if isinstance(answer.value, Answer) else None
        if not ack.accepted or not isinstance(taken, Weight):
            return ack
        return WriteAck(True, readback=self._grams(taken))

    def _judged(self, command: str, reply: SicsReply) -> WriteAck:
        if isinstance(reply, GeneralError):
            return WriteAck(
                False, f"{self.name} answered {command} with {reply.code}: {reply.meaning}"
            )
        if isinstance(reply.value, ModuleFault):
            return WriteAck(False, f"{self.name}: the balance reports {reply.value}")
        if reply.status in _DONE:
            return WriteAck(True)
        why = _WHY_NOT.get(reply.status, "does not say why")
        return WriteAck(
            False, f"{self.name} answered {command} with {reply.status}: the balance {why}"
        )

    # --- exchanges ------------------------------------------------------------------------------

    async def _told(self, command: str) -> str:
        """Return the text that an identity command is answered with; empty if it is unknown."""
        reply = (await self._exchanged(command, Priority.POLL)).value
        return reply.data.strip('"') if isinstance(reply, Answer) else ""

    async def _ask(self, command: str, priority: Priority) -> LinkAnswer[Answer]:
        answer = await self._exchanged(command, priority)
        reply = answer.value
        if isinstance(reply, GeneralError):
            self._count(reply.code)
            raise DeviceError(f"{self.name} answered {command} with {reply.code}: {reply.meaning}")
        return LinkAnswer(reply, answer.sent_at_s, answer.received_at_s)

    async def _exchanged(
        self, command: str, priority: Priority, *parameters: str
    ) -> LinkAnswer[SicsReply]:
        return await self._exchange(
            encode_command(command, *parameters),
            LineReply(CR_LF, partial(decode_reply, command)).feed,
            priority=priority,
            reply_timeout_s=self._options.stability_timeout_s if command in _WAITING else None,
        )


def _look(reply: Answer) -> Look | None:
    """Return the look at a weight, in steps of its last place; None for what is none."""
    return look_at_number(reply.data.split()[0]) if isinstance(reply.value, Weight) else None


def _readings(
    mass_g: float,
    stable: bool | None,
    status: Status,
    at_s: float,
    native: str,
) -> list[Reading]:
    known = stable is not None
    flag = float(stable) if stable is not None else math.nan
    return [
        Reading("mass", mass_g, at_s, status, native),
        Reading("stable", flag, at_s, Status.OK if known else Status.SENSOR_FAIL, native),
    ]
