"""On which line a key stands, in every way TOML has of writing one."""

import pytest

from capa.config.locate import line_of, toml_lines, yaml_lines

TEXT = '''\
# a comment with [brackets] and = signs
name = "a # no comment"
"quoted.key" = 'literal \\'
dotted.inner . deep = 1
text = """
[[steps]]
name = "not a key\\""""
array = [
  1, # one
  "two ]",
  [3,
   4],
]
inline = { a = 1, b = { c = "}" }, d = [{ e = 1 }] }

[[steps]]
kind = "hold"
[steps.target]
name = "x"
[[steps.safety_overrides]]
alarm_id = "one"
[[steps.safety_overrides]]
alarm_id = "two"

[[steps]]
kind = "ramp"
[steps.target]
name = "y"

[a.b]
c = 1979-05-27T07:32:00Z
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("name",), 2),
        (("quoted.key",), 3),
        (("dotted", "inner", "deep"), 4),
        (("text",), 5),
        (("array",), 8),
        (("array", 0), 9),
        (("array", 1), 10),
        (("array", 2, 1), 12),
        (("inline", "b", "c"), 14),
        (("inline", "d", 0, "e"), 14),
        (("steps", 0), 16),
        (("steps", 0, "target", "name"), 19),
        (("steps", 0, "safety_overrides", 1, "alarm_id"), 23),
        (("steps", 1), 25),
        (("steps", 1, "target", "name"), 28),
        (("a", "b"), 30),
        (("a", "b", "c"), 31),
    ],
)
def test_every_way_of_writing_a_key_is_found(path: tuple[str | int, ...], line: int) -> None:
    assert toml_lines(TEXT)[path] == line


def test_a_key_that_is_missing_has_the_line_of_its_table() -> None:
    lines = toml_lines(TEXT)
    assert line_of(lines, ("steps", 1, "target", "nam")) == 27
    assert line_of(lines, ("nowhere",)) is None


def test_windows_line_ends_count_as_one() -> None:
    assert toml_lines("a = 1\r\nb = 2\r\n")[("b",)] == 2


def test_text_that_is_not_toml_costs_only_the_lines() -> None:
    assert toml_lines('a = 1\nb = "never closed') == {("a",): 1, ("b",): 2}


def test_yaml_keys_are_found_too() -> None:
    lines = yaml_lines("procedure:\n  id: x\n  config:\n    notes: y\ntags:\n  - one\n  - two\n")
    assert lines[("procedure", "config", "notes")] == 4
    assert lines[("tags", 1)] == 7
    assert yaml_lines("a: [") == {}
