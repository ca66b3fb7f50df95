"""Any bytes to what reads a balance's name: a text, nothing yet, or its one error."""

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from adapters.sartorius.codec import Weight, encode_line
from adapters.sartorius.newest import TextLine
from capa.errors import FrameError

CHUNKS = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([b"\r", b"\n", b"\r\n", b"MSE1203S   \r\n", b"N     +   0.5000 g  \r\n"]),
    ),
    max_size=40,
)


@given(CHUNKS)
def test_any_bytes_are_a_text_or_nothing_or_its_one_error(chunks: list[bytes]) -> None:
    text = TextLine()
    with suppress(FrameError):
        for chunk in chunks:
            found = text.feed(chunk)
            assert found is None or found == found.strip() != ""


@given(
    st.text("ABCXYZabc0189-.", min_size=1, max_size=13).filter(str.strip),
    st.lists(st.floats(-200, 200), max_size=5),
    st.integers(1, 50),
)
def test_a_name_is_found_behind_whatever_weights_were_printed(
    name: str, weights: list[float], size: int
) -> None:
    """The name has a digit in its seventh place, where a weight has its sign and a status its word.

    What is in the first six is a label: ``M00000C`` could be that of a balance that calibrates.
    """
    name = f"MSE1203{name}"
    printed = b"".join(encode_line(Weight(one, "g"), width=22) for one in weights)
    data = printed + f"{name:<20}\r\n".encode("ascii")
    text, found = TextLine(), None
    for at in range(0, len(data), size):
        found = found or text.feed(data[at : at + size])
    assert found == name
