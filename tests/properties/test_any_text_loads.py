"""Whatever stands in a file, a loader gives its value or the problems, and nothing else."""

import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from capa.config.experiment import ExperimentConfig
from capa.config.load import parse_experiment, parse_method
from capa.config.locate import Path as KeyPath
from capa.config.locate import toml_lines
from capa.config.problems import Problem, ProblemsError
from capa.config.profile import examine_profile
from capa.config.reading import Source, decode_text
from capa.experiment.method import STEP_MODELS, Method
from tests.support.files import FAMILIES, PROFILE

ValueT = TypeVar("ValueT")

KINDS = tuple(STEP_MODELS)
FIELDS = sorted({name for model in STEP_MODELS.values() for name in model.model_fields})
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
LIKELY = st.one_of(
    VALUES,
    st.sampled_from([*KINDS, ">", "warn"]),
    st.just({"name": "x"}),
    st.just({"channel": "x", "op": ">", "value": 1}),
)
STEPS = st.dictionaries(st.sampled_from([*FIELDS, "typo"]), LIKELY, max_size=6)
SNIPPETS = st.sampled_from(
    ["[[steps]]\n", 'kind = "hold"\n', "[steps.target]\n", '"""', "'''", "= ", "[", "{", "}", "\\"]
)
ANY_TEXT = st.text() | st.lists(SNIPPETS | st.text(max_size=4)).map("".join)


def attempt(make: Callable[[], ValueT]) -> ValueT | tuple[Problem, ...]:
    """Return the value, or the problems with it; any other exception is the test's failure."""
    try:
        return make()
    except ProblemsError as error:
        return error.problems


def is_good_or_refused(outcome: object, good: type) -> None:
    if isinstance(outcome, tuple):
        assert outcome
        assert all(str(problem).isprintable() for problem in outcome), outcome
    else:
        assert isinstance(outcome, good)


def method_or_problems(text: str) -> None:
    is_good_or_refused(attempt(lambda: parse_method(text, file="any.method.toml")), Method)


@given(ANY_TEXT)
def test_any_text_is_a_method_or_is_refused_with_problems(text: str) -> None:
    method_or_problems(text)


@given(name=VALUES, steps=st.lists(STEPS | VALUES, max_size=4))
@settings(max_examples=200)
def test_any_toml_is_a_method_or_is_refused_with_problems(name: object, steps: object) -> None:
    method_or_problems(tomli_w.dumps({"name": name, "steps": steps}))


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_text_or_are_refused(data: bytes) -> None:
    text = attempt(lambda: decode_text(data, file="any"))
    is_good_or_refused(text, str)
    assert isinstance(text, tuple) or text.encode() == data


@given(ANY_TEXT, st.sampled_from(["toml", "yaml"]))
def test_any_text_is_an_experiment_or_is_refused(text: str, suffix: str) -> None:
    file = f"any.experiment.{suffix}"
    made = attempt(lambda: parse_experiment(text, file=file, folder=Path("/nowhere")))
    is_good_or_refused(made, ExperimentConfig)


@given(
    table=st.sampled_from(["links", "devices", "channels", "safe_state"]),
    entry=st.dictionaries(
        st.sampled_from(["name", "port", "link", "set", "when", "derived", "alarms", "limits"]),
        VALUES,
    )
    | VALUES,
)
@settings(max_examples=200)
def test_any_entry_in_a_profile_gives_problems_and_no_surprise(table: str, entry: object) -> None:
    data = tomllib.loads(PROFILE)
    data[table] = [*data[table], entry]
    examine_profile(Source("rig.toml", data), FAMILIES)


def paths_in(node: object, path: KeyPath = ()) -> Iterator[KeyPath]:
    if path:
        yield path
    if isinstance(node, dict):
        for key, value in node.items():
            yield from paths_in(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from paths_in(value, (*path, index))


@given(st.dictionaries(st.text("ab.\"'\\ =#[", max_size=4), VALUES | st.lists(STEPS)))
def test_every_key_of_any_toml_has_a_line(data: dict[str, Any]) -> None:
    text = tomli_w.dumps(data)
    assert set(paths_in(tomllib.loads(text))) <= set(toml_lines(text))
