from __future__ import annotations

import pytest
from keyswitch_engine.toml_lines import line_of, syntax_problem

TEXT = """# dialects = 0
schema = 1
"base_url" = "x"
models = [
    "a",
]

[[dialects]]  # the first one
name = "a"
[[dialects.model_overrides]]
model = "a"
[[ dialects . "model_overrides" ]]
model = "b"
[dialects.model_overrides.compatibility]
flag = 1

[[dialects]]
name = "b\u2028"
[[dialects.model_overrides]]
model = "c"
compatibility = { flag = 1 }
[[dialects.model_overrides]]
model = "d"
[dialects.compatibility]
deep.flag = 1

[headers]
"x-a" = "1"
"""


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("", 1),
        ("nowhere", 1),
        ("schema", 2),
        ("base_url", 3),
        ("models[0]", 4),
        ("dialects[0]", 8),
        ("dialects[0].path", 8),
        ("dialects[0].name", 9),
        ("dialects[0].model_overrides[0].model", 11),
        ("dialects[0].model_overrides[0].routing", 10),
        ("dialects[0].model_overrides[1]", 12),
        ("dialects[0].model_overrides[1].model", 13),
        ("dialects[0].model_overrides[1].compatibility", 14),
        ("dialects[0].model_overrides[1].compatibility.flag", 15),
        ("dialects[1]", 17),
        ("dialects[1].name", 18),
        ("dialects[1].model_overrides[0].model", 20),
        ("dialects[1].model_overrides[0].compatibility.flag", 21),
        ("dialects[1].model_overrides[1].compatibility.flag", 22),
        ("dialects[1].compatibility.deep.flag", 25),
        ("headers", 27),
        ("headers.x-a", 28),
    ],
)
def test_a_key_is_found_in_its_table(key: str, line: int) -> None:
    """The line is that of the key, else of the innermost table or array around it, else the first one."""
    assert line_of(TEXT, key) == line
    assert line_of(TEXT.replace("\n", "\r\n"), key) == line


@pytest.mark.parametrize(
    ("problem", "line", "reason"),
    [
        ("Invalid value (at line 12, column 3)", 12, "Invalid value"),
        ("Expected ']' (at end of document)", 28, "Expected ']'"),
        ("too deep", 1, "too deep"),
    ],
)
def test_what_a_parser_says_is_taken_apart(problem: str, line: int, reason: str) -> None:
    """The end of a text is its last line, and what is wrong with all of it is told by the first."""
    assert syntax_problem(TEXT, problem) == (line, reason)
