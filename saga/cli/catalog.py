"""`saga catalog`: who publishes and reads which event, and who of them is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ...events.errors import BrokerUnreachable, SagaNotFound
from .shell import Shell

if TYPE_CHECKING:
    from ..participants import Participant

Flag = Annotated[bool, Parameter(negative="", show_default=False)]


async def catalog(
    *targets: str,
    event: Annotated[str, Parameter(show_default=False)] = "",
    mermaid: Flag = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> None:
    """Show who publishes and reads which event: what services and coordinators have announced, and what code says.

    An announcement proves no life: the members of the consumer groups do. With targets also code that never ran is
    shown, and where it says something else than the catalog.

    For example: saga catalog shop.py --mermaid

    Args:
        targets: services and sagas, module:object or path/file.py, beside what the broker knows.
        event: only this event type, and who has to do with it.
        mermaid: draw it as a Mermaid graph.
    """
    from .. import participants as pure

    code = _from_code(targets, shell.settings.group)
    announced, members, trouble = await from_broker(shell)
    if trouble is not None and not code:
        raise BrokerUnreachable(f"{trouble}; name code to see what it says: saga catalog shop.py")
    found = pure.merged(announced, code, members)
    if event:
        found = [each for each in found if event in {ref.type for ref in (*each.consumes, *each.produces)}]
        if not found:
            raise SagaNotFound(f"nobody publishes or reads {event!r}; saga catalog shows what there is")
    if shell.machine:
        shell.json(pure.as_json(found, trouble))
    elif shell.output == "id":
        shell.lines(each.name for each in found)
    elif mermaid or shell.output == "mermaid":
        shell.lines(pure.mermaid(found))
    else:
        _draw(shell, found, event)
    if trouble is not None:
        shell.hint(f"the broker is down: {trouble}; shown is what the code says")


def _from_code(targets: tuple[str, ...], group: str) -> list[Participant]:
    if not targets:
        return []
    from ..definitions import announcements
    from ..loading import load_parts
    from ..participants import of_sagas, of_service

    parts = load_parts(targets)
    sagas = announcements([cls.definition() for cls in parts.sagas], "")
    return [*(of_service(service.announcement()) for service in parts.services), *of_sagas(sagas, group)]


async def from_broker(shell: Shell) -> tuple[list[Participant], dict[str, int] | None, str | None]:
    """Give what was announced, the live members of each group, and why the broker cannot be asked."""
    from ...events.catalog import read_definitions
    from ...events.transports import connect
    from ..participants import of_sagas, of_service
    from .observing import survey

    settings = shell.settings
    around = await survey(settings, ())
    if around.trouble is not None:
        return [], None, around.trouble
    async with connect(settings.broker_url, settings) as transport:
        definitions = await read_definitions(transport)
    found = [of_service(each) for each in around.services.values()]
    sagas = of_sagas(definitions.values(), settings.group)
    return [*found, *sagas], {name: len(group.members) for name, group in around.groups.items()}, None


def _draw(shell: Shell, found: list[Participant], event: str) -> None:
    from rich.text import Text

    from ..participants import flows
    from .tables import draw

    rows: list[list[str | Text]] = []
    for each in found:
        there: str | Text = "?" if each.members is None else str(each.members)
        if each.members == 0:
            there = Text("nobody", "yellow")
        told = f"{each.kind} {', '.join(f'v{number}' for number in each.versions)}".strip()
        rows.append(
            [
                each.name,
                told,
                there,
                ", ".join(ref.type for ref in each.consumes) or "-",
                ", ".join(ref.type for ref in each.produces) or "-",
            ]
        )
    draw(shell, ["NAME", "WHAT", "RUNNING", "READS", "PUBLISHES"], rows, right={2}, elastic={3, 4})
    shell.show()
    told_flows = [flow for flow in flows(found) if not event or flow.type == event]
    table = [
        [flow.type, flow.topic, ", ".join(flow.producers) or "-", ", ".join(flow.consumers) or "-"]
        for flow in told_flows
    ]
    draw(shell, ["EVENT", "TOPIC", "FROM", "TO"], table, elastic={2, 3})
    unread = sum(not flow.consumers for flow in told_flows)
    foreign = sum(not flow.producers for flow in told_flows)
    shell.hint(
        f"{len(found)} participants · {len(told_flows)} events · {foreign} from outside · {unread} read by nobody"
    )
    for each in found:
        if each.differs:
            shell.hint(
                f"{each.name}: the code says something else than the catalog; it announces itself when it starts"
            )
