"""What people get wrong gets one clear line and its exit code; and what they publish, create and upgrade."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from choreo.events.database import Database
from choreo.events.settings import load_settings
from choreo.events.transports import connect
from choreo.saga.cli import exits
from choreo.saga.cli.app import app
from choreo.saga.cli.examples import EXAMPLES
from choreo.saga.cli.shell import as_broker
from choreo.saga.tables import HEAD, metadata
from tests.support.console import SCHEMAS, Console, Done, validate

ROOT = SCHEMAS.parent.parent

SHOP = """
from choreo import Event, Saga, Service, step


class Ordered(Event, topic="shop", key="order_id"):
    order_id: str
    amount: int = 1


class Packed(Event, topic="packing", key="order_id"):
    order_id: str


class Unpack(Event, topic="packing.commands", key="order_id"):
    order_id: str


class Unpacked(Event, topic="packing", key="order_id"):
    order_id: str


packing = Service("packing")


@packing.on(Ordered)
async def pack(order: Ordered) -> Packed:
    return Packed(order_id=order.order_id)


@packing.on(Unpack, undoes=pack)
async def unpack(command: Unpack) -> Unpacked:
    return Unpacked(order_id=command.order_id)


class Delivery(Saga, start=Ordered, key="order_id"):
    pack = step(done=Packed, undo=Unpack, undone=Unpacked, within="30s")


def rows(row):
    return Ordered(order_id=row["id"], amount=int(row["amount"]))


everything = [packing, Delivery]
number = 7
"""


@pytest.fixture
def saga(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Console:
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    known = set(sys.modules)
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "other.py").write_text('from choreo import Service\npacking = Service("packing")\n')
    (tmp_path / "missing_import.py").write_text("from choreo import Event\n\nimport nosuchlibrary\n")
    (tmp_path / "keyless.py").write_text(
        'from choreo import Event\n\nclass Odd(Event, topic="x", key="nokey"):\n    id: str\n'
    )
    (tmp_path / "syntax.py").write_text("x = 1\ndef broken(:\n")
    (tmp_path / "exits.py").write_text("import sys\nsys.exit('enough')\n")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "unbuildable.py").write_text(
        SHOP.replace(
            'class Unpack(Event, topic="packing.commands", key="order_id"):\n    order_id: str',
            'class Unpack(Event, topic="packing.commands", key="order_id"):\n    order_id: str\n    shelf: str',
        )
    )
    yield Console(capsys, tmp_path / ".choreo")
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def _one_line(done: Done) -> str:
    assert done.out == ""
    [line] = done.err.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in line
    return line


# ---- targets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nosuchmodule:shop", "there is no module 'nosuchmodule'"),
        ("shop.nosuch", "there is no module 'shop.nosuch'"),
        ("nosuch.py:shop", "there is no file nosuch.py"),
        ("shop.py:packin", "did you mean 'packing'?"),
        ("shop.py:Nothing", "it has Delivery, packing"),
        ("shop.py:number", "shop.py:number is of type int"),
        ("shop.py:Ordered", "shop.py:Ordered is the class Ordered"),
        ("shop.txt/x:y", "is not a Python file"),
        ("empty.py", "holds no service and no saga"),
        ("choreo.saga.demo", "name one, as in choreo.saga.demo."),
        ("missing_import.py:x", "missing_import.py:3: ModuleNotFoundError: No module named 'nosuchlibrary'"),
        ("missing_import:x", "missing_import.py:3: ModuleNotFoundError: No module named 'nosuchlibrary'"),
        ("keyless.py:x", "keyless.py:3: Odd: the key 'nokey' is not one of its fields"),
        ("syntax.py:x", "syntax.py:2: "),
        ("exits.py:x", "exits.py:2: SystemExit: enough"),
        ("unbuildable.py:Delivery", "shelf"),
        ("a b:c", "names no module"),
        (":x", "names no module"),
    ],
)
def test_a_wrong_target_gets_one_line_that_says_where(saga: Console, target: str, said: str) -> None:
    for command in (["run", target], ["topics", "apply", target]):
        done = saga(*command)
        assert done.code == exits.USAGE
        assert said in _one_line(done)


def test_two_services_of_one_name_do_not_run_in_one_process(saga: Console) -> None:
    assert "two services are called 'packing'" in _one_line(saga("run", "shop.py:packing", "other.py"))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run"], exits.USAGE, "name services and sagas"),
        (["run", "shop.py", "--broker", "kafka://127.0.0.1:1"], exits.UNREACHABLE, "127.0.0.1:1"),
        (["run", "shop.py", "--broker", "nonsense"], exits.USAGE, "is not a broker"),
        (["run", "shop.py", "--store", "mysql://x"], exits.USAGE, "is not a store"),
        (["run", "shop.py", "--on-gap", "maybe"], exits.USAGE, "Choose from"),
        (["topics", "list", "--broker", "localhost:1"], exits.UNREACHABLE, "localhost:1"),
        (["topics", "apply"], exits.USAGE, "whose topics?"),
        (["topics", "apply", "shop.py", "--partitions", "0"], exits.USAGE, "1 to 10,000"),
        (["topics", "apply", "shop.py", "--replication", "-1"], exits.USAGE, "--replication"),
        (["list"], exits.UNREACHABLE, "there is no store at .choreo/saga.db"),
        (["status", "4711"], exits.UNREACHABLE, "there is no store at"),
        (["list", "--store", "postgresql://ann:secret@127.0.0.1:1/x"], exits.UNREACHABLE, "ann:***@127.0.0.1:1"),
        (["list", "--state", "SLEEPING"], exits.USAGE, "write RUNNING, COMPENSATING"),
        (["list", "--condition", "Tired"], exits.USAGE, "OutOfOrder"),
        (["list", "--since", "yesterday"], exits.USAGE, "write 1h"),
        (["list", "--limit", "0"], exits.USAGE, "write 1 or more"),
        (["list", "--sort", "colour"], exits.USAGE, "Choose from"),
        (["list", "-o", "yaml"], exits.USAGE, "Choose from"),
        (["list", "--nosuch"], exits.USAGE, "--nosuch"),
        (["status"], exits.USAGE, "SAGA"),
        (["cancel", "1"], exits.USAGE, "--reason"),
        (["lst"], exits.USAGE, '"list"'),
        (["demo", "--orders", "0"], exits.USAGE, "write 1 or more"),
        (["help", "everything"], exits.USAGE, "exit-codes"),
        (["publish", "shop.py:rows"], exits.USAGE, "name a file"),
        (["publish", "shop.py:rows", "nosuch.csv"], exits.USAGE, "cannot read nosuch.csv"),
        (["publish", "shop.py:number", "x.csv"], exits.USAGE, "of type int"),
        (["publish", "shop.py:rows", "--data", "{}"], exits.USAGE, "is no Event class"),
        (["publish", "shop.py:Ordered", "--data", "{}"], exits.USAGE, "Ordered.order_id: Field required"),
        (["publish", "shop.py:Ordered", "--data", "{"], exits.USAGE, "Ordered: Invalid JSON"),
        (["publish", "shop.py:Ordered", "--data", '{"order_id":""}'], exits.ERROR, "its key 'order_id' is empty"),
        (["publish", "shop.py:Ordered", "x.csv", "--data", "{}"], exits.USAGE, "only one of them"),
        (["publish", "shop.py:rows", "--database", "sqlite:x.db"], exits.USAGE, "go together"),
        (["publish", "shop.py:rows", "x.csv", "--rate", "0"], exits.USAGE, "more than 0 events per second"),
        (
            ["publish", "shop.py:rows", "--database", "sqlite:nosuch.db", "--query", "SELECT 1"],
            exits.USAGE,
            "sqlite:nosuch.db: unable to open database file",
        ),
        (
            ["publish", "shop.py:rows", "--database", "sqlite:x.db", "--query", "SELECT :a", "--param", "b=1"],
            exits.USAGE,
            "the query needs :a; give it with --param a=...",
        ),
        (["publish", "shop.py:Ordered", "x.csv", "--id", "1"], exits.USAGE, "--id is for one event"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_line_and_its_exit_code(saga: Console, arguments: list[str], code: int, said: str) -> None:
    done = saga(*arguments)
    assert said in _one_line(done)
    assert done.code == code
    assert "secret" not in done.err


def test_an_error_is_json_where_the_output_is(saga: Console) -> None:
    for arguments in (["list", "-o", "json"], ["-o", "jsonl", "lst"], ["status", "--output=json", "x"]):
        done = saga(*arguments)
        told = validate(json.loads(done.err), "saga.error/v1")
        assert told["exit_code"] == done.code != exits.OK
        assert done.out == ""


@pytest.mark.parametrize("setting", ["CHOREO_TOPIC_PREFIX", "CHOREO_TZ"])
def test_a_wrong_setting_is_named(saga: Console, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    asyncio.run(_store(saga.home))
    monkeypatch.setenv(setting, "a/b c")
    arguments = ["list", "--since", "2026-01-01"]
    assert setting in _one_line(saga(*arguments))


def test_an_unexpected_error_is_one_line_and_verbose_shows_where(
    saga: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(_store(saga.home))

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("choreo.saga.queries.list_sagas", broken)
    done = saga("list")
    assert done.code == exits.ERROR
    assert _one_line(done) == "error: RuntimeError: two; lines; -v shows where"
    assert "Traceback" in saga("list", "-v").err


def test_an_interrupt_ends_quietly(saga: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(_store(saga.home))

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("choreo.saga.queries.list_sagas", interrupted)
    assert saga("list") == (exits.INTERRUPTED, "", "")


@pytest.mark.parametrize(
    ("given", "broker"),
    [
        ("localhost:9092", "kafka://localhost:9092"),
        ("a:1,b:2", "kafka://a:1,b:2"),
        ("kafka://a:1", "kafka://a:1"),
        ("memory:1", "memory:1"),
        ("local:5", "local:5"),
        ("local:x/broker.db", "local:x/broker.db"),
        ("", ""),
    ],
)
def test_a_bare_address_means_kafka(given: str, broker: str) -> None:
    assert as_broker(given) == broker


# ---- help -----------------------------------------------------------------------------------------------------------


def test_exit_codes_are_explained(saga: Console) -> None:
    listed = {line.split()[0] for line in saga("help", "exit-codes").out.splitlines()}
    assert listed == {str(each["code"]) for each in saga("help", "exit-codes", "-o", "json").json}
    constants = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    assert listed == {str(value) for value in constants}


COMMANDS = ["demo", "run", "publish", "list", "status", "watch", "trace", "ignored", "start", "cancel", "retry-undo"]
COMMANDS += ["mark-undone", "stop", "resume", "topics", "store", "help", "why", "wait", "graph", "dlq", "doctor"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_its_options(saga: Console, command: str) -> None:
    done = saga(command, "--help")
    assert done.code == exits.OK
    assert f"Usage: saga {command}" in done.out
    assert command in saga("--help").out


def test_every_command_has_examples_that_are_understood(saga: Console) -> None:
    listed = re.findall(r"^│ ([a-z][a-z-]+)  ", saga("--help").out, re.M)
    assert set(EXAMPLES) <= set(listed)
    for name, examples in EXAMPLES.items():
        page = saga(name, "--help").out
        for line in examples:
            assert line in page.replace("\n", " ") or len(line) > 70
            tokens = shlex.split(line)
            assert tokens[0] == "saga"
            _, bound, _ = app.meta.parse_args(tokens[1:], exit_on_error=False, print_error=False)
            app.parse_args(list(bound.args), exit_on_error=False, print_error=False)


def test_no_commands_help_loads_what_is_heavy() -> None:
    """That is what its time is made of: see `docs/cli.md`."""
    code = (
        "import sys\nfrom choreo.saga.cli.app import call\nfrom choreo.saga.cli.examples import EXAMPLES\n"
        "for name in EXAMPLES:\n    call([name, '--help'])\ncall(['--help'])\n"
        "heavy = ('pydantic', 'pydantic_settings', 'sqlalchemy', 'aiokafka', 'fastavro', 'httpx', 'opentelemetry')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_python_dash_m_is_the_same_program() -> None:
    done = subprocess.run([sys.executable, "-m", "choreo", "--version"], check=True, capture_output=True, text=True)
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", done.stdout)


# ---- publish --------------------------------------------------------------------------------------------------------


def test_a_file_is_published_once_and_malformed_rows_are_named(saga: Console) -> None:
    Path("rows.csv").write_text("id,amount\na,1\nb,many\nc,3\n,4\nd\n")
    done = saga("publish", "shop.py:rows", "rows.csv")
    assert done.code == exits.ERROR
    assert done.out == "5 rows · 2 events published · 3 rows malformed\n"
    assert [line.split(": ")[1] for line in done.err.splitlines()] == ["line 3", "line 5", "line 6"]
    told = validate(saga("publish", "shop.py:rows", "rows.csv", "-o", "json").json, "saga.published-file/v1")
    assert (told["published"], told["already"], told["malformed"]) == (0, 2, 3)
    assert [row["line"] for row in told["malformed_rows"]] == [3, 5, 6]


def test_the_same_file_named_otherwise_publishes_nothing_new(saga: Console) -> None:
    with gzip.open("rows.jsonl.gz", "wt") as file:
        file.write('{"order_id": "a", "amount": 2}\n{"order_id": "b"}\n')
    assert "2 events published" in saga("publish", "shop.py:Ordered", "rows.jsonl.gz").out
    absolute = Path("shop.py").resolve()
    assert "0 events published · 2 published before" in saga("publish", f"{absolute}:Ordered", "rows.jsonl.gz").out
    assert "2 events published" in saga("publish", "shop.py:Ordered", "rows.jsonl.gz", "--name", "another").out


def test_a_query_is_published_once_and_shown_before(saga: Console) -> None:
    with sqlite3.connect("shop.db") as connection:
        connection.execute("CREATE TABLE sold (id TEXT, sum INTEGER)")
        connection.execute("INSERT INTO sold VALUES ('a', 1), ('b', 2), ('c', 3)")
    connection.close()
    query = "SELECT id AS order_id, sum AS amount FROM sold WHERE sum >= CAST(:least AS integer) ORDER BY id"
    ask = ["publish", "shop.py:Ordered", "--database", "sqlite:shop.db", "--query", query, "--param", "least=2"]
    done = saga(*ask, "--dry-run")
    assert done.out.splitlines() == [
        'line 1: Ordered b to shop  {"order_id":"b","amount":2}',
        'line 2: Ordered c to shop  {"order_id":"c","amount":3}',
    ]
    assert saga(*ask, "--rate", "1000").out == "2 rows · 2 events published\n"
    told = validate(saga(*ask, "-o", "json").json, "saga.published-file/v1")
    assert (told["file"], told["published"], told["already"]) == ("sqlite:shop.db", 0, 2)


def test_a_dry_run_shows_events_and_needs_no_broker(saga: Console) -> None:
    Path("rows.csv").write_text("id,amount\na,1\nb,many\n")
    arguments = ["publish", "shop.py:rows", "rows.csv", "--dry-run", "--broker", "kafka://127.0.0.1:1"]
    done = saga(*arguments)
    assert done.code == exits.ERROR
    assert done.out == 'line 2: Ordered a to shop  {"order_id":"a","amount":1}\n'
    assert "line 3" in done.err
    [event] = saga(*arguments, "-o", "json").json
    assert validate(event, "saga.preview/v1")["data"] == {"order_id": "a", "amount": 1}
    assert not saga.home.exists()


def test_one_event_is_published_from_the_command_line(saga: Console) -> None:
    arguments = ["publish", "shop.py:Ordered", "--data", '{"order_id":"a"}']
    told = validate(saga(*arguments, "-o", "json").json, "saga.published/v1")
    assert (told["type"], told["topic"], told["key"]) == ("Ordered", "shop", "a")
    assert saga(*arguments, "--id", "mine", "-o", "id").out == "mine\n"
    validate(saga(*arguments, "--dry-run", "-o", "json").json, "saga.preview/v1")
    rows = saga("topics", "list", "-o", "json").json
    assert {validate(row, "saga.topic/v1")["topic"]: row["written"] for row in rows}["shop"] == 2


# ---- topics ---------------------------------------------------------------------------------------------------------

NEEDED = {
    "shop",
    "shop.dlq",
    "packing",
    "packing.dlq",
    "packing.commands",
    "packing.commands.dlq",
    "choreo.alerts",
    "choreo.alerts.dlq",
    "choreo.failures",
    "choreo.failures.dlq",
    "choreo.commands",
    "choreo.commands.dlq",
    "choreo.outcomes",
    "choreo.outcomes.dlq",
    "choreo.catalog",
    "choreo.definitions",
    "choreo.breakers",
    "choreo.schemas",
    "choreo.dead-letters",
}


def test_topics_are_created_once_with_their_dead_letters_and_choreos_own(saga: Console) -> None:
    dry = saga("topics", "apply", "shop.py:everything", "--partitions", "3", "--dry-run", "-o", "json").json
    assert {row["topic"] for row in dry if row["missing"]} == NEEDED
    done = saga("topics", "apply", "shop.py:everything", "--partitions", "3", "-o", "json").json
    assert {validate(row, "saga.topic/v1")["topic"] for row in done if row["created"]} == NEEDED
    assert {row["partitions"] for row in done if not row["compacted"]} == {3}
    again = saga("topics", "apply", "shop.py", "--partitions", "5")
    assert "0 of 19 topics created" in again.err
    assert "other partition counts than 5" in again.err
    assert saga("topics", "apply", "shop.py", "-o", "id").out == ""


def test_a_prefix_keeps_environments_apart(saga: Console) -> None:
    saga("topics", "apply", "shop.py", "--prefix", "staging.")

    async def names() -> set[str]:
        settings = load_settings()
        async with connect(settings.broker_url, settings) as transport:
            return set(await transport.topics())

    assert asyncio.run(names()) == {f"staging.{name}" for name in NEEDED}
    assert saga("topics", "list", "-o", "json").json[0]["topic"].startswith("staging.")
    assert {row["topic"] for row in saga("topics", "list", "--prefix", "staging.", "-o", "json").json} == NEEDED


# ---- stores ---------------------------------------------------------------------------------------------------------


async def _store(home: Path) -> None:
    database = await Database.open(f"sqlite:{home / 'saga.db'}")
    await database.ensure_schema("saga", metadata, HEAD)
    await database.close()


async def _set_version(home: Path, version: str) -> None:
    database = await Database.open(f"sqlite:{home / 'saga.db'}")
    await database.write(
        lambda connection: connection.execute(text(f"UPDATE choreo_saga_version SET version_num = '{version}'"))
    )
    await database.close()


def test_what_an_upgrade_would_do_is_told_and_not_done(saga: Console) -> None:
    tried = saga("store", "upgrade", "shop.py", "--dry-run", "-o", "json").json
    rows = [validate(row, "saga.upgrade/v1") for row in tried]
    assert [(row["room"], row["applied"], bool(row["pending"])) for row in rows if "saga.db" in row["store"]] == [
        ("events", [], True),
        ("saga", [], True),
    ]
    assert not list(saga.home.glob("*.db")), "nothing was made"
    asyncio.run(_store(saga.home))
    asyncio.run(_set_version(saga.home, "0008"))
    tried = saga("store", "upgrade", "--dry-run", "-o", "json").json
    assert [row["pending"] for row in tried if row["room"] == "saga"] == [["0009", "0010", HEAD]]
    assert "WOULD APPLY" in saga("store", "upgrade", "--dry-run").out


@pytest.mark.parametrize(
    "command", [["store", "upgrade"], ["topics", "apply", "shop.py"], ["schema", "register", "shop.py"]]
)
def test_a_change_of_the_installation_has_its_reason_in_the_audit(saga: Console, command: list[str]) -> None:
    if command[0] != "store":
        saga("store", "upgrade")
    saga("topics", "apply", "shop.py") if command[0] == "schema" else None
    assert saga(*command, "--reason", "release 7").code == exits.OK
    rows = saga("audit", "list", "-o", "json").json
    assert "release 7" in [row["reason"] for row in rows]


def test_a_store_is_made_and_upgraded(saga: Console) -> None:
    rows = [validate(row, "saga.upgrade/v1") for row in saga("store", "upgrade", "shop.py", "-o", "json").json]
    told = {(Path(row["store"]).name, row["room"]): row["applied"] for row in rows}
    assert set(told) == {
        ("saga.db", "events"),
        ("saga.db", "saga"),
        ("packing.db", "events"),
        ("packing.db", "services"),
    }
    assert all(told.values())
    again = saga("store", "upgrade")  # the service's store is found in the home folder
    assert again.out.count("up to date") == 4
    assert saga("list", "-o", "json").json == []


def test_a_store_of_a_newer_release_is_refused_by_every_command(saga: Console) -> None:
    asyncio.run(_store(saga.home))
    asyncio.run(_set_version(saga.home, "9999"))
    for arguments in (["list"], ["status", "1"], ["store", "upgrade"], ["run", "shop.py:Delivery"]):
        done = saga(*arguments)
        assert done.code == exits.ERROR
        assert "newer release" in _one_line(done)


def test_a_store_without_sagas_is_no_store_of_sagas(saga: Console) -> None:
    saga("store", "upgrade", "shop.py:packing")
    done = saga("list", "--store", f"sqlite:{saga.home / 'packing.db'}")
    assert "holds no sagas" in _one_line(done)


def test_the_documentation_lists_the_exit_codes_the_shapes_and_the_commands() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    for line in exits.TABLE.splitlines():
        code, meaning = line.split(maxsplit=1)
        assert re.search(rf"^\| {code} \| {re.escape(meaning)}", page, re.M), line
    shapes = {re.sub(r"\.(v\d+)\.json$", r"/\1", path.name) for path in SCHEMAS.glob("*.json")}
    assert shapes == set(re.findall(r"`(saga\.[a-z-]+/v\d+)`", page))
    for command in COMMANDS:
        assert f"`saga {command}" in page
