"""A saga on the terminal: its head, why, its steps with bars, its conditions and its history."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, Any

from rich.text import Text

from ...events.clock import from_rfc3339
from .. import report
from ..family import relatives
from ..occurrence import unfold
from ..pause_report import PAUSED
from ..pause_report import sentence as pause_sentence
from ..waterfall import Scale, axis, bar
from .glyphs import phase_look, step_look
from .shell import Shell
from .tables import lay_out
from .times import show_time, span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..looking import View

_LEAST_PAGE = 80
_LEAST_BAR = 10
_MOST_BAR = 60
_MOST_CHILDREN = 5
_GAP = 2
_LEAST_MESSAGE = 24
_INDENT = 12


def draw_status(shell: Shell, view: View, *, bars: bool, attempts: bool = False) -> None:
    """Print everything about one saga."""
    for line in status_lines(shell, view, shell.page, bars=bars, attempts=attempts):
        shell.out.print(line, no_wrap=line.no_wrap, overflow=line.overflow)


def status_lines(shell: Shell, view: View, width: int, *, bars: bool, attempts: bool = False) -> list[Text]:
    """Lay out everything about one saga.

    Args:
        shell: for the style of times.
        view: what is shown.
        width: of the page.
        bars: draw them, where there is room.
        attempts: each attempt in a line of its own.
    """
    lines = [*_head(shell, view, width), Text(), *_steps(view, width, bars=bars, attempts=attempts)]
    told = _conditions(view, shell.out.width)
    if told:
        lines += [Text(), *told]
    seen = _observed(view)
    if seen:
        lines += [Text(), *seen]
    return lines


def next_commands(told: dict[str, Any]) -> str:
    """Say what one may type next."""
    id_ = told["id"]
    commands = [f"saga trace {id_}"]
    if told["phase"] in ("RUNNING", "COMPENSATING"):
        commands[:0] = [f"saga why {id_}", f"saga watch {id_}"]
    elif told["phase"] == "FAILED":
        commands.insert(0, f"saga why {id_}")
    if any(condition["type"] == "DeadLettered" for condition in told["conditions"]):
        commands.append(f"saga dlq list --saga {id_}")
    asked = [condition for condition in told["conditions"] if condition["type"] == "WaitingForPerson"]
    if asked and asked[0]["reason"] == "Approval":
        commands = [f"saga {answer} {id_} {asked[0]['step']} --reason ..." for answer in ("approve", "reject")]
    elif asked and asked[0]["reason"] in ("Late", "Duplicate", "Unexpected"):
        commands = [f"saga dismiss {id_} --reason ...", f"saga cancel {id_} --reason ..."]
    if told["paused"]:
        commands.insert(0, f"saga resume {id_} --reason ...")
    if told["phase"] == "RUNNING":
        commands.append(f"saga cancel {id_} --reason ...")
    elif any(step["state"] == "UNDO_FAILED" and step["compensates"] for step in told["steps"]):
        commands += [f"saga retry-undo {id_} --reason ...", f"saga mark-undone {id_} --reason ..."]
    else:
        commands.append(f"saga history {id_}")
    commands += [f"saga status {name}" for name in relatives(told)[:2]]
    return "next  " + " · ".join(commands)


# -- the head ---------------------------------------------------------------------------------------------------------


def _head(shell: Shell, view: View, width: int) -> list[Text]:
    told, observed, instance = view.told, view.observed, view.found.instance
    person = any(condition["type"] == "WaitingForPerson" for condition in told["conditions"])
    phase = PAUSED if told["paused"] else told["phase"]
    look = phase_look(phase, waits_for_person=person and not told["paused"])
    title = Text.assemble((look.glyph, look.style), " ", (told["id"], "bold"))
    room = min(width, 100) - title.cell_len - len(phase)
    title.append(" " * max(2, room))
    title.append(phase, f"bold {look.style}")
    _one_line(title)
    style = shell.time or "local"
    started = show_time(instance.started_at, style, observed.at)
    took = span((instance.ended_at or observed.at) - instance.started_at)
    running = ("took", took) if instance.phase.ended else ("running", took + _deadline(view))
    version = f"{instance.version} ({instance.hash[:6]})" + (
        " observe only" if view.found.definition.observe_only else ""
    )
    lines = [
        title,
        _pair("started", started, *running),
        _pair("version", version, *_progress(told)),
        _one_line(Text.assemble("  ", (f"{'trace':<10}", "dim"), told["trace"]["url"] or told["trace"]["trace_id"])),
    ]
    room = shell.out.width - _INDENT
    cause = told["cause"]
    if told["erased_at"]:
        lines += _field(
            "erased", f"{show_time(from_rfc3339(told['erased_at']), style, observed.at)}: what was said is gone", room
        )
    if told["paused"]:
        lines += _field("paused", f"{pause_sentence(instance, observed.at)} (it was {told['phase']})", room)
    if cause is not None:
        lines += _field("because", _because(cause), room)
        if cause["first_error_at"] is not None and cause["step"]:
            later = from_rfc3339(cause["first_error_at"]) - from_rfc3339(told["started_at"])
            lines += _field("", f"first error at +{span(later)}{_shared(cause)}", room)
        if cause["runbook"]:
            lines += _field("runbook", cause["runbook"], room)
    tags = [f"{name}={value}" for name, value in told["tags"].items() if not name.startswith("runbook")]
    if tags:
        lines += _field("tags", " · ".join(tags), room)
    if told["parent"] is not None:
        lines += _field("parent", f"{told['parent']['id']}, step {told['parent']['step']}", room)
    for number, (step, child) in enumerate(list(told["children"].items())[:_MOST_CHILDREN]):
        lines += _field("" if number else "children", f"{child} ({step})", room)
    lock = told["lock"]
    if lock is not None and lock["state"] in ("waiting", "held"):
        left = span(from_rfc3339(lock["until"]) - view.observed.at)
        state = (
            f"held, expires in {left}, {lock['waiting']} waiting"
            if lock["state"] == "held"
            else (
                f"waits, {lock['place']} of {lock['waiting']}, behind {lock['holder'] or 'nobody'}; gives up in {left}"
            )
        )
        lines += _field("lock", f"{lock['name']}/{lock['key']}: {state}", room)
    lines += _field("usually", usual, room) if (usual := _usually(told["forecast"])) else []
    awaited = [_awaited(step, view) for step in told["steps"] if _awaits(step)]
    for number, text in enumerate(awaited):
        lines += _field("" if number else "waiting", text, room)
    return lines


def _usually(forecast: list[dict[str, Any]]) -> str:
    """Say what is usual for a saga and for what it waits for."""
    told = []
    for each in forecast:
        name = f"the undo of {each['step']}" if each["undo"] else each["step"]
        by = f"done in {span(each['p50_ms'] * 1_000)}, 95 % in {span(each['p95_ms'] * 1_000)}"
        told.append(f"{name} {by}" if name else by)
    return "; ".join(told)


def _awaits(step: report.StepReport) -> bool:
    return step["state"] in _AWAITING and (step["note"] or "").startswith("waiting for ")


_AWAITING = ("WAITING", "UNKNOWN", "COMPENSATING", "RETRYING")


def _progress(told: dict[str, Any]) -> tuple[str, str]:
    if told["phase"] in ("RUNNING", "COMPLETED"):
        return "progress", f"{told['progress']['done']}/{told['progress']['known']} steps"
    undos = [step["state"] for step in told["steps"] if step["compensates"] and step["state"] != "SKIPPED"]
    return "undone", f"{undos.count('COMPENSATED')}/{len(undos)} steps"


def _awaited(step: report.StepReport, view: View) -> str:
    text = f"{step['name']}: {str(step['note']).removeprefix('waiting for ')}"
    if step["service"]:
        text += f" from {step['service']}"
    for field, words in (("next_try_at", "sent again"), ("limit_at", "given up")):
        if (at := step[field]) is not None:  # type: ignore[literal-required]
            left = from_rfc3339(at) - view.observed.at
            text += f", {words} in {span(left)}" if left > 0 else f", {words} now"
    return text


def _because(cause: dict[str, Any]) -> str:
    if cause["cancelled"]:
        return f"cancelled: {cause['message'] or 'no reason given'}"
    if not cause["step"]:
        return str(cause["message"] or cause["error_class"])
    attempts = f" after {cause['attempt']} attempts" if (cause["attempt"] or 1) > 1 else ""
    text = f"{cause['step']} failed{attempts}: {cause['error_class']}"
    if cause["message"] and cause["message"] != cause["error_class"]:
        text += f", {cause['message']}"
    return text + (f" ({cause['service']})" if cause["service"] else "")


def _shared(cause: dict[str, Any]) -> str:
    """Say how many sagas met the same error lately."""
    count = cause["same_signature_last_hour"]
    others = "1 other saga" if count == 1 else f"{count:,} other sagas"
    return f"; {others} hit the same error in the last hour" if count else ""


def _deadline(view: View) -> str:
    deadline = view.found.instance.deadline_at
    if deadline is None:
        return ""
    left = deadline - view.observed.at
    return f"   deadline in {span(left)}" if left > 0 else f"   deadline passed {span(-left)} ago"


def _pair(name: str, value: str, other: str, second: str) -> Text:
    return _one_line(Text.assemble("  ", (f"{name:<10}", "dim"), f"{value:<30}", (f"{other:<10}", "dim"), second))


def _field(name: str, value: str, room: int) -> list[Text]:
    """Lay out a sentence, its further lines indented below it."""
    wrapped = wrap(value, max(room, 20)) or [""]
    return [
        Text.assemble("  ", ("" if number else f"{name:<10}", "dim"), " " * 10 if number else "", line)
        for number, line in enumerate(wrapped)
    ]


def _one_line(line: Text) -> Text:
    """Cut a line where the terminal ends, instead of breaking what stands in columns."""
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


# -- the steps --------------------------------------------------------------------------------------------------------


def _steps(view: View, width: int, *, bars: bool, attempts: bool) -> list[Text]:
    steps = view.told["steps"]
    forward = [step for step in steps if step["compensates"] is None]
    undos = [step for step in steps if step["compensates"] is not None]
    rows: list[tuple[str, report.StepReport | None]] = []
    for number, step in enumerate(forward):
        last = number == len(forward) - 1 and not undos
        rows.append(("└─" if last else "├─", step))
    if undos:
        rows.append(("└─ compensation", None))
        for number, step in enumerate(undos):
            rows.append(("   └─" if number == len(undos) - 1 else "   ├─", step))
    headers = ["STEP", "STATE", "SERVICE", "TRIES", "TIME"]
    table = [_row(branch, step) for branch, step in rows]
    plain = lay_out(headers, table, 10_000, right={3, 4})
    taken = max(line.cell_len for line in plain) + 2
    room = min(_MOST_BAR, width - taken - _GAP - 2)
    if bars and width >= _LEAST_PAGE and room >= _LEAST_BAR:
        instance = view.found.instance
        scale = Scale(instance.started_at, max(instance.ended_at or view.observed.at, instance.started_at + 1), room)
        for line, text in zip(plain, [axis(scale), *(_bar(view, step, scale) for _, step in rows)], strict=True):
            line.append(" " * (taken - 2 - line.cell_len + _GAP))
            line.append(text, "dim" if line is plain[0] else "")
    else:
        for line, (_, step) in zip(plain[1:], rows, strict=True):
            if step is not None and step["note"] and not step["ready_at"]:
                line.append(f"  ({step['note']})", "dim")
    drawn: list[Text] = []
    for line, (branch, step) in zip(plain, [("", None), *rows], strict=True):
        line.rstrip()
        drawn.append(line)
        if attempts and step is not None:
            drawn += [
                Text(f"{branch[:-2]}{'│' if '├' in branch else ' '}       {told}", "dim")
                for told in _attempts(view, step)
            ]
    return [_one_line(Text("  ").append_text(line)) for line in drawn]


def _attempts(view: View, step: report.StepReport) -> list[str]:
    """Tell each attempt of a step: when it failed, and with what; the last one as the step stands."""
    started = from_rfc3339(view.told["started_at"])
    lines = []
    work = ""
    failed = 0
    for each in step["attempts"]:
        work = _work(each)
        if each["failed_at"] is not None:
            failed += 1
            at = from_rfc3339(each["failed_at"]) - started
            lines.append(f"#{each['n']}  failed at +{span(at)}: {each['error_class']}{work}")
            work = ""
    if step["ready_at"] is not None and step["tries"] > failed:
        ended = "" if step["ended_at"] is None else f" at +{span(from_rfc3339(step['ended_at']) - started)}"
        lines.append(f"#{step['tries']}  {step['outcome'] or step['state']}{ended}{work}")
    return lines


def _work(attempt: Mapping[str, Any]) -> str:
    """Tell how long its handler was waited for and ran, as far as it has said so."""
    queued, ran = attempt["queued_ms"], attempt["run_ms"]
    if ran is None:
        return ""
    queue = "" if queued is None else f"queue {span(queued * 1_000)}, "
    return f"  ({queue}handler {span(ran * 1_000)})"


def _row(branch: str, step: report.StepReport | None) -> list[str | Text]:
    if step is None:
        return [branch, "", "", "", ""]
    state = step["state"]
    if step["compensates"] is None and step["outcome"] is not None and state in _UNDONE:
        state = step["outcome"]  # what became of its undo stands below
    look = step_look(state)
    name = step["name"] + (" (optional)" if step["optional"] and step["element"] is None else "")
    if (elements := step["elements"]) is not None:
        name += f" ({elements.get('DONE', 0)} of {sum(elements.values())})"
    duration = step["duration_ms"]
    return [
        Text.assemble((branch, "dim"), (look.glyph, look.style), " ", name),
        Text(state, look.style),
        step["service"] or "-",
        str(step["tries"]) if step["tries"] else "-",
        span(duration * 1_000) if duration is not None else "-",
    ]


def _manner(step: report.StepReport) -> str:
    """Say how a step stands to the others where that is not by their order."""
    if step["instead_of"] is not None:
        return f" (instead of {step['instead_of']})"
    return " (finally)" if step["final"] else " (optional)" if step["optional"] else ""


_UNDONE = ("COMPENSATING", "COMPENSATED", "UNDO_FAILED")


def _bar(view: View, step: report.StepReport | None, scale: Scale) -> str:
    if step is None:
        return ""
    plan = unfold(view.found.definition, view.found.instance).by_name[step["compensates"] or step["name"]]
    state = view.found.instance.steps[plan.name]
    if step["compensates"] is None:
        drawn = bar(report.segments(plan, state, view.observed.at), scale)
    else:
        drawn = bar(report.undo_segments(plan, state, view.observed.at), scale)
    note = f"  ({step['note']})" if step["note"] and not step["ready_at"] else ""
    if note and len(note) <= scale.width:
        return drawn[0] + note.ljust(scale.width) + drawn[-1]
    return drawn


# -- what else --------------------------------------------------------------------------------------------------------


def _conditions(view: View, width: int) -> list[Text]:
    rows = [
        [
            Text(condition["type"], "yellow"),
            span(view.observed.at - from_rfc3339(condition["since"])),
            condition["message"],
        ]
        for condition in view.told["conditions"]
    ]
    if not rows:
        return []
    short = lay_out(["CONDITION", "SINCE"], [row[:2] for row in rows], 10_000, right={1})
    taken = max(line.cell_len for line in short) + _GAP
    room = max(width - taken - _GAP, _LEAST_MESSAGE)
    drawn: list[Text] = []
    for line, message in zip(short, ["MESSAGE", *(str(row[2]) for row in rows)], strict=True):
        first, *more = wrap(message, room) or [""]
        line.append(" " * (taken - line.cell_len))
        line.append(first, "bold" if not drawn else "")
        drawn += [Text("  ").append_text(line), *(Text(" " * (taken + _GAP) + each) for each in more)]
    return drawn


def _observed(view: View) -> list[Text]:
    observed = view.observed
    lines = []
    if observed.broker == "down":
        told = f"the broker is down: {observed.broker_error}; shown is what the store knows"
        lines.append(Text.assemble("  ", ("⚠ ", "red"), told))
    if queued := view.told["queued_commands"]:
        told = f"asked for and not applied yet: {', '.join(queued)}; a coordinator does it"
        lines.append(Text.assemble("  ", ("⚠ ", "yellow"), told))
    if observed.coordinators == 0 and not view.found.instance.phase.ended:
        told = "no coordinator is running, so nothing moves; start one with `saga run`"
        lines.append(Text.assemble("  ", ("⚠ ", "red"), told))
    return lines
