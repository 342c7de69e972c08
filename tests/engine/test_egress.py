from __future__ import annotations

import ipaddress
import socket

import pytest
from keyswitch_engine.egress import BlockedAddressError, Egress
from keyswitch_engine.egress_policy import EgressPolicy

PUBLIC = """
1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 168.63.129.15
168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.0.3.0 192.88.98.255 192.88.100.0
192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 198.51.99.255 198.51.101.0 203.0.112.255 203.0.114.0
223.255.255.255
2000::1 2001:200::1 2001:4860:4860::8888 2001:db7:ffff::1 2001:db9::1 2003::1 2600:1f18::1 2606:4700:4700::1111
2a00:1450:4001:81b::200e 3fff:1000::1 2a00:1450::5efe:8.8.8.8
64:ff9b::8.8.8.8 ::ffff:8.8.8.8
"""
PRIVATE = """
0.0.0.0 0.0.0.1 0.255.255.255
10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255
100.64.0.0 100.127.255.255 100.100.100.200
127.0.0.1 127.255.255.255
169.254.0.0 169.254.169.254 169.254.170.2 169.254.255.255 168.63.129.16
192.0.0.0 192.0.0.9 192.0.0.192 192.0.0.255
192.0.2.0 192.0.2.255 198.51.100.1 203.0.113.255
192.88.99.1 198.18.0.0 198.19.255.255
224.0.0.1 239.255.255.255 240.0.0.0 255.255.255.254 255.255.255.255
:: ::1 ::2
fe80::1 febf:ffff::1 fec0::1 feff::1 fc00::1 fd00::1 fdff:ffff::1 fd00:ec2::254 fd20:ce::254 ff02::1 ff0e::1
100::1 1fff:ffff::1 4000::1 5f00::1 8000::1
2001::1 2001:2::1 2001:10::1 2001:20::1 2001:30::1 2001:1ff:ffff::1 2001:db8::1 2001:db8:ffff::1
3ffe::1 3fff::1 3fff:fff::1
::ffff:0.0.0.0 ::ffff:10.0.0.1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:168.63.129.16 ::ffff:224.0.0.1
::127.0.0.1 ::10.0.0.1 ::169.254.169.254 ::8.8.8.8
::ffff:0:127.0.0.1 ::ffff:0:8.8.8.8
64:ff9b::127.0.0.1 64:ff9b::10.0.0.1 64:ff9b::169.254.169.254 64:ff9b::168.63.129.16
64:ff9b:1::1 64:ff9b:1::8.8.8.8 64:ff9b:1::10.0.0.1 64:ff9b:2::1
2002:a9fe:a9fe::1 2002:7f00:1::1 2002:808:808::1
2001:0:808:808:0:0:f5ff:fffe 2001:0:808:808:0:0:f7f7:f7f7
2a00:1450::5efe:10.0.0.1 2a00:1450::200:5efe:169.254.169.254 2a00:1450::5efe:127.0.0.1
"""
METADATA = """
169.254.169.254 169.254.170.2 100.100.100.200 168.63.129.16 192.0.0.192 0.0.0.0 224.0.0.1 255.255.255.255
:: fe80::1 ff02::1 fd00:ec2::254 fd00:ec2::23 fd20:ce::254 fd00:42::42 fd00:c1::a9fe:a9fe
::ffff:169.254.169.254 ::169.254.169.254 64:ff9b::169.254.169.254 64:ff9b:1::169.254.169.254
64:ff9b:1:a9fe:a9:fe00:: 64:ff9b:1:a9fe:a9:fe00:808:808 2002:a9fe:a9fe::1 2001:0:a9fe:a9fe::1 2001:0:808:808::5601:5601
fd12::5efe:169.254.169.254 ::ffff:0:169.254.169.254
"""
EVERYTHING = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


def connects(policy: EgressPolicy, address: str) -> bool:
    """Tell whether a socket is opened for an address, which is then not connected."""
    version = ipaddress.ip_address(address.partition("%")[0]).version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    try:
        opened = Egress(policy)._socket((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 443)))
    except BlockedAddressError:
        return False
    opened.close()
    return True


@pytest.mark.parametrize("address", PUBLIC.split())
def test_a_public_address_gets_a_socket(address: str) -> None:
    """An address of the internet's may be called, also just beside a block that may not."""
    assert connects(EgressPolicy(), address)


@pytest.mark.parametrize("address", [*PRIVATE.split(), *METADATA.split(), "fe80::1%eth0"])
def test_an_address_that_is_not_public_gets_no_socket(address: str) -> None:
    """Whatever is private, special, reserved, or embeds such an address, is refused without an allowance."""
    assert not connects(EgressPolicy(), address)


@pytest.mark.parametrize("address", METADATA.split())
def test_metadata_services_are_refused_whatever_is_allowed(address: str) -> None:
    """No network that an operator allows opens link-local addresses or a cloud's metadata, in any spelling."""
    assert not connects(EgressPolicy(EVERYTHING), address)


@pytest.mark.parametrize(
    ("network", "address", "allowed"),
    [
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("10.0.0.0/8", "192.168.0.1", False),
        ("10.0.0.0/8", "64:ff9b::10.1.2.3", False),
        ("10.0.0.0/8", "::10.1.2.3", False),
        ("10.0.0.0/8", "2002:a01:203::1", False),
        ("127.0.0.0/8", "127.0.0.1", True),
        ("::1/128", "::1", True),
        ("127.0.0.0/8", "::1", False),
        ("fd00::/8", "fd12::1", True),
        ("fd00::/8", "fec0::1", False),
        ("100.64.0.0/10", "100.64.1.1", True),
        ("64:ff9b:1::/48", "64:ff9b:1::8.8.8.8", True),
        ("64:ff9b:1::/48", "64:ff9b:1:808:8:800::", True),
        ("240.0.0.0/4", "250.0.0.1", True),
    ],
)
def test_an_operator_opens_the_networks_he_names(network: str, address: str, allowed: bool) -> None:
    """An allowance is for the network's own addresses, not for others that lead there through a gateway."""
    assert connects(EgressPolicy((ipaddress.ip_network(network),)), address) is allowed
