"""Emit the spans of sagas after the transaction that decided them: at least once, always with the same content."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from ..tracing.saga_spans import SagaStory, end_spans, started_spans, step_spans
from ..tracing.spans import Tracing
from .batch import Moved
from .definition import Definition
from .instance import Instance
from .stories import newly_told, story_of

_REMEMBERED = 50_000


class Emission:
    """Hands spans to `Tracing` and knows which sagas are complete there.

    What this process did not see from the start is emitted whole at the end: a span that comes twice is identical, and
    the trace store drops it.

    Args:
        tracing: where spans go.
    """

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._complete: OrderedDict[str, int] = OrderedDict()
        self.ended: list[str] = []

    def emit(self, moves: Iterable[Moved]) -> None:
        """Emit what these moves ended; sagas whose end was emitted are added to `ended`."""
        for definition, before, after in moves:
            ended = after.phase.ended and (before is None or not before.phase.ended or before.epoch != after.epoch)
            if self._tracing.emits:
                self._emit_one(definition, before, after, ended)
            if ended:
                self.ended.append(after.id)

    def emit_again(self, ended: Iterable[tuple[Definition, Instance]]) -> None:
        """Emit whole sagas whose end was committed by a process that may not have emitted it."""
        for definition, instance in ended:
            if self._tracing.emits:
                story = story_of(definition, instance, self._tracing.namespace)
                self._whole(story)
                self._tracing.emit(end_spans(story, self._tracing.resource))
            self.ended.append(instance.id)

    def take_ended(self) -> list[str]:
        """Give the sagas whose spans were all emitted since the last call."""
        ended, self.ended = self.ended, []
        return ended

    def _emit_one(self, definition: Definition, before: Instance | None, after: Instance, ended: bool) -> None:
        tracing, resource = self._tracing, self._tracing.resource
        story = story_of(definition, after, tracing.namespace)
        opened = before is None or before.epoch != after.epoch
        known = opened or (before is not None and self._complete.get(after.id) == before.seq)
        if ended and not known:
            self._whole(story)
        else:
            if opened:
                tracing.emit(started_spans(story, resource))
            for told in newly_told(definition, before, after):
                tracing.emit(step_spans(story, told, resource))
        if ended:
            tracing.emit(end_spans(story, resource))
            self._complete.pop(after.id, None)
        elif known:
            self._complete[after.id] = after.seq
            self._complete.move_to_end(after.id)
            if len(self._complete) > _REMEMBERED:
                self._complete.popitem(last=False)

    def _whole(self, story: SagaStory) -> None:
        self._tracing.emit(started_spans(story, self._tracing.resource))
        for told in story.steps:
            self._tracing.emit(step_spans(story, told, self._tracing.resource))
