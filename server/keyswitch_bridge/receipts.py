"""Usage and receipts as messages of the contract."""

from __future__ import annotations

import msgspec
from google.protobuf.duration_pb2 import Duration
from keyswitch.v1 import usage_pb2
from keyswitch_engine import events as model

__all__ = ["BILLINGS", "SOURCES", "attempt_message", "seconds", "usage_message"]

BILLINGS = {
    model.Billing.BYOK: usage_pb2.BILLING_BYOK,
    model.Billing.PLATFORM: usage_pb2.BILLING_PLATFORM,
}
SOURCES = {
    model.CredentialSource.CALLER: usage_pb2.CREDENTIAL_SOURCE_CALLER,
    model.CredentialSource.STORED: usage_pb2.CREDENTIAL_SOURCE_STORED,
    model.CredentialSource.PLATFORM: usage_pb2.CREDENTIAL_SOURCE_PLATFORM,
    model.CredentialSource.NONE: usage_pb2.CREDENTIAL_SOURCE_NONE,
}
_OUTCOMES = {
    model.AttemptOutcome.SUCCEEDED: usage_pb2.ATTEMPT_OUTCOME_SUCCEEDED,
    model.AttemptOutcome.FAILED: usage_pb2.ATTEMPT_OUTCOME_FAILED,
    model.AttemptOutcome.CANCELLED: usage_pb2.ATTEMPT_OUTCOME_CANCELLED,
}


def usage_message(usage: model.Usage) -> usage_pb2.Usage:
    """Turn token counts into their message; a count that is None stays absent."""
    message = usage_pb2.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
    )
    if usage.reported is not None:
        message.reported.CopyFrom(usage_pb2.ReportedUsage(**msgspec.structs.asdict(usage.reported)))
    return message


def seconds(value: float) -> Duration:
    """Turn seconds into a duration, to the microsecond."""
    microseconds = round(value * 1e6)
    return Duration(seconds=microseconds // 1_000_000, nanos=microseconds % 1_000_000 * 1000)


def attempt_message(attempt: model.Attempt) -> usage_pb2.Attempt:
    """Turn a line of the receipt into its message."""
    return usage_pb2.Attempt(
        number=attempt.number,
        provider=attempt.provider,
        model=attempt.model,
        origin_host=attempt.origin_host,
        credential_source=SOURCES[attempt.credential_source],
        billing=BILLINGS[attempt.billing],
        outcome=_OUTCOMES[attempt.outcome],
        failure_reason=attempt.failure_reason,
        upstream_status=attempt.upstream_status,
        upstream_request_id=attempt.upstream_request_id,
        queue_time=seconds(attempt.queue_time),
        connect_time=None if attempt.connect_time is None else seconds(attempt.connect_time),
        first_token_time=None if attempt.first_token_time is None else seconds(attempt.first_token_time),
        total_time=seconds(attempt.total_time),
        key_fingerprint=attempt.key_fingerprint,
    )
