from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keyswitch.v1 import conversation_pb2, dispatch_service_pb2, target_pb2
from keyswitch_bridge.requests import read_explain
from keyswitch_bridge.routes import explain_message
from keyswitch_engine import registry
from keyswitch_engine.errors import DispatchError, InvalidRequest, Reason

ROWS = registry.load()
SAID = "sesame"


def explained(provider: str, model: str, *, dialect: str = "", options: str = "", **fields: object) -> str:
    """Return the outline of a request in which little but the options is said."""
    request = dispatch_service_pb2.ExplainRouteRequest(include_body=True, **fields)  # type: ignore[arg-type]
    request.target.MergeFrom(target_pb2.Target(provider=provider, model=model, dialect=dialect, options_json=options))
    request.credentials.add(provider=provider).credential.api_key.key = "k"
    message = request.messages.add(role=conversation_pb2.ROLE_USER)
    message.parts.add().text.text = SAID
    return explain_message(ROWS, read_explain(request)).routes[0].body_json


def test_preferences_are_shown_and_options_are_not() -> None:
    """What a router is wished to do is told in full, beside the caller's options, of which the names are."""
    routing = target_pb2.RoutingPreferences(only=["amazon-bedrock"], sort="price", zdr=True)
    body = explained(
        "openrouter", "openai/gpt-4o", options='{"plugins": [{"id": "web"}], "n": 3}',
        target=target_pb2.Target(routing=routing),
    )  # fmt: skip
    assert body == (
        '{"model":"openai/gpt-4o","messages":[{"role":"user","content":"…"}],"stream":true,'
        '"stream_options":{"include_usage":true},"plugins":"…","n":"…",'
        '"provider":{"only":["amazon-bedrock"],"zdr":true,"sort":"price"}}'
    )


@pytest.mark.parametrize(
    ("provider", "model", "options"),
    [
        ("cohere", "command-a-03-2025", {"documents": [{"data": {"status": SAID, "salary": 90000}}]}),
        ("openai", "gpt-4o", {"prompt": {"id": SAID, "variables": {"mode": SAID}}}),
        ("gemini", "gemini-2.5-pro", {"labels": {"type": SAID}, "generationConfig": {"responseSchema": {SAID: 1}}}),
        ("gemini", "gemini-2.5-pro", {"toolConfig": {"retrievalConfig": {"latLng": {"latitude": 90000}}}}),
        ("vllm", "m", {"guided_json": {"type": SAID}, "chat_template_kwargs": {"mode": SAID}}),
        ("llamacpp", "m", {"json_schema": {"schema": SAID, "type": SAID}}),
        ("ollama", "m", {"format": {"type": ["object", "null"], "model": SAID}}),
    ],
)
def test_no_option_of_any_provider_is_shown(provider: str, model: str, options: dict[str, object]) -> None:
    """Whatever an option holds, and whatever it is called there, only the name of the option itself is told."""
    body = explained(provider, model, options=json.dumps(options))
    assert (SAID in body, "90000" in body) == (False, False)
    assert json.loads(body).keys() >= options.keys()


def test_a_body_that_cannot_be_written_is_refused_as_the_call_would_be() -> None:
    """The outline asks no less of a request than its dialect does: what is wrong with it is said of the request."""
    arguments = conversation_pb2.ToolCallPart(id="1", name="f", arguments_json="[]")
    turn = conversation_pb2.Message(
        role=conversation_pb2.ROLE_ASSISTANT, parts=[conversation_pb2.Part(tool_call=arguments)]
    )
    with pytest.raises(InvalidRequest) as refused:
        explained("anthropic", "claude-sonnet-4-5", messages=[turn])
    assert refused.value.field == "messages[0].parts[0].tool_call.arguments_json"
    with pytest.raises(InvalidRequest) as refused:
        explained("openai", "gpt-4o", options='{"input": []}')
    assert refused.value.field == "target.options_json"


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4),
        st.sampled_from(["\ud800", "\udcff", 10**400, -(10**30)]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=4), st.sampled_from(["a\ud800", "type", "messages"])), inner),
    ),
    max_leaves=12,
)  # fmt: skip
NAMES = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        ["messages", "stream", "options", "generationConfig", "toolConfig", "provider", "metadata", "\udfff"]
    ),
)
DEEP = st.integers(1, 1200).map(lambda depth: f'{{"stream_options":{{"a":{"[" * depth}1e999{"]" * depth}}}}}')
OPTIONS = st.one_of(st.dictionaries(NAMES, JSON, max_size=4).map(json.dumps), JSON.map(json.dumps), DEEP, st.text())
SPEAKERS = sorted(
    (row.id, surface.dialect.name)
    for row in ROWS.providers.values()
    for surface in row.dialects
    if "api_key" in row.auth.accepts and not row.parameters
)


@given(st.sampled_from(SPEAKERS), OPTIONS)
def test_any_options_are_explained_or_refused(speaker: tuple[str, str], options: str) -> None:
    """Infinite numbers, halves of characters, deep nesting, no JSON at all: an outline or a typed error, no crash."""
    provider, dialect = speaker
    options = options.encode("utf-8", "replace").decode()
    try:
        body = explained(provider, "m", dialect=dialect, options=options)
    except DispatchError as error:
        assert (error.reason, error.field) == (Reason.INVALID_REQUEST, "target.options_json")
    else:
        assert isinstance(json.loads(body), dict)
