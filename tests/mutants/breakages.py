"""The breakages: each a small textual change of one file, and the tests that have to notice.

``old`` has to be in the file exactly once: a list that no longer fits the code fails a test, so
that it can't rot.
"""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["BREAKAGES", "Breakage", "misfit"]


@dataclass(frozen=True, slots=True)
class Breakage:
    """One way to break the promise; ``old`` becomes ``new`` in ``file``."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def broken(self, text: str) -> str:
        """Return the file's text, broken.

        Raises:
            ValueError: ``old`` is not in it exactly once.
        """
        if (why := misfit(self, text)) != "":
            raise ValueError(why)
        return text.replace(self.old, self.new)


def misfit(breakage: Breakage, text: str) -> str:
    """Say why a breakage no longer fits its file; empty when it does."""
    count = text.count(breakage.old)
    if count == 1:
        return ""
    seen = "is not in it any more" if count == 0 else f"is in it {count} times"
    return f"{breakage.name}: {breakage.old!r} {seen}: {Path(breakage.file)}"


SAFE_STATE = "capa/runtime/safe_state.py"
GATE, GATE_TESTS = "capa/runtime/gate.py", ("tests/unit/test_gate.py",)
RULES = "capa/runtime/safety_rules.py"
MONITOR, MONITOR_TESTS = "capa/runtime/safety_monitor.py", ("tests/unit/test_safety_monitor.py",)
IN_STEP_TESTS = ("tests/properties/test_link_in_step.py",)
GUARD = "capad/guard.py"
GUARD_TESTS = ("tests/wire/test_guard_on_twin.py",)

BREAKAGES = (
    # --- driving the safe state ---
    Breakage(
        "the shield around the safing is removed",
        SAFE_STATE,
        "with trio.move_on_after(budget_s, shield=True):",
        "with trio.move_on_after(budget_s):",
        ("tests/unit/test_safe_state.py",),
    ),
    Breakage(
        "the shield around a run's end is removed",
        "capa/runtime/conductor.py",
        "with trio.move_on_after(budget_s, shield=True):",
        "with trio.move_on_after(budget_s):",
        ("tests/unit/test_conductor.py",),
    ),
    Breakage(
        "the safing takes ten times its time",
        SAFE_STATE,
        "with trio.move_on_after(budget_s, shield=True):",
        "with trio.move_on_after(10 * budget_s, shield=True):",
        ("tests/unit/test_safe_state.py",),
    ),
    Breakage(
        "a child of the safing raises, and takes its siblings along",
        SAFE_STATE,
        "except Exception as error:  # noqa: BLE001 - recorded",
        "except ZeroDivisionError as error:  # noqa: BLE001 - recorded",
        ("tests/unit/test_safe_state.py",),
    ),
    Breakage(
        "a verdict is assumed to be proven",
        SAFE_STATE,
        "_verdict(channel, value, Verdict.UNREACHABLE, silence)",
        "_verdict(channel, value, Verdict.PROVEN, silence)",
        ("tests/unit/test_safe_state.py",),
    ),
    Breakage(
        "the read-back of a safe value is ignored",
        SAFE_STATE,
        "if abs(ack.readback - value) <= tolerance:",
        "if abs(ack.readback - value) <= float('inf'):",
        ("tests/unit/test_safe_state.py",),
    ),
    Breakage(
        "what was not reached at once is not tried again",
        SAFE_STATE,
        "            if verdicts[channel].verdict is not Verdict.UNREACHABLE:\n",
        "            if verdicts[channel] is not None:\n",
        ("tests/unit/test_safe_state.py",),
    ),
    Breakage(
        "a register's neighbouring value passes for the safe one",
        "adapters/modbus/fields.py",
        "_ROUNDED = 0.501",
        "_ROUNDED = 1.0",
        ("tests/unit/test_modbus_maps.py", "tests/unit/test_modbus_map.py"),
    ),
    Breakage(
        "an older verdict overwrites a newer one",
        SAFE_STATE,
        "key=lambda one: one.at_s)",
        "key=lambda one: -one.at_s)",
        ("tests/unit/test_what_is_known_of_safety.py", "tests/unit/test_later_stages.py"),
    ),
    Breakage(
        "the gate stays open to a run that has ended",
        GATE,
        "            self._run.authorization.disarm()\n        self._run = None\n",
        "            pass\n",
        ("tests/unit/test_gate.py", "tests/unit/test_conductor.py"),
    ),
    Breakage(
        "what waits for the wire when a run ends is not called back",
        GATE,
        'self._call_back("the run has ended")',
        "pass",
        GATE_TESTS,
    ),
    # --- the gate ---
    Breakage(
        "the upper limit is skipped",
        GATE,
        "if limits is not None and value > limits.max:",
        "if limits is not None and value > math.inf:",
        GATE_TESTS,
    ),
    Breakage(
        "the rate limit is ignored",
        GATE,
        "if change > most:",
        "if change > most and not most:",
        GATE_TESTS,
    ),
    Breakage(
        "not a number passes the gate",
        GATE,
        "if not math.isfinite(value):",
        "if math.isinf(value):",
        GATE_TESTS,
    ),
    Breakage(
        "nobody asks who issued a command",
        GATE,
        "if not manual or command.confirmed_by is None:",
        "if not manual and command.authorization_id == '':",
        GATE_TESTS,
    ),
    Breakage(
        "an authorization that ended while the command was put on record still counts",
        GATE,
        "self._check_authorization(command)  # the commit took time: the run may have ended",
        "pass",
        GATE_TESTS,
    ),
    Breakage(
        "a latched trip does not shut the gate",
        GATE,
        "        if self._trip:\n",
        "        if self._trip == '?':\n",
        GATE_TESTS,
    ),
    Breakage(
        "a command leaves before it is on record",
        GATE,
        "        await self._record_intent(command)\n",
        "",
        GATE_TESTS,
    ),
    Breakage(
        "a refused setpoint does not fail the step",
        "capa/experiment/step_tools.py",
        "if not result.accepted and not overtaken:",
        "if not result.accepted and overtaken:",
        ("tests/unit/test_executor.py",),
    ),
    Breakage(
        "a latched trip is ignored when a run is armed",
        "capa/runtime/arming.py",
        "    if trip:\n",
        "    if trip == '?':\n",
        ("tests/unit/test_safety_monitor.py", "tests/unit/test_conductor.py"),
    ),
    # --- the monitor ---
    Breakage(
        "old samples count as fresh",
        RULES,
        "        if age_s <= self._after_s:\n",
        "        if age_s <= self._after_s * 100:\n",
        ("tests/unit/test_safety_rules.py",),
    ),
    Breakage(
        "an error of the bus counts as a sign of life",
        RULES,
        "        if sample.status not in _SILENT:\n            self._heard = True\n",
        "        if sample.status is not None:\n            self._heard = True\n",
        ("tests/unit/test_safety_rules.py",),
    ),
    Breakage(
        "a value that is none satisfies a condition",
        "capa/experiment/waiting.py",
        "return sample.usable and _COMPARE",
        "return _COMPARE",
        ("tests/unit/test_executor.py", "tests/unit/test_method_hold.py"),
    ),
    Breakage(
        "an old value satisfies the condition of a later stage",
        "capa/runtime/stages.py",
        "if fresh and satisfied_by(condition, sample):",
        "if satisfied_by(condition, sample):",
        ("tests/unit/test_later_stages.py",),
    ),
    Breakage(
        "an override is not taken back",
        "capa/runtime/safety_book.py",
        "                band.restore(override)\n",
        "                pass\n",
        ("tests/unit/test_safety_rules.py", "tests/unit/test_safety_monitor.py"),
    ),
    Breakage(
        "safe_shutdown stops the run and drives nothing",
        MONITOR,
        "                self._latching = True\n                self._drive.set()\n",
        "                self._latching = True\n",
        MONITOR_TESTS,
    ),
    Breakage(
        "what was not reached is not tried again in the background",
        MONITOR,
        "if not (self._drive.is_set() or self._unreached.keys() & self._first_stage()):",
        "if not self._drive.is_set():",
        MONITOR_TESTS,
    ),
    Breakage(
        "a trip can be cleared while its condition holds",
        MONITOR,
        "        if holding:\n",
        "        if holding is None:\n",
        MONITOR_TESTS,
    ),
    Breakage(
        "a trip is not kept on disk",
        "capa/runtime/trips.py",
        "        if not store.save(trips, records, known=self._known):\n",
        "        if not (store, trips):\n",
        ("tests/unit/test_trips.py",),
    ),
    Breakage(
        "a trips file that can't be read counts as no trip",
        "capa/runtime/trips.py",
        "            return (Trip(_UNREADABLE, message, _now()),)\n",
        "            return ()\n",
        ("tests/unit/test_trips.py",),
    ),
    # --- the daemon ---
    Breakage(
        "the watchdog is fed whatever the loops say",
        "capad/supervision.py",
        "        if not stale:\n",
        "        if stale is not None:\n",
        ("tests/unit/test_supervision.py",),
    ),
    Breakage(
        "a heartbeat never gets too old",
        "capad/heartbeats.py",
        "if age_s > beat.max_age_s:",
        "if age_s > beat.max_age_s and age_s < 0:",
        ("tests/unit/test_supervision.py",),
    ),
    Breakage(
        "READY is said before the safe state is proven",
        "capad/safing.py",
        "            if not missing:\n",
        "            if missing is not None:\n",
        ("tests/unit/test_starting_up.py",),
    ),
    Breakage(
        "the plan is written in place, not renamed into it",
        "capa/runtime/safe_plan.py",
        "            write_atomically(path, self.text())\n",
        "            path.write_bytes(self.text())\n",
        ("tests/unit/test_safe_plan.py",),
    ),
    Breakage(
        "what is renamed into place was not fsynced before",
        "capa/storage/atomic.py",
        "            os.fsync(file.fileno())\n",
        "",
        ("tests/unit/test_atomic_writes.py",),
    ),
    Breakage(
        "a plan that can't be replaced stays",
        "capa/runtime/safe_plan.py",
        "            path.unlink(missing_ok=True)\n            raise\n",
        "            raise\n",
        ("tests/unit/test_safe_plan.py",),
    ),
    # --- the line ---
    Breakage(
        "a late reply is taken for the next one's",
        "adapters/links/pipe.py",
        "        if doubtful:\n",
        "        if doubtful and not doubtful:\n",
        IN_STEP_TESTS,
    ),
    Breakage(
        "nobody waits for a line that is out of step",
        "adapters/links/pipe.py",
        "        if self._in_step:\n            return 0.0\n",
        "        if self._in_step or not self._in_step:\n            return 0.0\n",
        IN_STEP_TESTS,
    ),
    Breakage(
        "safe writes wait for their turn like polls",
        "adapters/links/waiting.py",
        "_Place(priority, order, turn)",
        "_Place(0, order, turn)",
        (
            "tests/unit/test_link_on_memory.py::TestLinkOnMemory::"
            "test_the_most_urgent_waiter_is_served_first_and_equals_in_order",
        ),
    ),
    # --- the guardian ---
    Breakage(
        "a guardian that was killed counts as one that came to its end",
        GUARD,
        '    return through or bool(plan["simulated"])\n',
        "    return True\n",
        ("tests/wire/test_guard_before_a_start.py",),
    ),
    Breakage(
        "the guardian of Modbus TCP reads another number than the value",
        "adapters/modbus/safe_write.py",
        "        number=RegisterNumber(number, len(reply.prefix), order),\n",
        "        number=RegisterNumber(number, 3, order),\n",
        ("tests/wire/test_guard_over_modbus_tcp.py",),
    ),
    Breakage(
        "the guardian does not try again",
        GUARD,
        "            self._round == 0 or until_s - time.monotonic() > self._link",
        "            self._round == 0 and until_s - time.monotonic() > self._link",
        GUARD_TESTS,
    ),
    Breakage(
        "the guardian gives a lost port up",
        GUARD,
        "                time.sleep(RETRY_S)\n            else:\n                return\n",
        "                return\n            else:\n                return\n",
        GUARD_TESTS,
    ),
    Breakage(
        "the guardian takes every reading for proof",
        GUARD,
        "if value is not None and abs(value - write",
        "if value is not None and 0 * abs(value - write",
        GUARD_TESTS,
    ),
    Breakage(
        "the guardian trusts a damaged plan",
        GUARD,
        'if not mark or crc != f"{binascii.crc32(body):08x}" or',
        "if not mark or",
        GUARD_TESTS,
    ),
    Breakage(
        "the guardian drives one line after the other",
        GUARD,
        "    _thread.start_new_thread(thread, ())\n",
        "    thread()\n",
        GUARD_TESTS,
    ),
    Breakage(
        "the guardian calls everything a success",
        GUARD,
        "    if UNREACHABLE in verdicts:\n",
        "    if UNREACHABLE == verdicts:\n",
        GUARD_TESTS,
    ),
    Breakage(
        "the guardian takes what came before it asked for an answer",
        GUARD,
        "        heard = self._receive(0.0)\n",
        '        heard = b""\n',
        GUARD_TESTS,
    ),
)
