"""Where nobody may send this service, as data: URLs by what is wrong with them, and what may be called.

`{port}` is the port at which a test listens, so that a target that got through would be seen there; policies under test
allow that port, lest it be the reason.
"""

# ruff: noqa: RUF001 - letters and digits that look like others are what is tested
from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["ADDRESSES", "ALLOWED", "REDIRECTED", "REFUSED", "TEXTS"]

TEXTS: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = {
    "numbers that some resolver reads as an address": ("INVALID_ENDPOINT", "its host is no name", (
        "https://2130706433:{port}/", "https://0x7f000001:{port}/", "https://0X7F000001:{port}/",
        "https://0x7f.0.0.1:{port}/", "https://0x7f.1:{port}/", "https://0177.0.0.1:{port}/",
        "https://017700000001:{port}/", "https://127.1:{port}/", "https://127.0.1:{port}/", "https://0:{port}/",
        "https://0x0:{port}/", "https://0x:{port}/", "https://127.0.0.01:{port}/", "https://127.0.0.0x1:{port}/",
        "https://127.0.0.1.0:{port}/", "https://127.0.0.256:{port}/", "https://127.0.0.1..:{port}/",
        "https://2130706433.:{port}/", "https://127.1.:{port}/", "https://2852039166/", "https://0xa9fea9fe/",
        "https://0251.0376.0251.0376/", "https://169.16689662/", "https://0xA9.254.0251.254/",
        "https://loopback.0x7f:{port}/", "https://18446744073709551617:{port}/",
    )),
    "hosts in disguise": ("INVALID_ENDPOINT", "its host is no name", (
        "https://１２７.０.０.１:{port}/", "https://①②⑦.⓪.⓪.①:{port}/", "https://127。0。0。1:{port}/",
        "https://127．0．0．1:{port}/", "https://127｡0｡0｡1:{port}/", "https://١٢٧.٠.٠.١:{port}/",
        "https://𝟏𝟐𝟕.𝟎.𝟎.𝟏:{port}/", "https://ｌocalhost:{port}/", "https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:{port}/",
        "https://localhost。:{port}/", "https://loca\u00adlhost:{port}/", "https://local\u200bhost:{port}/",
        "https://loo\u212a.example:{port}/", "https://api。openai。com/",
    )),
    "brackets around no plain address": ("INVALID_ENDPOINT", "its host", (
        "https://[::1%25lo]:{port}/", "https://[::1%lo]:{port}/", "https://[fe80::1%25eth0]/", "https://[fe80::1%1]/",
        "https://[::ffff:127.0.0.1%25lo]:{port}/", "https://[127.0.0.1]:{port}/", "https://[localhost]:{port}/",
        "https://[v1.127.0.0.1]:{port}/", "https://[]:{port}/", "https://[::1:{port}/", "https://::1]:{port}/",
        "https://[::1]{port}/", "https://[[::1]]:{port}/", "https://::1:{port}/", "https://[::127.0.0.01]:{port}/",
    )),
    "percent signs in a host": ("INVALID_ENDPOINT", "its host is no name", (
        "https://127%2e0%2e0%2e1:{port}/", "https://%31%32%37.0.0.1:{port}/", "https://localhost%00.example:{port}/",
        "https://127.0.0.1%2f.example:{port}/", "https://127.0.0.1%23.example:{port}/", "https://%6cocalhost:{port}/",
    )),
    "user names and what hides a host behind another": ("INVALID_ENDPOINT", "the endpoint's URL cannot be called", (
        "https://user@127.0.0.1:{port}/", "https://user:word@127.0.0.1:{port}/", "https://@127.0.0.1:{port}/",
        "https://api.openai.com@127.0.0.1:{port}/", "https://api.openai.com:443@127.0.0.1:{port}/",
        "https://127.0.0.1:{port}@api.openai.com/", "https://a@b@127.0.0.1:{port}/", "https://user@api.openai.com/",
        "https://127.0.0.1:{port}\\@api.openai.com/", "https://api.openai.com\\@127.0.0.1:{port}/",
        "https://api.openai.com\\.127.0.0.1:{port}/", "https://127.0.0.1:{port}#@api.openai.com/",
        "https://api.openai.com#@127.0.0.1:{port}/", "https://api.openai.com&@127.0.0.1:{port}#@api.openai.com/",
        "https://127.0.0.1:{port}/#api.openai.com", "https://127.0.0.1:{port}\t.example/",
        "https://127.0.0.1 .example:{port}/", "https://127.0.0.1\r\n.example:{port}/", "https://127.0.0.1\x00:{port}/",
        "https://127.0.0.1,api.openai.com:{port}/", "https://127.0.0.1;api.openai.com:{port}/",
    )),
    "ports that are none": ("INVALID_ENDPOINT", "", (
        "https://127.0.0.1:0/", "https://127.0.0.1:65536/", "https://127.0.0.1:99999/", "https://127.0.0.1:-1/",
        "https://127.0.0.1:+{port}/", "https://127.0.0.1:{port}x/", "https://127.0.0.1:{port}:443/",
        "https://127.0.0.1: {port}/", "https://127.0.0.1:٤٤٣/", "https://127.0.0.1:123456/", "https://:{port}/",
    )),
    "schemes that are none of ours": ("INVALID_ENDPOINT", "https://", (
        "ftp://127.0.0.1:{port}/", "file:///etc/passwd", "gopher://127.0.0.1:{port}/_GET", "ws://127.0.0.1:{port}/",
        "wss://127.0.0.1:{port}/", "unix:///var/run/docker.sock", "http+unix://%2Fvar%2Frun%2Fdocker.sock/",
        "dict://127.0.0.1:{port}/", "ldap://127.0.0.1:{port}/", "tcp://127.0.0.1:{port}/", "data:text/plain,x",
        "javascript:x", "//127.0.0.1:{port}/", "127.0.0.1:{port}/", "https:/127.0.0.1:{port}/",
        "https:127.0.0.1:{port}/", "https:\\\\127.0.0.1:{port}/", "://127.0.0.1:{port}/", "https//127.0.0.1:{port}/",
        "\thttps://127.0.0.1:{port}/", "https\t://127.0.0.1:{port}/", "httpſ://127.0.0.1:{port}/",
        "httpſ://api.openai.com/", "",
    )),
    "names that are none": ("INVALID_ENDPOINT", "its host is no name", (
        "https:///", "https://./", "https://../", "https://.localhost:{port}/", "https://localhost..:{port}/",
        "https://a..b/", "https://-a.example/", "https://a-.example/", "https://*.example/", "https://a b.example/",
        "https://" + "a" * 64 + ".example/", "https://" + "a." * 127 + "example/",
    )),
    "paths that lead elsewhere": ("INVALID_ENDPOINT", "", (
        "https://api.openai.com/v1/../v2", "https://api.openai.com/v1/./x", "https://api.openai.com/..",
        "https://api.openai.com/v1/%2e%2e/v2", "https://api.openai.com/v1/.%2E/v2",
        "https://api.openai.com/v1/..%2fv2", "https://api.openai.com/v1%2f..%2fv2", "https://api.openai.com/v1/%252e%252e/v2",
        "https://api.openai.com/v1/..%5cv2", "https://api.openai.com/v1\\..\\v2", "https://api.openai.com/v1#x",
        "https://api.openai.com/v1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "https://api.openai.com/v1\nX: y",
        "https://api.openai.com/ü", "https://api.openai.com/v1?a=b#c", "https://api.openai.com/a\x00b",
    )),
    "names that mean this machine or this network": ("BLOCKED_ENDPOINT", "local name", (
        "https://localhost:{port}/", "https://LOCALHOST:{port}/", "https://LocalHost.:{port}/",
        "https://sub.localhost:{port}/", "https://a.b.localhost.:{port}/", "https://localhost.localdomain:{port}/",
        "https://ip6-localhost:{port}/", "https://loopback:{port}/", "https://printer.local/", "https://PRINTER.LOCAL./",
        "https://metadata.google.internal/computeMetadata/v1/", "https://metadata.google.internal./",
        "https://metadata/", "https://host.docker.internal:{port}/", "https://gateway.internal/", "https://internal/",
        "https://router.home.arpa/", "https://home.arpa/", "https://intranet/", "https://kubernetes:{port}/",
    )),
    "calls without TLS": ("BLOCKED_ENDPOINT", "without TLS", (
        "http://api.openai.com/", "http://api.openai.com:443/", "HTTP://api.openai.com/", "http://127.0.0.1:{port}/",
        "http://[::1]:{port}/", "http://[::ffff:127.0.0.1]:{port}/", "http://localhost:{port}/",
        "http://169.254.169.254/latest/meta-data/", "http://metadata.google.internal/computeMetadata/v1/",
        "http://100.100.100.200/", "http://[fd00:ec2::254]/", "hTTp://localhost.:{port}/",
    )),
    "ports that nobody opened": ("BLOCKED_ENDPOINT", "its port", (
        "https://api.openai.com:22/", "https://api.openai.com:25/", "https://api.openai.com:80/",
        "https://api.openai.com:444/", "https://api.openai.com:6379/", "https://api.openai.com:8443/",
        "https://api.openai.com:65535/", "https://127.0.0.1:22/", "https://[::1]:11434/", "https://1.1.1.1:53/",
    )),
}  # fmt: skip
"""What the text of a URL gives away: the reason, words of the message, the URLs."""

ADDRESSES: Final[Mapping[str, tuple[str, ...]]] = {
    "loopback, in every spelling that a socket understands": (
        "127.0.0.1", "127.0.0.1.", "127.0.0.2", "127.255.255.254", "[::1]", "[0:0:0:0:0:0:0:1]",
        "[0000:0000:0000:0000:0000:0000:0000:0001]", "[::0.0.0.1]", "[::ffff:127.0.0.1]", "[::FFFF:7F00:1]",
        "[0:0:0:0:0:ffff:7f00:0001]", "[::ffff:127.255.255.254]", "0.0.0.0", "0.0.0.1", "[::]", "[::ffff:0.0.0.0]",
    ),
    "IPv4 inside of IPv6": (
        "[::127.0.0.1]", "[::10.0.0.1]", "[::169.254.169.254]", "[::ffff:10.0.0.1]", "[::ffff:a9fe:a9fe]",
        "[::ffff:0:127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b::10.0.0.1]",
        "[64:ff9b:1::127.0.0.1]", "[64:ff9b:1:a9fe:a9:fe00::]", "[2002:7f00:1::1]", "[2002:a9fe:a9fe::1]",
        "[2002:a00:1::]", "[2001:0:7f00:1::1]", "[2001:0:a9fe:a9fe::1]", "[2001:0:808:808::80ff:fffe]",
        "[2001:db8::5efe:127.0.0.1]", "[2a00:1450::5efe:127.0.0.1]", "[2a00:1450::200:5efe:169.254.169.254]",
    ),
    "metadata services": (
        "169.254.169.254", "169.254.169.254.", "169.254.170.2", "169.254.169.123", "100.100.100.200", "168.63.129.16",
        "192.0.0.192", "[fd00:ec2::254]", "[fd00:ec2::23]", "[fd20:ce::254]", "[fd00:42::42]", "[fd00:c1::a9fe:a9fe]",
        "[::ffff:169.254.169.254]", "[fe80::a9fe:a9fe]",
    ),
    "networks that are not public": (
        "10.0.0.1", "10.255.255.254", "172.16.0.1", "172.31.255.254", "192.168.0.1", "192.168.255.254", "100.64.0.1",
        "100.127.255.254", "169.254.0.1", "192.0.0.1", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.19.255.254",
        "198.51.100.1", "203.0.113.1", "[fc00::1]", "[fd12:3456::1]", "[fe80::1]", "[fec0::1]", "[feff::1]",
        "[100::1]", "[2001::1]", "[2001:2::1]", "[2001:10::1]", "[2001:20::1]", "[2001:db8::1]", "[3ffe::1]", "[3fff::1]",
        "[5f00::1]", "[4000::1]",
    ),
    "addresses of many": ("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "[ff02::1]", "[ff0e::1]"),
}  # fmt: skip
"""Hosts that are addresses, which are judged at the socket."""

REFUSED: Final = (
    *((url, reason, words) for reason, words, urls in TEXTS.values() for url in urls),
    *(
        (f"https://{host}:{{port}}/", "BLOCKED_ENDPOINT", "its address")
        for hosts in ADDRESSES.values()
        for host in hosts
    ),
)
"""Every target: URL, reason, words of the message."""

REDIRECTED: Final = (
    "http://127.0.0.1:{port}/v1", "https://127.0.0.1:{port}/v1", "//127.0.0.1:{port}/v1", "http://[::1]:{port}/",
    "http://localhost:{port}/", "http://169.254.169.254/latest/meta-data/", "https://api.openai.com/v1/chat/completions",
    "/v1/files", "../../v1/files", "?again", "file:///etc/passwd", "http://2130706433:{port}/", "",
)  # fmt: skip
"""Where a redirect may point; none is followed, not even within one origin."""

ALLOWED: Final[Mapping[str, str]] = {
    "https://api.openai.com/v1/chat/completions": "https://api.openai.com/v1/chat/completions",
    "https://API.OpenAI.com./v1": "https://api.openai.com/v1",
    "HTTPS://api.anthropic.com:443/v1/messages": "https://api.anthropic.com/v1/messages",
    "https://bücher.example/v1": "https://xn--bcher-kva.example/v1",
    "https://BÜCHER.example/v1": "https://xn--bcher-kva.example/v1",
    "https://xn--bcher-kva.example": "https://xn--bcher-kva.example",
    "https://my_gateway.example/v1": "https://my_gateway.example/v1",
    "https://123.example/v1": "https://123.example/v1",
    "https://0x7f.example/v1": "https://0x7f.example/v1",
    "https://1.1.1.1/v1": "https://1.1.1.1/v1",
    "https://8.8.8.8.:443/v1": "https://8.8.8.8/v1",
    "https://[2606:4700:4700:0:0:0:0:1111]/v1": "https://[2606:4700:4700::1111]/v1",
    "https://[64:ff9b::8.8.8.8]/v1": "https://[64:ff9b::808:808]/v1",
    "https://gateway.example:{port}/v1": "https://gateway.example:{port}/v1",
    "https://localhost.example/v1": "https://localhost.example/v1",
    "https://notlocalhost.example/v1": "https://notlocalhost.example/v1",
    "https://internal.example/v1": "https://internal.example/v1",
    "https://local.example/v1": "https://local.example/v1",
    "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse": (
        "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse"
    ),
    "https://bedrock-runtime.us-east-1.amazonaws.com/model/arn%3Aaws%3Abedrock%2Fx..y/converse": (
        "https://bedrock-runtime.us-east-1.amazonaws.com/model/arn%3Aaws%3Abedrock%2Fx..y/converse"
    ),
    "https://r.openai.azure.com/openai/deployments/a%2Fb/chat/completions?api-version=2024-10-21&a=../b": (
        "https://r.openai.azure.com/openai/deployments/a%2Fb/chat/completions?api-version=2024-10-21&a=../b"
    ),
    "https://gateway.example/...": "https://gateway.example/...",
    "https://gateway.example/.well-known/v1": "https://gateway.example/.well-known/v1",
}
"""What may be called over https at 443, and as which URL."""
