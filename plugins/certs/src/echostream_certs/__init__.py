"""Certificates for EchoStream: the cached development pair of ``tls.dev = true``, self-signed certificates, pins.

A library that the transports import when they need it. It is also a plugin module without hooks: importing it does
nothing else.
"""

from __future__ import annotations

from echostream_certs.browser import BrowserCertificate, browser_certificate
from echostream_certs.certificate import pin_of, pin_of_der, self_signed
from echostream_certs.development import DevelopmentPair, development_directory, development_pair

__all__ = [
    "BrowserCertificate",
    "DevelopmentPair",
    "browser_certificate",
    "development_directory",
    "development_pair",
    "pin_of",
    "pin_of_der",
    "self_signed",
]
