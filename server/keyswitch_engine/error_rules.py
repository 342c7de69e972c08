"""What a provider's error means, by table.

A rule matches a status, a code or type, and a message; the first that matches decides. A provider's own rules, from
its file, come before the general ones, and those that look at words come before those that look at the status alone:
running out of credit hides under 400, 402, 403, 429 and 500, and reading it as a rate limit would retry for minutes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from keyswitch_engine.errors import ProviderError, Reason

__all__ = ["ErrorRule", "provider_error", "reason_of", "request_id"]


class ErrorRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of the table; an empty field matches anything."""

    reason: Reason
    status: tuple[int, ...] = ()
    code: str = ""
    """Regular expression that the code or the type matches in full; case does not matter."""
    message: str = ""
    """Regular expression that occurs in the message; case does not matter."""

    def matches(self, status: int, codes: Iterable[str], message: str) -> bool:
        """Tell whether an error fits this row."""
        return (
            (not self.status or status in self.status)
            and (not self.code or any(re.fullmatch(self.code, code, re.IGNORECASE) for code in codes))
            and (not self.message or re.search(self.message, message, re.IGNORECASE) is not None)
        )


_GENERAL = (
    # Google's wording of a quota for a minute or a day is that of a missing balance elsewhere.
    ErrorRule(Reason.INSUFFICIENT_CREDIT, status=(429,), message=r"credits? (are|is|have been) depleted"),
    ErrorRule(Reason.PROVIDER_RATE_LIMITED, status=(429,), code="RESOURCE_EXHAUSTED"),
    # Out of credit: every wording recorded in provider threads and documentation. Never retried, whatever the status.
    ErrorRule(
        Reason.INSUFFICIENT_CREDIT,
        code=r"insufficient_(quota|balance|credits?|funds)|billing.*|exceeded_current_quota.*|(monthly_)?quota_exceeded"
        r"|insufficient_balance_error|not_enough_balance|Arrearage|enforced_spend_limit_reached",
    ),
    ErrorRule(
        Reason.INSUFFICIENT_CREDIT,
        message=r"insufficient (account )?(balance|credits?|funds|quota)|credit balance is too low|out of credits?"
        r"|requires? (more|paid) (credits|balance)|exceeded your current quota|purchase (more )?credits|spending limit"
        r"|doesn't have any credits|used all available credits|paid balance is insufficient|not enough balance"
        r"|suspended due to (insufficient|lack|unpaid|overdue|billing)|reached your specified (\w+ )?API usage limits",
    ),
    ErrorRule(Reason.INSUFFICIENT_CREDIT, status=(402,)),
    # A rate limit before what its words resemble: "too many tokens" of a minute is no conversation that is too long.
    ErrorRule(Reason.PROVIDER_OVERLOADED, code="overloaded(_error)?|engine_overloaded.*"),
    ErrorRule(
        Reason.PROVIDER_OVERLOADED,
        status=(429, 500, 503, 529),
        message=r"overloaded|at capacity|no capacity|over capacity",
    ),
    ErrorRule(Reason.PROVIDER_RATE_LIMITED, status=(429,)),
    ErrorRule(
        Reason.PROVIDER_RATE_LIMITED,
        code="rate_limit(ed|_exceeded|_error|_reached_error)?|too_many_requests(_error)?"
        "|(request|token|daily|hourly)_quota_exceeded",
    ),
    ErrorRule(
        Reason.CONTEXT_OVERFLOW, code="context_length_exceeded|too_many_(prompt_)?tokens|exceed_context_size_error"
    ),
    ErrorRule(
        Reason.CONTEXT_OVERFLOW,
        message=r"maximum (context|prompt) length|context (length|window|size)[^.]{0,40}exceed"
        r"|exceeds? the (available |model'?s? )?(maximum )?context|prompt (is|has) too (long|many)"
        r"|prompt too long|exceed(s|ed)? (max(imum)? )?context|token count[^.]{0,40} exceeds the maximum"
        r"|too many (input )?tokens|input (is|too) (too )?long|exceeds the limit of \d+ tokens",
    ),
    ErrorRule(
        Reason.INVALID_CREDENTIAL,
        code="invalid_api_key|wrong_api_key|authentication_error|invalid_authentication"
        "|InvalidApiKey|authorized_error|unauthorized|unauthenticated|api_key_invalid|401",
    ),
    ErrorRule(
        Reason.INVALID_CREDENTIAL,
        status=(400, 401, 403),
        message=r"(incorrect|invalid|wrong|missing) api[ _-]?key|api[ _-]?key (is |not )?(invalid|not valid|found)"
        r"|no (auth|api key)|authentication (fails|failed)|invalid (subscription|authentication)|unauthorized"
        r"|invalid (access )?token",
    ),
    ErrorRule(Reason.INVALID_CREDENTIAL, status=(401,)),
    ErrorRule(Reason.CONTENT_REFUSED, code="content_?(policy|filter).*|moderation.*|ResponsibleAIPolicyViolation"),
    ErrorRule(
        Reason.CONTENT_REFUSED,
        message=r"content (management|moderation|usage|filtering) policy"
        r"|(violates|against) [^.]{0,40}policy|flagged by|requires moderation",
    ),
    ErrorRule(Reason.PROVIDER_OVERLOADED, status=(529, 498)),
    ErrorRule(Reason.PROVIDER_REJECTED_REQUEST, status=(413,)),
    ErrorRule(Reason.CREDENTIAL_NOT_PERMITTED, code="permission_(error|denied)"),
    ErrorRule(
        Reason.MODEL_NOT_FOUND, code="not_found(_error)?|model_not_found|invalid_model|unknown_model|no_such_model"
    ),
    ErrorRule(
        Reason.MODEL_NOT_FOUND,
        status=(400, 404),
        message=r"model\b.{0,120}\b(does not exist|not found|not exist|is not available)"
        r"|unknown model|no endpoints found",
    ),
    ErrorRule(Reason.PROVIDER_REJECTED_REQUEST, status=(404,), message=r"not supported"),
    ErrorRule(Reason.MODEL_NOT_FOUND, status=(404,)),
    ErrorRule(Reason.CREDENTIAL_NOT_PERMITTED, status=(403,)),
    ErrorRule(
        Reason.PROVIDER_REJECTED_REQUEST,
        code="invalid_request(_error)?|invalid_value|bad_request(_error)?|tool_use_failed|json_validate_failed",
    ),
    ErrorRule(Reason.PROVIDER_UNAVAILABLE, status=(408, 425)),
    ErrorRule(Reason.PROVIDER_REJECTED_REQUEST, status=(*range(400, 500), 501)),
)


def reason_of(status: int, codes: Iterable[str], message: str, rules: Iterable[ErrorRule] = ()) -> Reason:
    """Return what an error means; *rules* are the provider's own. What nothing matches is the provider's fault."""
    codes = tuple(codes)
    for rule in (*rules, *_GENERAL):
        if rule.matches(status, codes, message):
            return rule.reason
    return Reason.PROVIDER_UNAVAILABLE


_REQUEST_ID_HEADERS = (
    "x-request-id", "request-id", "x-amzn-requestid", "apim-request-id", "x-correlation-id", "mistral-correlation-id",
    "x-litellm-call-id", "llm_provider-x-request-id", "cf-aig-log-id", "nvcf-reqid", "x-kong-request-id", "cf-ray",
)  # fmt: skip


def request_id(headers: Mapping[str, str]) -> str:
    """Return the id that the provider gave the request, as its support asks for it; empty if there is none.

    It is as the provider sent it, and may quote a key.
    """
    for name in _REQUEST_ID_HEADERS:
        if value := headers.get(name):
            return value
    return ""


_LONGEST_MESSAGE = 4096
"""Characters of a message that are looked at: patterns take time, and a provider may send MiB of them."""


def provider_error(
    status: int, code: str, codes: Iterable[str], message: str, rules: Iterable[ErrorRule] = ()
) -> ProviderError:
    """Build the error for an answer whose fields a dialect has read; they are not yet fit to show."""
    message = message[:_LONGEST_MESSAGE]
    error = ProviderError(reason_of(status, codes, message, rules), message)
    error.upstream_status = status
    error.upstream_code = code
    return error
