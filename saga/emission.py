"""Emit the spans of sagas after the transaction that decided them: at least once, always with the same content."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from functools import partial

from ..events.database import Database
from ..tracing.headers import parse_traceparent
from ..tracing.ids import trace_id
from ..tracing.saga_spans import SagaStory, end_spans, started_spans, step_spans
from ..tracing.spans import Tracing
from . import store, usual
from .definition import Definition
from .ends import has_ended
from .instance import Instance
from .pace import FLOOR, LEAST_P99
from .stories import newly_told, saga_story, stories_of, story_of
from .work import Moved

_REMEMBERED = 50_000
_PAGE = 200


class Emission:
    """Hands spans to `Tracing` and knows which sagas are complete there.

    What this process did not see from the start is emitted whole at the end: a span that comes twice is identical, and
    the trace store drops it.

    Args:
        tracing: where spans go.
        slow: from how long on a saga is shown although it was not sampled, microseconds.

    Attributes:
        ended: sagas whose end was emitted and has left this process.
    """

    def __init__(self, tracing: Tracing, slow: int | None = None) -> None:
        self._tracing = tracing
        self._slow = slow
        self._usual: dict[str, int] = {}
        self._complete: OrderedDict[str, int] = OrderedDict()
        self._leaving: deque[tuple[tuple[int, ...], int, list[str]]] = deque()
        self._last: dict[str, int] = {}
        self._count = 0
        self.ended: list[str] = []

    def samples(self, saga_id: str, origin: str | None) -> bool:
        """Decide whether a new saga's trace is recorded: once, for everybody who works for it.

        Args:
            saga_id: its name with the run.
            origin: `traceparent` of the event that starts it.
        """
        context = parse_traceparent(origin)
        derived = trace_id(self._tracing.namespace, saga_id)
        return self._tracing.sampling.decide(derived, context is not None and bool(context.trace_flags.sampled))

    async def learn(self, database: Database) -> None:
        """Learn how long sagas usually take: what is longer than 99 of 100 is slow.

        Args:
            database: the store.
        """
        known = await database.read(usual.of_sagas)
        self._usual = {type_: max(each.p99, FLOOR) + 1 for type_, each in known.items() if each.size >= LEAST_P99}

    def _limit(self, type_: str) -> int | None:
        """Say from how long on a saga of this type is slow, microseconds."""
        own = self._usual.get(type_)
        return self._slow if own is None else own if self._slow is None else min(own, self._slow)

    def emit(self, moves: Iterable[Moved]) -> None:
        """Emit what these moves ended; where nothing is emitted, the store was told so with them."""
        if not self._tracing.emits:
            return
        sagas = []
        for definition, before, after in moves:
            ended = has_ended(before, after)
            self._emit_one(definition, before, after, ended)
            if ended:
                sagas.append(after.id)
        self._leave(sagas)

    async def emit_left_over(self, database: Database, definitions: Mapping[tuple[str, int], Definition]) -> None:
        """Emit whole sagas whose end was committed by a process that may not have emitted it.

        Where they are many it waits for the exporter, so that the queue does not overflow; if that one is away, the
        rest is left to the next start.

        Args:
            database: the store.
            definitions: all that are stored, by type and version.
        """
        while left := await database.read(store.untraced):
            for start in range(0, len(left), _PAGE):
                page = left[start : start + _PAGE]
                self._emit_again((definitions[each.type, each.version], each) for each in page)
                if len(left) <= _PAGE or not await asyncio.to_thread(self._tracing.flush):
                    return
            await database.write(partial(store.mark_traced, ids=self.take_ended()))

    def _emit_again(self, sagas: Iterable[tuple[Definition, Instance]]) -> None:
        ended = []
        for definition, instance in sagas:
            if self._tracing.emits:
                for story in stories_of(definition, instance, self._tracing.namespace, self._limit(instance.type)):
                    self._whole(story)
            ended.append(instance.id)
        self._leave(ended)

    def take_ended(self) -> list[str]:
        """Give the sagas whose spans have all left this process since the last call.

        What still waits to be exported would die with the process: nobody may take it for emitted.
        """
        while self._leaving and self._tracing.has_left(self._leaving[0][0]):
            _, number, sagas = self._leaving.popleft()
            for each in sagas:
                if self._last.get(each) == number:  # else it was opened again, and ended again
                    del self._last[each]
                    self.ended.append(each)
        ended, self.ended = self.ended, []
        return ended

    def _leave(self, sagas: list[str]) -> None:
        if sagas:
            self._count += 1
            self._last.update(dict.fromkeys(sagas, self._count))
            self._leaving.append((self._tracing.mark(), self._count, sagas))

    def _emit_one(self, definition: Definition, before: Instance | None, after: Instance, ended: bool) -> None:
        tracing, resource = self._tracing, self._tracing.resource
        opened = before is None or before.opened_in != after.opened_in
        known = opened or (before is not None and self._complete.get(after.id) == before.seq)
        if ended and not (known and after.sampled):
            for story in stories_of(definition, after, tracing.namespace, self._limit(after.type)):
                self._whole(story)
        elif not after.sampled:
            pass  # there is nothing to tell before its end
        elif after.turned:
            self._emit_turned(definition, None if opened else before, after)
        else:
            told = newly_told(definition, None if opened else before, after)
            story = story_of(definition, after, tracing.namespace) if ended else saga_story(after, tracing.namespace)
            if opened:
                tracing.emit(started_spans(story, resource))
            for each in told:
                tracing.emit(step_spans(story, each, resource))
            if ended:
                tracing.emit(end_spans(story, resource))
        if ended:
            self._complete.pop(after.id, None)
        elif known:
            self._complete[after.id] = after.seq
            self._complete.move_to_end(after.id)
            if len(self._complete) > _REMEMBERED:
                self._complete.popitem(last=False)

    def _emit_turned(self, definition: Definition, before: Instance | None, after: Instance) -> None:
        """Emit what is new of a saga whose trace has gone on in another one; an epoch that is over has its root now."""
        tracing, resource = self._tracing, self._tracing.resource
        earlier = () if before is None else stories_of(definition, before, tracing.namespace)
        known = {(story.epoch, *step.identity) for story in earlier for step in story.steps}
        for story in stories_of(definition, after, tracing.namespace):
            if before is None or story.epoch > before.epoch:
                tracing.emit(started_spans(story, resource))
            for step in story.steps:
                if (story.epoch, *step.identity) not in known:
                    tracing.emit(step_spans(story, step, resource))
            if story.ended_at is not None and (before is None or story.epoch >= before.epoch):
                tracing.emit(end_spans(story, resource))

    def _whole(self, story: SagaStory) -> None:
        """Emit everything of an epoch that is over."""
        self._tracing.emit(started_spans(story, self._tracing.resource))
        for told in story.steps:
            self._tracing.emit(step_spans(story, told, self._tracing.resource))
        self._tracing.emit(end_spans(story, self._tracing.resource))
