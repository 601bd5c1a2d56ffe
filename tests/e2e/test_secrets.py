"""A secret of an order is looked for in everything that a run leaves behind."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import uuid
from pathlib import Path

import pytest

from choreo.events.envelope import Delivery
from choreo.events.registry import open_registry
from choreo.events.secret import MASK
from choreo.events.settings import Settings
from choreo.events.transports import connect
from choreo.saga.cli import exits
from tests.support.apicurio import ApicurioServer
from tests.support.cli import environment, saga
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


@pytest.mark.kafka
@pytest.mark.registry
@pytest.mark.parametrize("mode", ["secrets", "event"])
def test_encrypted_events_travel_over_kafka_with_their_schemas_in_a_registry_and_keys_are_rotated(
    tmp_path: Path, mode: str, kafka_bootstrap: str, apicurio: ApicurioServer
) -> None:
    """Publisher, services and coordinator in processes of their own; the broker's bytes are looked at as they lie."""
    name = f"vault{uuid.uuid4().hex[:8]}"
    given = {"home": tmp_path / "home", "broker": f"kafka://{kafka_bootstrap}", "topic_prefix": f"{name}-"}
    env = environment(**given, registry=apicurio.url, keys=KEYS) | {"VAULT_MODE": mode, "VAULT_NAME": name}
    ran = saga("topics", "apply", VAULT, env=env)
    assert ran.returncode == exits.OK, ran.stderr
    for order, keys in (("good", KEYS), ("bad", f"k2={base64.b64encode(bytes(range(7, 39))).decode()},{KEYS}")):
        env["CHOREO_KEYS"] = keys  # the second run begins with what the first has encrypted, and a key before it
        data = json.dumps({"order_id": order, "card": CANARY, "items": [{"sku": "a", "note": NOTE}]})
        for arguments in (["publish", f"{VAULT}:Ordered", "--data", data], ["run", VAULT, "--until-idle"]):
            ran = saga(*arguments, env=env)
            assert ran.returncode == exits.OK, ran.stderr
    phases = {each["key"]: each["phase"] for each in json.loads(saga("list", "-o", "json", env=env).stdout)}
    assert phases == {"good": "COMPLETED", "bad": "COMPENSATED"}

    async def look() -> tuple[list[Delivery], list[str]]:
        settings = Settings.model_validate({**given, "registry": apicurio.url})
        async with connect(settings.broker_url, settings) as broker:
            registry = open_registry(settings, broker)
            found = [each for topic in await broker.topics() for each in await broker.snapshot(topic)]
            shown = [json.dumps(each.schema) for each in await registry.history(f"{name}.orders-Ordered")]
            await registry.close()
            return found, shown

    deliveries, schemas = asyncio.run(look())
    by_type = {dict(each.headers).get("ce_type", b"").decode(): each for each in deliveries}
    assert {"Ordered", "Held", "Pack", "Release", "Released"} <= by_type.keys()
    released = by_type["Released"].value or b""
    assert released.endswith(b"\x01"), "the undo was filled with the very card, by a coordinator that has the keys"
    for each in deliveries:
        shown = repr((each.key, each.value, each.headers))
        assert CANARY not in shown and NOTE not in shown, each.topic
    assert len(schemas) == 1 and '"encrypted"' in schemas[0], "the server has taken it, and a new key is no new schema"
    sealed = [each.value or b"" for each in deliveries if each.topic == f"{name}.orders"]
    assert sorted(key for each in sealed for key in (b"\x01\x02k1", b"\x01\x02k2") if key in each) == [
        b"\x01\x02k1",
        b"\x01\x02k2",
    ], "one under each key"
