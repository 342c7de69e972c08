from __future__ import annotations

import psutil
import pytest
from keyswitch_client import AsyncClient, ProviderError
from support import ServerProcess


@pytest.mark.parametrize(
    ("model", "stream", "reason"),
    [
        ("huge-line", True, "PROVIDER_PROTOCOL_ERROR"),
        ("gzip-bomb", False, "PROVIDER_PROTOCOL_ERROR"),
        ("gzip-bomb", True, "PROVIDER_PROTOCOL_ERROR"),
        ("many-headers", False, "PROVIDER_PROTOCOL_ERROR"),
        ("many-headers", True, "PROVIDER_PROTOCOL_ERROR"),
    ],
)
async def test_a_provider_that_sends_too_much_is_cut_off(
    client: AsyncClient, server: ServerProcess, model: str, stream: bool, reason: str
) -> None:
    """Endless lines, bombs and headers by the thousand end in a typed error, within memory."""
    arguments = {"model": f"sandbox/{model}", "credentials": {"sandbox": "k"}, "messages": "x"}
    with pytest.raises(ProviderError) as raised:
        if stream:
            await client.stream(**arguments).final()  # type: ignore[arg-type] # plain strings
        else:
            await client.generate(**arguments)  # type: ignore[arg-type] # plain strings
    assert raised.value.reason == reason
    assert psutil.Process(server.process.pid).memory_info().rss < 250e6
