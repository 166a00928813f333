"""TLS contexts: TLS 1.2 at least, no renegotiation, and errors that name the file."""

from __future__ import annotations

import ssl
import time

SOON = 7 * 86400.0  # a certificate is renewed at least a week before its end; who has not done it wants to know


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
        load(context, certificate, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"{key or certificate}: this key does not belong to {certificate}") from None
        try:
            dates(certificate)
        except ValueError:
            raise ValueError(f"{certificate}: not a PEM certificate (-----BEGIN CERTIFICATE-----)") from None
        raise ValueError(f"{key or certificate}: not a PEM private key (-----BEGIN PRIVATE KEY-----)") from None
    return context


def load(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Both files into a context. Raises ssl.SSLError, OSError, or ValueError for a key with a passphrase."""

    def asked() -> str:  # else OpenSSL would ask whoever has started the server, and wait
        raise ValueError(
            f'{key or certificate}: the key has a passphrase; "openssl pkey -in OLD -out NEW" takes it off'
        )

    context.load_cert_chain(certificate, key or None, asked)


def dates(certificate: str) -> tuple[float, float]:
    """From when until when the first certificate of a PEM file is good, in seconds since 1970. Raises ValueError."""
    from cryptography import x509  # heavy, and wanted once a start

    with open(certificate, "rb") as file:
        try:
            found = x509.load_pem_x509_certificate(file.read())
        except x509.InvalidVersion as error:
            raise ValueError(str(error)) from None
    return found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()


def ageing(certificate: str, now: float) -> str | None:
    """What its dates say against it now: not yet good, expired, or soon to be; None: nothing. Raises ValueError."""
    since, until = dates(certificate)
    if now < since:
        return f"is good only from {_day(since)}"
    if now >= until:
        return f"expired on {_day(until)}"
    return f"expires on {_day(until)}" if until - now < SOON else None


def _day(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(when))


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
