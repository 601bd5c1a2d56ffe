"""The coordinator's tables. Times are whole microseconds since the Unix epoch, UTC."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

HEAD = "0011"
metadata = MetaData()

definition = Table(
    "choreo_definition",
    metadata,
    Column("type", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("hash", String(32), nullable=False),
    Column("spec", Text, nullable=False),
    Column("registered_at", BigInteger, nullable=False),
    Column("active_from", BigInteger, nullable=False),
    PrimaryKeyConstraint("type", "version"),
)
"""Definitions as data: the CLI reads them, so it needs no user code."""

loaded = Table(
    "choreo_loaded",
    metadata,
    Column("group", Text, nullable=False),
    Column("client", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("at", BigInteger, nullable=False),
    PrimaryKeyConstraint("group", "client", "type", "version"),
)
"""Which coordinator has which version's code; `client` is its name as a member of its group."""

saga = Table(
    "choreo_saga",
    metadata,
    Column("id", Text, primary_key=True),
    Column("type", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("run", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("phase", String(16), nullable=False),
    Column("step", Text),
    Column("error", Text),
    Column("conditions", Text, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("next_due", BigInteger),
    Column("limit_due", BigInteger),
    Column("traced", Boolean, nullable=False),
    Column("state", Text, nullable=False),
    Column("waits_since", BigInteger),
    UniqueConstraint("type", "key", "run"),
    Index("choreo_saga_key", "key"),
    Index("choreo_saga_phase", "phase", "updated_at"),
    Index("choreo_saga_listed", "phase", "started_at"),
    Index("choreo_saga_type", "type", "started_at"),
    Index("choreo_saga_started", "started_at"),
)
"""One row for each instance: columns to search by, and the whole state as JSON. Its timers are the `next_due` of the
state, so that none can outlive the state that it belongs to."""

Index(
    "choreo_saga_due",
    saga.c.next_due,
    sqlite_where=saga.c.next_due.isnot(None),
    postgresql_where=saga.c.next_due.isnot(None),
)
Index(
    "choreo_saga_limit",
    saga.c.limit_due,
    sqlite_where=saga.c.limit_due.isnot(None),
    postgresql_where=saga.c.limit_due.isnot(None),
)
Index(
    "choreo_saga_waits",
    saga.c.waits_since,
    sqlite_where=saga.c.waits_since.isnot(None),
    postgresql_where=saga.c.waits_since.isnot(None),
)
"""Since when a saga waits for what it waits for longest, until somebody has looked whether it is stuck (`quiet`)."""

Index(
    "choreo_saga_untraced", saga.c.id, sqlite_where=saga.c.traced.is_(False), postgresql_where=saga.c.traced.is_(False)
)

Index(
    "choreo_saga_error",
    saga.c.error,
    saga.c.updated_at,
    sqlite_where=saga.c.error.isnot(None),
    postgresql_where=saga.c.error.isnot(None),
)

_PAUSED = text("conditions LIKE '%Paused%'")
Index("choreo_saga_paused", saga.c.type, saga.c.version, sqlite_where=_PAUSED, postgresql_where=_PAUSED)

_REMARKED = text("conditions <> ''")
Index("choreo_saga_remarked", saga.c.phase, saga.c.started_at, sqlite_where=_REMARKED, postgresql_where=_REMARKED)
"""Those with a condition are few: so they are found among very many."""

history = Table(
    "choreo_history",
    metadata,
    Column("saga_id", Text, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("type", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("event_time", BigInteger, nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("changes", Text, nullable=False),
    Column("input", Text, nullable=False),
    Column("topic", Text),
    Column("partition", Integer),
    Column("offset", BigInteger),
    Column("content_type", Text),
    Column("value", LargeBinary),
    PrimaryKeyConstraint("saga_id", "seq"),
    UniqueConstraint("saga_id", "event_id"),
)
"""Append-only: one row for each input, with what it changed and why. Its unique index is the coordinator's inbox."""

parked = Table(
    "choreo_saga_parked",
    metadata,
    Column("type", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("input", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("content_type", Text),
    Column("value", LargeBinary),
    PrimaryKeyConstraint("type", "key", "event_id"),
    Index("choreo_saga_parked_expiry", "expires_at"),
)
"""Events that came before their saga."""

ignored = Table(
    "choreo_ignored",
    metadata,
    Column("saga_type", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("first_at", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    Column("last_event_id", Text, nullable=False),
    PrimaryKeyConstraint("saga_type", "topic", "event_type", "reason"),
)
"""What was read and changed no saga, counted by reason: nothing disappears without a trace."""

sent = Table(
    "choreo_sent",
    metadata,
    Column("id", Text, primary_key=True),
    Column("saga_id", Text, nullable=False),
    Column("step", Text, nullable=False),
    Column("kind", String(8), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("release_at", BigInteger),
    Column("topic", Text, nullable=False),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    Column("headers", Text, nullable=False),
    Index("choreo_sent_saga", "saga_id"),
)
"""Commands as they went out, so that silence resends the same bytes; `release_at` holds an undo back (rate, stop)."""

Index(
    "choreo_sent_held",
    sent.c.release_at,
    sqlite_where=sent.c.release_at.isnot(None),
    postgresql_where=sent.c.release_at.isnot(None),
)

position = Table(
    "choreo_position",
    metadata,
    Column("group", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("read_until", BigInteger, nullable=False),
    PrimaryKeyConstraint("group", "topic", "partition"),
)
"""The consumed positions, in the same transaction as what they led to; `read_until` is the barrier of ruling R1."""

command = Table(
    "choreo_command",
    metadata,
    Column("id", Text, primary_key=True),
    Column("saga_id", Text),
    Column("kind", String(24), nullable=False),
    Column("arguments", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("result", Text),
    Column("done_at", BigInteger),
    Index("choreo_command_state", "state", "at"),
)
"""What people asked for (ruling R17): written by CLI and web, applied by the coordinator, kept as the record of it."""

control = Table(
    "choreo_control",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("by", Text, nullable=False),
)
"""Switches of the whole store: `timers` (the breaker) and `undo` (the emergency stop)."""

lock = Table(
    "choreo_lock",
    metadata,
    Column("name", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("saga_id", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("until", BigInteger, nullable=False),
    PrimaryKeyConstraint("name", "key"),
)
"""Who holds which semantic lock. That there is one holder at most is this table's primary key."""

lock_queue = Table(
    "choreo_lock_queue",
    metadata,
    Column("saga_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("nth", Integer, nullable=False),
    Column("until", BigInteger, nullable=False),
    Index("choreo_lock_queue_place", "name", "key", "at", "nth"),
)
"""Who waits for a lock, in order. A saga's row here and in `lock` is only written by who has that saga locked."""

admission = Table(
    "choreo_admission",
    metadata,
    Column("saga_id", Text, primary_key=True),
    Column("type", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("nth", Integer, nullable=False),
    Column("admitted", Boolean, nullable=False),
    Index("choreo_admission_place", "type", "admitted", "at", "nth"),
)
"""The open sagas of types that limit how many may be open (`max_open`), and those that wait to start, in order."""

schedule = Table(
    "choreo_schedule",
    metadata,
    Column("type", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("cron", Text, nullable=False),
    Column("zone", Text, nullable=False),
    Column("missed", String(8), nullable=False),
    Column("next_at", BigInteger),
    Column("look_at", BigInteger),
    Column("last_at", BigInteger),
    Column("paused", Boolean, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("error", Text),
)
"""When sagas start by the clock. Whoever moves `next_at` on fires that tick; `look_at` is later after an error."""

audit = Table(
    "choreo_audit",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text),
    Column("by", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("via", String(16), nullable=False),
    Column("token", Text, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("command_id", Text),
    Column("sealed", Text),
    Column("digest", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index("choreo_audit_target", "target"),
    Index("choreo_audit_command", "command_id"),
)
"""Who changed what and why, a chain of hashes (`audit`); `sealed` holds what can be erased without breaking it."""

job = Table(
    "choreo_job",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", String(24), nullable=False),
    Column("arguments", Text, nullable=False),
    Column("about", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("rate", Integer, nullable=False),
    Column("total", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("next_at", BigInteger),
    Column("done_at", BigInteger),
    Index("choreo_job_next", "next_at"),
)
"""What people ask of many sagas at once (`jobs`); `next_at` is when its next part is due, None where none is."""

job_item = Table(
    "choreo_job_item",
    metadata,
    Column("job_id", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("nth", Integer, nullable=False),
    Column("command_id", Text),
    Column("state", String(16), nullable=False),
    Column("result", Text),
    PrimaryKeyConstraint("job_id", "target"),
    Index("choreo_job_item_nth", "job_id", "state", "nth"),
)
"""Each target of a job, once: that none is done twice is this table's primary key."""

duration = Table(
    "choreo_duration",
    metadata,
    Column("type", Text, nullable=False),
    Column("kind", String(8), nullable=False),
    Column("step", Text, nullable=False),
    Column("week", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("sketch", LargeBinary, nullable=False),
    PrimaryKeyConstraint("type", "kind", "step", "week"),
)
"""How long steps, undos and whole sagas took that ended well, by the week in which they ended: their number, their sum
and a sketch of them, into which every coordinator merges its own."""

usual = Table(
    "choreo_usual",
    metadata,
    Column("type", Text, nullable=False),
    Column("kind", String(8), nullable=False),
    Column("step", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("p50", BigInteger, nullable=False),
    Column("p95", BigInteger, nullable=False),
    Column("p99", BigInteger, nullable=False),
    PrimaryKeyConstraint("type", "kind", "step"),
)
"""What the sketches say is usual now, so that whoever judges a saga reads no sketch."""

alert = Table(
    "choreo_alert",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("saga", Text),
    Column("type", Text),
    Column("key", Text, nullable=False),
    Column("step", Text),
    Column("reason", Text, nullable=False),
    Column("summary", Text, nullable=False),
    Column("remedies", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("told_at", BigInteger),
    Index("choreo_alert_told", "told_at", "at"),
    Index("choreo_alert_kind", "kind", "at"),
)
"""Occurrences that somebody should hear of, each once; `told_at` is set in the transaction that tells one."""

coordinator = Table(
    "choreo_coordinator",
    metadata,
    Column("group", Text, nullable=False),
    Column("client", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("partitions", Text, nullable=False),
    Column("batches", Integer, nullable=False),
    Column("delay_p50", BigInteger),
    Column("delay_p99", BigInteger),
    PrimaryKeyConstraint("group", "client"),
)
"""What each coordinator says of itself every few seconds (`presence`): what it reads, and how quickly it decides."""

seen_group = Table(
    "choreo_group",
    metadata,
    Column("group", Text, primary_key=True),
    Column("seen_at", BigInteger, nullable=False),
)
"""When a coordinator last saw a live member of a service's consumer group: since when one without any is down."""
