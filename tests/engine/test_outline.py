from __future__ import annotations

import json

import msgspec
import pytest
from keyswitch_engine.dialects import DIALECTS
from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.generation import (
    FunctionTool,
    Generation,
    ImagePart,
    InlineMedia,
    JsonSchemaFormat,
    Message,
    Part,
    Role,
    Sampling,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from keyswitch_engine.outline import HIDDEN, outline

SAID = "sesame"
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {SAID: {"type": "string", "description": SAID}},
        "model": SAID,
        "required": [SAID],
    }
)
CONVERSATION = Generation(
    messages=(
        Message(Role.USER, (Part(TextPart(SAID)), Part(ImagePart(InlineMedia(SAID.encode(), "image/png"))))),
        Message(Role.ASSISTANT, (Part(ToolCallPart("call_" + SAID, SAID, json.dumps({"type": SAID, SAID: [SAID]}))),)),
        Message(Role.TOOL, (Part(ToolResultPart("call_" + SAID, (Part(TextPart(SAID)),), is_error=False)),)),
    ),
    system=(Part(TextPart(SAID)),),
    tools=(FunctionTool(SAID, SAID, SCHEMA),),
    response_format=JsonSchemaFormat(SCHEMA),
    sampling=Sampling(temperature=0.5, max_output_tokens=99),
)


def written(dialect: str, generation: Generation) -> bytes:
    spoken = DIALECTS[dialect]
    return spoken.request(generation, "the-model", Profile("p", "/x/{model}", spoken.flags()), "", stream=True).body


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_nothing_that_was_said_is_in_an_outline(dialect: str) -> None:
    """Texts, media, names, ids, schemas, arguments and results are hidden in every dialect; limits are shown."""
    body = written(dialect, CONVERSATION)
    assert SAID in body.decode()
    shown = outline(body)
    assert SAID not in shown
    assert "c2VzYW1l" not in shown  # the image, in base64
    assert ("0.5" in shown, "99" in shown, HIDDEN in shown) == (True, True, True)
    assert list(json.loads(shown)) == list(json.loads(body))


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ({"model": "m", "messages": [{"role": "user", "content": "x"}]},
         {"model": "m", "messages": [{"role": "user", "content": HIDDEN}]}),
        ({"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}]},
         {"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": HIDDEN}]}]}),
        ({"type": "tool_use", "input": {"type": "x"}}, {"type": "tool_use", "input": HIDDEN}),
        ({"arguments": [{"type": "x"}]}, {"arguments": HIDDEN}),
        ({"format": {"type": "object", "properties": {"x": {}}}}, {"format": HIDDEN}),
        ({"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}},
         {"format": {"type": "json_schema", "name": HIDDEN, "schema": HIDDEN}}),
        ({"provider": {"only": ["a", "b"], "allow_fallbacks": False}},
         {"provider": {"only": ["a", "b"], "allow_fallbacks": False}}),
        ({"json_schema": {"type": "object", "properties": {"x": {}}}}, {"json_schema": HIDDEN}),
        ({"json_schema": {"name": "x", "schema": {}}}, {"json_schema": {"name": HIDDEN, "schema": HIDDEN}}),
        ({"type": {"x": "y"}, "stop": ["x"], "n": 1, "none": None},
         {"type": {"x": HIDDEN}, "stop": [HIDDEN], "n": 1, "none": None}),
    ],
)  # fmt: skip
def test_words_of_the_protocol_are_shown(body: object, shown: object) -> None:
    """Roles, types, models, numbers and preferences stay; what callers wrote does not."""
    assert msgspec.json.decode(outline(msgspec.json.encode(body))) == shown
