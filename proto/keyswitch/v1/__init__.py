"""Version 1 of the keyswitch contract. Its messages show themselves without the secrets in them."""

from keyswitch.redaction import hide_secrets
from keyswitch.v1 import (
    conversation_pb2,
    credential_pb2,
    dispatch_service_pb2,
    error_pb2,
    event_pb2,
    registry_service_pb2,
    target_pb2,
    usage_pb2,
)

hide_secrets(
    module.DESCRIPTOR
    for module in (
        conversation_pb2,
        credential_pb2,
        dispatch_service_pb2,
        error_pb2,
        event_pb2,
        registry_service_pb2,
        target_pb2,
        usage_pb2,
    )
)
