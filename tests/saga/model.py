"""A second opinion on sagas: words in dictionaries, rules run until nothing changes. Written from docs/semantics.md.

It shares no code with `advance` and has none of its shape: an input only changes what is *known* (which step said
what, when it is given up, who was asked to undo), and `settle` then looks for rules until none applies. The
state machine in test_machine.py tells both the same story and compares what they say.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SETTLED = ("DONE", "DEGRADED", "SKIPPED")
ENDS = ("COMPLETED", "COMPENSATED", "FAILED", "CANCELLED")


@dataclass(frozen=True)
class Pauses:
    """How often something is tried, and the seconds in between: doubling from `first`, never more than `most`."""

    tries: int
    first: int
    most: int

    def after(self, number: int) -> int:
        pause = self.first
        for _ in range(number - 1):
            pause = min(pause * 2, self.most)
        return min(pause, self.most)


@dataclass(frozen=True)
class Rule:
    """What was declared of one step; times in seconds."""

    name: str
    after: tuple[str, ...]
    within: int
    commanded: bool
    undoable: bool
    pivot: bool
    optional: bool
    tries: Pauses
    resends: Pauses
    undo_tries: Pauses
    undo_resends: Pauses
    undo_within: int


@dataclass
class Told:
    """What is known of one step."""

    word: str = "PENDING"
    succeeded: bool = False
    surely: bool = True  # whether what became of it is certain
    failures: int = 0
    attempt: int = 0
    sent: int = 0
    give_up: int | None = None
    send: int | None = None
    undo_attempt: int = 0
    undo_sent: int = 0
    undo_failures: int = 0
    undo_give_up: int | None = None
    undo_send: int | None = None
    answered: int | None = None  # the participant's time of its answer to the undo
    empty: bool = False
    by_others: bool = False  # an undo was seen that we have not asked for

    def silence(self) -> None:
        self.give_up = self.send = self.undo_give_up = self.undo_send = None


@dataclass
class Model:
    """One saga, as far as a reader of the manual can tell."""

    rules: tuple[Rule, ...]
    now: int
    deadline: int | None = None
    watching: bool = False
    phase: str = "RUNNING"
    epoch: int = 0
    on_request: bool = False
    in_doubt: bool = False
    told: dict[str, Told] = field(default_factory=dict)
    paused: int | None = None
    kept: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    announced: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.told = {rule.name: Told() for rule in self.rules}
        self.by_name = {rule.name: rule for rule in self.rules}
        before: dict[str, set[str]] = {}
        for rule in self.rules:
            before[rule.name] = set(rule.after).union(*(before[name] for name in rule.after))
        self.later = {name: [other for other in before if name in before[other]] for name in before}
        if self.deadline is not None:
            self.deadline += self.now
        self.settle()

    # ---- what may happen: each says whether it meant anything ----------------------------------------------------

    def success(self, name: str, at: int) -> bool:
        told = self.told[name]
        if told.succeeded or self.phase == "COMPLETED":
            return False
        told.succeeded = told.surely = True
        if self.phase == "RUNNING":
            told.silence()
            told.word = "DONE"
        elif told.word == "COMPENSATED":
            if told.answered is not None and (told.empty or at > told.answered):
                self.open_again()
                self.begin_undo(name)
        elif told.word not in ("COMPENSATING", "UNDO_FAILED"):
            told.word = "DONE"
            if self.by_name[name].undoable:
                self.open_again()
            elif self.is_beyond(name):
                self.in_doubt = True
        self.settle()
        return True

    def failure(self, name: str, attempt: int | None) -> bool:
        told, rule = self.told[name], self.by_name[name]
        if self.phase in ENDS:
            return False
        if told.word == "DEGRADED" and not told.surely:
            told.surely = True
            self.settle()
            return True
        if told.word not in ("PENDING", "WAITING", "RETRYING", "UNKNOWN"):
            return False
        if told.word == "PENDING" and rule.commanded and not self.watching:
            return False  # nobody was asked
        if attempt is not None and attempt < told.attempt:
            return False
        if told.word == "RETRYING" and self.phase == "RUNNING":
            if told.surely:
                return False  # that attempt is counted already
            told.surely = True
            return True
        if self.phase == "COMPENSATING":
            told.surely, told.word = True, "FAILED"
        else:
            self.failed(name, surely=True)
        self.settle()
        return True

    def gave_up(self, name: str) -> bool:
        told, rule = self.told[name], self.by_name[name]
        if self.phase not in ENDS and told.word in ("WAITING", "RETRYING", "UNKNOWN"):
            if self.phase == "RUNNING":
                self.failed(name, surely=False)
        elif rule.commanded or told.succeeded:
            return False
        elif self.phase == "RUNNING" and told.word == "PENDING":  # its trigger was faster than the saga's eyes
            self.failed(name, surely=False, for_good=True)
        elif (
            self.phase not in ("RUNNING", "COMPLETED")
            and told.word == "SKIPPED"
            and rule.undoable
            and not self.watching
        ):
            self.open_again()
            told.surely, told.word = False, "UNKNOWN"
        else:
            return False
        self.settle()
        return True

    def unbuildable(self, name: str) -> None:
        self.failed(name, surely=self.told[name].surely, for_good=True)
        self.settle()

    def undone(self, name: str, at: int, *, empty: bool) -> bool:
        told = self.told[name]
        if told.word in ("COMPENSATING", "UNDO_FAILED"):
            if empty and told.succeeded:  # the participant has looked in the wrong place
                return told.word == "COMPENSATING" and self.undo_gave_up(name, told.undo_attempt)
            told.answered, told.empty = at, empty
            self.is_undone(name)
        elif self.watching and self.phase == "RUNNING" and not told.by_others:
            told.by_others, told.answered = True, at
        else:
            return False
        self.settle()
        return True

    def undo_gave_up(self, name: str, attempt: int) -> bool:
        told, tries = self.told[name], self.by_name[name].undo_tries
        if told.word != "COMPENSATING" or attempt != told.undo_attempt:
            return False
        told.undo_failures += 1
        if told.undo_failures < tries.tries:
            told.undo_sent, told.undo_send = 0, self.clock + tries.after(told.undo_failures)
        else:
            self.undo_failed(name)
        self.settle()
        return True

    def undo_unbuildable(self, name: str) -> None:
        self.undo_failed(name)
        self.settle()

    def cancel(self) -> bool:
        if self.phase != "RUNNING" or self.watching or not self.way_back():
            return False
        self.on_request = True
        self.turn_back()
        self.settle()
        return True

    def retry_undo(self, name: str | None) -> bool:
        stuck = [each for each, told in self.told.items() if told.word == "UNDO_FAILED" and name in (None, each)]
        for each in stuck:
            self.open_again()
            self.told[each].undo_failures = 0
            self.begin_undo(each)
        return bool(stuck)

    def mark_undone(self, name: str | None) -> bool:
        words = ("UNDO_FAILED",) if name is None else ("UNDO_FAILED", "COMPENSATING")
        marked = [each for each, told in self.told.items() if told.word in words and name in (None, each)]
        for each in marked:
            self.is_undone(each)
        self.settle()
        return bool(marked)

    def retry(self, name: str | None) -> bool:
        words = ("FAILED", "UNKNOWN", "RETRYING")
        meant = [each for each, told in self.told.items() if told.word in words and name in (None, each)]
        if self.phase != "RUNNING" or self.watching or len(meant) != 1 or not self.by_name[meant[0]].commanded:
            return False
        self.told[meant[0]].give_up = None
        self.ask(meant[0])
        self.settle()
        return True

    def skip(self, name: str) -> bool:
        told, rule = self.told[name], self.by_name[name]
        if self.phase != "RUNNING" or self.watching or rule.pivot or told.word in SETTLED:
            return False
        if told.word == "WAITING" or (told.word == "PENDING" and not rule.commanded):
            told.surely = False
        told.word = "DEGRADED"
        told.give_up = told.send = None
        self.settle()
        return True

    def pause(self) -> bool:
        if self.phase in ENDS or self.paused is not None:
            return False
        self.paused = self.now
        return True

    def resume(self) -> bool:
        if self.paused is None:
            return False
        still, self.paused = self.now - self.paused, None
        for told in self.told.values():
            for timer in ("give_up", "send", "undo_give_up", "undo_send"):
                if getattr(told, timer) is not None:
                    setattr(told, timer, getattr(told, timer) + still)
        if self.deadline is not None:
            self.deadline += still
        kept, self.kept = self.kept, []
        for command in kept:
            name, _, rest = command.partition(".")
            kind, _, attempt = rest.partition("#")
            told = self.told[name]
            undo = kind == "undo" and told.word == "COMPENSATING" and int(attempt) == told.undo_attempt
            if undo or (kind == "do" and told.word in ("WAITING", "UNKNOWN") and int(attempt) == told.attempt):
                self.say(command)
        for rule in self.rules:
            told = self.told[rule.name]
            failed = told.word == "FAILED" or (told.word == "UNKNOWN" and not (rule.pivot and not told.surely))
            if failed and self.phase == "RUNNING" and self.way_back():
                self.turn_back()
        self.settle()
        return True

    @property
    def clock(self) -> int:
        """What timers are set by: it stands still within a pause."""
        return self.now if self.paused is None else self.paused

    def elapse(self, seconds: int) -> bool:
        self.now += seconds
        meant = False
        while (due := self.next_due()) is not None and due <= self.now:
            meant = True
            self.fire(due)
            self.settle()
        return meant

    # ---- time ------------------------------------------------------------------------------------------------------

    def next_due(self) -> int | None:
        if self.phase in ENDS or self.paused is not None:
            return None
        times = [self.deadline] if self.phase == "RUNNING" else []
        for told in self.told.values():
            times += [told.give_up, told.send, told.undo_give_up, told.undo_send]
        return min((time for time in times if time is not None), default=None)

    def fire(self, due: int) -> None:
        if self.phase == "RUNNING" and self.deadline == due:
            self.deadline = None
            if self.way_back():
                self.turn_back()
            return
        for name, told in self.told.items():
            rule = self.by_name[name]
            if told.give_up == due:
                self.failed(name, surely=told.word == "RETRYING" and told.surely, for_good=True)
            elif told.send == due and told.sent == 0:
                self.ask(name)
            elif told.send == due:
                told.sent += 1
                told.send = self.clock + rule.resends.after(told.sent) if told.sent < rule.resends.tries else None
                self.say(f"{name}.do#{told.attempt}*")
            elif told.undo_give_up == due:
                self.undo_failed(name)
            elif told.undo_send == due:
                again = told.undo_sent > 0
                told.undo_attempt += not again
                told.undo_sent += 1
                more = told.undo_sent < rule.undo_resends.tries
                told.undo_send = self.clock + rule.undo_resends.after(told.undo_sent) if more else None
                self.say(f"{name}.undo#{told.undo_attempt}{'*' if again else ''}")
            else:
                continue
            return

    # ---- rules -----------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Run the rules that apply until none does."""
        while self.paused is None and self.one_more():
            pass

    def one_more(self) -> bool:
        if self.phase == "RUNNING":
            for rule in self.rules:
                told = self.told[rule.name]
                if told.word == "PENDING" and all(self.told[name].word in SETTLED for name in rule.after):
                    told.word, told.give_up = "WAITING", self.clock + rule.within
                    if rule.commanded:
                        self.ask(rule.name)
                    return True
            if all(told.word in SETTLED for told in self.told.values()):
                self.end("COMPLETED")
                return True
        if self.phase == "COMPENSATING":
            for rule in reversed(self.rules):
                if self.wants_undo(rule.name) and not any(self.in_the_way(other) for other in self.later[rule.name]):
                    if self.told[rule.name].by_others:
                        self.told[rule.name].word = "COMPENSATED"
                    else:
                        self.begin_undo(rule.name)
                    return True
            words = [told.word for told in self.told.values()]
            if "COMPENSATING" not in words:
                if "UNDO_FAILED" in words or (self.watching and "COMPENSATED" not in words):
                    self.end("FAILED")
                else:
                    self.end("CANCELLED" if self.on_request else "COMPENSATED")
                return True
        return False

    def way_back(self) -> bool:
        """Before the pivot everything can be undone; once it may have happened nothing can."""
        pivots = [self.told[rule.name] for rule in self.rules if rule.pivot]
        return all(told.surely and told.word not in ("WAITING", "UNKNOWN", "DONE") for told in pivots)

    def failed(self, name: str, *, surely: bool, for_good: bool = False) -> None:
        rule, told = self.by_name[name], self.told[name]
        told.failures += 1
        told.surely = surely
        if rule.commanded and not for_good and told.failures < rule.tries.tries:
            told.word, told.sent, told.send = "RETRYING", 0, self.clock + rule.tries.after(told.failures)
            return
        told.give_up = None
        if rule.optional:
            told.word, told.send = "DEGRADED", None
            return
        told.word = "FAILED" if surely else "UNKNOWN"
        if rule.pivot and not surely:
            return  # it is asked as long as it was to be, then a person is
        told.send = None
        if self.paused is None and self.way_back():
            self.turn_back()

    def turn_back(self) -> None:
        self.phase = "COMPENSATING"
        for told in self.told.values():
            told.silence()
            if told.word == "PENDING":
                told.word = "SKIPPED"
            elif told.word == "RETRYING":
                told.word = "FAILED" if told.surely else "UNKNOWN"
            elif told.word == "WAITING":
                told.word, told.surely = "UNKNOWN", False

    def wants_undo(self, name: str) -> bool:
        told = self.told[name]
        may_have_happened = told.word in ("DONE", "UNKNOWN") or (told.word == "DEGRADED" and not told.surely)
        return self.by_name[name].undoable and may_have_happened

    def in_the_way(self, name: str) -> bool:
        return self.wants_undo(name) or self.told[name].word in ("COMPENSATING", "UNDO_FAILED")

    def begin_undo(self, name: str) -> None:
        rule, told = self.by_name[name], self.told[name]
        told.word = "COMPENSATING"
        told.undo_attempt += 1
        told.undo_sent = 1
        told.answered, told.empty, told.by_others = None, False, False
        told.undo_give_up = self.clock + rule.undo_within
        told.undo_send = self.clock + rule.undo_resends.after(1) if rule.undo_resends.tries > 1 else None
        self.say(f"{name}.undo#{told.undo_attempt}")

    def undo_failed(self, name: str) -> None:
        self.told[name].silence()
        self.told[name].word = "UNDO_FAILED"

    def is_undone(self, name: str) -> None:
        self.open_again()
        self.told[name].silence()
        self.told[name].word = "COMPENSATED"

    def ask(self, name: str) -> None:
        rule, told = self.by_name[name], self.told[name]
        told.word = "WAITING"
        told.attempt += 1
        told.sent = 1
        told.send = self.clock + rule.resends.after(1) if rule.resends.tries > 1 else None
        if told.give_up is None:
            told.give_up = self.clock + rule.within
        self.say(f"{name}.do#{told.attempt}")

    def open_again(self) -> None:
        if self.phase in ENDS:
            self.phase = "COMPENSATING"
            self.epoch += 1

    def end(self, phase: str) -> None:
        self.phase = phase
        word = {"COMPLETED": "ended", "FAILED": None}.get(phase, "reversed")
        if word is not None and not self.announced and not self.watching:
            self.announced.append(word)

    def say(self, command: str) -> None:
        if not self.watching:
            (self.sent if self.paused is None else self.kept).append(command)

    # ---- what people see -------------------------------------------------------------------------------------------

    def states(self) -> dict[str, str]:
        return {name: told.word for name, told in self.told.items()}

    def needs_a_person(self) -> bool:
        if self.phase == "RUNNING":
            return any(t.word == "FAILED" or (t.word == "UNKNOWN" and t.send is None) for t in self.told.values())
        return self.in_doubt or any(told.word == "UNDO_FAILED" for told in self.told.values())

    def is_beyond(self, name: str) -> bool:
        """At the pivot, or after it."""
        return self.by_name[name].pivot or any(rule.pivot and name in self.later[rule.name] for rule in self.rules)
