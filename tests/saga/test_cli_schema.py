"""`saga schema`: a registry looked at, and code held against it, with a folder, a server and the broker's own."""

from __future__ import annotations

import json
import os
import re
import sys
import uuid
from pathlib import Path

import pytest

from choreo.saga.cli import exits
from tests.support.apicurio import ApicurioServer
from tests.support.console import Console, validate

SHOP = """
from decimal import Decimal
from choreo import Event, Saga, Service, step


class Ordered(Event, topic="shop", key="order_id"):
    order_id: str
    total: Decimal


class Packed(Event, topic="packing", key="order_id"):
    order_id: str


class Unpack(Event, topic="packing.commands", key="order_id"):
    order_id: str


class Unpacked(Event, topic="packing", key="order_id"):
    order_id: str


class Visited(Event, topic="web", key="page"):
    page: str


class Plain(Event, topic="web", key="page", format="json"):
    page: str


packing = Service("packing")


@packing.on(Ordered)
async def pack(order: Ordered) -> Packed:
    return Packed(order_id=order.order_id)


@packing.on(Unpack, undoes=pack)
async def unpack(command: Unpack) -> Unpacked:
    return Unpacked(order_id=command.order_id)
"""
DELIVERY = """

class Delivery(Saga, start=Ordered, key="order_id"):
    pack = step(done=Packed, undo=Unpack, undone=Unpacked, within="30s")
"""


@pytest.fixture
def saga(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Console:
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.py").write_text(SHOP + DELIVERY)
    return Console(capsys, tmp_path / ".choreo")


def changed(tmp_path: Path, before: str, after: str, *, saga_too: bool = True) -> str:
    """Write the shop under another name with one change; a module is loaded once."""
    text = (SHOP + DELIVERY * saga_too).replace(before, after)
    assert text != SHOP + DELIVERY
    name = f"shop{len(list(tmp_path.glob('*.py')))}_{uuid.uuid4().hex}.py"
    (tmp_path / name).write_text(text)
    return name


def verdicts(rows: list[dict[str, str]]) -> dict[str, tuple[str, str]]:
    return {validate(row, "saga.schema-standing/v1")["subject"]: (row["role"], row["verdict"]) for row in rows}


ALL = ("packing-Packed", "packing-Unpacked", "packing.commands-Unpack", "shop-Ordered", "web-Visited")


def test_a_folder_of_schemas_is_made_held_against_and_looked_at(saga: Console, tmp_path: Path) -> None:
    where = ("--registry", "schemas")
    first = saga("schema", "register", "shop.py", *where, "-o", "json")
    assert first.code == exits.OK
    assert verdicts(first.json) == dict.fromkeys(ALL, ("writes", "registered"))
    assert sorted(path.name for path in (tmp_path / "schemas").iterdir()) == sorted(f"{each}.avsc" for each in ALL)
    checked = saga("schema", "check", "shop.py", *where)
    assert checked.code == exits.OK
    assert "5 schemas held against the folder schemas · 0 incompatible" in checked.err
    assert not (tmp_path / ".choreo").exists()  # no broker was opened

    listed = saga("schema", "list", "packing", *where, "-o", "json")
    assert [validate(row, "saga.schema-subject/v1")["subject"] for row in listed.json] == list(ALL[:3])
    shown = validate(saga("schema", "show", "shop-Ordered", *where, "-o", "json").json, "saga.schema/v1")
    assert [field["name"] for field in shown["avro"]["fields"]] == ["order_id", "total"]
    by_id = validate(saga("schema", "show", shown["id"], *where, "-o", "json").json, "saga.schema/v1")
    assert by_id["avro"] == shown["avro"]
    assert json.loads(saga("schema", "show", "shop-Ordered", *where).out) == shown["avro"]


def test_an_incompatible_change_fails_in_ci_with_the_field_and_the_rule(saga: Console, tmp_path: Path) -> None:
    saga("schema", "register", "shop.py", "--registry", "schemas")
    worse = changed(tmp_path, "    total: Decimal", "    total: str\n    region: str")
    checked = saga("schema", "check", worse, "--registry", "schemas")
    assert checked.code == exits.ERROR
    assert "shop-Ordered: Ordered.total was decimal and is now string (rule: a type stays" in checked.out
    assert "shop-Ordered: Ordered.region is new and has no default (rule: a new field needs one" in checked.out
    before = (tmp_path / "schemas" / "shop-Ordered.avsc").read_text()
    more = changed(tmp_path, "    page: str", "    page: str\n    extra: int = 0")
    both = saga("schema", "register", worse, more, "--registry", "schemas")
    assert (both.code, "nothing was registered" in both.err) == (exits.ERROR, True)
    assert (tmp_path / "schemas" / "shop-Ordered.avsc").read_text() == before


def test_a_compatible_change_is_told_as_one_and_registered(saga: Console, tmp_path: Path) -> None:
    saga("schema", "register", "shop.py", "--registry", "schemas")
    better = changed(tmp_path, "    total: Decimal", "    total: Decimal\n    region: str = ''")
    tried = saga("schema", "register", better, "--registry", "schemas", "--dry-run", "-o", "json")
    assert verdicts(tried.json)["shop-Ordered"] == ("writes", "compatible")
    assert "region" not in (tmp_path / "schemas" / "shop-Ordered.avsc").read_text()
    assert "1 of 5 schemas were registered" in saga("schema", "register", better, "--registry", "schemas").err
    assert "region" in (tmp_path / "schemas" / "shop-Ordered.avsc").read_text()


def test_what_is_only_read_is_held_against_the_newest_and_never_registered(saga: Console, tmp_path: Path) -> None:
    service = changed(tmp_path, DELIVERY, "", saga_too=True)
    saga("schema", "register", "shop.py", "--registry", "schemas")
    rows = saga("schema", "check", f"{service}:packing", "--registry", "schemas", "-o", "json").json
    assert verdicts(rows)["shop-Ordered"] == ("reads", "registered")
    less = changed(tmp_path, "    total: Decimal\n", "", saga_too=False)
    rows = saga("schema", "check", f"{less}:packing", "--registry", "schemas", "-o", "json").json
    assert verdicts(rows)["shop-Ordered"] == ("reads", "compatible")
    more = changed(tmp_path, "    total: Decimal", "    total: Decimal\n    region: str", saga_too=False)
    wrong = saga("schema", "check", f"{more}:packing", "--registry", "schemas")
    assert (wrong.code, "Ordered.region is new and has no default" in wrong.out) == (exits.ERROR, True)
    assert "2 of 2 schemas were registered" in saga("schema", "register", f"{more}:packing", "--registry", "other").err
    assert verdicts(saga("schema", "check", f"{more}:packing", "--registry", "other", "-o", "json").json) == {
        "packing-Packed": ("writes", "registered"),
        "packing-Unpacked": ("writes", "registered"),
        "packing.commands-Unpack": ("reads", "unregistered"),
        "shop-Ordered": ("reads", "unregistered"),
    }


def test_a_difference_is_told_field_by_field(saga: Console, tmp_path: Path) -> None:
    saga("schema", "register", "shop.py", "--registry", "schemas")
    other = changed(tmp_path, "    total: Decimal", "    lines: list[str] = []")
    shown = saga("schema", "diff", "shop-Ordered", f"{other}:Ordered", "--registry", "schemas")
    assert shown.out.splitlines() == [
        "+ lines  string[] = []",
        "- total  decimal(38, 9)",
        "BACKWARD compatible",
        "not FORWARD compatible: Ordered.total is gone and had no default (rule: only a field with one may go, as "
        "older classes need it)",
    ]
    told = saga("schema", "diff", "shop-Ordered", f"{other}:Ordered", "--registry", "schemas", "-o", "json").json
    assert validate(told, "saga.schema-difference/v1")["to"] == {"version": None, "name": f"{other}:Ordered"}


def test_the_brokers_own_registry_is_the_default(saga: Console, tmp_path: Path) -> None:
    assert saga("schema", "register", "shop.py").code == exits.OK
    better = changed(tmp_path, "    total: Decimal", "    total: Decimal\n    region: str = ''")
    assert saga("schema", "register", better).code == exits.OK
    shown = saga("schema", "diff", "shop-Ordered", "-o", "json").json
    assert (shown["from"], shown["to"]) == ({"version": 1}, {"version": 2, "name": None})
    assert [(each["field"], each["change"]) for each in shown["changes"]] == [("region", "added")]
    assert saga("schema", "show", "shop-Ordered", "--version", 1, "-o", "json").json["version"] == 1
    assert [row["version"] for row in saga("schema", "list", "shop-", "-o", "json").json] == [2]
    checked = saga("schema", "check", "shop.py")  # an older program, as it starts again
    assert checked.code == exits.OK


@pytest.mark.registry
def test_a_real_registry_is_asked_without_a_broker(saga: Console, tmp_path: Path, apicurio: ApicurioServer) -> None:
    mark = uuid.uuid4().hex[:8]
    where = ("--registry", apicurio.url)
    ours = changed(tmp_path, 'topic="', f'topic="{mark}.')
    assert saga("schema", "register", ours, *where).code == exits.OK
    rows = saga("schema", "list", mark, *where, "-o", "json").json
    assert [row["subject"] for row in rows] == [f"{mark}.{each}" for each in ALL]
    better = changed(tmp_path, "    total: Decimal", "    total: Decimal\n    region: str = ''")
    text = (tmp_path / better).read_text().replace('topic="', f'topic="{mark}.')
    (tmp_path / better).write_text(text)
    assert saga("schema", "register", better, *where).code == exits.OK
    shown = saga("schema", "diff", f"{mark}.shop-Ordered", *where)
    assert '+ region  string = ""' in shown.out
    broken = changed(tmp_path, "    total: Decimal", "    total: str")
    (tmp_path / broken).write_text((tmp_path / broken).read_text().replace('topic="', f'topic="{mark}.'))
    checked = saga("schema", "check", broken, *where)
    assert (checked.code, "Ordered.total was decimal and is now string" in checked.out) == (exits.ERROR, True)
    assert not (tmp_path / ".choreo").exists()


@pytest.mark.registry
def test_the_servers_own_rule_is_asked_too(
    saga: Console, tmp_path: Path, apicurio: ApicurioServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = uuid.uuid4().hex[:8]
    monkeypatch.setenv("CHOREO_COMPATIBILITY", "NONE")
    monkeypatch.setenv("CHOREO_REGISTRY", apicurio.url)
    ours = changed(tmp_path, 'topic="', f'topic="{mark}.')
    assert saga("schema", "register", ours).code == exits.OK
    broken = changed(tmp_path, "    page: str\n\n\nclass Plain", "    page: str\n    extra: str\n\n\nclass Plain")
    (tmp_path / broken).write_text((tmp_path / broken).read_text().replace('topic="', f'topic="{mark}.'))
    checked = saga("schema", "check", broken)
    assert (checked.code, "the registry's own rule: " in checked.out) == (exits.ERROR, True)


def test_a_schema_file_is_a_target_of_its_own(saga: Console, tmp_path: Path) -> None:
    saga("schema", "register", "shop.py", "--registry", "schemas")
    foreign = json.loads((tmp_path / "schemas" / "shop-Ordered.avsc").read_text())
    foreign["fields"].append({"name": "region", "type": "string"})
    (tmp_path / "shop-Ordered.avsc").write_text(json.dumps(foreign))
    checked = saga("schema", "check", "shop-Ordered.avsc", "--registry", "schemas")
    assert (checked.code, "Ordered.region is new and has no default" in checked.out) == (exits.ERROR, True)
    assert saga("schema", "check", "schemas/shop-Ordered.avsc", "--registry", "schemas").code == exits.OK


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("check", "shop.py", "--registry", "typo"), exits.USAGE, "there is no folder typo; `saga schema register"),
        (("check",), exits.USAGE, "whose schemas? name services"),
        (("check", "shop.py:packing", "--registry", "http://127.0.0.1:9"), exits.UNREACHABLE, "does not answer"),
        (("check", "shop.py", "--registry", "ftp://h"), exits.USAGE, "is not a schema registry"),
        (("check", "none.avsc"), exits.USAGE, "cannot read none.avsc: No such file"),
        (("check", "bad.avsc"), exits.USAGE, "bad.avsc is not an Avro record schema"),
        (("check", "empty.py"), exits.USAGE, "empty.py holds no service, no saga and no event class"),
        (("show", "shop-Orderd", "--registry", "schemas"), exits.NOT_FOUND, "did you mean 'shop-Ordered'?"),
        (("show", "shop-Ordered", "--version", "7", "--registry", "schemas"), exits.NOT_FOUND, "has the versions 1"),
        (("show", "12", "--registry", "schemas"), exits.NOT_FOUND, "no schema has the id 12"),
        (("show", "12", "--version", "2", "--registry", "schemas"), exits.USAGE, "--version belongs to a subject"),
        (("diff", "shop-Ordered", "--registry", "schemas"), exits.NOT_FOUND, "has one version"),
        (("diff", "shop-Ordered", "shop.py", "--to", "1"), exits.USAGE, "give one of them"),
        (("diff", "web-Other", "shop.py", "--registry", "schemas"), exits.USAGE, "no event of the subject web-Other"),
        (("list", "--registry", "broken"), exits.USAGE, "x.avsc is not an Avro record schema"),
    ],
)  # fmt: skip
def test_what_people_get_wrong_is_one_clear_line(
    saga: Console, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    saga("schema", "register", "shop.py", "--registry", "schemas")
    (tmp_path / "bad.avsc").write_text("[" * 100_000)
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.avsc").write_text('{"type": "enum"}')
    done = saga("schema", *arguments)
    assert (done.code, done.err.count("\n")) == (code, 1), done.err
    assert message in done.err


def test_help_shows_examples(saga: Console) -> None:
    assert "saga schema check shop.py --registry schemas/" in saga("schema", "--help").out


@pytest.mark.parametrize("part", ["packing", "Delivery"])
@pytest.mark.parametrize("where", ["embedded", pytest.param("apicurio", marks=pytest.mark.registry)])
def test_an_incompatible_change_is_refused_when_a_service_or_a_coordinator_starts(
    saga: Console,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    part: str,
    where: str,
) -> None:
    mark = uuid.uuid4().hex[:8]
    if where == "apicurio":
        monkeypatch.setenv("CHOREO_REGISTRY", request.getfixturevalue("apicurio").url)
    ours = changed(tmp_path, 'topic="', f'topic="{mark}.')
    assert saga("topics", "apply", ours).code == exits.OK
    assert saga("schema", "register", ours).code == exits.OK
    event = "Packed" if part == "packing" else "Ordered"
    line = re.search(rf"class {event}\(.*\n", SHOP)
    assert line is not None
    worse = changed(tmp_path, line[0], f"{line[0]}    region: str\n")
    (tmp_path / worse).write_text((tmp_path / worse).read_text().replace('topic="', f'topic="{mark}.'))
    refused = saga("run", f"{worse}:{part}")
    assert refused.code == exits.ERROR
    assert (
        f"{event}.region is new and has no default (rule: a new field needs one, to read older events)" in refused.err
    )
    assert "Traceback" not in refused.err
    assert refused.err.splitlines()[-1].startswith("error: the schema of ")
