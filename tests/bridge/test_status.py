from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st
from keyswitch.v1 import error_pb2
from keyswitch_bridge.status import CODES, MAX_DETAILS_BYTES, internal_failure, rpc_failure
from keyswitch_engine.errors import DispatchError, InvalidRequest, Reason, Violation
from keyswitch_engine.events import Attempt, AttemptOutcome, Billing, CredentialSource, ReportedUsage, Usage


def status_of(failure: object) -> status_pb2.Status:
    metadata = dict(failure.trailing_metadata)  # type: ignore[attr-defined] # an RpcFailure
    return status_pb2.Status.FromString(metadata["grpc-status-details-bin"])


def test_reasons_are_the_contracts() -> None:
    """The engine's reasons and the contract's are the same words, and each has a code."""
    contract = {name.removeprefix("ERROR_REASON_") for name in error_pb2.ErrorReason.keys()} - {"UNSPECIFIED"}
    assert {reason.value for reason in Reason} == contract
    assert set(CODES) == set(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_makes_a_status_with_details(reason: Reason) -> None:
    """Code, ErrorInfo and DispatchFailure agree, and gRPC itself never retries what is not its to retry."""
    failure = rpc_failure(DispatchError(reason, "it failed"))
    status = status_of(failure)
    info, detail = error_details_pb2.ErrorInfo(), error_pb2.DispatchFailure()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(detail)
    assert (info.reason, info.domain) == (reason.value, "keyswitch.v1")
    assert error_pb2.ErrorReason.Name(detail.reason) == f"ERROR_REASON_{reason.value}"
    assert detail.origin != error_pb2.ERROR_ORIGIN_UNSPECIFIED
    assert status.code == failure.code.value[0] == CODES[reason].value[0]
    pushback = dict(failure.trailing_metadata).get("grpc-retry-pushback-ms")
    assert pushback == (None if reason in (Reason.OVERLOADED, Reason.CALLER_LIMITED) else "-1")


ATTEMPTS = st.builds(
    Attempt,
    number=st.integers(1, 99), provider=st.text(max_size=64), model=st.text(max_size=300), origin_host=st.text(max_size=200),
    credential_source=st.sampled_from(CredentialSource), billing=st.sampled_from(Billing),
    outcome=st.sampled_from(AttemptOutcome), upstream_request_id=st.text(max_size=200),
)  # fmt: skip


@given(
    message=st.text(max_size=9000),
    model=st.text(max_size=5000),
    attempts=st.lists(ATTEMPTS, max_size=30),
    violations=st.lists(st.builds(Violation, st.text(max_size=900), st.text(max_size=900)), min_size=1, max_size=20),
    invalid=st.booleans(),
)
def test_details_always_fit(
    message: str, model: str, attempts: list[Attempt], violations: list[Violation], invalid: bool
) -> None:
    """However much there is to tell, the status stays below the bound and still has its first two details."""
    error = InvalidRequest(violations) if invalid else DispatchError(Reason.PROVIDER_OVERLOADED, message, field=model)
    error.model, error.provider, error.upstream_code, error.upstream_request_id = model, "p", message, model
    error.attempts = tuple(attempts)
    error.retry_after = 1e12
    error.partial_usage = Usage(1, 2, 3, 4, 5, ReportedUsage(1, 2, json="x" * 2048))
    failure = rpc_failure(error)
    status = status_of(failure)
    assert status.ByteSize() <= MAX_DETAILS_BYTES
    assert len(failure.message.encode()) <= 4096
    detail = error_pb2.DispatchFailure()
    assert status.details[1].Unpack(detail)
    assert detail.partial_usage.output_tokens == 2


def test_the_last_attempts_are_kept() -> None:
    """Where not all attempts fit, the oldest go first."""
    error = DispatchError(Reason.PROVIDER_UNAVAILABLE, "down")
    error.attempts = tuple(
        Attempt(number, "p", "m" * 250, "h", CredentialSource.CALLER, Billing.BYOK, AttemptOutcome.FAILED)
        for number in range(1, 31)
    )
    detail = error_pb2.DispatchFailure()
    status_of(rpc_failure(error)).details[1].Unpack(detail)
    numbers = [attempt.number for attempt in detail.attempts]
    assert numbers[-1] == 30
    assert numbers == list(range(numbers[0], 31))
    assert len(numbers) > 3


def test_a_bug_tells_nothing_but_its_incident() -> None:
    """The status for a bug of ours holds a random id only."""
    failure = internal_failure("abc123")
    assert (failure.code, failure.message) == (grpc.StatusCode.INTERNAL, "internal error; incident abc123")
