"""TLS contexts: TLS 1.2 at least, no renegotiation, and errors that name the file."""

from __future__ import annotations

import ssl


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """For a listener. Two PEM files; the key may stand in the first. Raises ValueError with the file's name.

    Make it before the fork: workers that share it accept each other's session tickets.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _common(context)
    context.num_tickets = 1  # a client comes back with one; each further costs it 15 us
    _readable(certificate, "certificate")
    if key:
        _readable(key, "key")
    try:
        context.load_cert_chain(certificate, key or None)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"{key or certificate}: this key does not belong to {certificate}") from None
        which = f"{certificate} or {key}" if key else certificate
        raise ValueError(f"{which}: not a PEM certificate and its key ({error.reason or error})") from None
    return context


def client_context() -> ssl.SSLContext:
    """For another server, as far as it will: without DANE or MTA-STS no name says whose certificate to expect."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _common(context)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def verifying_context() -> ssl.SSLContext:
    """For a server that must prove its name, to the authorities this machine trusts (or $SSL_CERT_FILE names)."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    _common(context)
    return context


def _common(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION  # CPython leaves the first off


def _readable(path: str, what: str) -> None:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise ValueError(f"{path}: the {what} cannot be read: {error.strerror}") from None
