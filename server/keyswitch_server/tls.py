"""TLS: certificates that are taken up when they change, and who a client's certificate says that it is."""

from __future__ import annotations

import pathlib
import ssl
from collections.abc import Iterable, Mapping

import grpc

from keyswitch_server.live_file import LiveFile, UnusableFileError, read_bytes

__all__ = ["identities", "read_certificates", "server_credentials"]


def read_certificates(
    certificate: pathlib.Path, key: pathlib.Path, client_ca: pathlib.Path | None
) -> grpc.ServerCertificateConfiguration:
    """Read the server's certificate chain with its key, and the authorities that sign certificates of clients.

    Raises:
        UnusableFileError: one cannot be read or is no PEM, or the key is another certificate's.
    """
    pair = read_bytes("tls_key", key), read_bytes("tls_certificate", certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password="")  # none, instead of asking for it
    except (OSError, ValueError) as error:  # OpenSSL's own are OSErrors
        mismatch = isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH"
        problem = "the key is not this certificate's" if mismatch else "not PEM, or the key needs a password"
        raise UnusableFileError(f"tls_certificate, tls_key: {problem}") from None
    authorities = None if client_ca is None else _authorities(client_ca)
    return grpc.ssl_server_certificate_configuration([pair], authorities)


def _authorities(client_ca: pathlib.Path) -> bytes:
    """Read the authorities of clients."""
    content = read_bytes("tls_client_ca", client_ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cadata=content.decode("ascii", "ignore"))  # comments may be in any language
    except (ssl.SSLError, ValueError):
        raise UnusableFileError(f"tls_client_ca: {client_ca} holds no certificates in PEM form") from None
    return content


def server_credentials(
    live: LiveFile[grpc.ServerCertificateConfiguration], *, client_certificates: bool
) -> grpc.ServerCredentials:
    """Return credentials that serve every new connection what is in force; with *client_certificates* each needs one.

    gRPC asks in a thread of its own before each handshake, so nothing but an attribute is read there. It knows no
    certificates that clients may leave out.
    """
    served = live()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal served
        latest = live()
        if latest is served:
            return None
        served = latest
        return latest

    return grpc.dynamic_ssl_server_credentials(
        served,
        fetch,  # type: ignore[arg-type] # None is documented as no change, and missing in the types
        require_client_authentication=client_certificates,
    )


def identities(auth_context: Mapping[str, Iterable[bytes]]) -> frozenset[str]:
    """Return what a verified certificate says of its holder: a SPIFFE id alone if it has one, else all of its names.

    What looks like a SPIFFE id elsewhere is none: it was not checked to be the only one.
    """
    spiffe = auth_context.get("peer_spiffe_id")
    names = spiffe or (
        *auth_context.get("x509_subject_alternative_name", ()),
        *auth_context.get("x509_common_name", ()),
    )
    told = frozenset(name.decode("utf-8", "replace") for name in names)
    return told if spiffe else frozenset(name for name in told if not name.lower().startswith("spiffe:"))
