"""Running one handler once: decode, call, turn what it returns into records, and decide what an error means."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import structlog

from ..events.clock import SECOND, Clock
from ..events.codec import Codec, heading_of
from ..events.envelope import Heading, Record, TraceContext
from ..events.errors import DecodeError, DefinitionError, EventError, LimitExceeded
from ..events.event import Event
from ..events.failpoints import failpoint
from ..events.outbox import MOST_RECORD_BYTES
from .context import Context, Transaction
from .dead_letters import Failure, dead_letter, handler_failed
from .job import Job, Later, Park, Result
from .ladder import climb
from .logged import ids_of
from .retry import Again
from .service import Service

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..events.catalog import DefinitionAnnouncement
    from ..tracing.place import Place, Placement
    from ..tracing.spans import HandlerSpan, Tracing
    from .measuring import Calls

log = structlog.get_logger("choreo.services")

EMPTY_HEADER = ("undo-empty", b"1")
"""Header of the answer to an undo that found nothing to undo."""

_LONG_TRANSACTION = 1 * SECOND
_SMALL_VALUE = MOST_RECORD_BYTES // 4


class Execution:
    """Runs handlers of one service.

    Args:
        service: the service.
        codec: prepared for what it publishes.
        tracing: where spans go.
        clock: gives event times.
        randomness: gives numbers from 0 to 1, for jitter.
        provided: what handlers are given beside the event.
    """

    def __init__(
        self,
        service: Service,
        codec: Codec,
        tracing: Tracing,
        clock: Clock,
        randomness: Callable[[], float],
        provided: Calls,
    ) -> None:
        self._service = service
        self._codec = codec
        self._tracing = tracing
        self._clock = clock
        self._randomness = randomness
        self._provided = provided
        self._classes = {(h.full_name, event.spec().type): event for h in service.handlers for event in h.events}
        self._placements: dict[str, Placement] = {}
        self._headings: dict[str, Heading] = {}

    def learn_definitions(self, definitions: Iterable[DefinitionAnnouncement]) -> None:
        """Take note of the sagas that are announced, so that runs are placed in them."""
        from ..tracing.place import Placement

        known = list(definitions)
        self._placements = {
            handler.full_name: Placement(
                [event.spec().type for event in handler.signature.produces], known, namespace=self._tracing.namespace
            )
            for handler in self._service.handlers
        }

    def decode(self, job: Job) -> None:
        """Decode the job's event, once.

        Raises:
            UnknownSchema: the codec must learn the writer's schema first.
            DecodeError, LimitExceeded: it never will be readable.
        """
        if job.event is not None:
            return
        value = job.delivery.value if job.envelope.value is None else job.envelope.value
        if value is None:
            raise DecodeError("the record has no value")
        cls = self._classes.get((job.route.name, job.envelope.type))
        if cls is None:  # parked before the handler was changed
            raise DecodeError(f"{job.route.name} does not take {job.envelope.type} any more")
        job.event = self._codec.decode(cls, value, job.envelope.content_type, job.envelope.key, job.envelope.id)

    async def learn(self, schema_id: int) -> None:
        """Fetch a writer's schema.

        Raises:
            RegistryUnreachable: wait.
            DecodeError: there is none.
        """
        await self._codec.learn(schema_id)

    async def run(self, job: Job, tx: Transaction | None = None) -> Result | Later:
        """Run the handler once on a decoded event; what it raises becomes a decision.

        Args:
            job: its `attempt` is counted up.
            tx: handed to a handler that takes one.
        """
        job.attempt += 1
        handler = job.route.handler
        context = Context(handler.service, handler.name, job.envelope, job.attempt)
        assert job.event is not None
        span: HandlerSpan | None = None
        place, step = self._place(job)
        began = job.began = self._clock()
        try:
            failpoint("service.before_effect", job.route.name, job.envelope.id)
            if self._tracing.enabled:
                span = self._tracing.process(
                    job.delivery, job.envelope, group=self._service.name, place=place, attempt=job.attempt
                )
                job.span_id = span.span_id
                with span:
                    returned = await self._provided.call(handler, job.event, context, tx)
            else:
                returned = await self._provided.call(handler, job.event, context, tx)
            if tx is not None:
                tx.end()
                self._warn_of_long(job, began)
            failpoint("service.after_effect", job.route.name, job.envelope.id)
            if job.route.gate is not None:
                job.route.gate.ended(job, None)
            if returned is None and not handler.signature.produces:
                return Result("handled", "done", answered=job.command)
            events = _events_of(job, returned)
            return Result("handled", "done", self._records(job, events, span, step), answered=job.command)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # The handler let a cancellation of its own escape; whoever runs it must go on with the others.
            return self.failed(job, RuntimeError("the handler was cancelled from inside"))
        except Exception as error:
            return self.failed(job, error)

    async def run_batch(self, jobs: Sequence[Job], tx: Transaction | None = None) -> list[Result | Later] | None:
        """Run a batch handler once; None when it failed with several events, so that halves of them are to be tried.

        Args:
            jobs: of one handler; the `attempt` of each is counted up, unless None comes back.
            tx: handed to a handler that takes one.
        """
        first = jobs[0]
        handler, gate = first.route.handler, first.route.gate
        for job in jobs:
            job.attempt += 1
        context = Context(handler.service, handler.name, first.envelope, first.attempt)
        events = [job.event for job in jobs if job.event is not None]
        began = self._clock()
        for job in jobs:
            job.began = began
        try:
            places = [self._place(job) for job in jobs]
            spans: list[HandlerSpan | None] = [None] * len(jobs)
            failpoint("service.before_effect", first.route.name, first.envelope.id)
            with ExitStack() as stack:
                if self._tracing.enabled:
                    group = self._service.name
                    for index, (job, (place, _)) in enumerate(zip(jobs, places, strict=True)):
                        opened = self._tracing.process(
                            job.delivery, job.envelope, group=group, place=place, attempt=job.attempt
                        )
                        job.span_id = opened.span_id
                        spans[index] = stack.enter_context(opened)
                returned = await self._provided.call_batch(handler, events, context, tx)
            if tx is not None:
                tx.end()
                self._warn_of_long(first, began)
            failpoint("service.after_effect", first.route.name, first.envelope.id)
            results: list[Result | Later] = []
            for job, span, (_, step), entry in zip(jobs, spans, places, _entries(jobs, returned), strict=True):
                made = self._records(job, _events_of(job, entry), span, step) if entry is not _NOTHING else ()
                results.append(Result("handled", "done", made, answered=job.command))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            failure: Exception = RuntimeError("the handler was cancelled from inside")
        except Exception as error:
            failure = error
        else:
            if gate is not None:
                for job in jobs:
                    gate.ended(job, None)
            return results
        if len(jobs) == 1:
            return [self.failed(first, failure)]
        for job in jobs:
            job.attempt -= 1
            for sent in job.sends:
                sent.discard()
            job.sends.clear()
        return None

    def _place(self, job: Job) -> tuple[Place | None, tuple[str, str]]:
        """Say where the run stands: as a span wants it where there are spans, and its step with the occurrence."""
        placement = self._placements.get(job.route.name)
        if placement is None or not (self._tracing.enabled or job.envelope.saga_id is not None):
            return None, _NO_STEP
        if not self._tracing.enabled:
            return None, placement.step(job.envelope)
        place = placement.place(job.envelope)
        return place, _NO_STEP if place is None else (place.step, place.occurrence)

    def empty(self, job: Job) -> Result:
        """Answer an undo that has nothing to undo, without its handler."""
        build = job.route.handler.empty
        assert build is not None and job.event is not None
        try:
            answer = build(job.event)
            if answer is None:
                return Result("handled", "empty", answered=True)
            checked = _events_of(job, answer)
            _, step = self._place(job)
            return Result("handled", "empty", self._records(job, checked, None, step, (EMPTY_HEADER,)), answered=True)
        except Exception as error:
            return self.dead(job, error)

    def failed(self, job: Job, error: Exception) -> Result | Later:
        """Decide what follows an error of the handler: another try, the parking place, or the dead letters."""
        handler, gate = job.route.handler, job.route.gate
        if gate is not None and gate.ended(job, error):
            job.attempt -= 1  # it had begun before its breaker opened: that says nothing of the event
            return Later(handler.retry.pause(1, self._randomness()))
        now = self._clock()
        job.failed_at = job.failed_at or now
        decision = handler.retry.after(error, job.attempt, self._randomness(), now - job.failed_at)
        failure = Failure(handler.service, handler.name, error, job.attempt, True, now, job.event)
        if isinstance(decision, Again):
            log.warning(
                "handler failed, it will be tried again",
                error=failure.error_class,
                attempt=job.attempt,
                service=handler.service,
                handler=handler.name,
                **ids_of(job.envelope),
            )
            return Later(decision.delay)
        if job.route.parks and decision.reason == "exhausted":
            return self._park(job, error)
        if job.rung < job.route.rungs and decision.reason == "exhausted":
            return self._delay(job, error)
        return self.dead(job, error)

    def dead(self, job: Job, error: Exception) -> Result:
        """Give an event to the dead letters, with the news for sagas."""
        handler = job.route.handler
        failure = Failure(handler.service, handler.name, error, job.attempt, True, self._clock(), self._event(job))
        log.error(
            "event goes to the dead letters",
            service=handler.service,
            handler=handler.name,
            **ids_of(job.envelope),
            topic=f"{job.delivery.topic}.dlq",
            error=failure.error_class,
            reason=failure.message,
            attempts=job.attempt,
        )
        records = [
            dead_letter(job.delivery, failure, self._secrets(job)),
            self._news(job, failure),
        ]
        return Result("dead", "failed", records)

    def _event(self, job: Job) -> Event | None:
        """Give a job's event, whose values no text may tell; one that has run is not kept, so it is decoded again."""
        if job.event is None and job.result is not None:
            with suppress(EventError):
                self.decode(job)
        return job.event

    def _news(self, job: Job, failure: Failure) -> Record:
        """Say that the handler failed, for sagas."""
        extra = (job.handled(failure.now),) if job.began else ()
        return handler_failed(job.delivery, job.envelope, failure, self._codec, extra)

    def _secrets(self, job: Job) -> tuple[str, ...]:
        """Say where a record may hold secrets; what could not be read may be any event of its topic."""
        topic, name = job.delivery.topic, job.route.name
        classes = [cls for (taker, _), cls in self._classes.items() if taker == name or cls.spec().topic == topic]
        found = {path for cls in classes for path in cls.spec().secrets}
        return tuple(sorted(found))

    def _park(self, job: Job, error: Exception) -> Result:
        handler = job.route.handler
        now = self._clock()
        failure = Failure(handler.service, handler.name, error, job.attempt, False, now, job.event)
        log.error(
            "event is parked, what follows of its key waits behind it",
            service=handler.service,
            handler=handler.name,
            **ids_of(job.envelope),
            key=job.envelope.key,
            error=failure.error_class,
            reason=failure.message,
            attempts=job.attempt,
        )
        due = now + handler.retry.pause(job.attempt, self._randomness())
        # A saga hears of it once: the next failures of a parked event say nothing new.
        records = [] if job.told else [self._news(job, failure)]
        reason = f"{failure.error_class}: {failure.message}" if failure.message else failure.error_class
        return Result("parked", "parked", records, park=Park(job.attempt, due, reason))

    def _delay(self, job: Job, error: Exception) -> Result:
        """Send an event to the next retry topic."""
        handler = job.route.handler
        record = climb(job.delivery, handler, job.rung)
        if record.size() > MOST_RECORD_BYTES:
            return self.dead(job, error)
        now, topic = self._clock(), record.topic
        failure = Failure(handler.service, handler.name, error, job.attempt, False, now, job.event, topic)
        log.warning(
            "event will be tried again later, what follows of its key goes on",
            service=handler.service,
            handler=handler.name,
            **ids_of(job.envelope),
            topic=topic,
            error=failure.error_class,
            reason=failure.message,
            attempts=job.attempt,
        )
        records = [record]
        if not job.told:
            records.append(self._news(job, failure))
        return Result("delayed", "parked", records)

    def _records(
        self,
        job: Job,
        events: Sequence[Event],
        span: HandlerSpan | None,
        place: tuple[str, str],
        extra: tuple[tuple[str, bytes], ...] = (),
    ) -> list[Record]:
        source, route = job.envelope, job.route
        now = self._clock()
        step, occurrence = source.saga_step, source.saga_occurrence
        if job.step is None:
            # The step header names the step that published an event; for a choreographed one only the definitions tell.
            step = (place[0] or None) if source.saga_id is not None else None
            occurrence = (place[1] or None) if step is not None else None
        if job.began and events:
            extra = (*extra, job.handled(now))
        records = []
        for index, event in enumerate(events):
            spec = event.spec()
            id_ = route.output_id(index, source.id)
            heading = self._headings.get(spec.type)
            if heading is None:
                heading = self._headings[spec.type] = heading_of(spec, self._service.name)
            trace: TraceContext = source
            if span is not None:
                trace = sent = span.send(spec.topic, id_)
                job.sends.append(sent)
            headers = heading.answer(id_, now, source, step, occurrence, trace, extra)
            record = Record(spec.topic, event.key_text().encode(), self._codec.encode(event, id_), headers)
            # The key stands in the value too, and headers come from headers of 8 kB: a small value needs no count.
            if len(record.value or b"") > _SMALL_VALUE and record.size() > MOST_RECORD_BYTES:
                raise LimitExceeded(
                    f"{spec.type} has {record.size():,} bytes, at most {MOST_RECORD_BYTES:,} are sent: store "
                    "the payload elsewhere and send a reference"
                )
            records.append(record)
        return records

    def _warn_of_long(self, job: Job, began: int) -> None:
        took = self._clock() - began
        if took > _LONG_TRANSACTION:
            log.warning(
                "a handler with a Transaction took long: all writes of the store wait meanwhile; call the outside "
                "world from a handler without `tx`",
                handler=job.route.name,
                seconds=round(took / SECOND, 1),
            )


_NOTHING: Any = object()
_NO_STEP = ("", "")


def _entries(jobs: Sequence[Job], returned: Any) -> Sequence[Any]:
    """Give what a batch handler returned for each event."""
    route = jobs[0].route
    if returned is None and not route.handler.signature.produces:
        return [_NOTHING] * len(jobs)
    if not isinstance(returned, (list, tuple)) or len(returned) != len(jobs):
        told = f"{len(returned)} entries" if isinstance(returned, (list, tuple)) else type(returned).__name__
        raise DefinitionError(
            f"{route.name} returned {told} for {len(jobs)} events; return a list with an entry for each, in their order"
        )
    return returned


def _events_of(job: Job, returned: Any) -> list[Event]:
    signature = job.route.handler.signature
    if isinstance(returned, signature.produces):
        return [returned]
    items = list(returned) if isinstance(returned, (list, tuple)) else [] if returned is None else [returned]
    for item in items:
        if not isinstance(item, signature.produces):
            raise DefinitionError(
                f"{job.route.name} returned {type(item).__name__}, which its return annotation does not name; "
                "add it there"
            )
    if returned is None and not signature.silent:
        raise DefinitionError(
            f"{job.route.name} returned nothing, but its return annotation promises an event; add `| None`"
        )
    return items
