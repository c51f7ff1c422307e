"""What the doctor finds, and that each finding says what to do."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bot.config import Settings, read_settings
from bot.doctor import Finding, Verdict, check_database, check_disk, check_models, check_token, run_doctor

GUILD = '[{"id": "1", "name": "Home", "permissions": "%d"}]'


@contextmanager
def discord(me: tuple[int, str], guilds: str = "[]") -> Iterator[str]:
    """Serve the two answers the doctor asks for; gives the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = (200, guilds) if self.path.endswith("/guilds") else me
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def settings_for(folder: Path, **values: str) -> Settings:
    return read_settings({"EASEL_DATA_DIR": str(folder), "EASEL_DEVICE": "cpu", **values})


def worst(findings: list[Finding]) -> Finding:
    return next(f for verdict in (Verdict.BAD, Verdict.NOTE, Verdict.GOOD) for f in findings if f.verdict is verdict)


def test_check_token_refused_says_where_to_copy_it(tmp_path: Path) -> None:
    with discord((401, '{"message": "401: Unauthorized"}')) as url:
        finding = worst(list(check_token(settings_for(tmp_path, DISCORD_TOKEN="x", DISCORD_API_URL=url))))
    assert finding.verdict is Verdict.BAD
    assert "developers/applications" in finding.advice


def test_check_token_missing_permissions_are_named_with_the_invite_link(tmp_path: Path) -> None:
    with discord((200, '{"id": "42", "username": "Easel"}'), GUILD % 2048) as url:
        finding = worst(list(check_token(settings_for(tmp_path, DISCORD_TOKEN="x", DISCORD_API_URL=url))))
    assert finding.verdict is Verdict.NOTE
    assert "attach files" in finding.what
    assert "client_id=42" in finding.advice


def test_check_token_administrator_lacks_nothing(tmp_path: Path) -> None:
    with discord((200, '{"id": "42", "username": "Easel"}'), GUILD % 8) as url:
        findings = list(check_token(settings_for(tmp_path, DISCORD_TOKEN="x", DISCORD_API_URL=url)))
    assert worst(findings).verdict is Verdict.GOOD


def test_check_token_unreachable_discord_is_bad_and_never_shows_the_token(tmp_path: Path) -> None:
    values = {"DISCORD_TOKEN": "swordfish", "DISCORD_API_URL": "http://127.0.0.1:9"}
    finding = worst(list(check_token(settings_for(tmp_path, **values))))
    assert finding.verdict is Verdict.BAD
    assert "swordfish" not in finding.what + finding.advice


def test_check_disk_data_directory_that_is_a_file_is_bad(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a folder")
    finding = worst(list(check_disk(settings_for(tmp_path / "data"))))
    assert finding.verdict is Verdict.BAD
    assert "EASEL_DATA_DIR" in finding.advice


def test_check_models_says_which_are_here_and_which_need_a_licence(tmp_path: Path) -> None:
    findings = list(check_models(settings_for(tmp_path, EASEL_MODEL="sd15")))
    text = "\n".join(f"{f.what} {f.advice}" for f in findings)
    assert "here: pocket" in text
    assert "models fetch sd15" in text
    assert "HF_TOKEN" in text


def test_check_database_damaged_is_reported_and_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "easel.db"
    damaged.write_bytes(b"this is no database" * 100)
    before = damaged.read_bytes()
    assert run_doctor(settings_for(tmp_path)) == 1
    assert "easel.db" in capsys.readouterr().out
    assert damaged.read_bytes() == before


def test_check_database_sound_one_opens(tmp_path: Path) -> None:
    assert worst(list(check_database(settings_for(tmp_path)))).verdict is Verdict.GOOD
    with sqlite3.connect(tmp_path / "easel.db") as connection:
        assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (0,)


def test_run_doctor_without_token_can_run_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_doctor(settings_for(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "Easel can run." in out
    assert "DISCORD_TOKEN is not set" in out
