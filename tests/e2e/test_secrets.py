"""A secret of an order is looked for in everything that a run leaves behind."""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path

import pytest

from choreo.events.secret import MASK
from choreo.saga.cli import exits
from tests.support.cli import saga
from tests.support.console import Console, Done

VAULT = Path(__file__).with_name("vault.py")
CANARY = "4111-canary-1111-secret"
NOTE = "note-canary-for-nobody"
KEYS = f"k1={base64.b64encode(bytes(range(32))).decode()}"


class Vault:
    """Runs the shop in a process of its own, and keeps what every command has said."""

    def __init__(self, console: Console, home: Path) -> None:
        self._console = console
        self.home = home
        self.said: list[str] = []

    def __call__(self, *arguments: object, code: int | None = exits.OK) -> Done:
        done = self._console(*arguments)
        assert code is None or done.code == code, done.err
        self.said.append(done.out + done.err)
        return done

    def order(self, id_: str) -> str:
        return json.dumps({"order_id": id_, "card": CANARY, "items": [{"sku": "a", "note": NOTE}]})


@pytest.mark.parametrize(("mode", "format_"), [("clear", "avro"), ("secrets", "avro"), ("event", "json")])
def test_a_secret_reaches_no_log_no_span_no_dead_letter_and_no_command(
    tmp_path: Path, mode: str, format_: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "CHOREO_HOME": tmp_path / "home",
        "CHOREO_KEYS": KEYS,
        "VAULT_MODE": mode,
        "VAULT_FORMAT": format_,
    }.items():
        monkeypatch.setenv(name, str(value))
    program = Path(shutil.copy(VAULT, tmp_path / f"vault_{mode}.py"))  # the mode is read when it is imported
    vault = Vault(Console(capsys, tmp_path), tmp_path / "home")
    preview = vault("publish", f"{program}:Ordered", "--data", vault.order("good"), "--dry-run")
    assert MASK in preview.out
    vault("publish", f"{program}:Ordered", "--data", vault.order("good"), "--dry-run", "-o", "json")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(vault.order("good") + "\n" + '{"order_id": "wrong", "card": ["' + CANARY + '"]}\n')
    vault("publish", f"{program}:Ordered", rows, "--dry-run", code=exits.ERROR)
    vault("publish", f"{program}:Ordered", rows, code=exits.ERROR)
    vault("publish", f"{program}:Ordered", "--data", vault.order("bad"))
    wrong = json.dumps({"order_id": "x", "card": {"number": CANARY}})
    vault("publish", f"{program}:Ordered", "--data", wrong, code=exits.USAGE)
    ran = saga("run", program, "--until-idle", "-vv", env=os.environ)
    assert ran.returncode == exits.OK, ran.stderr
    assert "holding" in ran.stderr
    vault.said.append(ran.stdout + ran.stderr)

    good = vault("status", "good", "--history", "-o", "json").json
    bad = vault("status", "bad", "--history", "-o", "json").json
    assert (good["phase"], bad["phase"]) == ("COMPLETED", "COMPENSATED")
    assert MASK in bad["cause"]["message"], "the bank has quoted the card"
    letter = vault("dlq", "list", "-o", "json").json[0]
    assert MASK in letter["message"]
    shown = vault("dlq", "show", letter["id"], "-o", "json").json
    assert shown["body"] == ({"sealed": MASK} if mode == "event" else {"order_id": "bad", "card": MASK})
    vault("dlq", "show", letter["id"])
    vault("dlq", "export", tmp_path / "letters.jsonl")
    vault.said.append((tmp_path / "letters.jsonl").read_text())
    for command in (["list"], ["why", "bad"], ["trace", "bad"], ["trace", "bad", "-o", "json"], ["watch", "good"],
                    ["graph", "sale/bad"], ["replay", "--verify"], ["ignored"], ["doctor", "-o", "json"]):  # fmt: skip
        vault(*command, code=None)

    edit = ["dlq", "edit", letter["id"], "--reason", "x", "--force"]
    if mode == "clear":
        assert "unchanged" in vault(*edit, "--data", json.dumps({"order_id": "bad", "card": MASK})).out
    elif mode == "secrets":
        changed = json.dumps({"order_id": "bad", "card": "another"})
        vault(*edit, "--data", changed, code=exits.USAGE)
        assert "what is encrypted cannot be edited" in vault.said[-1]

    for said in vault.said:
        assert CANARY not in said and NOTE not in said and KEYS[5:25] not in said
    for kind in ("spans.db", *(("",) if mode != "clear" else ())):
        for file in sorted(vault.home.rglob(f"{kind}*")):
            if file.is_file():
                assert CANARY.encode() not in file.read_bytes() and NOTE.encode() not in file.read_bytes(), file

    assert vault("dlq", "show", letter["id"], "--reveal", "-o", "json").json["body"]["card"] == CANARY
    monkeypatch.delenv("CHOREO_KEYS")
    if mode != "clear":
        told = vault("dlq", "show", letter["id"], "--reveal", "-o", "json").json
        assert told["body"] is None
        assert "is encrypted with key 'k1', and the keys here are none" in told["body_error"]
        assert "is encrypted and there is no key" in vault("run", program, "--until-idle", code=exits.USAGE).err
