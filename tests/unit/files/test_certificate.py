"""The certificate: made once and for the operator's eyes, read from anywhere, refused with a sentence."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import load_pem_x509_certificates

from bot.errors import ConfigError
from bot.files import certificate
from bot.files.certificate import known_identities, load_identity

NOW = datetime(2026, 11, 25, tzinfo=UTC)
PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8


def test_load_identity_makes_a_certificate_once_that_only_the_owner_can_read(tmp_path: Path) -> None:
    made = load_identity(tmp_path, None, None, now=NOW)
    again = load_identity(tmp_path, None, None, now=NOW + timedelta(days=1))
    assert made == again
    assert made.own
    folder = tmp_path / "c2pa"
    assert sorted(path.name for path in folder.iterdir()) == ["certificate.pem", "key.pem"]
    assert [path.name for path in tmp_path.iterdir()] == ["c2pa"]
    if os.name == "posix":
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())]
        assert modes == [0o700, 0o600, 0o600]


def test_load_identity_of_another_folder_is_another_identity(tmp_path: Path) -> None:
    one, other = (load_identity(tmp_path / name, None, None, now=NOW) for name in ("a", "b"))
    assert one.mark != other.mark
    assert one.serial != other.serial


def test_identity_never_shows_its_key(tmp_path: Path) -> None:
    made = load_identity(tmp_path, None, None, now=NOW)
    assert "PRIVATE" in made.key_pem
    assert "PRIVATE" not in repr(made)


def test_certificate_made_is_what_c2pas_profile_asks_for(tmp_path: Path) -> None:
    leaf, authority = load_pem_x509_certificates(load_identity(tmp_path, None, None, now=NOW).chain_pem.encode())
    usage = leaf.extensions.get_extension_for_class(certificate.x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    purposes = leaf.extensions.get_extension_for_class(certificate.x509.ExtendedKeyUsage).value
    assert [one.dotted_string for one in purposes] == ["1.3.6.1.5.5.7.3.4", "1.3.6.1.4.1.62558.2.1"]
    assert not leaf.extensions.get_extension_for_class(certificate.x509.BasicConstraints).value.ca
    assert authority.extensions.get_extension_for_class(certificate.x509.BasicConstraints).value.ca
    leaf.verify_directly_issued_by(authority)
    assert (leaf.not_valid_after_utc - NOW) > timedelta(days=20 * 365)


@pytest.fixture
def operators(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate and key of the operator's, as files elsewhere."""
    load_identity(tmp_path / "elsewhere", None, None, now=NOW)
    folder = tmp_path / "elsewhere" / "c2pa"
    return folder / "certificate.pem", folder / "key.pem"


def test_load_identity_takes_the_operators_own_and_makes_none(tmp_path: Path, operators: tuple[Path, Path]) -> None:
    given = load_identity(tmp_path / "data", *operators, now=NOW)
    assert not given.own
    assert not (tmp_path / "data").exists()
    assert known_identities(tmp_path / "data", *operators) == [given]


def _spoilt_key(path: Path, key: object, encryption: serialization.KeySerializationEncryption) -> None:
    path.write_bytes(key.private_bytes(PEM, PKCS8, encryption))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda cert, key: cert.unlink(), "EASEL_C2PA_CERT .* cannot be read: No such file"),
        (lambda cert, key: cert.write_bytes(b"\xff\xfe"), "EASEL_C2PA_CERT .* is not a PEM file"),
        (lambda cert, key: cert.write_text("hello"), "EASEL_C2PA_CERT .* holds no certificate"),
        (lambda cert, key: cert.write_text(cert.read_text().split("-----END")[0]), "holds no certificate"),
        (
            lambda cert, key: cert.write_text(cert.read_text().split("-----BEGIN")[1].join(["-----BEGIN", ""])),
            "one certificate alone",
        ),
        (lambda cert, key: key.write_text("hello"), "EASEL_C2PA_KEY .* holds no private key"),
        (
            lambda cert, key: _spoilt_key(key, ec.generate_private_key(ec.SECP256R1()), serialization.NoEncryption()),
            "EASEL_C2PA_KEY .* is not the key of the first certificate",
        ),
        (
            lambda cert, key: _spoilt_key(
                key, ec.generate_private_key(ec.SECP256R1()), serialization.BestAvailableEncryption(b"secret")
            ),
            "EASEL_C2PA_KEY .* is encrypted; it takes a PEM key without a password",
        ),
    ],
    ids=["gone", "binary", "words", "cut off", "alone", "no key", "another key", "encrypted"],
)
def test_load_identity_broken_operators_files_are_named_in_a_sentence(
    tmp_path: Path, operators: tuple[Path, Path], spoil: object, words: str
) -> None:
    spoil(*operators)  # type: ignore[operator]
    with pytest.raises(ConfigError, match=words) as caught:
        load_identity(tmp_path / "data", *operators, now=NOW)
    assert "PRIVATE" not in str(caught.value)


@pytest.mark.parametrize(
    ("now", "words"),
    [(NOW + timedelta(days=26 * 365), "expired on 2051"), (NOW - timedelta(days=1), "valid only from 2026-11-24")],
    ids=["too late", "too early"],
)
def test_load_identity_outside_its_time_is_refused_but_still_known(
    tmp_path: Path, operators: tuple[Path, Path], now: datetime, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        load_identity(tmp_path / "data", *operators, now=now)
    assert len(known_identities(tmp_path / "data", *operators)) == 1


@pytest.mark.parametrize("missing", [0, 1], ids=["EASEL_C2PA_CERT", "EASEL_C2PA_KEY"])
def test_load_identity_half_a_pair_names_the_other_half(
    tmp_path: Path, operators: tuple[Path, Path], missing: int
) -> None:
    given: list[Path | None] = list(operators)
    given[missing] = None
    with pytest.raises(ConfigError, match=f"^{('EASEL_C2PA_CERT', 'EASEL_C2PA_KEY')[missing]} is not set"):
        load_identity(tmp_path, *given, now=NOW)  # type: ignore[misc]


def test_load_identity_broken_own_certificate_says_how_to_have_a_new_one(tmp_path: Path) -> None:
    load_identity(tmp_path, None, None, now=NOW)
    (tmp_path / "c2pa" / "key.pem").write_text("nothing")
    with pytest.raises(ConfigError, match=r"Remove the folder .*c2pa to have a new one made"):
        load_identity(tmp_path, None, None, now=NOW)


def test_load_identity_where_nothing_can_be_written_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written to .* Make EASEL_DATA_DIR"):
        load_identity(tmp_path / "file", None, None, now=NOW)


def test_algorithm_of_short_rsa_keys_is_none() -> None:
    assert certificate._algorithm(rsa.generate_private_key(65537, 1024)) is None
    assert certificate._algorithm(ec.generate_private_key(ec.SECP384R1())) == "es384"
    assert certificate._algorithm(ec.generate_private_key(ec.SECP256K1())) is None
