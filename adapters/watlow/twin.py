"""The simulated EZ-ZONE PM: Map 1 over Modbus RTU, its heat loop, its memory and its faults."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

from adapters.modbus.bank import Parameter, RegisterBank, ValueRefusedError, exception_code
from adapters.modbus.codec import (
    Asked,
    BadRequest,
    Ear,
    ReadRegisters,
    Refusal,
    Reply,
    Request,
)
from adapters.modbus.words import WordOrder
from adapters.watlow.alarms import ALARM_BASES, DEVIATION, SETPOINT_OFFSETS, Alarm
from adapters.watlow.autotune import AutoTune, Tuned
from adapters.watlow.block import PointerBlock
from adapters.watlow.codec import (
    ACTIVE_MODE,
    COMMS_UNITS,
    CONTROL_MODE,
    HEAT_POWER,
    INPUT_ERROR,
    NV_SAVE,
    PORT_OFFSET,
    PROCESS_VALUE,
    SETPOINT,
    WORD_ORDER,
    ControlMode,
    InputError,
    Units,
    WordOrderCode,
    from_degC,
    to_degC,
)
from adapters.watlow.loop import HeatLoop, OpenLoopWatch
from adapters.watlow.memory import NonVolatileMemory
from adapters.watlow.options import WatlowOptions, WatlowTwinOptions, unit_of
from adapters.watlow.registers import MAP_1, Kind, Row
from capa.devices.delay import ReplyDelay
from capa.devices.spec import DeviceSpec
from capa.devices.twin import PlantPort, TwinReply

__all__ = ["WatlowTwin"]

_AMBIENT, _FILTERED_PV = 366, 402
_BAND, _INTEGRAL, _DERIVATIVE = 1890, 1894, 1896
_OUTPUT_POWER = 1908
_MANUAL_POWER, _LOWEST, _HIGHEST = 2162, 2164, 2166
_ACTIVE_SETPOINT, _RAMP_SETPOINT, _RAMP_TARGET = 2172, 2190, 2198
_INPUT_ERROR_POWER, _RAMP_ACTION, _RAMP_SCALE, _RAMP_RATE = 2184, 2186, 2188, 2192
_TICKS = 5020
_DETECTS, _DETECT_S, _DETECT_BY, _LOOP_ERROR, _CLEAR_LOOP = 1922, 1924, 1926, 1928, 1930
_TUNE_SHARE, _TUNE_REQUEST, _TUNE_STATUS = 1918, 1920, 1932
_ALARM_SETPOINTS = {base + at: base + 28 for base in ALARM_BASES for at in SETPOINT_OFFSETS}
"""Set points of alarms, with the register that says whether they are deviations."""
_ALARM_SHOWS = {base + at for base in ALARM_BASES for at in (16, 18, 20, 22)}
_CLEAR = 129

_YES, _NO, _OFF, _RAMP_ON_CHANGE, _RAMP_BOTH, _HOURS = 106, 59, 62, 85, 13, 39
_KEEP_POWER = {14, 33}
_BankKind = Literal["float", "enum", "uint32"]
_WRITE_ONLY_READS = 255.0


class WatlowTwin:
    """One simulated controller. Temperatures are kept in degC and converted on the wire."""

    def __init__(self, spec: DeviceSpec, plant: PlantPort) -> None:
        profile = WatlowOptions.model_validate(spec.options)
        self._options = WatlowTwinOptions.model_validate(spec.twin)
        self._name = spec.name
        self._unit = unit_of(spec)
        self._plant = plant
        self._delay = ReplyDelay(
            self._options.reply_delay_s,
            seed=spec.name if self._options.seed is None else self._options.seed,
        )
        self._ear = Ear(profile.framing)
        self._quantity = f"{self._options.plant}.pv_degC"
        self._port = PORT_OFFSET if profile.port == 2 else 0
        self._wire_unit = self._options.unit_for(profile)
        order = self._options.word_order or profile.word_order
        self._values = self._factory_values()
        if WORD_ORDER + self._port not in self._options.registers:
            self._values[WORD_ORDER + self._port] = WordOrderCode[order.upper()]
        self._memory = NonVolatileMemory(self._values)
        self._bank = self._make_bank(
            order,
            RegisterBank(
                order=order,
                unmapped=self._options.unmapped,
                half_write=self._options.half_write,
                max_read=self._options.max_read,
            ),
        )
        self._block = PointerBlock(self._bank.answer)
        self._loop = HeatLoop()
        self._watch = OpenLoopWatch(code=int(self._values[_LOOP_ERROR]))
        self._tune = AutoTune()
        self._alarms = [Alarm(base) for base in ALARM_BASES]
        for alarm in self._alarms:
            alarm.start(self._values)
        self._frozen_degC: float | None = None
        self._last_good_degC: float | None = None
        self._refuses: int | None = None
        self._input_error = int(self._values[INPUT_ERROR])
        self._miswired: set[str] = set()
        self._started_at_s = plant.now_s()
        plant.on_tick(self._tick)

    def _factory_values(self) -> dict[int, float]:
        options = self._options
        values = {row.address: row.value for row in MAP_1}
        values |= {
            SETPOINT: options.setpoint_degC,
            _ACTIVE_SETPOINT: options.setpoint_degC,
            _LOWEST: options.min_setpoint_degC,
            _HIGHEST: options.max_setpoint_degC,
            _BAND: options.proportional_band_degC,
            _INTEGRAL: options.integral_s,
            _DERIVATIVE: options.derivative_s,
            COMMS_UNITS + self._port: self._wire_unit.value,
        }
        if options.ramp_degC_per_min is not None:
            values |= {_RAMP_ACTION: _RAMP_ON_CHANGE, _RAMP_RATE: options.ramp_degC_per_min}
        strangers = sorted(set(options.registers) - set(values))
        if strangers:
            raise ValueError(f"{self._name}: twin.registers: there is no register {strangers[0]}")
        return values | options.registers

    def _make_bank(self, order: WordOrder, bank: RegisterBank) -> RegisterBank:
        wide = order == "high_low" and self._options.enum_word == "second"
        kinds: dict[Kind, _BankKind] = {"enum": "uint32" if wide else "enum", "uint32": "uint32"}
        for row in MAP_1:
            put = None if row.access == "r" else partial(self._put, row)
            kind: _BankKind = kinds.get(row.kind, "float")
            bank.define(row.address, Parameter(kind, partial(self._get, row), put))
        return bank

    @property
    def _broken(self) -> bool:
        return self._input_error != InputError.NONE

    # --- the contract of a twin -------------------------------------------------------------

    @property
    def name(self) -> str:
        """The device's name in the profile."""
        return self._name

    @property
    def nv_writes(self) -> int:
        """How often the non-volatile memory was written."""
        self._memory.tick(self._plant.now_s(), self._values)
        return self._memory.writes

    def receive(self, chunk: bytes) -> Sequence[TwinReply]:
        """Answer the requests that these bytes complete."""
        replies = [self._answer(asked) for asked in self._ear.feed(chunk)]
        return [reply for reply in replies if reply is not None]

    def line_idle(self) -> None:
        """Forget a half-received request."""
        self._ear.reset()

    def outputs(self) -> dict[str, float]:
        """Return the closed-loop setpoint in degC."""
        return {"setpoint": self._values[SETPOINT]}

    def fault(self, kind: str, *, active: bool, value: float | None = None) -> bool:
        """Enter or leave a fault; beyond the contract's there is ``power_cycle``, which has no end.

        ``value`` is the exception's code for ``exception`` and the code of register 362 for
        ``sensor_break``. A thermocouple that is shorted (``tc_short``) or connected the wrong way
        round (``tc_reversed``) is no input error: the controller believes it.
        """
        match kind:
            case "exception":
                code = exception_code(value)
                self._refuses = code if active else None
            case "frozen":
                self._frozen_degC = self._pv_degC() if active else None
            case "sensor_break":
                self._break_sensor(active, InputError.OPEN if value is None else int(value))
            case "power_cycle":
                if active:
                    self._power_cycle()
            case "tc_short" | "tc_reversed":
                (self._miswired.add if active else self._miswired.discard)(kind)
            case _:
                return False
        return True

    # --- requests ---------------------------------------------------------------------------

    def _answer(self, asked: Asked) -> TwinReply | None:
        request = asked.request
        if request.unit != self._unit or not self._options.speaks_modbus:
            return None
        self._plant.get(self._quantity)  # bring plant and loop to the present
        if self._refuses is not None:
            refusal = Refusal(request.function, self._refuses)
            return TwinReply(asked.answer(refusal), self._delay.next_s())
        return TwinReply(asked.answer(self._carry_out(request)), self._delay.next_s())

    def _carry_out(self, request: Request | BadRequest) -> Reply:
        if isinstance(request, BadRequest):
            return self._bank.answer(request)
        too_long = isinstance(request, ReadRegisters) and request.count > self._options.max_read
        in_block = None if too_long else self._block.answer(request)
        return self._bank.answer(request) if in_block is None else in_block

    def _get(self, row: Row) -> float:
        if row.access == "w":
            return _WRITE_ONLY_READS
        value = self._live(row.address)
        kind = self._kind(row)
        if kind == "temperature":
            return from_degC(value, self._wire_unit)
        if kind == "difference" and self._wire_unit is Units.DEG_F:
            return value * 1.8
        return value

    def _live(self, address: int) -> float:
        if address in {PROCESS_VALUE, _FILTERED_PV}:
            return self._pv_degC()
        if address == INPUT_ERROR:
            return self._input_error
        if address == ACTIVE_MODE:
            falls_back = self._broken and self._values[CONTROL_MODE] == ControlMode.AUTO
            return ControlMode.MANUAL if falls_back else self._values[CONTROL_MODE]
        if address == _LOOP_ERROR:
            return self._watch.code
        if address == _TUNE_STATUS:
            return self._tune.status
        if address == _TICKS:
            return (self._plant.now_s() - self._started_at_s) * 1000 % 2**32
        if address in _ALARM_SHOWS:
            self._look_at_alarms()
            alarm = next(one for one in self._alarms if one.has(address))
            return alarm.shown(self._values)[address]
        return self._values[address]

    def _kind(self, row: Row) -> Kind:
        """Return a parameter's kind: an alarm's set points may be deviations."""
        type_at = _ALARM_SETPOINTS.get(row.address)
        if type_at is not None and self._values[type_at] == DEVIATION:
            return "difference"
        return row.kind

    def _look_at_alarms(self) -> None:
        """Have the alarms judge the process value as it is."""
        for alarm in self._alarms:
            if alarm.is_used(self._values):
                alarm.look(
                    self._values,
                    self._pv_degC(),
                    self._values[_ACTIVE_SETPOINT],
                    broken=self._broken,
                )

    def _put(self, row: Row, wire_value: float) -> None:
        value = self._checked(row, wire_value)
        if row.access == "w":
            self._request(row.address, value)
            return
        if value != self._values[row.address]:
            self._values[row.address] = value
            if self._values[NV_SAVE + self._port] == _YES:
                self._memory.changed()
        self._memory.tick(self._plant.now_s(), self._values)
        self._written(row.address)

    def _request(self, address: int, value: float) -> None:
        """Do what a register asks for that keeps nothing."""
        if address == _CLEAR_LOOP and value == _CLEAR:
            self._watch.clear()
        if value == 0:
            for alarm in self._alarms:
                alarm.requested(address)

    def _checked(self, row: Row, wire_value: float) -> float:
        """Return the value to keep, in degC; clamped or refused where it is out of range."""
        if not math.isfinite(wire_value) or (row.allowed and int(wire_value) not in row.allowed):
            raise ValueRefusedError
        kind = self._kind(row)
        if kind == "difference" and self._wire_unit is Units.DEG_F:
            return wire_value / 1.8
        if kind != "temperature":
            return wire_value
        value = to_degC(wire_value, self._wire_unit)
        return self._within(value) if row.address == SETPOINT else value

    def _within(self, setpoint_degC: float) -> float:
        inside = min(self._values[_HIGHEST], max(self._values[_LOWEST], setpoint_degC))
        if inside != setpoint_degC and self._options.out_of_range == "exception":
            raise ValueRefusedError
        return inside

    def _written(self, address: int) -> None:
        if address == COMMS_UNITS + self._port and not self._options.units_label_only:
            self._wire_unit = Units(int(self._values[address]))
        if address == CONTROL_MODE:
            self._loop.forget()
            self._end_tune()
        if address == _TUNE_REQUEST:
            self._request_tune()
        if address == SETPOINT:
            for alarm in self._alarms:
                alarm.setpoint_written(self._values)
        if address == SETPOINT and not self._ramps():
            self._values[_ACTIVE_SETPOINT] = self._values[SETPOINT]

    # --- the loop ---------------------------------------------------------------------------

    def _pv_degC(self) -> float:
        for held_degC in (self._frozen_degC, self._last_good_degC):
            if held_degC is not None:
                return held_degC
        pv_degC, ambient_degC = self._plant.get(self._quantity), self._values[_AMBIENT]
        if "tc_short" in self._miswired:
            return ambient_degC
        return 2.0 * ambient_degC - pv_degC if "tc_reversed" in self._miswired else pv_degC

    def _break_sensor(self, active: bool, code: int) -> None:
        """Hold the last good value and say why; the power then follows register 2184."""
        self._last_good_degC = self._pv_degC() if active else None
        self._input_error = code if active else InputError.NONE
        if active:
            self._end_tune()

    def _tick(self, dt_s: float) -> None:
        self._follow_setpoint(dt_s)
        self._memory.tick(self._plant.now_s(), self._values)
        power_pct = self._power_pct(dt_s)
        self._look_at_alarms()
        if self._values[_DETECTS] == _YES:
            self._watch.look(
                power_pct,
                self._pv_degC(),
                dt_s,
                time_s=self._values[_DETECT_S],
                by_degC=self._values[_DETECT_BY],
            )
        self._values[HEAT_POWER] = self._values[_OUTPUT_POWER] = power_pct
        self._plant.set(f"{self._options.plant}.power_pct", power_pct)

    def _power_pct(self, dt_s: float) -> float:
        values = self._values
        if values[CONTROL_MODE] == ControlMode.OFF or self._watch.code != InputError.NONE:
            return 0.0
        if values[CONTROL_MODE] == ControlMode.MANUAL:
            return max(0.0, values[_MANUAL_POWER])
        if self._broken:
            return self._power_without_input()
        if self._tune.runs:
            return self._tuning_pct(dt_s)
        self._loop.band_degC = max(values[_BAND], 1e-3)
        self._loop.integral_s = values[_INTEGRAL]
        self._loop.derivative_s = values[_DERIVATIVE]
        return self._loop.power_pct(values[_ACTIVE_SETPOINT], self._pv_degC(), dt_s)

    def _request_tune(self) -> None:
        values = self._values
        controls = values[CONTROL_MODE] == ControlMode.AUTO and not self._broken
        if values[_TUNE_REQUEST] == _YES and controls:
            self._tune.start(values[SETPOINT], values[_TUNE_SHARE])
        else:
            self._end_tune()

    def _end_tune(self) -> None:
        self._tune.stop()
        self._values[_TUNE_REQUEST] = _NO

    def _tuning_pct(self, dt_s: float) -> float:
        """Return the power that a tune gives; keep what it found once it is done."""
        power_pct, tuned = self._tune.step(self._pv_degC(), dt_s)
        if not self._tune.runs:
            self._end_tune()
            self._loop.forget()
        if tuned is not None:
            self._keep(tuned)
        return power_pct

    def _keep(self, tuned: Tuned) -> None:
        values = self._values
        values[_BAND], values[_INTEGRAL], values[_DERIVATIVE] = tuned
        if values[NV_SAVE + self._port] == _YES:
            self._memory.changed()

    def _power_without_input(self) -> float:
        choice = int(self._values[_INPUT_ERROR_POWER])
        if choice == _OFF:
            return 0.0
        if choice in _KEEP_POWER:
            return self._values[HEAT_POWER]
        return max(0.0, self._values[_MANUAL_POWER])

    def _ramps(self) -> bool:
        return self._values[_RAMP_ACTION] in {_RAMP_ON_CHANGE, _RAMP_BOTH}

    def _follow_setpoint(self, dt_s: float) -> None:
        """Move the active setpoint towards the one that was written."""
        values = self._values
        per_s = values[_RAMP_RATE] / (3600.0 if values[_RAMP_SCALE] == _HOURS else 60.0)
        gap = values[SETPOINT] - values[_ACTIVE_SETPOINT]
        step = math.copysign(min(abs(gap), per_s * dt_s), gap) if self._ramps() else gap
        values[_ACTIVE_SETPOINT] += step
        values[_RAMP_SETPOINT], values[_RAMP_TARGET] = values[_ACTIVE_SETPOINT], values[SETPOINT]

    def _power_cycle(self) -> None:
        """Come back with what was saved, and with the sensor as it is."""
        wire_units_at, before = COMMS_UNITS + self._port, self._values
        self._values = self._memory.recall()
        if self._values[wire_units_at] != before[wire_units_at]:
            self._written(wire_units_at)
        self._values[HEAT_POWER] = self._values[_OUTPUT_POWER] = 0.0
        self._values[_ACTIVE_SETPOINT] = self._values[SETPOINT]
        self._started_at_s = self._plant.now_s()
        self._loop.forget()
        self._watch.clear()
        self._tune = AutoTune()
        self._end_tune()
        for alarm in self._alarms:
            alarm.start(self._values)
        self._ear.reset()
