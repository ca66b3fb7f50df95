"""`make bench`: every figure, with its goal where one was set."""

import tempfile
from argparse import ArgumentParser
from pathlib import Path

from bench import devices, guard, latency, load, startup, storage, ticks
from bench.harness import running_twin
from bench.table import Table

PROFILE = Path(__file__).with_name("five_devices.toml")
PARTS = {
    "startup": startup.measure,
    "spool": latency.first_setpoint,
    "stop": latency.stop,
    "guard": guard.measure,
    "ticks": ticks.measure,
    "load": load.measure,
    "devices": devices.measure,
    "storage": storage.measure,
}


def main() -> None:
    """Run the named parts, or all."""
    parser = ArgumentParser(
        prog="python -m bench", description="Measure, and print goals reached and missed."
    )
    parser.add_argument("part", nargs="*", help=f"which: {', '.join(PARTS)}; all by default")
    wanted = parser.parse_args().part
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    table = Table()
    with tempfile.TemporaryDirectory(prefix="capad-bench-") as scratch:
        for name in wanted or list(PARTS):
            print(f"{name}:", flush=True)
            directory = Path(scratch) / name
            with running_twin(PROFILE, directory / "twin") as twin:
                PARTS[name](table, twin, directory / "daemon")
    missed = table.missed()
    print(f"\ngoals missed: {len(missed)}" + "".join(f"\n  {what}" for what in missed))


main()
