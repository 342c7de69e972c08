from __future__ import annotations

import inspect
import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keyswitch_engine import generation as model
from keyswitch_engine.dialects import DIALECTS
from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.errors import InvalidRequest, RequestError
from keyswitch_engine.events import ProviderState
from keyswitch_engine.generation import (
    AudioPart,
    CacheHint,
    CacheRetention,
    Content,
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
    RefusalPart,
    Role,
    Sampling,
    TextPart,
    ToolCallPart,
    ToolChoiceFunction,
    ToolResultPart,
)
from keyswitch_engine.outline import HIDDEN, HIDDEN_OBJECT, outlined, outlined_options

SAID = "sesame"
SAID_IN_BASE64 = "c2VzYW1l"
NUMBER = 4242424242
VALUES = {
    SAID: {"type": SAID, SAID: [SAID, NUMBER]},
    **dict.fromkeys(("type", "model", "status", "mode", "format", "role", "schema", "only"), SAID),
    "ttl": NUMBER,
    "headers": {"mode": SAID},
    "env": {SAID: SAID},
}
JSON = json.dumps(VALUES)
PICTURE = ImagePart(InlineMedia(SAID.encode(), "image/png"))
LINKED = ImagePart(MediaUrl(f"https://example.com/{SAID}", "image/png"), "auto")
SOUND = AudioPart(InlineMedia(SAID.encode(), "audio/wav"))
FILES = (
    FilePart(InlineMedia(SAID.encode(), "application/pdf"), f"{SAID}.pdf"),
    FilePart(InlineMedia(SAID.encode(), "text/plain"), f"{SAID}.pdf"),
)
CALL = ToolCallPart("call." + SAID, SAID, JSON)
LONG_CALL = ToolCallPart(SAID * 20, SAID, "")
RESULT = ToolResultPart(CALL.id, (Part(TextPart(SAID)), Part(TextPart(SAID))), is_error=True)
PICTURED_RESULT = ToolResultPart(LONG_CALL.id, (Part(PICTURE),), is_error=False)

STATES: tuple[Any, ...] = (
    {},
    {"carrier": "tool_plan"},
    {"carrier": "thinking"},
    {"phase": "commentary"},
    {"phase": "final_answer"},
    {"phase": SAID},
    {"type": "custom_tool_call"},
    {"type": SAID, "id": SAID, "env": VALUES, "attributes": VALUES},
    {"text": SAID, SAID: SAID},
    {"signature": SAID},
    {"data": SAID},
    {"redactedContent": SAID},
    {"thoughtSignature": SAID, "id": SAID},
    {"functionCall": VALUES},
    [VALUES, SAID, NUMBER],
    [],
)
names = st.sampled_from(sorted({name for state in STATES if isinstance(state, dict) for name in state}))
values = st.sampled_from(["tool_plan", "thinking", "commentary", "custom_tool_call", SAID, VALUES])
attached = st.one_of(st.sampled_from(STATES), st.dictionaries(names, values, max_size=3)).map(msgspec.json.encode)


def states(dialect: str) -> st.SearchStrategy[ProviderState | None]:
    """Return what providers may have attached, of the dialect or of another one, sound or not."""
    own = st.builds(ProviderState, st.just("p"), st.just(dialect), attached)
    foreign = st.builds(ProviderState, st.just(SAID), st.just(SAID), st.sampled_from([b"", b"{", SAID.encode()]))
    return st.one_of(st.none(), own, foreign)


def written(dialect: str, generation: Generation, options: str = "") -> bytes:
    spoken = DIALECTS[dialect]
    return spoken.request(
        generation, "the-model", Profile("p", "/x/{model}", spoken.flags()), options, stream=True
    ).body


def is_written(dialect: str, generation: Generation) -> bool:
    """Tell whether a dialect can write it."""
    try:
        written(dialect, generation)
    except RequestError:
        return False
    return True


START = (
    Message(Role.USER, (Part(TextPart(SAID)),)),
    Message(Role.ASSISTANT, (Part(TextPart(SAID)), Part(CALL), Part(LONG_CALL))),
    Message(Role.TOOL, (Part(RESULT),)),
)
HINT = CacheHint(CacheRetention.LONG)
TURNS: tuple[tuple[Role, Content], ...] = (
    *((Role.USER, content) for content in (TextPart(SAID), TextPart(""), PICTURE, LINKED, SOUND, *FILES)),
    *((Role.ASSISTANT, content) for content in (TextPart(SAID), RefusalPart(SAID), ReasoningPart(SAID), CALL)),
    *((Role.ASSISTANT, content) for content in (OpaquePart(SAID), PICTURE, SOUND)),
    *((Role.TOOL, content) for content in (RESULT, PICTURED_RESULT)),
)
FUNCTION = FunctionTool(SAID, SAID, JSON)
SETTINGS: tuple[dict[str, Any], ...] = (
    {"system": (Part(TextPart(SAID)), Part(TextPart(SAID)))},
    {"system": (Part(TextPart(SAID), cache_hint=HINT),)},
    {"tools": (FUNCTION, FunctionTool("other")), "tool_choice": "required"},
    {"tools": (FUNCTION,), "tool_choice": ToolChoiceFunction(SAID)},
    {"tools": (FUNCTION, ProviderTool("search", JSON), ProviderTool("fetch", "{}")), "tool_choice": "auto"},
    {"response_format": JsonFormat()},
    {"response_format": JsonSchemaFormat(JSON, SAID)},
    {"response_format": JsonSchemaFormat(JSON, SAID, SAID, strict=True)},
    {"sampling": Sampling(temperature=0.5, top_p=0.25, max_output_tokens=99)},
    {"sampling": Sampling(seed=7, stop_sequences=(SAID, SAID))},
    {"reasoning": Reasoning(ReasoningEffort.HIGH)},
    {"reasoning": Reasoning(budget_tokens=1024)},
    {"top_logprobs": 2},
    {"end_user_id": SAID},
)


def said(role: Role, *parts: Part) -> Generation:
    return Generation((*START, Message(role, parts)))


@st.composite
def generations(draw: st.DrawFn, dialect: str) -> Generation:
    """Return something that the dialect can write, with a word of the caller's wherever there is room for one."""
    messages = list(START)
    for _ in range(draw(st.integers(0, 3))):
        role = draw(st.sampled_from([Role.USER, Role.ASSISTANT, Role.TOOL]))
        parts = []
        for content in draw(st.lists(st.sampled_from([content for own, content in TURNS if own is role]), max_size=4)):
            part = Part(content, draw(states(dialect)), draw(st.sampled_from([None, None, HINT])))
            plain = (Part(content, part.state), Part(content))
            parts += [part for part in (part, *plain) if is_written(dialect, said(role, part))][:1]
        if parts:
            messages.append(Message(role, tuple(parts)))
    generation = Generation(tuple(messages))
    for setting in draw(st.lists(st.sampled_from(SETTINGS), max_size=4)):
        changed = msgspec.structs.replace(generation, **setting)
        generation = changed if is_written(dialect, changed) else generation
    return generation


def assert_same_shape(body: Any, shown: Any) -> None:
    """Compare all that is not hidden, down to the order of fields."""
    match shown:
        case str() if re.search(f"{HIDDEN}|4oCm|^call_[0-9]+$|^-(-[0-9]+)?$", shown):
            pass  # a text, bytes, an id, or a document's name of those characters that Converse allows
        case dict() if shown == json.loads(HIDDEN_OBJECT):
            assert isinstance(body, dict)
        case dict():
            assert [name if HIDDEN not in name else "" for name in shown] == [
                name if HIDDEN not in other else "" for name, other in zip(body, shown, strict=True)
            ]
            for inner, other in zip(body.values(), shown.values(), strict=True):
                assert_same_shape(inner, other)
        case list():
            for inner, other in zip(body, shown, strict=True):
                assert_same_shape(inner, other)
        case _:
            assert (type(body), body) == (type(shown), shown)


def assert_outlined(dialect: str, generation: Generation) -> None:
    """Compare a body with its outline, in which no word of the caller's may be."""
    body = written(dialect, generation)
    assert SAID in body.decode()
    shown = written(dialect, outlined(generation)).decode()
    for canary in (SAID, SAID_IN_BASE64, str(NUMBER)):
        assert canary not in shown
    assert_same_shape(json.loads(body), json.loads(shown))


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@given(data=st.data())
def test_an_outline_has_the_shape_of_the_body_and_nothing_that_was_said(dialect: str, data: st.DataObject) -> None:
    """In every dialect the fields are those of the body, in their order; words, names, ids, media and JSON are hidden."""
    assert_outlined(dialect, data.draw(generations(dialect)))


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_what_a_provider_attached_decides_the_same_in_an_outline(dialect: str) -> None:
    """By its state a part is left out, merged, or told as something else; so is what stands for it."""
    states = [ProviderState("p", dialect, msgspec.json.encode(state)) for state in STATES]
    contents = [content for role, content in TURNS if role is Role.ASSISTANT]
    told = [
        generation
        for content in contents
        for state in states
        if is_written(dialect, generation := said(Role.ASSISTANT, Part(TextPart(SAID)), Part(content, state)))
    ]
    assert len(told) > len(states)
    for generation in told:
        assert_outlined(dialect, generation)


EVERYTHING = Generation(
    messages=(
        Message(
            Role.USER,
            tuple(Part(content, ProviderState("p", "d", JSON.encode()), HINT) for _, content in TURNS),
            name=SAID,
        ),
    ),
    system=(Part(TextPart(SAID)),),
    tools=(FunctionTool(SAID, SAID, JSON, strict=True), ProviderTool("search", JSON)),
    tool_choice=ToolChoiceFunction(SAID),
    response_format=JsonSchemaFormat(JSON, SAID, SAID, strict=True),
    sampling=Sampling(0.5, 0.25, 3, 0.1, 0.2, 0.3, 7, 99, (SAID,)),
    reasoning=Reasoning(ReasoningEffort.LOW, 5, include_text=True),
    top_logprobs=2,
    end_user_id=SAID,
)


def kinds(value: object) -> set[type]:
    """Return the types of a value and of all that is in it; every field of theirs has something in it."""
    if isinstance(value, tuple):
        return set().union(*map(kinds, value))
    if not isinstance(value, msgspec.Struct):
        return set()
    fields = msgspec.structs.asdict(value).values()
    return {type(value)}.union(*map(kinds, fields))


def test_no_field_of_a_generation_is_forgotten() -> None:
    """A word of the caller's in any field of any part is hidden, whichever dialect would write it."""
    structs = {kind for _, kind in inspect.getmembers(model, inspect.isclass) if issubclass(kind, msgspec.Struct)}
    assert {kind for kind in structs if kind.__struct_fields__} - kinds(EVERYTHING) == set()
    shown = repr(outlined(EVERYTHING))
    assert (SAID in shown, str(NUMBER) in shown) == (False, False)


def test_numbers_and_words_of_the_protocol_are_shown() -> None:
    """Sampling, efforts, roles, types, media types and choices stay; calls and their results still belong together."""
    shown = outlined(EVERYTHING)
    assert shown.sampling == msgspec.structs.replace(EVERYTHING.sampling, stop_sequences=(HIDDEN,))
    assert (shown.reasoning, shown.top_logprobs) == (EVERYTHING.reasoning, 2)
    assert [tool.type for tool in shown.tools if isinstance(tool, ProviderTool)] == ["search"]
    assert outlined(Generation((), tool_choice="required")).tool_choice == "required"
    assert outlined(said(Role.USER, Part(PICTURE))).messages[-1].parts[0].content == ImagePart(
        InlineMedia(HIDDEN.encode(), "image/png")
    )
    contents = [part.content for message in outlined(Generation(START)).messages for part in message.parts]
    assert [content.id for content in contents if isinstance(content, ToolCallPart)] == ["call_1", "call_2"]
    assert [content.tool_call_id for content in contents if isinstance(content, ToolResultPart)] == ["call_1"]


def test_a_body_is_outlined_as_it_is_told() -> None:
    """The outline of a small request in chat completions, to the byte."""
    generation = Generation(
        messages=(START[0], Message(Role.ASSISTANT, (Part(CALL),)), START[2]),
        tools=(FUNCTION,),
        sampling=Sampling(temperature=0.5, stop_sequences=("x",)),
    )
    options = outlined_options('{"documents": [{"data": 1}], "tool_choice": "auto"}')
    assert written("openai-chat", outlined(generation), options).decode() == (
        '{"model":"the-model","messages":[{"role":"user","content":"…"},{"role":"assistant","content":null,'
        '"tool_calls":[{"id":"call_1","type":"function","function":{"name":"…","arguments":"{\\"…\\":\\"…\\"}"}}]},'
        '{"role":"tool","tool_call_id":"call_1","content":"Error: …\\n…"}],"stream":true,'
        '"stream_options":{"include_usage":true},"tools":[{"type":"function","function":{"name":"…",'
        '"description":"…","parameters":{"…":"…"}}}],"temperature":0.5,"stop":["…"],'
        '"documents":"…","tool_choice":"…"}'
    )


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ("", ""),
        ("{}", ""),
        (' {"a": 1, "b": {"c": "x"}, "d": [1], "e": null, "f": {}} ',
         '{"a":"…","b":{"…":"…"},"d":"…","e":"…","f":{}}'),
        ('{"format":{"type":["object","null"]}}', '{"format":{"…":"…"}}'),
        ('{"x": 1e999, "y": ' + "9" * 5000 + "}", '{"x":"…","y":"…"}'),
        ('{"x": "\\ud83d\\ude00"}', '{"x":"…"}'),
    ],
)  # fmt: skip
def test_options_are_shown_by_name_alone(options: str, shown: str) -> None:
    """The names of options are told, and which are objects; nothing within them is even read."""
    assert outlined_options(options) == shown


def test_options_merge_into_an_outline_as_into_the_body() -> None:
    """An option that goes into an object of the request's goes into that of the outline."""
    options = '{"generationConfig": {"responseSchema": {"sesame": 1}}, "labels": {"sesame": "x"}}'
    generation = Generation(START, sampling=Sampling(temperature=0.5))
    written("gemini", generation, options)
    shown = json.loads(written("gemini", outlined(generation), outlined_options(options)))
    assert (shown["generationConfig"], shown["labels"]) == ({"temperature": 0.5, HIDDEN: HIDDEN}, {HIDDEN: HIDDEN})


@pytest.mark.parametrize("options", ["[]", "{", "1", '{"a":' + "[" * 5000 + "]" * 5000 + "}", '{"\\ud800": 1}'])
def test_options_that_are_no_object_are_refused(options: str) -> None:
    """What is no JSON object, or too deep a one to read, is the caller's error, in the outline as in the body."""
    for write in (outlined_options, lambda text: written("openai-chat", Generation(START), text)):
        with pytest.raises(InvalidRequest) as refused:
            write(options)
        assert refused.value.field == "target.options_json"
