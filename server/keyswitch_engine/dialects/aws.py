"""What failures look like at AWS: an exception's name in a header or a message's type, and a message in JSON.

The names are those of the Bedrock Runtime API reference, "Errors", and of AWS's common errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from keyswitch_engine.error_rules import ErrorRule, provider_error, request_id
from keyswitch_engine.errors import ProviderError, Reason
from keyswitch_engine.retry_after import retry_after
from keyswitch_engine.wire import MALFORMED_JSON
from keyswitch_engine.wire.aws_event_stream import AwsMessage

__all__ = ["AWS_STREAM", "read_aws_error", "read_exception"]

AWS_STREAM: Final = "application/vnd.amazon.eventstream"
"""Media type of event streams."""

_RULES = (
    ErrorRule(Reason.INSUFFICIENT_CREDIT, message=r"PAYMENT_INSTRUMENT|insufficient (balance|credit)"),
    # before the words: "Too many tokens, please wait" of a throttled call is no conversation that is too long
    ErrorRule(Reason.PROVIDER_RATE_LIMITED, code=r"Throttling.*|TooManyRequests.*|ServiceQuotaExceeded.*"),
    ErrorRule(Reason.PROVIDER_OVERLOADED, code=r"ModelNotReady.*|ServiceUnavailable.*"),
    ErrorRule(Reason.PROVIDER_RATE_LIMITED, status=(429,)),
    ErrorRule(Reason.CONTENT_REFUSED, message=r"content filtering policy"),
    ErrorRule(Reason.CONTEXT_OVERFLOW, message=r"too many (input )?tokens|input is too long|maximum context"
              r"|prompt is too long|input tokens exceed|exceeds? (the )?maximum (length|number of tokens)"),
    ErrorRule(Reason.INVALID_CREDENTIAL, code=r"UnrecognizedClient.*|InvalidSignature.*|ExpiredToken.*"
              r"|IncompleteSignature.*|MissingAuthenticationToken.*|InvalidClientTokenId.*|SignatureDoesNotMatch.*"),
    ErrorRule(Reason.INVALID_CREDENTIAL, status=(401, 403), message=r"api key|bearer token|security token|signature"),
    ErrorRule(Reason.CREDENTIAL_NOT_PERMITTED, code=r"AccessDenied.*|OptInRequired"),
    ErrorRule(Reason.MODEL_NOT_FOUND, code=r"ResourceNotFound.*"),
    ErrorRule(Reason.MODEL_NOT_FOUND, message=r"model identifier is invalid"),
    ErrorRule(Reason.PROVIDER_REJECTED_REQUEST, code=r"Validation.*|Serialization.*|Conflict.*"),
    ErrorRule(Reason.PROVIDER_UNAVAILABLE, code=r"InternalServer.*|Model(Stream)?Error.*|ModelTimeout.*"),
    ErrorRule(Reason.PROVIDER_UNAVAILABLE, status=(424,)),
)  # fmt: skip


class _Body(msgspec.Struct, rename={"kind": "__type"}):
    message: str | None = None
    Message: str | None = None  # of the common errors
    originalMessage: str | None = None  # noqa: N815 - what the model behind the service said
    kind: str | None = None  # the exception's name, after its namespace, where no header has it


_DECODER = msgspec.json.Decoder(_Body)


def read_aws_error(body: bytes, status: int, rules: Iterable[ErrorRule], headers: Mapping[str, str]) -> ProviderError:
    """Read a failure from an answer with an error's status; header names are lower-case."""
    error = _failure(headers.get("x-amzn-errortype", "").partition(":")[0], body, status, rules)
    error.upstream_request_id = request_id(headers)
    error.retry_after = retry_after(headers)
    return error


def read_exception(message: AwsMessage, rules: Iterable[ErrorRule]) -> ProviderError:
    """Read a failure from a message of kind `exception` or `error` inside a stream."""
    return _failure(message.type, message.payload, 200, rules)


def _failure(name: str, body: bytes, status: int, rules: Iterable[ErrorRule]) -> ProviderError:
    """Find out what a failure means; names are spelt with a small letter in streams."""
    try:
        read = _DECODER.decode(body)
    except MALFORMED_JSON:
        read = _Body()
    name = name or (read.kind or "").rpartition("#")[2]
    texts = [text for text in (read.message or read.Message, read.originalMessage) if text]
    told = ": ".join(texts) or f"the provider failed with {name or f'HTTP status {status}'} and no explanation"
    return provider_error(status, name, [name] if name else [], told, (*rules, *_RULES))
