"""`saga dlq retry|edit|skip|discard`: what people do about dead letters, each with a record of who and why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from ...events.errors import ChoreoError, ConfigurationError, Refused
from . import exits
from .letter_jobs import LetterJob, left_of, letter_job
from .letterbox import Flag, Text, Topics, broker, choose, matching, pick_open, question, read, report
from .operate import DryRun, Yes, confirm, who
from .recording import Recorder
from .shell import Shell

if TYPE_CHECKING:
    from ...events.event import Event
    from ...events.transport import Transport
    from ...services.letters import Letter, Settled

    Decide = Callable[[Letter, int], tuple[Any, Settled]]
    """Says what goes out for a letter, None for nothing, and how it is settled; at a time in microseconds."""


async def retry(
    *ids: str,
    topic: Topics = (),
    service: Text = "",
    saga: Text = "",
    type: Text = "",  # noqa: A002 - the option's name
    step: Text = "",
    error: Text = "",
    since: Text = "",
    reason: str,
    rate: float = 50.0,
    batch: Text = "",
    force: Flag = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Give dead letters to the handlers that gave them up once more.

    Each goes to the topic and key that it had, under its own event id: whoever has met the event drops it. It is
    refused where the service does not run, or where the letter's saga has ended; --force does it all the same. What
    fails again comes back once, as a new letter.

    For example: saga dlq retry --service billing --error TimeoutError --since 2h --reason "it answers again"

    Args:
        ids: letters, or the beginnings of their ids; without any, all open ones of the filter.
        topic: of the event or of the dead letters.
        service: who gave up.
        saga: type/key.
        type: of the event.
        step: of the saga.
        error: text in the error's class or message.
        since: 1h, a date or RFC 3339.
        reason: why, for the record.
        rate: at most so many per second.
        batch: take this batch up again where it was left.
        force: also where nobody consumes, and where the saga has ended.
        yes: do not ask.
        dry_run: only say what would be sent.
    """
    wanted = matching(service=service, saga=saga, type_=type, step=step, error=error, since=since)
    if rate <= 0:
        raise ConfigurationError(f"--rate {rate:g}: more than 0 letters per second")
    async with broker(shell) as transport:
        filtered = bool(service or saga or type or step or error or since)
        if batch:
            chosen = await _left(shell, transport, batch, "dlq retry")
        else:
            chosen = await choose(transport, ids, topic, wanted, filtered)
        refused = {} if force else await refusals(shell, transport, chosen)
        sendable = [letter for letter in chosen if letter.id not in refused]
        for letter in chosen:
            if letter.id in refused:
                shell.hint(f"{letter.id}: {refused[letter.id]}")
        if chosen and not sendable:
            raise Refused(
                f"{refused[chosen[0].id]}"
                if len(chosen) == 1
                else f"all {len(chosen)} letters are refused; --force sends them all the same"
            )
        if dry_run:
            report(shell, sendable, "would be sent again", refused)
            return exits.OK
        if len(sendable) > 1 and not yes:
            confirm(question("retry", sendable))

        recorder, kind = Recorder(shell, "dlq retry", reason), "dlq retry"
        names = [letter.id for letter in sendable]
        async with letter_job(shell, kind, names, reason=reason, rate=rate, again=batch) as job:
            done = await settle_letters(transport, sendable, sent_again(who(), reason), rate, recorder, job)
    report(shell, done, "sent again", refused)
    return exits.NOT_ALLOWED if refused else exits.OK


async def edit(
    id: str,  # noqa: A002
    /,
    *,
    reason: str,
    data: Text = "",
    force: Flag = False,
    dry_run: DryRun = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Mend a dead letter's body in $EDITOR and send it again; the original stays where it is.

    The body is JSON; what does not fit the event's schema is refused, and told.

    Args:
        id: of the letter, or the beginning of it.
        reason: why, for the record.
        data: the new body as JSON, instead of the editor.
        force: also where nobody consumes, and where the saga has ended.
        dry_run: only check the new body.
    """
    from .bodies import mend

    async with broker(shell) as transport:
        letter = pick_open(await read(transport, ()), id)
        refused = {} if force else await refusals(shell, transport, [letter])
        if refused:
            raise Refused(f"{refused[letter.id]}; --force sends it all the same")
        value = await mend(shell.settings, transport, letter, data)
        if value is None or dry_run:
            shell.lines(
                [f"{letter.id}: {'unchanged' if value is None else 'the new body fits its schema'}; nothing was sent"]
            )
            return exits.OK

        send = sent_again(who(), f"edited: {reason}", value)
        done = await settle_letters(transport, [letter], send, 1_000.0, Recorder(shell, "dlq edit", reason))
    report(shell, done, "sent again with a new body", {})
    return exits.OK


async def skip(
    id: str,  # noqa: A002
    /,
    *,
    reason: str,
    with_event: Text = "",
    data: Text = "",
    dry_run: DryRun = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Settle a dead letter without its handler, and publish the event that the handler would have.

    Args:
        id: of the letter, or the beginning of it.
        reason: why, for the record.
        with_event: module:Class or file.py:Class of the event that takes the handler's place.
        data: its fields as JSON.
        dry_run: only say what would be published.
    """
    from .publish import read_event

    event = read_event(with_event, data) if with_event else None
    async with broker(shell) as transport:
        letter = pick_open(await read(transport, ()), id)
        if not dry_run:
            if event is not None:
                await stand_in(shell, transport, letter, event)
            decide, recorder = settled_as("skipped", who(), reason), Recorder(shell, "dlq skip", reason)
            await settle_letters(transport, [letter], decide, 1_000.0, recorder)
    told = f" and {type(event).__name__} published" if event is not None else ""
    report(shell, [letter], f"{'would be ' if dry_run else ''}skipped{told}", {})
    return exits.OK


async def discard(
    *ids: str,
    reason: str,
    topic: Topics = (),
    service: Text = "",
    saga: Text = "",
    type: Text = "",  # noqa: A002 - the option's name
    step: Text = "",
    error: Text = "",
    since: Text = "",
    batch: Text = "",
    yes: Yes = False,
    dry_run: DryRun = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Settle dead letters for which nothing shall be done; they stay on their topic and leave the list.

    Args:
        ids: letters, or the beginnings of their ids; without any, all open ones of the filter.
        reason: why, for the record.
        topic: of the event or of the dead letters.
        service: who gave up.
        saga: type/key.
        type: of the event.
        step: of the saga.
        error: text in the error's class or message.
        since: 1h, a date or RFC 3339.
        batch: take this batch up again where it was left.
        yes: do not ask.
        dry_run: only say what would be discarded.
    """
    wanted = matching(service=service, saga=saga, type_=type, step=step, error=error, since=since)
    async with broker(shell) as transport:
        filtered = bool(service or saga or type or step or error or since)
        if batch:
            chosen = await _left(shell, transport, batch, "dlq discard")
        else:
            chosen = await choose(transport, ids, topic, wanted, filtered)
        if not dry_run:
            if len(chosen) > 1 and not yes:
                confirm(question("discard", chosen))
            names = [letter.id for letter in chosen]
            async with letter_job(shell, "dlq discard", names, reason=reason, rate=1_000.0, again=batch) as job:
                chosen = await settle_letters(
                    transport,
                    chosen,
                    settled_as("discarded", who(), reason),
                    1_000.0,
                    Recorder(shell, "dlq discard", reason),
                    job,
                )
    report(shell, chosen, "would be discarded" if dry_run else "discarded", {})
    return exits.OK


# -- pieces -----------------------------------------------------------------------------------------------------------


def sent_again(by: str, reason: str, value: bytes | None = None) -> Decide:
    """Have letters go out once more, under their own event ids, `value` in place of their body where it is given."""
    from ...events.ids import new_id
    from ...services.letters import redrive, settlement

    def decide(letter: Letter, now: int) -> tuple[Any, Settled]:
        replay = new_id()
        told = settlement(letter, "retried", at=now, by=by, reason=reason, replay_id=replay)
        return redrive(letter, replay, value), told

    return decide


def settled_as(state: Literal["skipped", "discarded"], by: str, reason: str) -> Decide:
    """Have letters leave the list, and nothing go out."""
    from ...services.letters import settlement

    return lambda letter, now: (None, settlement(letter, state, at=now, by=by, reason=reason))


async def stand_in(shell: Shell, transport: Transport, letter: Letter, event: Event) -> None:
    """Publish the event that a letter's handler would have."""
    from ...events.publisher import Publisher

    async with Publisher(transport, source="choreo/operator", settings=shell.settings) as publisher:
        # The id follows from the letter, so that a second try publishes nothing new.
        await publisher.publish(
            event, id=f"{letter.id}-skipped-{letter.event_id}", causation_id=letter.event_id or None
        )


async def refusals(shell: Shell, transport: Transport, letters: Sequence[Letter]) -> dict[str, str]:
    """Say which letters should not be sent again, and why."""
    refused: dict[str, str] = {}
    for service in dict.fromkeys(letter.service for letter in letters):
        if not service or not (await transport.group(service)).members:
            told = f"service {service or '?'} does not run, so nobody would take it; start it, or use --force"
            refused |= {letter.id: told for letter in letters if letter.service == service}
    for id_, phase in (await _ended(shell, [letter.saga for letter in letters if letter.saga])).items():
        told = f"its saga {id_} is {phase}: its handler would act for an order that has ended; --force does it"
        refused |= {letter.id: told for letter in letters if letter.saga == id_}
    return refused


async def _ended(shell: Shell, names: Sequence[str]) -> dict[str, str]:
    """Ask the store which sagas have ended; without a store nobody knows."""
    from .. import queries

    if not names:
        return {}
    try:
        async with shell.sagas() as database:
            found = await database.read(lambda connection: queries.states(connection, list(dict.fromkeys(names))))
    except ChoreoError:
        return {}
    return {id_: each.instance.phase.value for id_, each in found.items() if each.instance.phase.ended}


async def _left(shell: Shell, transport: Transport, batch: str, kind: str) -> list[Letter]:
    """Give the letters of a batch that are open still, the oldest first; those that somebody has settled are noted."""
    from .. import jobs

    ids = set(await left_of(shell, batch, kind))
    found = [each for each in await read(transport, ()) if each.letter.id in ids]
    gone = [each.letter.id for each in found if each.settled is not None]
    async with shell.sagas() as database:
        await database.write(lambda c: jobs.settle_many(c, batch, gone, database.now(c)))
    letters = [each.letter for each in found if each.settled is None]
    return sorted(letters, key=lambda letter: (letter.at, letter.delivery.topic, letter.delivery.offset))


async def settle_letters(
    transport: Transport,
    letters: Sequence[Letter],
    decide: Decide,
    rate: float,
    recorder: Recorder,
    job: LetterJob | None = None,
) -> list[Letter]:
    """Settle letters a few at a time, no faster than `rate` per second; Ctrl-C leaves the rest open."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress

    from ...events.clock import system_clock
    from ...services.letters import settle

    shell = recorder.shell
    chunk = max(1, round(rate / 10))
    done: list[Letter] = []
    await recorder.asked(None, letters=len(letters))
    hidden = shell.quiet or not shell.err.is_terminal or len(letters) <= chunk
    with Progress(BarColumn(), MofNCompleteColumn(), console=shell.err, transient=True, disable=hidden) as progress:
        task = progress.add_task("", total=len(letters))
        for start in range(0, len(letters), chunk):
            part = letters[start : start + chunk]
            if job is not None and not await job.goes_on():
                break
            decided = [decide(letter, system_clock()) for letter in part]
            await settle(
                transport, [record for record, _ in decided if record is not None], [settled for _, settled in decided]
            )
            await recorder.done([(each.saga or each.id, {"letter": each.id, "event": each.type}) for each in part])
            if job is not None:
                await job.done([each.id for each in part])
            done += part
            progress.update(task, completed=len(done))
            if start + chunk < len(letters):
                await asyncio.sleep(chunk / rate)
    return done
