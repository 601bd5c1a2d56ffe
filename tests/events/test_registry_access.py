"""How a registry is reached and trusted: logins and TLS through a front before a real Apicurio, and what is refused."""

from __future__ import annotations

import ssl
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from choreo.events.errors import ConfigurationError, RegistryUnreachable
from choreo.events.memory import MemoryBroker
from choreo.events.registry import SchemaRegistry, open_registry
from choreo.events.registry_access import Access
from choreo.events.settings import Settings, load_settings
from tests.support.apicurio import ApicurioServer
from tests.support.front import Front
from tests.support.schema_server import SchemaServer

SCHEMA = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "string"}]}
BASIC = "Basic bWU6aHVudGVyMg=="
BEARER = "Bearer hunter2"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def pem(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `ca.pem`, and `client.pem` and `client.key` of the same authority."""
    folder = tmp_path_factory.mktemp("pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    client = authority.issue_cert("client.test")
    client.private_key_pem.write_to_path(folder / "client.key")
    for part in client.cert_chain_pems:
        part.write_to_path(folder / "client.pem", append=True)
    yield folder


def server_context(authority: trustme.CA, name: str = "localhost", *, mutual: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    names = (name, "127.0.0.1") if name == "localhost" else (name,)
    authority.issue_cert(*names).configure_cert(context)
    if mutual:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def opened(front: Front, scheme: str = "http", **settings: Any) -> SchemaRegistry:
    url = f"{scheme}://127.0.0.1:{front.port}/apis/ccompat/v7"
    return open_registry(Settings(registry=url, **settings), MemoryBroker())


async def works(registry: SchemaRegistry) -> None:
    schema_id = await registry.register(f"orders-{uuid.uuid4()}", SCHEMA)
    assert await registry.fetch(schema_id) == SCHEMA
    await registry.close()


@pytest.mark.registry
@pytest.mark.parametrize(
    ("login", "given"),
    [
        (BASIC, {"registry_user": "me", "registry_password": "hunter2"}),
        (BEARER, {"registry_token": "hunter2"}),
    ],
)
async def test_a_login_is_sent_and_a_wrong_one_is_one_clear_line_without_it(
    apicurio: ApicurioServer, login: str, given: dict[str, str]
) -> None:
    async with Front(apicurio.port, authorization=login) as front:
        await works(opened(front, **given))
        assert front.refused == 0
        for wrong in ({name: value + "4" for name, value in given.items()}, {}):
            registry = opened(front, **wrong)
            with pytest.raises(ConfigurationError, match=r"answers 401: check CHOREO_REGISTRY_USER .*_TOKEN") as caught:
                await registry.fetch(1)
            assert "hunter2" not in str(caught.value)
            await registry.close()
        assert front.refused == 2


@pytest.mark.registry
async def test_tls_is_spoken_with_an_authority_of_ones_own(
    apicurio: ApicurioServer, authority: trustme.CA, pem: Path
) -> None:
    async with Front(apicurio.port, authorization=BASIC, context=server_context(authority)) as front:
        login = {"registry_user": "me", "registry_password": "hunter2"}
        await works(opened(front, "https", registry_ca=pem / "ca.pem", **login))
        stranger = opened(front, "https", **login)
        with pytest.raises(RegistryUnreachable, match=r"does not answer: .*certificate verify failed"):
            await stranger.fetch(1)
        await stranger.close()


@pytest.mark.registry
async def test_a_certificate_of_another_host_is_refused(
    apicurio: ApicurioServer, authority: trustme.CA, pem: Path
) -> None:
    async with Front(apicurio.port, context=server_context(authority, "elsewhere.test")) as front:
        registry = opened(front, "https", registry_ca=pem / "ca.pem")
        with pytest.raises(RegistryUnreachable, match=r"does not answer: .*IP address mismatch"):
            await registry.fetch(1)
        await registry.close()
        assert front.passed == 0


@pytest.mark.registry
async def test_a_server_that_asks_for_a_certificate_gets_ours(
    apicurio: ApicurioServer, authority: trustme.CA, pem: Path
) -> None:
    async with Front(apicurio.port, context=server_context(authority, mutual=True)) as front:
        files = {"registry_certificate": pem / "client.pem", "registry_key": pem / "client.key"}
        await works(opened(front, "https", registry_ca=pem / "ca.pem", **files))
        without = opened(front, "https", registry_ca=pem / "ca.pem")
        with pytest.raises(RegistryUnreachable, match="does not answer"):
            await without.fetch(1)
        await without.close()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"url": "http://h", "user": "me", "token": "t"}, "are both set"),
        ({"url": "http://h", "password": "p"}, "without CHOREO_REGISTRY_USER"),
        ({"url": "http://h", "user": "me"}, "would travel unencrypted; write https://"),
        ({"url": "http://10.0.0.1", "token": "t"}, "would travel unencrypted"),
        ({"url": "https://h", "token": "a b"}, "CHOREO_REGISTRY_TOKEN holds a space"),
        ({"url": "https://h", "token": "a\r\nx: y"}, "CHOREO_REGISTRY_TOKEN holds a space, a line break"),
        ({"url": "http://169.254.169.254/latest"}, "is a link-local address"),
        ({"url": "http://[fe80::1]"}, "is a link-local address"),
        ({"url": "http://h:99999"}, "is not a schema registry"),
        ({"url": "http://h?x=y"}, "is not a schema registry"),
    ],
)
def test_what_cannot_work_is_refused_before_a_request(given: dict[str, str], message: str) -> None:
    names = {name if name == "url" else f"registry_{name}": value for name, value in given.items()}
    names["registry"] = names.pop("url")
    with pytest.raises(ConfigurationError, match=message):
        open_registry(load_settings(**names), MemoryBroker())


def test_credentials_may_travel_openly_where_that_is_allowed_and_on_the_loopback() -> None:
    for url, allowed in (("http://h", True), ("http://127.0.0.1", False), ("http://localhost", False)):
        settings = load_settings(registry=url, registry_token="t", registry_allow_plaintext=allowed)
        assert Access.of(settings).headers() == {"authorization": "Bearer t"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"certificate": "none.pem"}, r"CHOREO_REGISTRY_CERTIFICATE .*none.pem .* cannot be used: No such file"),
        ({"certificate": "ca.pem"}, r"CHOREO_REGISTRY_CERTIFICATE .*ca.pem .* cannot be used: "),
        ({"key": "client.key"}, "CHOREO_REGISTRY_KEY is set without CHOREO_REGISTRY_CERTIFICATE"),
        ({"ca": "client.key"}, "cannot read the registry's CA file .*client.key: "),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_line(pem: Path, files: dict[str, str], message: str) -> None:
    access = Access(url="https://h", **{name: pem / each for name, each in files.items()})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=message):
        access.context()


async def test_an_answer_that_comes_byte_by_byte_is_given_up() -> None:
    async with SchemaServer() as server:
        server.drip = 0.05
        registry = open_registry(load_settings(registry=server.url, registry_timeout=0.3), MemoryBroker())
        began = time.monotonic()
        with pytest.raises(RegistryUnreachable, match=r"does not answer within 0\.3 s"):
            await registry.fetch(1)
        assert time.monotonic() - began < 30
        await registry.close()


async def test_the_password_is_nowhere_in_the_settings_as_text() -> None:
    settings = load_settings(registry="https://h", registry_user="me", registry_password="hunter2")
    assert "hunter2" not in repr(settings) + repr(Access.of(settings)) + str(settings)
