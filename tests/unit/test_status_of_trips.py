"""What the status line says of trips and alarms: what a person has to act on comes first."""

from capad.status import Snapshot, status_line


def test_an_idle_rig_that_is_tripped_says_so_first_and_how_to_clear_it() -> None:
    line = status_line(Snapshot("IDLE", "waiting", held="a run failed", trip="heater.pv broken"))
    assert line.startswith("TRIPPED heater.pv broken; to clear: capa safety clear --by NAME")


def test_a_queue_that_is_held_besides_is_no_surprise_after_the_clearing() -> None:
    held = Snapshot("IDLE", held="a run failed", hold_file="/s/hold", trip="heater.pv broken")
    assert "held, too: rm '/s/hold' once it is cleared" in status_line(held)


def test_a_running_or_starting_rig_that_is_tripped_says_so_too() -> None:
    assert "TRIPPED: too hot" in status_line(Snapshot("RUN", "x", trip="too hot"))
    assert "TRIPPED: too hot" in status_line(Snapshot("STARTING", "x", trip="too hot"))


def test_alarms_are_named_until_a_trip_says_more() -> None:
    assert "ALARM: pv high; disk low" in status_line(
        Snapshot("RUN", "x", alarms=("pv high", "disk low"))
    )
    assert "ALARM" not in status_line(Snapshot("IDLE", trip="too hot", alarms=("pv high",)))


def test_a_mute_device_with_many_channels_leaves_room_for_the_rest_of_the_line() -> None:
    alarms = tuple(f"channel.{n}: nothing heard; {'check power ' * 15}" for n in range(3))
    line = status_line(Snapshot("RUN", "x", alarms=alarms, silent=("furnace",)))
    assert f"ALARM: {alarms[0]}; and 2 more: capa safety show; no answer from furnace" in line


def test_a_rig_in_order_speaks_of_neither() -> None:
    line = status_line(Snapshot("IDLE", "waiting"))
    assert "ALARM" not in line
    assert "TRIPPED" not in line
