"""The viewer's own certificate authority: it vouches for every host, to a browser that was told to believe it.

It is made once for an archive and serves no other; who takes it out of the browser is rid of it. The key never leaves
``work_dir/viewer/ca``, which only the owner may read.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.publish import write_atomic

_VALID = timedelta(days=365)
_VALID_LEAF = timedelta(days=30)
_EARLIER = timedelta(days=1)  # clocks differ


class Authority:
    """Certificates for hosts, all of one authority.

    :param home: its directory; made where it is not there. Faults: CONFIG where what lies there is no authority.
    """

    def __init__(self, home: Path) -> None:
        self.certificate_path = home / "certificate.pem"
        self._key_path = home / "key.pem"
        with os_errors_as_faults(str(home)):
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._key, self._certificate = self._load() or self._make()
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())

    def _load(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None:
        """What lies there; None where nothing does, or it is about to end."""
        if not self.certificate_path.exists():
            return None
        try:
            key = load_pem_private_key(self._key_path.read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate(self.certificate_path.read_bytes())
        except (OSError, ValueError, TypeError):
            key, certificate = None, None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not certificate:
            command = f"rm -r {self.certificate_path.parent}"
            raise Fault(FaultKind.CONFIG, str(self.certificate_path.parent), "is damaged", next_command=command)
        ends = certificate.not_valid_after_utc
        return (key, certificate) if ends > datetime.now(UTC) + _VALID_LEAF else None

    def _make(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Custody viewer, made here for one archive")])
        certificate = (
            _builder(name, name, key.public_key(), _VALID)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(is_authority=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        write_atomic(self._key_path, _private(key), mode=0o600)
        write_atomic(self.certificate_path, certificate.public_bytes(Encoding.PEM))
        return key, certificate

    @lru_cache(maxsize=1000)  # noqa: B019 - one authority lives as long as its server
    def context_for(self, host: str) -> ssl.SSLContext:
        """What a server needs to be this host. ValueError where it is no host name."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
        try:
            alternative: x509.GeneralName = x509.IPAddress(ip_address(host.strip("[]")))
        except ValueError:
            alternative = x509.DNSName(host)
        certificate = (
            _builder(name, self._certificate.subject, self._leaf_key.public_key(), _VALID_LEAF)
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(is_authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        chain = certificate.public_bytes(Encoding.PEM) + self._certificate.public_bytes(Encoding.PEM)
        with tempfile.NamedTemporaryFile() as file:
            file.write(_private(self._leaf_key) + chain)
            file.flush()
            os.fchmod(file.fileno(), 0o600)
            context.load_cert_chain(file.name)
        return context


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, valid: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + valid)
    )


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
