from __future__ import annotations

import copy
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch_bridge import not_yet
from keyswitch_bridge.requests import read_explain, read_generate
from keyswitch_engine.credential import ApiKey
from keyswitch_engine.errors import DispatchError, InvalidRequest, Reason, Violation

VALID: dict[str, Any] = {
    "target": {"provider": "sandbox", "model": "sandbox/echo"},
    "credentials": [{"provider": "sandbox", "credential": {"apiKey": {"key": "k"}}}],
    "messages": [{"role": "ROLE_USER", "parts": [{"text": {"text": "hi"}}]}],
}


def message(**fields: Any) -> pb.GenerateRequest:
    return json_format.ParseDict(copy.deepcopy(VALID) | fields, pb.GenerateRequest())


def user(*parts: dict[str, Any], role: str = "ROLE_USER") -> list[dict[str, Any]]:
    return [{"role": role, "parts": list(parts)}]


def text(value: str = "hi") -> dict[str, Any]:
    return {"text": {"text": value}}


TOOL = {"function": {"name": "f", "parametersJsonSchema": "{}"}}
KEY = {"apiKey": {"key": "k"}}

RULES: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "ROLE_USER"}]}, "messages[0].parts"),
    ({"messages": [{"parts": [text()]}]}, "messages[0].role"),
    ({"messages": user({})}, "messages[0].parts[0]"),
    ({"messages": user({"toolCall": {"id": "1", "name": "f"}})}, "messages[0].parts[0].tool_call"),
    ({"messages": user(text(), role="ROLE_TOOL")}, "messages[0].parts[0].text"),
    ({"messages": user({"toolCall": {"name": "f"}}, role="ROLE_ASSISTANT")}, "messages[0].parts[0].tool_call.id"),
    ({"messages": user({"toolCall": {"id": "1"}}, role="ROLE_ASSISTANT")}, "messages[0].parts[0].tool_call.name"),
    ({"messages": user({"toolResult": {}}, role="ROLE_TOOL")}, "messages[0].parts[0].tool_result.tool_call_id"),
    ({"messages": user({"image": {}})}, "messages[0].parts[0].image.source"),
    ({"messages": user({"image": {"source": {"data": "aGk="}}})}, "messages[0].parts[0].image.source.media_type"),
    ({"messages": user({"image": {"source": {"url": "http://e.example/i.png"}}})}, "messages[0].parts[0].image.source.url"),
    ({"messages": user({"image": {"source": {"data": "aGk=", "mediaType": "png"}}})},
     "messages[0].parts[0].image.source.media_type"),
    ({"messages": user({"image": {"source": {"url": "https://e.example"}, "detail": "max"}})},
     "messages[0].parts[0].image.detail"),
    ({"messages": user(text() | {"providerState": {"data": "aGk="}})}, "messages[0].parts[0].provider_state"),
    ({"messages": [{"role": "ROLE_USER", "name": "a\nb", "parts": [text()]}]}, "messages[0].name"),
    ({"system": [{"image": {"source": {"url": "https://e.example"}}}]}, "system[0].image"),
    ({"tools": [{}]}, "tools[0]"),
    ({"tools": [{"function": {"name": "a b"}}]}, "tools[0].function.name"),
    ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
    ({"tools": [{"function": {"name": "f", "parametersJsonSchema": "[]"}}]}, "tools[0].function.parameters_json_schema"),
    ({"toolChoice": {}}, "tool_choice"),
    ({"toolChoice": {"required": {}}}, "tool_choice"),
    ({"tools": [TOOL], "toolChoice": {"function": {"name": "g"}}}, "tool_choice.function.name"),
    ({"responseFormat": {}}, "response_format"),
    ({"responseFormat": {"jsonSchema": {}}}, "response_format.json_schema.json_schema"),
    ({"responseFormat": {"jsonSchema": {"jsonSchema": "{", "name": "x"}}}, "response_format.json_schema.json_schema"),
    ({"sampling": {"temperature": 2.1}}, "sampling.temperature"),
    ({"sampling": {"temperature": "NaN"}}, "sampling.temperature"),
    ({"sampling": {"topP": -0.1}}, "sampling.top_p"),
    ({"sampling": {"topK": 0}}, "sampling.top_k"),
    ({"sampling": {"minP": 1.5}}, "sampling.min_p"),
    ({"sampling": {"presencePenalty": 3}}, "sampling.presence_penalty"),
    ({"sampling": {"frequencyPenalty": "Infinity"}}, "sampling.frequency_penalty"),
    ({"sampling": {"maxOutputTokens": 0}}, "sampling.max_output_tokens"),
    ({"sampling": {"stopSequences": [""]}}, "sampling.stop_sequences[0]"),
    ({"sampling": {"stopSequences": ["x"] * 17}}, "sampling.stop_sequences"),
    ({"reasoning": {"effort": "REASONING_EFFORT_LOW", "budgetTokens": 5}}, "reasoning"),
    ({"reasoning": {"budgetTokens": 0}}, "reasoning.budget_tokens"),
    ({"logprobs": {"top": 21}}, "logprobs.top"),
    ({"endUserId": "u" * 257}, "end_user_id"),
    ({"limits": {"coalesceWindow": "1.5s"}}, "limits.coalesce_window"),
    ({"limits": {"idleTimeout": "-1s"}}, "limits.idle_timeout"),
    ({"limits": {"maxAttempts": 11}}, "limits.max_attempts"),
    ({"limits": {"hedgeAfter": "-1s"}}, "limits.hedge_after"),
    ({"fallbacks": [{}] * 9}, "fallbacks"),
    ({"fallbacks": [{}, {"optionsJson": "[1]"}]}, "fallbacks[1].options_json"),
    ({"fallbacks": [{"region": "E U"}]}, "fallbacks[0].region"),
    ({"fallbacks": [{"routing": {"sort": "luck"}}]}, "fallbacks[0].routing.sort"),
    ({"target": {"optionsJson": "[1]"}}, "target.options_json"),
    ({"target": {"provider": "a\u202eb"}}, "target.provider"),
    ({"credentials": [{"credential": KEY}]}, "credentials[0].provider"),
    ({"credentials": [{"provider": "a"}]}, "credentials[0].credential"),
    ({"credentials": [{"provider": "a", "credential": {"apiKey": {"key": "a b"}}}]}, "credentials[0].credential.api_key.key"),
    ({"credentials": [{"provider": "a", "credential": {"apiKey": {"key": "a\r\nX: y"}}}]},
     "credentials[0].credential.api_key.key"),
    ({"credentials": [{"provider": "a", "credential": {"apiKey": {"key": "k", "project": "p q"}}}]},
     "credentials[0].credential.api_key.project"),
    ({"credentials": [{"provider": "a", "credential": {"bearerToken": {}}}]}, "credentials[0].credential.bearer_token.token"),
    ({"credentials": [{"provider": "a", "label": "l" * 65, "credential": KEY}]}, "credentials[0].label"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "path"), RULES)
def test_a_broken_rule_names_its_field(fields: dict[str, Any], path: str) -> None:
    """Each rule of the contract's comments is checked, and the violation has the exact path."""
    with pytest.raises(InvalidRequest) as raised:
        read_generate(message(**fields))
    assert [violation.field for violation in raised.value.violations] == [path]
    assert raised.value.reason is Reason.INVALID_REQUEST


@pytest.mark.parametrize("character", ["\n", "\x9b", "\u200b", "\u2066", "\u2028", "\ufeff", "\u00ad", "\U000e0041"])
def test_a_name_has_no_character_that_nobody_sees(character: str) -> None:
    """Control, zero-width and bidirectional characters are refused, by Unicode's categories."""
    with pytest.raises(InvalidRequest) as raised:
        read_generate(message(endUserId=f"a{character}b"))
    assert [violation.field for violation in raised.value.violations] == ["end_user_id"]


@pytest.mark.parametrize("name", ["a b", "a\u202fb", "a\u3000b", "\u5831\u544a", "\uf8ff"])
def test_a_name_may_be_what_systems_make_of_it(name: str) -> None:
    """Spaces of every kind, other scripts and private characters stand in names of files and people."""
    assert read_generate(message(endUserId=name)).generation.end_user_id == name


def test_all_violations_come_together_and_none_quotes_the_input() -> None:
    """Everything wrong is told at once, without secrets or the offending text."""
    bad = message(
        messages=[], sampling={"temperature": 9}, endUserId="secret-user\n",
        credentials=[{"provider": "a", "credential": {"apiKey": {"key": "very secret"}}}],
    )  # fmt: skip
    with pytest.raises(InvalidRequest) as raised:
        read_generate(bad)
    fields = {violation.field for violation in raised.value.violations}
    assert fields == {"messages", "sampling.temperature", "end_user_id", "credentials[0].credential.api_key.key"}
    assert "secret" not in str(raised.value) + repr(raised.value.violations)


def test_a_valid_request_is_read_completely() -> None:
    """What was said arrives as it was said."""
    call = read_generate(message(sampling={"temperature": 0}, limits={"totalTimeout": "1.5s"}))
    assert (call.target.provider, call.target.model) == ("sandbox", "sandbox/echo")
    assert call.generation.sampling.temperature == 0
    assert (call.limits.total, call.limits.idle) == (1.5, None)
    credential = call.credentials[0].credential
    assert isinstance(credential, ApiKey)
    assert credential.key.reveal() == "k"
    assert "k" not in repr(credential.key)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda request: request.MergeFromString(b"\xf8\x3f\x01"), "request"),
        (lambda request: request.target.MergeFromString(b"\xf8\x3f\x01"), "target"),
        (
            lambda request: request.messages[0].parts[0].text.MergeFromString(b"\xf8\x3f\x01"),
            "messages[0].parts[0].text",
        ),
        (lambda request: setattr(request.messages[0], "role", 77), "messages[0].role"),
        (lambda request: setattr(request.reasoning, "effort", 99), "reasoning.effort"),
    ],
)
def test_what_is_not_known_is_refused_at_any_depth(change: Any, path: str) -> None:
    """Unknown fields and enum values are UNKNOWN_FIELD, with the path of the message or field."""
    request = message()
    change(request)
    with pytest.raises(InvalidRequest) as raised:
        read_generate(request)
    assert raised.value.reason is Reason.UNKNOWN_FIELD
    assert raised.value.violations[0].field == path


def _paths(descriptor: Descriptor, prefix: str = "", depth: int = 0) -> list[tuple[str, FieldDescriptor]]:
    """Return every field of a message, at any depth; parts inside parts once."""
    found = []
    for field in descriptor.fields:
        found.append((prefix + field.name, field))
        if field.message_type is not None and field.message_type.name != "Duration" and depth < 5:
            found += _paths(field.message_type, f"{prefix}{field.name}.", depth + 1)
    return found


def _set(root: pb.GenerateRequest, path: str) -> None:
    """Set the field at a path to something that is not its default."""
    at: Any = root
    *parents, last = path.split(".")
    for name in parents:
        field = at.DESCRIPTOR.fields_by_name[name]
        value = getattr(at, name)
        at = (value[0] if value else value.add()) if field.is_repeated else value
    field = at.DESCRIPTOR.fields_by_name[last]
    value = {
        FieldDescriptor.CPPTYPE_STRING: b"x" if field.type == FieldDescriptor.TYPE_BYTES else "{}",
        FieldDescriptor.CPPTYPE_BOOL: True,
        FieldDescriptor.CPPTYPE_DOUBLE: 1.5,
        FieldDescriptor.CPPTYPE_ENUM: 2,
    }.get(field.cpp_type, 3)
    if field.message_type is not None:
        if field.is_repeated:
            getattr(at, last).add()
        else:
            getattr(at, last).SetInParent()
    elif field.is_repeated:
        getattr(at, last).append(value)
    else:
        setattr(at, last, value)


PATHS = [path for path, _ in _paths(pb.GenerateRequest.DESCRIPTOR) if path.count("parts") < 2]


@pytest.mark.parametrize("path", PATHS)
def test_no_field_that_is_set_is_ignored(path: str) -> None:
    """Setting any field of the request changes what is read, is a violation, or is not available yet."""
    plain = message(messages=user(text()))
    changed = pb.GenerateRequest()
    changed.CopyFrom(plain)
    if path.startswith("messages.parts."):
        del changed.messages[0].parts[:]
    if path.startswith("credentials."):
        del changed.credentials[:]
    if path.startswith("tool_choice."):
        changed.tools.add().function.name = "f"
    _set(changed, path)
    before = read_generate(plain)
    try:
        after = read_generate(changed)
    except DispatchError as error:
        assert error.reason in {Reason.INVALID_REQUEST, Reason.NOT_YET_AVAILABLE, Reason.UNKNOWN_FIELD}
    else:
        allowed_equal = {"response_format", "response_format.text"}  # plain text is what an absent format means
        assert repr(after) != repr(before) or path in allowed_equal | MEANINGLESS, path


MEANINGLESS = {"sampling", "limits", "target", "target.compatibility", "target.routing", "target.routing.max_price",
               "target.routing.sort_by", "target.routing.preferred_min_throughput_by",
               "target.routing.preferred_max_latency_by", "reasoning", "limits.connect_timeout",
               "limits.first_token_timeout", "limits.idle_timeout", "limits.total_timeout",
               "limits.coalesce_window", "limits.hedge_after"}  # fmt: skip
"""Messages and durations that are present but empty, which means the same as absent."""


@pytest.mark.parametrize(
    ("name", "field"), [(name, field) for name, fields in not_yet.FIELDS.items() for field in fields]
)
def test_the_table_of_what_is_not_built_names_real_fields(name: str, field: str) -> None:
    """Each line of the table is a field of the contract, so that a line cannot outlive it."""
    by_name = {
        descriptor.name: descriptor
        for file in pb.DESCRIPTOR.dependencies
        for descriptor in file.message_types_by_name.values()
    } | dict(pb.DESCRIPTOR.message_types_by_name)
    assert field in by_name[name].fields_by_name


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        (
            {"target": {"customEndpoint": {"headers": [{"name": "x"}], "credential": {"none": {}}}}},
            "target.custom_endpoint.headers",
        ),
        (
            {"fallbacks": [{}, {"customEndpoint": {"headers": [{"name": "x"}], "credential": {"none": {}}}}]},
            "fallbacks[1].custom_endpoint.headers",
        ),
        (
            {"credentials": [{"provider": "a", "credential": {"stored": {"name": "n"}}}]},
            "credentials[0].credential.stored",
        ),
    ],
)
def test_what_is_not_built_yet_is_refused_by_its_path(fields: dict[str, Any], path: str) -> None:
    """A field of a later release is NOT_YET_AVAILABLE, never ignored."""
    with pytest.raises(DispatchError) as raised:
        read_generate(message(**fields))
    assert (raised.value.reason, raised.value.field) == (Reason.NOT_YET_AVAILABLE, path)


def test_explaining_needs_no_conversation() -> None:
    """A route can be explained from target and keys alone."""
    request = json_format.ParseDict({"target": VALID["target"]}, pb.ExplainRouteRequest())
    assert read_explain(request).target.provider == "sandbox"


def test_a_window_to_gather_in_belongs_to_streams() -> None:
    """What means nothing for a whole answer is refused rather than ignored."""
    with pytest.raises(InvalidRequest) as raised:
        read_generate(message(limits={"coalesceWindow": "0.1s"}))
    assert raised.value.field == "limits.coalesce_window"
    streamed = pb.StreamGenerateRequest.FromString(message(limits={"coalesceWindow": "0.1s"}).SerializeToString())
    assert read_generate(streamed).coalesce_window == 0.1


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 5000])
def test_json_nested_beyond_sense_is_invalid(text: str) -> None:
    """It is the request's fault, named by its field."""
    with pytest.raises(InvalidRequest) as raised:
        read_generate(message(target={"provider": "sandbox", "optionsJson": text}))
    assert raised.value.field == "target.options_json"
    account = {"provider": "vertex", "credential": {"google": {"serviceAccount": {"json": text[:16000]}}}}
    with pytest.raises(InvalidRequest) as raised:
        read_generate(message(credentials=[account]))
    assert raised.value.field == "credentials[0].credential.google.service_account.json"


def test_routing_preferences_are_read_as_they_were_given() -> None:
    """Each by its name and in the contract's order, and nothing that was not given."""
    given = {
        "only": ["a"], "order": ["b", "a"], "allowFallbacks": False, "dataCollection": "DATA_COLLECTION_DENY",
        "sort": "price", "maxPrice": {"completion": 2.5}, "preferredMaxLatency": 0,
    }  # fmt: skip
    call = read_generate(message(target={"provider": "sandbox", "routing": given}))
    assert list(call.target.routing.items()) == [
        ("order", ["b", "a"]), ("only", ["a"]), ("allow_fallbacks", False), ("data_collection", "deny"),
        ("sort", "price"), ("max_price", {"completion": 2.5}), ("preferred_max_latency", 0.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("routing", "path"),
    [
        ({"order": ["a b"]}, "target.routing.order[0]"),
        ({"only": ["x"] * 65}, "target.routing.only"),
        ({"sort": "luck"}, "target.routing.sort"),
        ({"sortBy": {"by": "luck"}}, "target.routing.sort_by.by"),
        ({"sortBy": {"by": "price", "partition": "luck"}}, "target.routing.sort_by.partition"),
        ({"maxPrice": {"prompt": -1}}, "target.routing.max_price.prompt"),
        ({"maxPrice": {"audio": "Infinity"}}, "target.routing.max_price.audio"),
        ({"preferredMinThroughput": -1}, "target.routing.preferred_min_throughput"),
        ({"preferredMinThroughputBy": {"p50": 1, "p99": -1}}, "target.routing.preferred_min_throughput_by.p99"),
        ({"preferredMaxLatencyBy": {"p75": "NaN"}}, "target.routing.preferred_max_latency_by.p75"),
    ],
)
def test_a_preference_that_makes_no_sense_names_its_field(routing: dict[str, Any], path: str) -> None:
    """What no router could mean is the request's fault."""
    with pytest.raises(InvalidRequest) as raised:
        read_generate(message(target={"provider": "sandbox", "routing": routing}))
    assert raised.value.field == path


@pytest.mark.parametrize(
    ("name", "plain", "table"),
    [
        ("sort", "price", {"by": "price"}),
        ("preferred_min_throughput", 5, {"p50": 5}),
        ("preferred_max_latency", 0, {}),
    ],
)
def test_a_preference_is_given_in_one_of_its_forms(name: str, plain: str | float, table: dict[str, Any]) -> None:
    """Two forms of one preference contradict each other, even if they say the same; the error names both fields."""
    routing = {name: plain, f"{name}_by": table}
    with pytest.raises(InvalidRequest) as raised:
        read_generate(message(target={"provider": "sandbox", "routing": routing}))
    assert raised.value.violations == (
        Violation(
            f"target.routing.{name}_by", f"says in another form what target.routing.{name} says; set one of them"
        ),
    )
