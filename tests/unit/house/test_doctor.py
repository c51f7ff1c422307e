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
from bot.doctor import (
    Finding,
    Verdict,
    check_addons,
    check_database,
    check_disk,
    check_memory,
    check_models,
    check_token,
    run_doctor,
)
from bot.engine.devices import Device
from bot.engine.files.models import load_catalogue

ROOT = Path(__file__).resolve().parents[3]
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


def test_check_models_names_the_upscaler_in_use_and_the_pickles_refused(tmp_path: Path) -> None:
    (tmp_path / "upscalers").mkdir()
    for name in ("mine.safetensors", "old.pth"):
        (tmp_path / "upscalers" / name).write_bytes(b"x")
    said = [
        found.what
        for found in check_models(settings_for(tmp_path, EASEL_DATA_DIR=str(tmp_path)))
        if found.subject == "upscalers"
    ]
    assert said[0] == "mine is used, of mine, pocket-4x"
    assert "old.pth is a pickle" in said[1]


def test_check_models_says_which_are_here_and_which_need_a_licence(tmp_path: Path) -> None:
    findings = list(check_models(settings_for(tmp_path, EASEL_MODEL="sd15")))
    text = "\n".join(f"{f.what} {f.advice}" for f in findings)
    assert "here: pocket" in text
    assert "models fetch sd15" in text
    assert "HF_TOKEN" in text


def test_check_models_says_which_annotators_are_here_and_which_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "eyes").mkdir()
    (tmp_path / "models.toml").write_text(
        (ROOT / "models.toml").read_text(encoding="utf-8")
        + '\n[annotators.eyes]\nkind = "caption"\nname = "Eyes"\nsource = "./eyes"\nlicence = "MIT"\n',
        encoding="utf-8",
    )
    (tmp_path / "models").symlink_to(ROOT / "models")
    found = list(check_models(settings_for(tmp_path, EASEL_MODELS_FILE=str(tmp_path / "models.toml"))))
    said = [(one.verdict, one.what) for one in found if one.subject == "annotators (caption)"]
    assert said[0] == (Verdict.GOOD, "here: pocket-captions")
    assert said[1][0] is Verdict.NOTE
    assert "it has no config.json" in said[1][1]
    assert [one.what for one in found if one.subject == "annotators (depth)"] == ["here: none"]


def test_check_models_names_each_part_whose_path_leads_nowhere_and_none_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(
        '[models.mine]\nname = "Mine"\nsource = "someone/mine"\nfamily = "sd15"\nlicence = "MIT"\n'
        'ip_adapter = "ip/adapter.safetensors"\nip_adapter_encoder = "someone/adapters/image_encoder"\n'
        'inpainting = "someone/inpainting"\ncontrols = { canny = "someone/edges", tile = "/nowhere/tile" }\n'
    )
    settings = settings_for(tmp_path, EASEL_MODELS_FILE=str(tmp_path / "models.toml"))
    found = [one for one in check_models(settings) if one.subject == "parts"]
    adapter = (tmp_path / "ip" / "adapter.safetensors").resolve()
    assert [one.what for one in found] == [
        "no tile control of mine: /nowhere/tile is not there", f"no IP-Adapter of mine: {adapter} is not there",
    ]  # fmt: skip
    assert all(one.verdict is Verdict.NOTE and "correct its path in the models file" in one.advice for one in found)


def test_check_models_of_the_models_that_are_shipped_misses_no_part(tmp_path: Path) -> None:
    assert not [one for one in check_models(settings_for(tmp_path)) if one.subject == "parts"]


def test_check_memory_without_a_gpu_says_how_each_model_would_lie_on_cards(tmp_path: Path) -> None:
    found = {f.subject: f for f in check_memory(settings_for(tmp_path))}
    assert set(found) == {"main memory", *(spec.id for spec in load_catalogue(settings_for(tmp_path)).models)}
    pocket, sdxl = found["pocket"].what, found["sdxl"].what
    assert pocket.startswith("on this processor, 0.0")
    assert pocket.endswith("on cards of 4, 6, 8, 12, 24 GB whole")
    assert "about 14 GB of weights; on cards of 4 GB in layers" in sdxl
    assert sdxl.endswith("; 6 GB in parts; 8, 12, 24 GB whole")


CARD = Device("cuda:0", "a card", "bf16", 12 << 30)


@pytest.mark.parametrize(
    ("free_gib", "model", "verdict", "said"),
    [
        (12, "sdxl", Verdict.GOOD, "whole on this card, about 6.9 GB of weights"),
        (12, "flux-schnell", Verdict.NOTE, "in layers (slow) on this card"),
        (6, "sdxl", Verdict.GOOD, "in parts on this card"),
        (4, "sdxl", Verdict.NOTE, "in layers (slow) on this card"),
    ],
    ids=["fits", "too large", "others use the card", "others use most of it"],
)
def test_check_memory_on_a_card_says_how_each_model_lies_on_what_is_free_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_gib: int, model: str, verdict: Verdict, said: str
) -> None:
    monkeypatch.setattr("bot.engine.devices.choose_device", lambda *_: CARD)
    monkeypatch.setattr("bot.engine.devices.free_bytes", lambda _: free_gib << 30)
    monkeypatch.setattr("bot.engine.memory.main_memory.main_memory_bytes", lambda: 64 << 30)
    finding = next(f for f in check_memory(settings_for(tmp_path)) if f.subject == model)
    assert finding.verdict is verdict
    assert finding.what.startswith(said)
    assert ("int8" in finding.advice) is (verdict is Verdict.NOTE)


def test_check_memory_quantized_model_is_reckoned_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.engine.memory.main_memory.main_memory_bytes", lambda: 64 << 30)
    entry = '[models.{id}]\nname = "F"\nsource = "a/b"\nfamily = "flux"\nlicence = "-"\n'
    text = entry.format(id="plain") + entry.format(id="small") + 'quantization = "int8"\n'
    (tmp_path / "own.toml").write_text(text, encoding="utf-8")
    found = {f.subject: f for f in check_memory(settings_for(tmp_path, EASEL_MODELS_FILE=str(tmp_path / "own.toml")))}
    assert found["plain"].what.endswith("12 GB in layers (slow); 24 GB in parts")
    assert found["small"].what.endswith("8 GB in layers (slow); 12, 24 GB in parts")


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


def test_check_addons_names_what_is_here_and_why_a_file_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "old.pt").write_bytes(b"never read")
    findings = list(check_addons(settings_for(tmp_path)))
    assert any(f.subject == "loras" and "chalk, easelbot" in f.what for f in findings)
    assert any(f.subject == "embeddings" and "sketchbook" in f.what for f in findings)
    note = worst(findings)
    assert note.verdict is Verdict.NOTE
    assert "old.pt is left out: a pickle" in note.what
