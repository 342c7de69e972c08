from __future__ import annotations

import re

from google.protobuf import json_format
from keyswitch.v1 import credential_pb2, target_pb2
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch_bridge.redact import show

SECRET_NAMES = re.compile(r"(^|_)(key|token|secret_access_key|access_key_id|session_token)$")


def test_every_secret_field_is_marked() -> None:
    """Fields that are named like secrets, and the texts that hold them, carry the option that redacts them."""
    marked = set()
    for descriptor in (
        *credential_pb2.DESCRIPTOR.message_types_by_name.values(),
        *target_pb2.DESCRIPTOR.message_types_by_name.values(),
    ):
        for field in descriptor.fields:
            if field.GetOptions().debug_redact:
                marked.add(f"{descriptor.name}.{field.name}")
            else:
                is_text = field.type in (field.TYPE_STRING, field.TYPE_BYTES)
                assert not (is_text and SECRET_NAMES.search(field.name)), field.full_name
    assert {"ServiceAccountKey.json", "Header.value", "ApiKey.key", "BearerToken.token"} <= marked


def test_a_shown_request_holds_no_secret() -> None:
    """Keys at any depth are redacted, the rest is as it was, and the message itself is untouched."""
    request = json_format.ParseDict(
        {
            "target": {"customEndpoint": {"headers": [{"name": "x-a", "value": "hidden-1"}]}},
            "credentials": [
                {"provider": "a", "credential": {"apiKey": {"key": "hidden-2", "project": "shown"}}},
                {"provider": "b", "credential": {"aws": {"accessKey": {"secretAccessKey": "hidden-3"}}}},
            ],
        },
        pb.GenerateRequest(),
    )
    shown = show(request)
    assert "hidden" not in shown
    assert "shown" in shown
    assert request.credentials[0].credential.api_key.key == "hidden-2"
