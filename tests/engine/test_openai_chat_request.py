from __future__ import annotations

import json
import re
from typing import Any

import pytest
from keyswitch_engine.dialects import DIALECTS
from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.dialects.openai_chat.flags import ChatFlags
from keyswitch_engine.errors import DispatchError, InvalidRequest, Reason
from keyswitch_engine.events import ProviderState
from keyswitch_engine.generation import (
    AudioPart,
    FilePart,
    FunctionTool,
    Generation,
    ImagePart,
    InlineMedia,
    JsonFormat,
    JsonSchemaFormat,
    MediaUrl,
    Message,
    Part,
    Reasoning,
    ReasoningEffort,
    ReasoningPart,
    RefusalPart,
    Role,
    Sampling,
    TextPart,
    ToolCallPart,
    ToolChoiceFunction,
    ToolResultPart,
)

HELLO = Message(Role.USER, (Part(TextPart("hi")),))


def write(generation: Generation, options: str = "", *, stream: bool = False, **flags: Any) -> dict[str, Any]:
    profile = Profile("test", "/chat/completions", ChatFlags(**flags))
    request = DIALECTS["openai-chat"].request(generation, "m", profile, options, stream=stream)
    assert request.path == "/chat/completions"
    body: dict[str, Any] = json.loads(request.body)
    return body


def said(*parts: Part, role: Role = Role.USER) -> Generation:
    return Generation((Message(role, parts),))


def test_a_plain_request_holds_nothing_more() -> None:
    """Model and messages, and nothing that was not asked for."""
    assert write(Generation((HELLO,))) == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(("flags", "options"), [({}, {"include_usage": True}), ({"include_usage": False}, None)])
def test_streams_ask_for_usage_where_they_have_to(flags: dict[str, Any], options: object) -> None:
    """Usage is asked for unless the provider sends it anyway and refuses the question."""
    body = write(Generation((HELLO,)), stream=True, **flags)
    assert (body["stream"], body.get("stream_options")) == (True, options)


@pytest.mark.parametrize("role", ["system", "developer"])
def test_instructions_have_the_providers_role(role: str) -> None:
    """System text precedes the conversation in the role that the row names."""
    generation = Generation((HELLO,), system=(Part(TextPart("a")), Part(TextPart("b"))))
    assert write(generation, system_role=role)["messages"][0] == {"role": role, "content": "a\nb"}


def test_media_are_content_parts() -> None:
    """Images by bytes and by URL, sound and files take the forms of the API reference."""
    body = write(
        said(
            Part(TextPart("look")),
            Part(ImagePart(InlineMedia(b"\x00", "image/png"), "low")),
            Part(ImagePart(MediaUrl("https://e.example/i.png", ""))),
            Part(AudioPart(InlineMedia(b"\x01", "audio/mpeg"))),
            Part(FilePart(InlineMedia(b"\x02", "application/pdf"), "a.pdf")),
        )
    )
    assert body["messages"][0]["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://e.example/i.png"}},
        {"type": "input_audio", "input_audio": {"data": "AQ==", "format": "mp3"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,Ag=="}},
    ]


def test_history_goes_back_as_it_came() -> None:
    """Text, refusals, calls and reasoning of the assistant take their fields; state goes to its own provider only."""
    state = ProviderState("test", "openai-chat", b'[{"type":"reasoning.text","n":12345678901234567890}]')
    other = ProviderState("other", "openai-chat", b"[1]")
    parts = (
        Part(ReasoningPart("hm"), state),
        Part(ReasoningPart("more"), other),
        Part(TextPart("so")),
        Part(RefusalPart("no")),
        Part(ToolCallPart("c", "f", '{"a": 1}')),
    )
    written = write(said(*parts, role=Role.ASSISTANT))["messages"][0]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    details = [{"type": "reasoning.text", "n": 12345678901234567890}]
    assert written == {
        "role": "assistant", "content": "so", "refusal": "no", "reasoning_details": details, "tool_calls": [call],
    }  # fmt: skip


@pytest.mark.parametrize("field", ["none", "reasoning_content", "reasoning"])
def test_reasoning_text_goes_back_where_the_row_says(field: str) -> None:
    """Without a state the text is echoed in the provider's field, or left out."""
    body = write(said(Part(ReasoningPart("hm")), Part(TextPart("so")), role=Role.ASSISTANT), reasoning_echo=field)
    expected = {"role": "assistant", "content": "so"} | ({field: "hm"} if field != "none" else {})
    assert body["messages"][0] == expected


def test_tool_results_are_messages_each() -> None:
    """Every result names its call; a failed tool's text says so, since the dialect has no mark for it."""
    results = (
        Part(ToolResultPart("a", (Part(TextPart("1")), Part(TextPart("2"))), is_error=False)),
        Part(ToolResultPart("b", (Part(TextPart("boom")),), is_error=True)),
    )
    assert write(said(*results, role=Role.TOOL))["messages"] == [
        {"role": "tool", "tool_call_id": "a", "content": "1\n2"},
        {"role": "tool", "tool_call_id": "b", "content": "Error: boom"},
    ]


SCHEMA = '{"type": "object", "z": 1.0, "a": 12345678901234567890}'


def test_schemas_are_written_as_text() -> None:
    """Key order, numbers and spaces of a schema survive, in tools and in the response format."""
    generation = Generation(
        (HELLO,), tools=(FunctionTool("f", "d", SCHEMA, strict=True), FunctionTool("g")),
        response_format=JsonSchemaFormat(SCHEMA, "n", strict=True), tool_choice="required", parallel_tool_calls=False,
    )  # fmt: skip
    profile = Profile("test", "/", ChatFlags(tool_choice_required="any"))
    raw = DIALECTS["openai-chat"].request(generation, "m", profile, "", stream=False).body.decode()
    assert raw.count(SCHEMA) == 2
    body = json.loads(raw)
    assert body["tools"][1] == {"type": "function", "function": {"name": "g"}}
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("any", False)
    assert body["response_format"]["json_schema"]["strict"] is True
    assert write(Generation((HELLO,), response_format=JsonFormat()))["response_format"] == {"type": "json_object"}
    chosen = Generation((HELLO,), tools=(FunctionTool("f"),), tool_choice=ToolChoiceFunction("f"))
    assert write(chosen)["tool_choice"] == {"type": "function", "function": {"name": "f"}}


def test_sampling_takes_the_providers_fields() -> None:
    """Every number lands in the field that the row names."""
    sampling = Sampling(0.5, 0.9, 40, 0.1, 1.0, -1.0, 7, 100, ("x",))
    body = write(
        Generation((HELLO,), sampling=sampling, top_logprobs=3, end_user_id="u"),
        max_tokens_field="max_completion_tokens", seed_field="random_seed", extra_sampling=("top_k", "min_p"),
        user_field="safety_identifier",
    )  # fmt: skip
    del body["model"], body["messages"]
    assert body == {
        "temperature": 0.5, "top_p": 0.9, "presence_penalty": 1.0, "frequency_penalty": -1.0, "top_k": 40, "min_p": 0.1,
        "random_seed": 7, "max_completion_tokens": 100, "stop": ["x"], "logprobs": True, "top_logprobs": 3,
        "safety_identifier": "u",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("control", "reasoning", "expected"),
    [
        ("effort", Reasoning(ReasoningEffort.HIGH), {"reasoning_effort": "high"}),
        ("object", Reasoning(ReasoningEffort.LOW), {"reasoning": {"effort": "low"}}),
        ("object", Reasoning(budget_tokens=500), {"reasoning": {"max_tokens": 500}}),
        ("thinking", Reasoning(ReasoningEffort.NONE), {"thinking": {"type": "disabled"}}),
        ("thinking", Reasoning(ReasoningEffort.HIGH), {"thinking": {"type": "enabled"}}),
        ("none", Reasoning(), {}),
    ],
)
def test_reasoning_is_asked_for_in_the_providers_form(
    control: str, reasoning: Reasoning, expected: dict[str, Any]
) -> None:
    """Effort and budget take the form that the row names."""
    body = write(Generation((HELLO,), reasoning=reasoning), reasoning_control=control)
    assert {name: value for name, value in body.items() if name not in ("model", "messages")} == expected


@pytest.mark.parametrize(
    ("generation", "flags", "field"),
    [
        (Generation((HELLO,), sampling=Sampling(top_k=1)), {}, "sampling.top_k"),
        (Generation((HELLO,), sampling=Sampling(seed=1)), {"seed_field": "none"}, "sampling.seed"),
        (Generation((HELLO,), top_logprobs=0), {"logprobs": False}, "logprobs"),
        (Generation((HELLO,), end_user_id="u"), {"user_field": "none"}, "end_user_id"),
        (Generation((HELLO,), tools=(FunctionTool("f"),)), {"tools": False}, "tools"),
        (Generation((HELLO,), tools=(FunctionTool("f", strict=True),)), {"strict_tools": False},
         "tools[0].function.strict"),
        (Generation((HELLO,), tools=(FunctionTool("f"),), parallel_tool_calls=True), {"parallel_tool_calls": False},
         "parallel_tool_calls"),
        (Generation((HELLO,), response_format=JsonSchemaFormat("{}")), {"json_schema": False},
         "response_format.json_schema"),
        (Generation((HELLO,), reasoning=Reasoning(ReasoningEffort.LOW)), {}, "reasoning.effort"),
        (Generation((HELLO,), reasoning=Reasoning(budget_tokens=1)), {"reasoning_control": "effort"},
         "reasoning.budget_tokens"),
        (said(Part(AudioPart(InlineMedia(b"x", "audio/ogg")))), {}, "messages[0].parts[0].audio"),
        (said(Part(FilePart(MediaUrl("https://e.example", "")))), {}, "messages[0].parts[0].file"),
        (said(Part(ImagePart(MediaUrl("https://e.example", ""))), role=Role.ASSISTANT), {}, "messages[0].parts[0]"),
        (said(Part(ToolResultPart("a", (Part(ImagePart(MediaUrl("https://e.example", ""))),), is_error=False)),
              role=Role.TOOL), {}, "messages[0].parts[0].tool_result.parts[0]"),
    ],
)  # fmt: skip
def test_what_cannot_be_expressed_is_refused_by_name(generation: Generation, flags: dict[str, Any], field: str) -> None:
    """Nothing is dropped in silence."""
    with pytest.raises(DispatchError) as raised:
        write(generation, **flags)
    assert (raised.value.reason, raised.value.field) == (Reason.UNSUPPORTED_FEATURE, field)


def test_media_that_the_model_made_goes_back_as_its_provider_takes_it() -> None:
    """Images go back where the row says so, sound by the id that it was given; other sound is refused."""
    image = Part(ImagePart(InlineMedia(b"png", "image/png")))
    sound = Part(AudioPart(InlineMedia(b"x", "audio/pcm")), ProviderState("test", "openai-chat", b'{"id":"a1"}'))
    body = write(said(image, sound, role=Role.ASSISTANT), assistant_images=True)
    assert body["messages"][0] == {
        "role": "assistant",
        "content": "",
        "images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,cG5n"}}],
        "audio": {"id": "a1"},
    }
    for part, flags in ((image, {}), (Part(sound.content), {"assistant_images": True})):
        with pytest.raises(DispatchError) as raised:
            write(said(part, role=Role.ASSISTANT), **flags)
        assert raised.value.reason is Reason.UNSUPPORTED_FEATURE


def test_ids_of_calls_are_short_where_they_have_to_be() -> None:
    """Call and result keep together; an id of nine letters and digits stays."""
    turns = (
        Message(
            Role.ASSISTANT, (Part(ToolCallPart("call_abc", "f", "{}")), Part(ToolCallPart("abcDEF123", "f", "{}")))
        ),
        Message(Role.TOOL, (Part(ToolResultPart("call_abc", (Part(TextPart("r")),), is_error=False)),)),
    )
    assistant, result = write(Generation(turns), short_tool_ids=True)["messages"]
    first, second = (call["id"] for call in assistant["tool_calls"])
    assert re.fullmatch("[0-9a-zA-Z]{9}", first)
    assert (result["tool_call_id"], second) == (first, "abcDEF123")


def test_tools_cannot_be_demanded_where_there_is_no_word_for_it() -> None:
    """The row says so, and the choice is refused by its name."""
    with pytest.raises(DispatchError) as raised:
        write(Generation((HELLO,), tools=(FunctionTool("f"),), tool_choice="required"), tool_choice_required="none")
    assert raised.value.field == "tool_choice.required"


def test_options_are_merged_last_and_never_override() -> None:
    """Options reach the body verbatim; one that the request wrote already is invalid."""
    body = write(Generation((HELLO,)), '{"n": 1, "deep": {"b": 1, "a": 2}}')
    assert (body["n"], list(body["deep"])) == (1, ["b", "a"])
    with pytest.raises(InvalidRequest) as raised:
        write(Generation((HELLO,)), '{"model": "other"}')
    assert raised.value.field == "target.options_json"
