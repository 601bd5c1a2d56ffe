"""A Django project in one file, as docs/outbox.md has it, in a process of its own: `... DATABASE-URL COMMIT|ROLLBACK`.

Django's settings and apps are of the whole process, so no test can share one with another.
"""

from __future__ import annotations

import sys
import types
from typing import Any
from urllib.parse import parse_qs, urlsplit

import django
import pymysql
from django.apps import AppConfig
from django.conf import settings
from django.db import connection, migrations, models, transaction

from choreo import ConfigurationError, Event, Outbox
from choreo.events.outboxes.table import ddl


class OrderPlaced(Event, topic="orders", key="order_id", format="json"):
    order_id: str
    total_cents: int


outbox = Outbox(source="shop")


def database(url: str) -> dict[str, Any]:
    """Spell a URL of the tests as Django's `DATABASES` does."""
    if url.startswith("sqlite:"):
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": url.removeprefix("sqlite:")}
    parts = urlsplit(url)
    name = {"NAME": parts.path.removeprefix("/"), "USER": parts.username}
    if parts.scheme == "postgresql":
        return {"ENGINE": "django.db.backends.postgresql", "HOST": parse_qs(parts.query)["host"][0], **name}
    pymysql.install_as_MySQLdb()  # instead of mysqlclient, which has to be compiled
    socket = parse_qs(parts.query)["unix_socket"][0]
    return {"ENGINE": "django.db.backends.mysql", "HOST": socket, **name}


def make(_: object, schema_editor: Any) -> None:
    """Make the tables; as in the docs."""
    for statement in ddl(schema_editor.connection.vendor):
        schema_editor.execute(statement)


class Migration(migrations.Migration):
    """The shop's one migration: its own table, and those of the outbox."""

    initial = True
    dependencies: list[Any] = []
    operations = [
        migrations.CreateModel("Order", [("number", models.CharField(max_length=40, primary_key=True))]),
        migrations.RunPython(make, atomic=False),
    ]


class Shop(AppConfig):
    """The app, whose code is this file."""

    name = "shop"
    path = "."


def set_up(url: str) -> None:
    """Configure Django, with this file as the app `shop`."""
    migration = types.ModuleType("shop.migrations.0001_initial")
    migration.Migration = Migration  # type: ignore[attr-defined]
    package = types.ModuleType("shop.migrations")
    package.__path__ = []
    package.__file__ = __file__
    shop = types.ModuleType("shop")
    shop.__path__ = []
    sys.modules |= {"shop": shop, "shop.migrations": package, "shop.migrations.0001_initial": migration}
    settings.configure(DATABASES={"default": database(url)}, INSTALLED_APPS=[f"{__name__}.Shop"], USE_TZ=True)
    django.setup()


def main(url: str, end: str) -> None:
    """Place an order in one transaction, and end that as asked."""
    set_up(url)

    class Order(models.Model):
        number = models.CharField(max_length=40, primary_key=True)

        class Meta:
            app_label = "shop"
            db_table = "shop_order"

    with connection.schema_editor() as editor:
        Migration("0001_initial", "shop").apply(migrations.state.ProjectState(), editor)
    try:
        outbox.add(connection, OrderPlaced(order_id="0", total_cents=1))
    except ConfigurationError as error:
        assert "use `with transaction.atomic():`" in error.message
    else:
        raise AssertionError("an event without a transaction was taken")
    with transaction.atomic():
        Order.objects.create(number="4711")
        outbox.add(connection, *(OrderPlaced(order_id="4711", total_cents=cents) for cents in (1990, 1)))
        if end == "ROLLBACK":
            transaction.set_rollback(True)
    print(Order.objects.count())


if __name__ == "__main__":
    main(*sys.argv[1:3])
