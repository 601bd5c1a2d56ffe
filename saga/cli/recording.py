"""Changes that go past the store, to the broker or a registry: they stand in the store's audit where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...events.errors import StoreMismatch, StoreUnreachable
from .operate import signed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..audit import Who
    from .shell import Shell


class Recorder:
    """Writes what one command changes into the audit: first that it will, then what it has done.

    Args:
        shell: where the store is; it is told there where none is.
        action: what is done.
        reason: why.
        who: by whom; the user of this machine by default.
    """

    def __init__(self, shell: Shell, action: str, reason: str, who: Who | None = None) -> None:
        from ...events.ids import new_id

        self.shell = shell
        self._action = action
        self._reason = reason
        self._who = who or signed()
        self._id = new_id()
        self._there = True

    async def asked(self, target: str | None, **details: Any) -> None:
        """Say what is about to be done, before it is."""
        await self._write("asked", [(target, details)])

    async def done(self, changes: Sequence[tuple[str | None, Mapping[str, Any]]]) -> None:
        """Say what was done: targets with details."""
        await self._write("done", changes)

    async def _write(self, outcome: str, changes: Sequence[tuple[str | None, Mapping[str, Any]]]) -> None:
        from .. import audit

        if not self._there or not changes:
            return
        try:
            async with self.shell.sagas() as database:

                def write(connection: Any) -> None:
                    now = database.now(connection)
                    for target, details in changes:
                        audit.record(
                            connection,
                            self._action,
                            self._who,
                            outcome=outcome,
                            target=target,
                            reason=self._reason,
                            details=details,
                            command_id=self._id,
                            at=now,
                        )

                await database.write(write)
        except (StoreUnreachable, StoreMismatch) as error:
            self._there = False
            self.shell.hint(f"not in the audit, for there is no store of sagas: {error.message}")
