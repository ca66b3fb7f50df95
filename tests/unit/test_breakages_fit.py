"""The list of breakages fits the code: each change can be made, each test is there."""

from pathlib import Path

import pytest

from tests.mutants.breakages import BREAKAGES, Breakage, misfit

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.name)
def test_a_breakage_can_be_made_in_exactly_one_place(breakage: Breakage) -> None:
    """If the code has moved on, mend ``tests/mutants/breakages.py`` along with it."""
    text = (REPOSITORY / breakage.file).read_text()
    assert misfit(breakage, text) == ""
    compile(breakage.broken(text), breakage.file, "exec")
    assert all((REPOSITORY / test.partition("::")[0]).is_file() for test in breakage.tests)


def test_names_are_not_given_twice() -> None:
    names = [breakage.name for breakage in BREAKAGES]
    assert len(set(names)) == len(names)


def test_a_breakage_that_does_not_fit_is_said_and_never_made() -> None:
    breakage = BREAKAGES[0]
    with pytest.raises(ValueError, match="is not in it any more"):
        breakage.broken("")
    with pytest.raises(ValueError, match="is in it 2 times"):
        breakage.broken(breakage.old * 2)
