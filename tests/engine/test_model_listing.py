from __future__ import annotations

import json
from typing import Any

import pytest
from keyswitch_engine.model_listing import LISTINGS


def context_of(row: dict[str, Any]) -> int | None:
    (model,) = LISTINGS["openai"].read(json.dumps({"data": [{"id": "m", **row}]}).encode()).models
    return model.context_tokens


@pytest.mark.parametrize("context", [-1, 0, 10**30, 2**53 + 1, True, False, None, "8192", 8192.0, [8192], {}])
def test_a_context_that_is_no_number_of_tokens_is_unknown(context: Any) -> None:
    """What cannot be a count of tokens is left out, and the model stays."""
    assert context_of({"context_length": context}) is None


@pytest.mark.parametrize("context", [1, 8192, 2**53])
def test_a_context_that_is_a_number_of_tokens_is_read(context: int) -> None:
    """Any other is passed on."""
    assert context_of({"context_length": context}) == context


def test_the_first_context_that_can_be_one_counts() -> None:
    """A field that says nothing does not hide the next one."""
    assert context_of({"context_length": -1, "context_window": True, "max_model_len": 4096}) == 4096


def test_a_row_without_a_name_of_its_own_is_left_out() -> None:
    """Ids and display names are texts; a row without an id is no model."""
    body = {"data": [{"id": 5}, {"id": ""}, {"id": "m", "display_name": 7, "name": "M"}, "x", None]}
    (model,) = LISTINGS["openai"].read(json.dumps(body).encode()).models
    assert (model.id, model.display_name) == ("m", "M")
