from __future__ import annotations

import pytest
from keyswitch_engine.errors import InvalidRequest
from keyswitch_engine.model_id import clean_model, exact_model

IGNORABLE = """00AD 034F 061C 115F-1160 17B4-17B5 180B-180F 200B-200F 202A-202E 2060-206F 3164 FE00-FE0F FEFF FFA0 FFF0-FFF8
1BCA0-1BCA3 1D173-1D17A E0000-E0FFF"""  # DerivedCoreProperties.txt, Default_Ignorable_Code_Point


@pytest.mark.parametrize("span", IGNORABLE.split())
def test_what_nobody_sees_is_in_no_id(span: str) -> None:
    """Unicode names the characters of which nothing is shown; each of them is refused, letters and marks too."""
    first, _, last = span.partition("-")
    for character in map(chr, range(int(first, 16), int(last or first, 16) + 1)):
        with pytest.raises(InvalidRequest, match="visible characters only"):
            clean_model(f"a{character}b")


@pytest.mark.parametrize(
    "character", "\u034e\u0350\u115e\u1161\u17b3\u17b6\u180a\u3163\u3165\ufe10\uff9f\uffa1\uffee\u00e8\u6a21"
)
def test_what_stands_beside_it_is_(character: str) -> None:
    """Letters and marks before and after those characters stand in ids as they are."""
    assert clean_model(f"a{character}b") == f"a{character}b"


@pytest.mark.parametrize("model", ["", " a", "a ", "a\n", "a\u200b", "..", "a" * 257])
def test_an_id_in_a_file_is_as_requests_have_it(model: str) -> None:
    """What trimming would forgive a request is refused where ids are compared, and so is none at all."""
    with pytest.raises(InvalidRequest) as raised:
        exact_model(model, "models[1]")
    assert raised.value.field == "models[1]"
    assert exact_model("a/b:c d", "models[1]") == "a/b:c d"
