"""A method file with mistakes in it: what its author reads."""

from pathlib import Path

import pytest

from capa.config.load import load_method, parse_method
from capa.config.problems import Problem, ProblemsError
from tests.support.files import problems_of_method

GOOD = """\
name = "m"
[[steps]]
kind = "ramp"
end_value = 600.0
duration_s = 300.0
[steps.target]
name = "heater.setpoint"
"""


def only(text: str) -> Problem:
    problems = problems_of_method(text)
    assert len(problems) == 1, problems
    return problems[0]


def from_bytes(tmp_path: Path, data: bytes) -> Problem:
    file = tmp_path / "wörk 1.method.toml"
    file.write_bytes(data)
    with pytest.raises(ProblemsError) as caught:
        load_method(file)
    (problem,) = caught.value.problems
    assert problem.file == str(file)
    return problem


def test_a_good_file_becomes_a_method(tmp_path: Path) -> None:
    file = tmp_path / "good.method.toml"
    file.write_text(GOOD, encoding="utf-8")
    assert load_method(file) == parse_method(GOOD, file="other name")


def test_a_misspelt_field_is_one_problem_with_place_and_remedy() -> None:
    problem = only(GOOD.replace("duration_s", "durration_s"))
    assert str(problem) == (
        "m.method.toml:5: step 1 (ramp), field durration_s: unknown field; "
        "did you mean `duration_s`?"
    )
    assert problem.code == "method.unknown_field"


def test_a_misspelt_required_field_is_not_also_missing() -> None:
    problem = only(GOOD.replace("end_value", "end_val"))
    assert problem.hint == "did you mean `end_value`?"


def test_the_wrong_rate_name_of_a_ramp_is_recognised() -> None:
    problem = only(GOOD.replace("duration_s = 300.0", "rate_per_seconds = 0.5"))
    assert problem.hint == "did you mean `rate_per_second`?"


def test_the_beginning_of_a_field_name_is_recognised() -> None:
    assert only(GOOD.replace("duration_s", "rate")).hint == "did you mean `rate_per_second`?"


def test_an_unknown_kind_lists_what_there_is_or_the_nearest() -> None:
    near = only(GOOD.replace('"ramp"', '"rmp"'))
    assert (near.code, near.line, near.hint) == ("method.unknown_kind", 3, "did you mean `ramp`?")
    far = only(GOOD.replace('"ramp"', '"soak"'))
    assert far.hint is not None
    assert far.hint.startswith("one of: hold, ramp")


def test_a_step_without_a_kind_says_which_there_are() -> None:
    problem = only(GOOD.replace('kind = "ramp"\n', ""))
    assert problem.where == "step 1, field kind"
    assert "safe_shutdown" in (problem.hint or "")


def test_a_step_that_lacks_one_of_two_says_so_even_beside_other_mistakes() -> None:
    text = GOOD.replace("duration_s = 300.0\n", "").replace("600.0", '"hot"')
    messages = [problem.message for problem in problems_of_method(text)]
    assert messages == [
        "ramp step needs either rate_per_second or duration_s",
        'must be a number, not "hot"',
    ]


def test_a_step_that_lacks_one_of_two_says_so_once() -> None:
    problem = only(GOOD.replace("duration_s = 300.0\n", ""))
    assert problem.line == 2
    assert problem.where == "step 1 (ramp)"


def test_a_number_in_quotes_is_no_number_and_the_quotes_are_named() -> None:
    problem = only(GOOD.replace("600.0", '"600"'))
    assert problem.message == 'must be a number, not "600"'
    assert problem.hint == "write the number without quotes"


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_number_that_is_none_is_refused(value: str) -> None:
    assert only(GOOD.replace("600.0", value)).message == f"must be a finite number, not {value}"


def test_a_number_beyond_all_measure_is_refused_and_shown_short() -> None:
    problem = only(GOOD.replace("600.0", "9" * 4000))
    assert len(problem.message) < 120
    assert "digits" in str(only(GOOD.replace("600.0", "9" * 5000)))


def test_a_target_that_is_a_text_is_shown_as_it_must_be() -> None:
    text = GOOD.replace("[steps.target]\nname", "target")
    assert only(text).hint == 'write target = { name = "heater.setpoint" }'


def test_a_key_below_the_targets_header_is_told_where_it_belongs() -> None:
    problem = only(GOOD + 'notes = "hot"\n')
    assert problem.line == 8
    assert problem.hint == "`notes` belongs one table further out: put it above [steps.target]"


def test_single_brackets_around_steps_are_recognised() -> None:
    text = 'name = "m"\n[steps]\nkind = "wait"\nduration_s = 1.0\n'
    assert "[[steps]]" in (only(text).hint or "")


def test_a_negative_time_says_the_bound() -> None:
    problem = only(GOOD.replace("300.0", "-1.5"))
    assert problem.message == "must be greater than 0, not -1.5"


def test_all_problems_of_all_steps_come_at_once_in_the_order_of_the_file() -> None:
    text = GOOD.replace('name = "m"', "nome = 1") + GOOD.partition("\n")[2].replace("ramp", "romp")
    text += '[[steps]]\nkind = "hold"\n'
    lines = [problem.line for problem in problems_of_method(text)]
    assert lines == sorted(line for line in lines if line is not None)
    assert {problem.where for problem in problems_of_method(text)} >= {
        "field nome",
        "step 2 (romp), field kind",
        "step 3 (hold)",
        "step 3 (hold), field target",
        "step 3 (hold), field value",
    }


def test_a_thousand_mistakes_are_not_all_listed() -> None:
    text = 'name = "m"\n' + '[[steps]]\nkind = "x"\n' * 1000
    problems = problems_of_method(text)
    assert len(problems) == 101
    assert problems[-1].message == "and 900 more problems, not listed"


def test_a_method_without_steps_says_so() -> None:
    assert only('name = "m"\nsteps = []\n').message == "needs at least one entry"
    assert only('name = "m"\n').message == "is missing"


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ('name = "m"\nkind = hold\n', 2, 'text needs quotes: kind = "hold"'),
        ('name = "m"\n[[steps]\n', 2, "the line reads `[[steps]`"),
        ("name\n", 1, "a line is `key = value` or `[table]`, not `name`"),
        ('name = "m', 1, 'the line reads `name = "m`'),
    ],
)
def test_what_is_not_toml_names_the_line_and_shows_it(text: str, line: int, hint: str) -> None:
    problem = only(text)
    assert problem.code == "file.not_toml"
    assert (problem.line, problem.hint) == (line, hint)


def test_brackets_without_end_are_refused() -> None:
    assert only("a = " + "[" * 20_000).code == "file.not_toml"


def test_a_key_that_is_given_twice_is_refused() -> None:
    assert only('name = "a"\nname = "b"\n').line == 2


@pytest.mark.parametrize("data", [b"", b"  \n\t\n"])
def test_an_empty_file_is_called_empty(tmp_path: Path, data: bytes) -> None:
    problem = from_bytes(tmp_path, data)
    assert (problem.code, problem.message) == ("file.empty", "is empty")


def test_a_byte_order_mark_is_named(tmp_path: Path) -> None:
    problem = from_bytes(tmp_path, b"\xef\xbb\xbf" + GOOD.encode())
    assert (problem.code, problem.line) == ("file.bom", 1)


def test_utf_16_is_named(tmp_path: Path) -> None:
    assert "UTF-16" in from_bytes(tmp_path, GOOD.encode("utf-16")).message


def test_text_that_is_not_utf_8_names_the_line_and_the_byte(tmp_path: Path) -> None:
    problem = from_bytes(tmp_path, GOOD.encode() + 'notes = "früh"\n'.encode("latin-1"))
    assert (problem.code, problem.line) == ("file.encoding", 8)
    assert "0xfc" in problem.message


def test_a_file_of_two_mebibytes_is_not_read(tmp_path: Path) -> None:
    assert from_bytes(tmp_path, b"#" * (2 << 20)).code == "file.too_large"


def test_a_file_that_is_not_there_and_a_folder_are_problems_too(tmp_path: Path) -> None:
    for path in (tmp_path / "none.method.toml", tmp_path, Path("nul\0.method.toml")):
        with pytest.raises(ProblemsError) as caught:
            load_method(path)
        assert caught.value.problems[0].code == "file.unreadable"


def test_a_key_with_odd_characters_is_shown_on_one_line() -> None:
    problem = only(GOOD + '"tar\\nget\\u0007" = 1\n')
    assert str(problem).isprintable()
