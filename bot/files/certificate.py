"""The certificate that Easel signs with: the operator's own, or one made at the first start and kept in the data directory."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from bot.errors import ConfigError

FOLDER = "c2pa"
CHAIN_NAME, KEY_NAME = "certificate.pem", "key.pem"
LIFETIME = timedelta(days=25 * 365)
"""Signatures carry no time stamp (that needs a network), so a file is valid only as long as its certificate is."""
NOT_ENOUGH_RSA_BITS = 2048
CLAIM_SIGNING = ObjectIdentifier("1.3.6.1.4.1.62558.2.1")
"""C2PA specification 2.1, c2pa-kp-claimSigning."""

_PEM = serialization.Encoding.PEM
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclass(frozen=True, slots=True)
class Identity:
    """Who signs. `chain_pem` has the signing certificate first; `algorithm` is C2PA's name of it, as `es256`."""

    chain_pem: str
    key_pem: str = field(repr=False)
    algorithm: str
    name: str
    expires_at: datetime
    own: bool
    """Whether this data directory's own certificate signs, rather than one the operator has named."""

    @property
    def issuers_pem(self) -> str:
        """The certificates above the signing one, at least one."""
        issuers = x509.load_pem_x509_certificates(self.chain_pem.encode())[1:]
        return "".join(one.public_bytes(_PEM).decode("ascii") for one in issuers)

    @property
    def serial(self) -> str:
        """The signing certificate's serial number, which its issuer gives to no other."""
        return str(x509.load_pem_x509_certificate(self.chain_pem.encode()).serial_number)

    @property
    def mark(self) -> int:
        """32 bits that name this identity in a watermark: of the SHA-256 of its public key."""
        key = x509.load_pem_x509_certificate(self.chain_pem.encode()).public_key()
        spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return int.from_bytes(hashlib.sha256(spki).digest()[:4], "big")


def load_identity(data_dir: Path, certificate: Path | None, key: Path | None, *, now: datetime) -> Identity:
    """Read the operator's certificate and key, or this data directory's own, which is made where there is none.

    Blocks on the disk. Raises ConfigError with the setting or file, what is wrong and what to do.
    """
    if (certificate is None) != (key is None):
        missing = "EASEL_C2PA_KEY" if key is None else "EASEL_C2PA_CERT"
        raise ConfigError(f"{missing} is not set; a certificate and its key are named together, or neither.")
    if certificate is not None and key is not None:
        return _read(certificate, key, f"EASEL_C2PA_CERT ({certificate})", f"EASEL_C2PA_KEY ({key})", now, own=False)
    folder = data_dir / FOLDER
    if not folder.exists():
        _make(folder, now)
    return _read_own(folder, now)


def known_identities(data_dir: Path, certificate: Path | None, key: Path | None) -> list[Identity]:
    """Give who has signed here, expired or not: the operator's certificate, this data directory's own. Makes none.

    Blocks on the disk. Raises ConfigError.
    """
    found: list[Identity] = []
    if certificate is not None and key is not None:
        found.append(_read(certificate, key, str(certificate), str(key), None, own=False))
    if (data_dir / FOLDER).exists():
        found.append(_read_own(data_dir / FOLDER, None))
    return found


def _read_own(folder: Path, now: datetime | None) -> Identity:
    chain, key = folder / CHAIN_NAME, folder / KEY_NAME
    return _read(chain, key, str(chain), str(key), now, own=True)


def _read(
    chain_path: Path, key_path: Path, chain_name: str, key_name: str, now: datetime | None, *, own: bool
) -> Identity:
    again = f" Remove the folder {chain_path.parent} to have a new one made." if own else ""
    chain_pem, key_pem = _text(chain_path, chain_name, again), _text(key_path, key_name, again)
    try:
        chain = x509.load_pem_x509_certificates(chain_pem.encode())
    except ValueError:
        raise ConfigError(
            f"{chain_name} holds no certificate; it takes a PEM file, the signing certificate first.{again}"
        ) from None
    try:
        key = serialization.load_pem_private_key(key_pem.encode(), password=None)
    except TypeError:
        raise ConfigError(f"{key_name} is encrypted; it takes a PEM key without a password.{again}") from None
    except ValueError:
        raise ConfigError(f"{key_name} holds no private key; it takes a PEM file.{again}") from None
    leaf = chain[0]
    if len(chain) < 2:
        raise ConfigError(
            f"{chain_name} holds one certificate alone; it takes the signing one first, then its issuers.{again}"
        )
    if key.public_key() != leaf.public_key():
        raise ConfigError(f"{key_name} is not the key of the first certificate in {chain_name}.{again}")
    if now is not None and now >= leaf.not_valid_after_utc:
        raise ConfigError(f"{chain_name} expired on {leaf.not_valid_after_utc:%Y-%m-%d}; it takes a valid one.{again}")
    if now is not None and now < leaf.not_valid_before_utc:
        raise ConfigError(f"{chain_name} is valid only from {leaf.not_valid_before_utc:%Y-%m-%d}.{again}")
    algorithm = _algorithm(key)
    if algorithm is None:
        takes = "an elliptic-curve key (P-256, P-384, P-521), Ed25519, or RSA of 2048 bits and more"
        raise ConfigError(f"{key_name} is of a kind that C2PA does not sign with; it takes {takes}.{again}")
    return Identity(chain_pem, key_pem, algorithm, _name(leaf), leaf.not_valid_after_utc, own)


def _text(path: Path, name: str, again: str) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror}.{again}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{name} is not a PEM file.{again}") from None


def _algorithm(key: object) -> str | None:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return _CURVES.get(key.curve.name)
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256" if key.key_size >= NOT_ENOUGH_RSA_BITS else None
    return "ed25519" if isinstance(key, ed25519.Ed25519PrivateKey) else None


def _name(certificate: x509.Certificate) -> str:
    for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        for attribute in certificate.subject.get_attributes_for_oid(kind):
            return str(attribute.value)
    return "an unnamed certificate"


def _make(folder: Path, now: datetime) -> None:
    """Make a certificate authority and a certificate it signs once; the authority's key is never written down."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    spki = authority_key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    label = f"Easel {hashlib.sha256(spki).hexdigest()[:8]}"
    above = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    authority = (
        _builder(f"{label} authority", f"{label} authority", authority_key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(above, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    # C2PA's own usage is the one the specification asks for; the SDK's default list knows e-mail protection only.
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION, CLAIM_SIGNING])
    leaf = (
        _builder(label, f"{label} authority", key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(usages, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(above), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    chain = b"".join(one.public_bytes(_PEM) for one in (leaf, authority))
    secret = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _keep(folder, {CHAIN_NAME: chain, KEY_NAME: secret})


def _builder(subject: str, issuer: str, key: ec.EllipticCurvePublicKey, now: datetime) -> x509.CertificateBuilder:
    start = now.astimezone(UTC) - timedelta(hours=1)  # for readers whose clock is behind
    return (
        x509.CertificateBuilder()
        .subject_name(_distinguished(subject))
        .issuer_name(_distinguished(issuer))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + LIFETIME)
    )


def _distinguished(name: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Easel"), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _keep(folder: Path, files: dict[str, bytes]) -> None:
    """Write the folder whole or not at all, for the operator's eyes only; whoever was quicker wins."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{FOLDER}-", dir=folder.parent))  # mode 700
        try:
            for name, data in files.items():
                with open(draft / name, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            draft.rename(folder)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            if not folder.exists():
                raise
    except OSError as error:
        raise ConfigError(
            f"The certificate that pictures are signed with cannot be written to {folder}: {error.strerror}. "
            "Make EASEL_DATA_DIR a folder that can be written."
        ) from None
