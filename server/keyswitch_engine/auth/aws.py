"""AWS Signature Version 4, by botocore's signer fed with explicit keys.

No session and no credential chain: nothing is read from the environment, from files or from a metadata service. The
signer comes with the extra `bedrock` and is loaded when the first request is signed.
"""

from __future__ import annotations

from collections.abc import Mapping

from keyswitch_engine.errors import Reason, Unavailable
from keyswitch_engine.secret import HiddenText

__all__ = ["sign"]


def sign(
    access_key_id: str,
    secret_access_key: str,
    session_token: str,
    *,
    region: str,
    service: str,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
) -> dict[str, str]:
    """Return the headers that sign a request; *session_token* is empty unless the keys are temporary.

    Raises:
        Unavailable: this installation lacks botocore.
    """
    try:
        from botocore.auth import SigV4Auth  # noqa: PLC0415 - an extra
        from botocore.awsrequest import AWSRequest  # noqa: PLC0415 - likewise
        from botocore.credentials import Credentials  # noqa: PLC0415 - likewise
    except ImportError as error:
        raise Unavailable(
            Reason.UNSUPPORTED_FEATURE, "this installation lacks the extra 'bedrock', which signs AWS requests"
        ) from error
    # only what proxies and transports never touch is signed, beside the host, which botocore takes from the URL
    signed = {name: value for name, value in headers.items() if name.lower() == "content-type"}
    request = AWSRequest(method=method, url=url, data=body, headers=signed)
    SigV4Auth(Credentials(access_key_id, secret_access_key, session_token or None), service, region).add_auth(request)
    return {name: HiddenText(value) for name, value in request.headers.items() if name not in signed}
