from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from keyswitch_engine.dialects import DIALECTS, TOKEN_COUNTERS
from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.errors import InvalidRequest, Reason, Unavailable
from keyswitch_engine.events import ProviderState
from keyswitch_engine.generation import (
    AudioPart,
    CacheHint,
    CacheRetention,
    FilePart,
    FunctionTool,
    Generation,
    ImagePart,
    InlineMedia,
    JsonFormat,
    JsonSchemaFormat,
    MediaUrl,
    Message,
    OpaquePart,
    Part,
    ProviderTool,
    Reasoning,
    ReasoningEffort,
    ReasoningPart,
    Role,
    Sampling,
    TextPart,
    ToolCallPart,
    ToolChoiceFunction,
    ToolResultPart,
)

SCHEMA = '{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"integer"}}}'
ARGUMENTS = '{"b":"x","a":12345678901234567890}'
STATES = {
    "openai-chat": b'[{"type":"reasoning.text","text":"hm"}]',
    "openai-responses": b'{"type":"reasoning","id":"rs_1","encrypted_content":"x","summary":[]}',
    "gemini": b'{"thoughtSignature":"s"}',
    "cohere-v2": b'{"carrier":"tool_plan"}',
}


def conversation(dialect: str) -> Generation:
    """Return what every dialect can say, with what only it attached."""
    state = ProviderState("p", dialect, STATES.get(dialect, b'{"signature":"s"}'))
    messages = (
        Message(Role.USER, (Part(TextPart("look")), Part(ImagePart(InlineMedia(b"png", "image/png"))))),
        Message(
            Role.ASSISTANT,
            (
                Part(ReasoningPart("hm"), state),
                Part(TextPart("calling")),
                Part(ToolCallPart("call_1", "weather", ARGUMENTS)),
            ),
        ),
        Message(Role.TOOL, (Part(ToolResultPart("call_1", (Part(TextPart("rain")),), is_error=False)),)),
        Message(Role.USER, (Part(TextPart("thanks")),)),
    )
    return Generation(
        messages=messages,
        system=(Part(TextPart("be brief")),),
        tools=(FunctionTool("weather", "tells", SCHEMA),),
        tool_choice=None if dialect == "ollama" else "required",
        response_format=JsonSchemaFormat(SCHEMA),
        sampling=Sampling(temperature=0.5, top_p=0.9, max_output_tokens=99),
    )


def body(dialect: str, generation: Generation, options: str = "", model: str = "the model") -> dict[str, Any]:
    spoken = DIALECTS[dialect]
    made = spoken.request(generation, model, Profile("p", "/x/{model}", spoken.flags()), options, stream=True)
    found: dict[str, Any] = json.loads(made.body)
    return found


BODIES = {
    "openai-chat": rb"""{"model":"the model","messages":[{"role":"system","content":"be brief"},{"role":"user","content":[{"type":"text","text":"look"},{"type":"image_url","image_url":{"url":"data:image/png;base64,cG5n"}}]},{"role":"assistant","content":"calling","reasoning_details":[{"type":"reasoning.text","text":"hm"}],"tool_calls":[{"id":"call_1","type":"function","function":{"name":"weather","arguments":"{\"b\":\"x\",\"a\":12345678901234567890}"}}]},{"role":"tool","tool_call_id":"call_1","content":"rain"},{"role":"user","content":"thanks"}],"stream":true,"stream_options":{"include_usage":true},"tools":[{"type":"function","function":{"name":"weather","description":"tells","parameters":{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"integer"}}}}}],"tool_choice":"required","response_format":{"type":"json_schema","json_schema":{"name":"response","schema":{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"integer"}}}}},"temperature":0.5,"top_p":0.9,"max_tokens":99,"extra":{"z":1,"a":2}}""",
    "openai-responses": rb"""{"model":"the model","input":[{"role":"user","content":[{"type":"input_text","text":"look"},{"type":"input_image","image_url":"data:image/png;base64,cG5n"}]},{"type":"reasoning","id":"rs_1","encrypted_content":"x","summary":[]},{"role":"assistant","content":[{"type":"output_text","text":"calling"}]},{"type":"function_call","call_id":"call_1","name":"weather","arguments":"{\"b\":\"x\",\"a\":12345678901234567890}"},{"type":"function_call_output","call_id":"call_1","output":"rain"},{"role":"user","content":"thanks"}],"instructions":"be brief","stream":true,"store":false,"tools":[{"type":"function","name":"weather","description":"tells","parameters":{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"integer"}}},"strict":false}],"tool_choice":"required","text":{"format":{"type":"json_schema","name":"response","schema":{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"integer"}}}}},"temperature":0.5,"top_p":0.9,"max_output_tokens":99,"extra":{"z":1,"a":2}}""",
    "anthropic-messages": rb"""{"model":"the model","max_tokens":99,"messages":[{"role":"user","content":[{"type":"text","text":"look"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"cG5n"}}]},{"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"s"},{"type":"text","text":"calling"},{"type":"tool_use","id":"call_1","name":"weather","input":{"b":"x","a":12345678901234567890}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"call_1","content":"rain"},{"type":"text","text":"thanks"}]}],"system":"be brief","stream":true,"tools":[{"name":"weather","description":"tells","input_schema":{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"integer"}}}}],"tool_choice":{"type":"any"},"output_config":{"format":{"type":"json_schema","schema":{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"integer"}}}}},"temperature":0.5,"top_p":0.9,"extra":{"z":1,"a":2}}""",
    "vertex-rawpredict": rb"""{"anthropic_version":"vertex-2023-10-16","max_tokens":99,"messages":[{"role":"user","content":[{"type":"text","text":"look"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"cG5n"}}]},{"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"s"},{"type":"text","text":"calling"},{"type":"tool_use","id":"call_1","name":"weather","input":{"b":"x","a":12345678901234567890}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"call_1","content":"rain"},{"type":"text","text":"thanks"}]}],"system":"be brief","stream":true,"tools":[{"name":"weather","description":"tells","input_schema":{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"integer"}}}}],"tool_choice":{"type":"any"},"output_config":{"format":{"type":"json_schema","schema":{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"integer"}}}}},"temperature":0.5,"top_p":0.9,"extra":{"z":1,"a":2}}""",
    "bedrock-invoke": rb"""{"anthropic_version":"bedrock-2023-05-31","max_tokens":99,"messages":[{"role":"user","content":[{"type":"text","text":"look"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"cG5n"}}]},{"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"s"},{"type":"text","text":"calling"},{"type":"tool_use","id":"call_1","name":"weather","input":{"b":"x","a":12345678901234567890}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"call_1","content":"rain"},{"type":"text","text":"thanks"}]}],"system":"be brief","tools":[{"name":"weather","description":"tells","input_schema":{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"integer"}}}}],"tool_choice":{"type":"any"},"output_config":{"format":{"type":"json_schema","schema":{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"integer"}}}}},"temperature":0.5,"top_p":0.9,"extra":{"z":1,"a":2}}""",
    "gemini": rb"""{"contents":[{"role":"user","parts":[{"text":"look"},{"inlineData":{"mimeType":"image/png","data":"cG5n"}}]},{"role":"model","parts":[{"text":"hm","thought":true,"thoughtSignature":"s"},{"text":"calling"},{"functionCall":{"name":"weather","args":{"b":"x","a":12345678901234567890}}}]},{"role":"user","parts":[{"functionResponse":{"name":"weather","response":{"output":"rain"}}},{"text":"thanks"}]}],"systemInstruction":{"parts":[{"text":"be brief"}]},"tools":[{"functionDeclarations":[{"name":"weather","description":"tells","parametersJsonSchema":{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"integer"}}}}]}],"toolConfig":{"functionCallingConfig":{"mode":"ANY"}},"generationConfig":{"temperature":0.5,"topP":0.9,"maxOutputTokens":99,"responseMimeType":"application/json","responseJsonSchema":{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"integer"}}}},"extra":{"z":1,"a":2}}""",
    "bedrock-converse": rb"""{"messages":[{"role":"user","content":[{"text":"look"},{"image":{"format":"png","source":{"bytes":"cG5n"}}}]},{"role":"assistant","content":[{"reasoningContent":{"reasoningText":{"text":"hm","signature":"s"}}},{"text":"calling"},{"toolUse":{"toolUseId":"call_1","name":"weather","input":{"b":"x","a":12345678901234567890}}}]},{"role":"user","content":[{"toolResult":{"toolUseId":"call_1","content":[{"text":"rain"}]}},{"text":"thanks"}]}],"system":[{"text":"be brief"}],"inferenceConfig":{"maxTokens":99,"temperature":0.5,"topP":0.9},"toolConfig":{"tools":[{"toolSpec":{"name":"weather","description":"tells","inputSchema":{"json":{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"integer"}}}}}}],"toolChoice":{"any":{}}},"outputConfig":{"textFormat":{"type":"json_schema","structure":{"jsonSchema":{"schema":"{\"type\":\"object\",\"properties\":{\"b\":{\"type\":\"string\"},\"a\":{\"type\":\"integer\"}}}","name":"response"}}}},"extra":{"z":1,"a":2}}""",
    "cohere-v2": rb"""{"model":"the model","messages":[{"role":"system","content":"be brief"},{"role":"user","content":[{"type":"text","text":"look"},{"type":"image_url","image_url":{"url":"data:image/png;base64,cG5n"}}]},{"role":"assistant","tool_plan":"hm","content":"calling","tool_calls":[{"id":"call_1","type":"function","function":{"name":"weather","arguments":"{\"b\":\"x\",\"a\":12345678901234567890}"}}]},{"role":"tool","tool_call_id":"call_1","content":"rain"},{"role":"user","content":"thanks"}],"stream":true,"tools":[{"type":"function","function":{"name":"weather","description":"tells","parameters":{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"integer"}}}}}],"tool_choice":"REQUIRED","response_format":{"type":"json_object","json_schema":{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"integer"}}}},"temperature":0.5,"p":0.9,"max_tokens":99,"extra":{"z":1,"a":2}}""",
    "ollama": rb"""{"model":"the model","messages":[{"role":"system","content":"be brief"},{"role":"user","content":"look","images":["cG5n"]},{"role":"assistant","content":"calling","thinking":"hm","tool_calls":[{"id":"call_1","function":{"name":"weather","arguments":{"b":"x","a":12345678901234567890}}}]},{"role":"tool","content":"rain","tool_name":"weather","tool_call_id":"call_1"},{"role":"user","content":"thanks"}],"stream":true,"tools":[{"type":"function","function":{"name":"weather","description":"tells","parameters":{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"integer"}}}}}],"format":{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"integer"}}},"options":{"temperature":0.5,"top_p":0.9,"num_predict":99},"extra":{"z":1,"a":2}}""",
}  # fmt: skip
"""By each protocol's documentation: JSON of the caller's verbatim, its keys in their order and its numbers whole."""


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_conversation_is_written_as_the_protocol_says(dialect: str) -> None:
    """System text, media, signed reasoning, calls, results, tools, schema, numbers and options stand where they belong."""
    spoken = DIALECTS[dialect]
    profile = Profile("p", "/x/{model}", spoken.flags())
    made = spoken.request(conversation(dialect), "the model", profile, '{"extra":{"z":1,"a":2}}', stream=True)
    assert (made.path, made.body) == ("/x/the%20model", BODIES[dialect])


def said(*parts: Part, role: Role = Role.USER) -> Generation:
    return Generation((Message(role, parts),))


HI = said(Part(TextPart("hi")))
TOOL = FunctionTool("f")
STRICT = FunctionTool("f", strict=True)
PICTURE = Part(ImagePart(MediaUrl("https://example.com/a.png", "image/png")))
RESULT_PICTURE = Generation(
    (
        Message(Role.ASSISTANT, (Part(ToolCallPart("1", "f", "{}")),)),
        Message(Role.TOOL, (Part(ToolResultPart("1", (PICTURE,), is_error=False)),)),
    )
)


def asking(**fields: Any) -> Generation:
    return msgspec.structs.replace(HI, **fields)


MESSAGES = ("anthropic-messages", "vertex-rawpredict", "bedrock-invoke")
# what, which dialects cannot say it
REFUSALS: list[tuple[Generation, tuple[str, ...]]] = [
    (asking(sampling=Sampling(seed=1)), (*MESSAGES, "openai-responses", "bedrock-converse")),
    (asking(sampling=Sampling(min_p=0.1)), (*MESSAGES, "openai-chat", "openai-responses", "gemini", "bedrock-converse", "cohere-v2")),
    (asking(sampling=Sampling(top_k=1)), ("openai-chat", "openai-responses", "bedrock-converse")),
    (asking(sampling=Sampling(presence_penalty=1.0)), (*MESSAGES, "openai-responses", "bedrock-converse")),
    (asking(sampling=Sampling(stop_sequences=("x",))), ("openai-responses",)),
    (asking(top_logprobs=2), (*MESSAGES, "bedrock-converse", "cohere-v2")),
    (asking(end_user_id="u"), ("gemini", "bedrock-converse", "cohere-v2", "ollama")),
    (asking(response_format=JsonFormat()), (*MESSAGES, "bedrock-converse")),
    (asking(reasoning=Reasoning(budget_tokens=9)), ("openai-chat", "openai-responses", "bedrock-converse", "ollama")),
    (asking(reasoning=Reasoning(ReasoningEffort.HIGH)), ("openai-chat", "bedrock-converse", "cohere-v2")),
    (asking(tools=(TOOL,), parallel_tool_calls=False), ("gemini", "bedrock-converse", "cohere-v2", "ollama")),
    (asking(tools=(TOOL,), tool_choice=ToolChoiceFunction("f")), ("cohere-v2", "ollama")),
    (asking(tools=(TOOL,), tool_choice="none"), ("bedrock-converse", "ollama")),
    (asking(tools=(STRICT,)), ("gemini", "ollama")),
    (asking(tools=(TOOL, FunctionTool("g", strict=True))), ("gemini", "ollama", "cohere-v2")),
    (asking(tools=(ProviderTool("search"),)), ("openai-chat", "cohere-v2", "ollama")),
    (asking(tools=(FunctionTool("f", cache_hint=CacheHint(CacheRetention.LONG)),)), ("openai-chat", "openai-responses", "gemini", "cohere-v2", "ollama")),
    (said(Part(TextPart("hi"), cache_hint=CacheHint(CacheRetention.SHORT))), ("openai-chat", "openai-responses", "gemini", "cohere-v2", "ollama")),
    (said(Part(AudioPart(InlineMedia(b"x", "audio/wav")))), (*MESSAGES, "cohere-v2", "ollama")),
    (said(Part(FilePart(InlineMedia(b"x", "application/pdf")))), ("cohere-v2", "ollama")),
    (said(PICTURE), ("bedrock-converse", "ollama")),
    (RESULT_PICTURE, ("openai-chat", "bedrock-converse", "cohere-v2", "ollama")),
    (Generation((Message(Role.USER, (Part(TextPart("hi")),), "ann"),)), tuple(name for name in DIALECTS if name != "openai-chat")),
    (Generation((*HI.messages, Message(Role.SYSTEM, (Part(TextPart("now")),)))), (*MESSAGES, "gemini", "bedrock-converse")),
]  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("generation", "cannot"), REFUSALS)
def test_what_a_dialect_cannot_say_is_refused_by_name_and_never_dropped(
    dialect: str, generation: Generation, cannot: tuple[str, ...]
) -> None:
    """Each dialect either refuses a feature, naming a field, or writes something that is not there without it."""
    if dialect in cannot:
        with pytest.raises(Unavailable) as raised:
            body(dialect, generation)
        assert raised.value.reason is Reason.UNSUPPORTED_FEATURE
        assert raised.value.field
    else:
        assert body(dialect, generation) != body(dialect, HI)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_state_of_another_provider_or_dialect_is_never_sent(dialect: str) -> None:
    """Neither a foreign provider's state nor that of another dialect leaves; what is left of the turn does."""
    for provider, spoken in (("q", dialect), ("p", "another")):
        state = ProviderState(provider, spoken, b'{"thoughtSignature":"foreign","signature":"foreign","id":"foreign"}')
        parts = (Part(ReasoningPart("hm"), state), Part(OpaquePart("search"), state), Part(TextPart("hello"), state))
        generation = Generation((*HI.messages, Message(Role.ASSISTANT, parts), *HI.messages))
        written = json.dumps(body(dialect, generation))
        assert "foreign" not in written
        assert "hello" in written


NESTED = {
    "openai-chat": "stream_options",
    "openai-responses": "text",
    "anthropic-messages": "output_config",
    "vertex-rawpredict": "output_config",
    "bedrock-invoke": "output_config",
    "gemini": "generationConfig",
    "bedrock-converse": "inferenceConfig",
    "cohere-v2": "response_format",
    "ollama": "options",
}
"""An object that the request writes for itself."""


@pytest.mark.parametrize("dialect", DIALECTS)
def test_options_merge_into_objects_and_contradict_nothing(dialect: str) -> None:
    """An option beside what the request writes is added; the same one twice is the caller's fault."""
    generation = conversation(dialect)
    name, value = next(
        (name, value) for name, value in body(dialect, generation).items() if not isinstance(value, dict)
    )
    with pytest.raises(InvalidRequest) as raised:
        body(dialect, generation, json.dumps({name: value}))
    assert raised.value.field == "target.options_json"
    assert body(dialect, generation, json.dumps({NESTED[dialect]: {"more": 1}}))[NESTED[dialect]]["more"] == 1


def test_messages_always_have_an_output_limit() -> None:
    """Anthropic demands one: the row's default, with the budget for thinking on top, where the request gives none."""
    assert body("anthropic-messages", HI)["max_tokens"] == 8192
    thinking = asking(reasoning=Reasoning(budget_tokens=1000))
    assert body("anthropic-messages", thinking)["max_tokens"] == 9192


def test_nothing_is_stored_unless_that_is_asked_for() -> None:
    """Responses are asked not to be kept; of models that reason, reasoning is asked for in the form that can travel."""
    assert body("openai-responses", HI)["store"] is False
    assert "include" not in body("openai-responses", HI, model="gpt-4o")
    assert body("openai-responses", HI, model="gpt-5.6-sol")["include"] == ["reasoning.encrypted_content"]
    assert body("openai-responses", HI, '{"store":true}')["store"] is True


def test_calls_of_other_models_are_marked_where_gemini_demands_signatures() -> None:
    """The first call of a turn gets Google's word for that, older models get none."""
    generation = Generation((*HI.messages, Message(Role.ASSISTANT, (Part(ToolCallPart("1", "f", "{}")),))))
    (part,) = body("gemini", generation, model="gemini-3.6-flash")["contents"][1]["parts"]
    assert part["thoughtSignature"] == "skip_thought_signature_validator"
    (older,) = body("gemini", generation, model="gemini-2.5-flash")["contents"][1]["parts"]
    assert "thoughtSignature" not in older


@pytest.mark.parametrize(
    ("model", "reasoning", "fields"),
    [
        ("us.anthropic.claude-x", Reasoning(budget_tokens=9), {"thinking": {"type": "enabled", "budget_tokens": 9}}),
        ("us.anthropic.claude-x", Reasoning(ReasoningEffort.NONE), {"thinking": {"type": "disabled"}}),
        ("us.amazon.nova-2-lite-v1:0", Reasoning(ReasoningEffort.LOW), {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}}),
        ("openai.gpt-oss-120b-1:0", Reasoning(ReasoningEffort.HIGH), {"reasoning_effort": "high"}),
    ],
)  # fmt: skip
def test_converse_asks_each_family_in_its_own_way(model: str, reasoning: Reasoning, fields: dict[str, Any]) -> None:
    """What Converse has no field for goes into the family's own."""
    assert body("bedrock-converse", asking(reasoning=reasoning), model=model)["additionalModelRequestFields"] == fields


@pytest.mark.parametrize("dialect", sorted(TOKEN_COUNTERS.keys() - {"openai-chat"}))  # which counts no tools
def test_a_conversation_too_deep_to_count_is_the_callers_error(dialect: str) -> None:
    """A schema that nobody read so far, and that is nested too deeply to be read with the body, is refused."""
    counter = TOKEN_COUNTERS[dialect]
    deep = FunctionTool("f", parameters_json_schema='{"a":' * 5000 + "1" + "}" * 5000)
    generation = msgspec.structs.replace(HI, tools=(deep,))
    with pytest.raises(InvalidRequest) as refused:
        counter.count_request(generation, "m", Profile("p", "/x/{model}", counter.flags()))
    assert refused.value.field == "request"
