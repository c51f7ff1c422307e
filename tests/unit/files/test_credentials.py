"""Content Credentials: signed offline, read back, told apart from other people's and from broken ones."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image

from bot.config import read_settings
from bot.errors import ConfigError
from bot.files import certificate
from bot.files.certificate import Identity, load_identity
from bot.files.credentials import JPEG, PNG, TYPES, WEBP, CredentialReader, Credentials, State, load_credentials
from tests.unit.files.pictures import marker, raw

NOW = datetime.now(UTC)


def plain(kind: str = "PNG") -> bytes:
    picture, out = raw(), BytesIO()
    Image.frombytes("RGB", (picture.width, picture.height), picture.pixels).save(out, kind)
    return out.getvalue()


def credentials() -> Credentials:
    return marker().credentials


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_sign_every_format_is_ours_says_a_model_made_it_and_leaves_the_pixels(kind: str) -> None:
    before = plain(kind)
    signed = credentials().sign(before, TYPES[kind], title="easel-x-1")
    found = credentials().read(signed, TYPES[kind])
    assert found is not None
    assert (found.state, found.trained, found.failures) == (State.OURS, True, ())
    assert (found.title, found.made_with, found.actions) == ("easel-x-1", "Easel", ("c2pa.created",))
    with Image.open(BytesIO(before)) as one, Image.open(BytesIO(signed)) as other:
        assert one.tobytes() == other.tobytes()
    assert len(signed) - len(before) < 4000  # no thumbnail


def test_read_of_an_unsigned_file_is_none() -> None:
    assert [credentials().read(plain(kind), TYPES[kind]) for kind in TYPES] == [None, None, None]


@pytest.mark.parametrize("at", [200, -400, -30], ids=["front", "back", "end"])
def test_read_of_a_file_changed_after_signing_is_broken(at: int) -> None:
    data = bytearray(credentials().sign(plain("JPEG"), JPEG, title="x"))
    data[at] ^= 1
    found = credentials().read(bytes(data), JPEG)
    assert found is not None
    assert found.state is State.BROKEN
    assert found.failures


def test_read_of_credentials_moved_to_another_picture_is_broken() -> None:
    signed = credentials().sign(plain("WEBP"), WEBP, title="x")
    at = signed.index(b"C2PA")
    other = BytesIO()
    Image.new("RGB", (64, 48), "red").save(other, "WEBP", lossless=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0")
    data = other.getvalue() + signed[at:]
    forged = data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:]
    found = credentials().read(forged, WEBP)
    assert found is not None
    assert found.state is State.BROKEN


def test_read_by_another_easel_is_intact_and_unknown(tmp_path: Path) -> None:
    signed = credentials().sign(plain(), PNG, title="x")
    stranger = CredentialReader([load_identity(tmp_path, None, None, now=NOW)])
    for reader in (stranger, CredentialReader([])):
        found = reader.read(signed, PNG)
        assert found is not None
        assert (found.state, found.signer) == (State.UNKNOWN, credentials().identity.name)


def test_read_of_what_is_no_picture_is_broken_and_never_raises() -> None:
    found = credentials().read(b"\x89PNG\r\n\x1a\nnothing", PNG)
    assert found is None or found.state is State.BROKEN


def issued(name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey]) -> Identity:
    """A certificate that an authority has issued, as a bought one."""
    key, (above, secret) = ec.generate_private_key(ec.SECP256R1()), issuer
    usages = x509.ExtendedKeyUsage([certificate.ExtendedKeyUsageOID.EMAIL_PROTECTION])
    leaf = (
        certificate._builder(name, "authority", key.public_key(), NOW)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(certificate._usage(signs_certificates=False), critical=True)
        .add_extension(usages, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(secret.public_key()), critical=False)
        .sign(secret, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    chain = (leaf.public_bytes(pem) + above.public_bytes(pem)).decode()
    secret_pem = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    return Identity(chain, secret_pem, "es256", name, NOW + timedelta(days=9), False)


@pytest.fixture(scope="module")
def authority() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    made = (
        certificate._builder("authority", "authority", key.public_key(), NOW)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(certificate._usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return made, key


def test_read_of_another_customer_of_the_same_authority_is_unknown(
    authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
) -> None:
    mine, theirs = (Credentials(issued(name, authority), version="1") for name in ("mine", "theirs"))
    states = [mine.read(one.sign(plain(), PNG, title="x"), PNG) for one in (mine, theirs)]
    assert [found and (found.state, found.signer) for found in states] == [
        (State.OURS, "mine"), (State.UNKNOWN, "theirs"),
    ]  # fmt: skip


def test_load_credentials_takes_the_operators_certificate(
    tmp_path: Path, authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey]
) -> None:
    given = issued("Operator", authority)
    (tmp_path / "cert.pem").write_text(given.chain_pem)
    (tmp_path / "key.pem").write_text(given.key_pem)
    settings = read_settings({
        "EASEL_DATA_DIR": str(tmp_path / "data"), "EASEL_C2PA_CERT": str(tmp_path / "cert.pem"),
        "EASEL_C2PA_KEY": str(tmp_path / "key.pem"),
    })  # fmt: skip
    loaded = load_credentials(settings, version="1", now=NOW)
    assert (loaded.identity.name, loaded.identity.own) == ("Operator", False)
    assert not (tmp_path / "data").exists()


def test_load_credentials_certificate_of_a_wrong_kind_is_refused_with_the_reason(tmp_path: Path) -> None:
    """An authority's own certificate and key are sound, and not what C2PA lets sign."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = (
        certificate._builder("authority", "authority", key.public_key(), NOW)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(certificate._usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    (tmp_path / "cert.pem").write_bytes(made * 2)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "key.pem").write_bytes(secret)
    settings = read_settings({
        "EASEL_C2PA_CERT": str(tmp_path / "cert.pem"), "EASEL_C2PA_KEY": str(tmp_path / "key.pem"),
    })  # fmt: skip
    with pytest.raises(ConfigError, match=r"^EASEL_C2PA_CERT .*(C2PA takes|cannot sign)"):
        load_credentials(settings, version="1", now=NOW)


def test_sign_from_several_threads_gives_files_that_are_all_ours() -> None:
    start = threading.Barrier(4)

    def work(n: int) -> State | None:
        start.wait()
        found = credentials().read(credentials().sign(plain(), PNG, title=f"{n}.png"), PNG)
        return found.state if found is not None and found.title == f"{n}.png" else None

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [State.OURS] * 4


def test_sign_and_read_open_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies that refuse everything would fail it if it went out; the settings that forbid it are asserted, too."""
    import json

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setitem(os.environ, name, "http://127.0.0.1:9")
    found = credentials().read(credentials().sign(plain(), PNG, title="x"), PNG)
    assert found is not None
    assert found.state is State.OURS
    verify = json.loads(credentials()._settings)["verify"]
    assert (verify["remote_manifest_fetch"], verify["ocsp_fetch"]) == (False, False)
