"""Contexts: named sets of settings, which of them counts, and what is shown of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from choreo.events.contexts import read_contexts
from choreo.events.errors import ConfigurationError
from choreo.events.settings import load_settings
from choreo.saga.cli import exits
from tests.support.console import Console, validate

FILE = """\
# who reads this keeps this line
retention = "30d"
context = "dev"

[contexts.dev]
home = "/srv/dev"
topic_prefix = "dev."

[contexts.prod]
home = "/srv/prod"
store = "postgresql://reader:geheim@db/choreo"
"""


@pytest.fixture
def saga(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Console:
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    Path("choreo.toml").write_text(FILE)
    return Console(capsys, tmp_path)


@pytest.mark.parametrize(
    ("environment", "flags", "home", "prefix"),
    [
        ({}, {}, "/srv/dev", "dev."),
        ({"CHOREO_CONTEXT": "prod"}, {}, "/srv/prod", ""),
        ({"CHOREO_HOME": "/env"}, {}, "/env", "dev."),
        ({"CHOREO_HOME": "/env", "CHOREO_CONTEXT": "prod"}, {}, "/env", ""),
        ({"CHOREO_HOME": "/env"}, {"context": "prod"}, "/srv/prod", ""),
        ({"CHOREO_HOME": "/env"}, {"context": "prod", "home": "/flag"}, "/flag", ""),
        ({"CHOREO_CONTEXT": "prod"}, {"context": "dev"}, "/srv/dev", "dev."),
    ],
)
def test_a_named_context_counts_more_than_variables_and_those_more_than_the_one_in_use(
    saga: Console,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    flags: dict[str, str],
    home: str,
    prefix: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(**flags)
    assert (str(settings.home), settings.topic_prefix, settings.retention) == (home, prefix, "30d")


def test_contexts_are_listed_and_shown_without_their_secrets(saga: Console) -> None:
    listed = [validate(each, "saga.context/v1") for each in saga("context", "list", "-o", "json").json]
    assert [(each["name"], each["current"]) for each in listed] == [("dev", True), ("prod", False)]
    assert saga("context", "list", "-o", "id").out.split() == ["dev", "prod"]
    for command in (["context", "list"], ["context", "show", "prod"], ["context", "show", "prod", "-o", "json"]):
        done = saga(*command)
        assert "geheim" not in done.out + done.err
        assert "reader:***@db" in done.out
    assert validate(saga("context", "show", "-o", "json").json)["settings"]["home"] == "/srv/dev"
    assert saga("context", "show", "--context", "prod", "-o", "id").out == "prod\n"


def test_a_context_is_added_used_and_removed_and_the_rest_of_the_file_stays(saga: Console) -> None:
    done = saga("context", "add", "test-2", "home=/srv/two", "topic_prefix=two.", "-o", "json")
    assert validate(done.json, "saga.context/v1")["settings"] == {"home": "/srv/two", "topic_prefix": "two."}
    assert saga("context", "use", "test-2").out == "context test-2 is in use\n"
    assert str(load_settings().home) == "/srv/two"
    assert validate(saga("context", "remove", "test-2", "-o", "json").json)["current"] is False
    file = read_contexts()
    assert (sorted(file.named), file.current) == (["dev", "prod"], "")
    assert Path("choreo.toml").read_text().startswith("# who reads this keeps this line\nretention")


def test_the_first_context_makes_the_file(saga: Console) -> None:
    Path("choreo.toml").unlink()
    assert saga("context", "list", "-o", "json").json == []
    saga("context", "add", "dev", "home=here")
    saga("context", "use", "dev")
    assert str(load_settings().home) == "here"
    saga("context", "add", "dev", "home=there")
    assert str(load_settings().home) == "there"


def test_a_file_without_a_context_in_use_gets_one_above_its_tables(saga: Console) -> None:
    Path("choreo.toml").write_text('[contexts.dev]\nhome = "here" # a note\n')
    saga("context", "use", "dev")
    assert "# a note" in Path("choreo.toml").read_text()
    assert str(load_settings().home) == "here"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["use", "nosuch"], exits.USAGE, "it has dev, prod"),
        (["remove", "nosuch"], exits.USAGE, "there is no context 'nosuch'"),
        (["show", "nosuch"], exits.USAGE, "there is no context 'nosuch'"),
        (["add", "x"], exits.USAGE, "which settings?"),
        (["add", "x", "home"], exits.USAGE, "write name=value"),
        (["add", "x", "brokre=y"], exits.USAGE, "did you mean broker?"),
        (["add", "x", "session=never"], exits.USAGE, "CHOREO_SESSION"),
        (["add", "a b", "home=x"], exits.USAGE, "is no name for a context"),
    ],
)
def test_what_cannot_be_is_told_and_changes_nothing(saga: Console, arguments: list[str], code: int, said: str) -> None:
    done = saga("context", *arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert Path("choreo.toml").read_text() == FILE


def test_a_secret_in_the_file_is_remarked(saga: Console) -> None:
    done = saga("context", "add", "x", "kafka_password=hush")
    assert "keep it out of version control" in done.err
    assert "hush" not in done.out + done.err + saga("context", "show", "x").out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("home = ", "is no TOML"),
        ("contexts = 3", "write each context as a table"),
        ("context = 3", "names the context in use"),
        ('context = "x"\n[contexts.x]\nhme = "y"', "'hme' in context 'x' is no setting"),
        ('context = "gone"', "there is no context 'gone'"),
    ],
)
def test_a_wrong_file_is_one_clear_line(saga: Console, text: str, said: str) -> None:
    Path("choreo.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        load_settings()
    done = saga("list", "-o", "json")
    assert done.code == exits.USAGE
    assert said in validate(json.loads(done.err), "saga.error/v1")["message"]
