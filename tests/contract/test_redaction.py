from __future__ import annotations

import ast
import importlib
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import any_pb2, json_format, text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.rpc import status_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keyswitch.redaction import REDACTED, message_json, message_text, redacted
from keyswitch.v1 import credential_pb2, dispatch_service_pb2, target_pb2

ROOT = pathlib.Path(__file__).resolve().parents[2]
CANARY = "c4n4ry"
MODULES = [
    importlib.import_module(f"keyswitch.v1.{file.stem}")
    for file in sorted((ROOT / "proto/keyswitch/v1").glob("*_pb2.py"))
]
KINDS: dict[str, type[Message]] = {
    f"{module.DESCRIPTOR.package}.{name}": getattr(module, name)
    for module in MODULES
    for name in module.DESCRIPTOR.message_types_by_name
}


@st.composite
def messages(draw: st.DrawFn, kind: type[Message], depth: int = 0) -> Message:
    """Make a message in which every field that is secret has the canary in it, and many others have something."""
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        secret = field.GetOptions().debug_redact
        if not secret and (depth > 4 or draw(st.booleans())):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        values = [value(draw, field, depth, secret=secret) for _ in range(2 if field.is_repeated else 1)]
        if field.is_repeated:
            getattr(message, field.name).extend(values)
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(values[0])
        else:
            setattr(message, field.name, values[0])
    return message


def value(draw: st.DrawFn, field: FieldDescriptor, depth: int, *, secret: bool) -> Any:
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return CANARY + draw(st.text('ab<&"\\', max_size=3)) if secret else draw(st.sampled_from(["", "word"]))
        case FieldDescriptor.TYPE_BYTES:
            return CANARY.encode() if secret else b"bytes"
        case FieldDescriptor.TYPE_MESSAGE if field.message_type.full_name in KINDS:
            return draw(messages(KINDS[field.message_type.full_name], depth + 1))
        case FieldDescriptor.TYPE_MESSAGE:
            return field.message_type._concrete_class()
        case FieldDescriptor.TYPE_BOOL:
            return True
        case _:
            return 1


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.parametrize("name", sorted(KINDS))
@given(data=st.data())
def test_no_message_shows_a_secret(name: str, data: st.DataObject) -> None:
    """Whatever is in a message of the contract, none of the ways to show it has a secret, also packed; the rest stays."""
    message = data.draw(messages(KINDS[name]))
    packed = any_pb2.Any()
    packed.Pack(message)
    status = status_pb2.Status(details=[packed, packed])
    shown = [str(message), repr(message), f"{message}", f"{message!r}", "%s" % message, repr([message])]  # noqa: UP031
    shown += [message_text(message), message_json(message), message_text(status), message_json(status)]
    assert not [text for text in shown if CANARY in text]
    kept = redacted(message)
    if CANARY not in text_format.MessageToString(message):
        assert kept == message
    else:
        assert json_format.MessageToJson(kept).replace(REDACTED, "") != "{}"
    assert message.SerializeToString().count(CANARY.encode()) >= message_text(message).count(REDACTED)


def test_what_cannot_be_judged_is_left_out() -> None:
    """Unknown fields, and the content of an `Any` whose type is unknown or whose bytes are damaged, are not shown."""
    unknown = credential_pb2.Platform.FromString(credential_pb2.ApiKey(key=CANARY).SerializeToString())
    assert CANARY not in message_text(unknown)
    for url in ("type.googleapis.com/nobody.knows.It", "type.googleapis.com/keyswitch.v1.ApiKey"):
        packed = any_pb2.Any(type_url=url, value=b"\xff" + CANARY.encode())
        assert CANARY not in message_text(packed)
        assert url in message_text(packed)


def test_lists_of_messages_show_no_secret() -> None:
    """What a request holds is hidden in its lists and inner messages too, not only in itself."""
    request = dispatch_service_pb2.GenerateRequest()
    request.credentials.add(provider="p").credential.api_key.key = CANARY
    request.target.custom_endpoint.headers.add(name="x", value=CANARY)
    for shown in (request, request.credentials, request.credentials[0], request.target, request.target.custom_endpoint):
        assert CANARY not in repr(shown)
        assert REDACTED in repr(shown)


PUBLIC = {
    "ProviderCredential": {"provider", "label"},
    "ApiKey": {"organization", "project"},
    "GoogleCredential": {"project"},
    "AzureCredential": {"resource", "api_version"},
    "CloudflareCredential": {"account_id", "gateway_id"},
    "StoredCredential": {"name"},
}
"""Texts of messages about credentials that are no secrets."""
TELLING = ("key", "token", "secret", "password", "authorization", "credential")
"""What names of secrets have in them."""
NO_SECRETS = {
    "TokenLogprob.token", "TopLogprob.token", "TokenLogprob.token_bytes", "TopLogprob.token_bytes",
    "Attempt.key_fingerprint", "Target.credential_label", "Route.credential_label", "ListModelsRequest.keyed_providers",
    "ListModelsRequest.page_token", "ListModelsResponse.next_page_token", "ListProvidersRequest.page_token",
    "ListProvidersResponse.next_page_token", "Provider.vendor_token", "Provider.credential_kinds",
    "Provider.key_variables", "Provider.key_pattern", "Compatibility.max_tokens_field",
}  # fmt: skip
"""Names that sound like it, of what is not."""


def texts() -> Iterator[tuple[Descriptor, FieldDescriptor]]:
    for kind in KINDS.values():
        for field in kind.DESCRIPTOR.fields:
            if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
                yield kind.DESCRIPTOR, field


def test_every_secret_of_the_contract_is_marked() -> None:
    """What a message about credentials holds, and what sounds like a secret anywhere, is `debug_redact` or listed here."""
    unmarked = []
    for kind, field in texts():
        about_credentials = kind.file.name.endswith("/credential.proto")
        public = field.name in PUBLIC.get(kind.name, ()) or f"{kind.name}.{field.name}" in NO_SECRETS
        telling = any(word in field.name for word in TELLING)
        if (about_credentials or telling) and not public and not field.GetOptions().debug_redact:
            unmarked.append(f"{kind.name}.{field.name}")
    assert not unmarked
    assert target_pb2.Header.DESCRIPTOR.fields_by_name["value"].GetOptions().debug_redact


FORMATTERS = {"text_format", "json_format", "text_encoding"}
MAY_FORMAT = {"proto/keyswitch/redaction.py"}


def test_messages_are_formatted_in_one_place() -> None:
    """No other module of the product so much as imports what formats messages with their secrets."""
    found = []
    for folder in ("proto/keyswitch", "server", "clients"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            name = str(file.relative_to(ROOT))
            if name in MAY_FORMAT or name.endswith(("_pb2.py", "_pb2_grpc.py")):
                continue
            for node in ast.walk(ast.parse(file.read_text())):
                match node:
                    case ast.Import(names=names) | ast.ImportFrom(names=names):
                        said = {part for alias in names for part in alias.name.split(".")}
                        said |= set((getattr(node, "module", None) or "").split("."))
                    case ast.Attribute(attr=attribute):
                        said = {attribute}
                    case ast.Constant(value=str(text)):  # as `importlib.import_module` takes it
                        said = set(text.split(".")) if text.startswith("google.protobuf") else set()
                    case _:
                        continue
                if said & FORMATTERS:
                    found.append(f"{name}:{node.lineno}")
    assert not found
