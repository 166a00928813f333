"""What can be said at the prompt: Lua, and commands that begin with a colon. It prints, and counts what went wrong.

It knows no terminal: the REPL, a pipe and -e all hand it lines.
"""

from __future__ import annotations

import datetime
import shlex
import time
from collections.abc import Callable
from typing import NamedTuple

from mta import settings
from mta.cli import telling
from mta.cli.lua import doc, saving, showing, trying
from mta.cli.telling import paint
from mta.message.reply import Refused
from mta.rules import difference, prompt, wordbook
from mta.rules.engine import Rules, RulesError
from mta.rules.lists import GivenLists
from mta.rules.services.request import Answer
from mta.rules.transaction import Asked
from mta.rules.trial import Stage, Trial
from mta.rules.verdict import STAGES
from mta.rules.words import times


class Quit(Exception):
    """The person has had enough."""


class Command(NamedTuple):
    """One command. `meaning` is its line in :help."""

    run: Callable[[Console, str], None]
    arguments: str
    meaning: str


class Console:
    """A trial and somebody who talks to it. `failed`: a rule or a line failed, or an expectation was refused;
    `misused`: something was said that means nothing."""

    def __init__(self, made: settings.Settings, trial: Trial, say: Callable[[str], None] = print) -> None:
        self.settings, self.trial, self.say = made, trial, say
        self.level = "tests"
        self.failed = self.misused = False
        self.watching = False
        self.pending = ""  # the lines of a piece of Lua that is not complete
        self.file = ""  # the mail that was loaded
        self._seen = 0.0

    # -- lines -------------------------------------------------------------------------------------------------------

    def line(self, text: str) -> None:
        """One line. Raises Quit."""
        if not self.pending and text.lstrip().startswith(":"):
            self.command(text.strip()[1:])
            return
        whole = f"{self.pending}\n{text}" if self.pending else text
        if not whole.strip():
            return
        if self.unfinished(whole) and text.strip():
            self.pending = whole
            return
        self.pending = ""
        self.lua(whole)

    def end(self) -> None:
        """No more lines come."""
        if self.pending:
            text, self.pending = self.pending, ""
            self.lua(text)

    def unfinished(self, text: str) -> bool:
        """Whether Lua wants more lines. An empty line ends it anyway."""
        return prompt.unfinished(self.trial, text)

    def lua(self, text: str) -> None:
        said = prompt.evaluate(self.trial, text)
        for line in said.printed:
            self.say(line)
        if self.level == "values":
            for one in said.asked:
                self.say(paint("  " + showing.asked(one, True), "dim"))
        if said.error:
            self.wrong(said.error)
            return
        if said.text:
            self.say(said.text)
        if said.instructions >= 100_000 or self.level == "values":
            limit = self.settings.rules.instructions
            self.say(paint(f"  {said.instructions:,} of {limit:,} instructions, {said.microseconds:.0f} us", "dim"))

    def command(self, text: str) -> None:
        name, _, rest = text.strip().partition(" ")
        found = COMMANDS.get(name)
        if found is None:
            near = [one for one in COMMANDS if one.startswith(name)] if name else []
            if len(near) != 1:
                self.misuse(f"there is no command :{name}; :help lists them")
                return
            found = COMMANDS[near[0]]
        try:
            found.run(self, rest.strip())
        except (ValueError, Refused) as error:
            self.misuse(f":{name}: {error}")
        except RulesError as error:
            self.wrong(str(error))
        except OSError as error:
            self.wrong(f":{name}: {error.filename or ''}: {error.strerror or error}".replace(": :", ":"))
        except telling.Failed as error:
            self.wrong(f":{name}: {error}")

    def wrong(self, text: str) -> None:
        self.failed = True
        self.say(paint(text, "red"))

    def misuse(self, text: str) -> None:
        self.misused = True
        self.say(paint(text, "red"))

    # -- the session -------------------------------------------------------------------------------------------------

    def load(self, rest: str) -> None:
        path = " ".join(shlex.split(rest))
        if not path:
            raise ValueError("which file?")
        message = trying.mail(path)
        found = trying.envelope_of(message)
        sketch = self.trial.sketch
        facts = {name: one for name, one in found.items() if not getattr(sketch, name)}
        self.file = path
        self.trial.change(message=message, **facts)
        self.say(paint(path, "bold"))
        for line in showing.outline(message):
            self.say(line)

    def session(self, rest: str) -> None:
        words: dict[str, str] = {}
        for one in shlex.split(rest):
            name, equals, value = one.partition("=")
            if not equals:
                raise ValueError(f"{one}: write NAME=VALUE; the names are {' '.join(trying.WORDS)}")
            words[name] = f"{words[name]},{value}" if name in ("rcpt", "to") and name in words else value
        if words:
            self.trial.change(**trying.session(words))
        sketch = self.trial.sketch
        about = f"ip={sketch.ip} port={sketch.port} helo={sketch.helo}" + (
            f" name={sketch.name}" if sketch.name else ""
        )
        about += f" tls={sketch.tls}" * bool(sketch.tls) + f" user={sketch.user}" * bool(sketch.user)
        about += " trusted=yes" * sketch.trusted
        sender = "" if sketch.sender is None else f" from=<{sketch.sender}>"
        self.say(f"{about}{sender} rcpt={','.join(map(str, sketch.recipients))} listener={sketch.listener}")

    def queued(self, rest: str) -> None:
        if not rest:
            raise ValueError("the id of which mail?")
        found = trying.queued(self.settings.spool.path, rest)
        if found is None:
            raise ValueError(f"{rest} is not in {self.settings.spool.path}")
        envelope, message = found
        client = envelope.client
        facts = {"sender": envelope.sender, "recipients": [one.address for one in envelope.recipients]}
        if client is not None:
            facts |= {name: getattr(client, name) for name in ("ip", "port", "name", "helo", "user", "tls", "trusted")}
        self.file = rest
        self.trial.change(message=message, vars=dict(envelope.vars), **facts)
        self.session("")
        for line in showing.outline(message):
            self.say(line)

    # -- stages ------------------------------------------------------------------------------------------------------

    def step(self, rest: str) -> None:
        if rest and rest not in STAGES:
            raise ValueError(f"there is no stage {rest}; they are {' '.join(STAGES)}")
        if self.trial.upcoming is None and not rest:
            self.say(f"it is over: {self.trial.result}; :back goes back, :reset begins anew")
            return
        if rest and self.trial.upcoming is None:
            self.trial.reset()
        if not rest:
            self.tell(self.trial.step())
            return
        for one in self.trial.run(rest):
            self.tell(one)

    def run(self, rest: str) -> None:
        if self.trial.upcoming is None:
            self.trial.reset()
        if rest and rest not in STAGES:
            raise ValueError(f"there is no stage {rest}; they are {' '.join(STAGES)}")
        for one in self.trial.run(rest):
            self.tell(one)
        decided = [one for one in self.trial.done if one.decided is not None]
        self.say(f"{paint('result', 'bold')}  {self.trial.result}")
        for one in decided:
            rule = one.decided
            assert rule is not None
            self.say(f"  {one.name:<13}{rule.said:<11} {rule.rule}  ({rule.where})")

    def tell(self, one: Stage) -> None:
        self.failed = self.failed or any(rule.said == "failed" for rule in one.rules)
        for line in showing.stage(one, self.level):
            self.say(line)

    def back(self, rest: str) -> None:
        for _ in range(int(rest or 1)):
            if not self.trial.back():
                self.say("this is the beginning")
                return
        upcoming = self.trial.upcoming
        self.say(
            f"before {upcoming[0]}" + (f" <{upcoming[1]}>" if upcoming and upcoming[1] else "") if upcoming else ""
        )

    def reset(self, rest: str) -> None:
        self.trial.reset()

    def rules(self, rest: str) -> None:
        trial, known = self.trial, False
        for stage in STAGES:
            listed = trial.rules.listed(stage, trial.tx.file)
            if not listed or (rest and rest != stage):
                continue
            known = True
            self.say(paint(stage, "bold"))
            for name, where in listed:
                mark = "-" if name in trial.skip or (trial.only and name not in trial.only) else " "
                self.say(f"  {mark} {name}  ({where})")
        if not known:
            self.say("there are no rules")

    def only(self, rest: str) -> None:
        self.trial.only = self.trial.only | {self.rule(rest)} if rest else set()
        self.chosen()

    def skip(self, rest: str) -> None:
        self.trial.skip = self.trial.skip | {self.rule(rest)} if rest else set()
        self.chosen()

    def chosen(self) -> None:
        self.trial.reset()
        trial = self.trial
        if not trial.only and not trial.skip:
            self.say("all rules speak")
        if trial.only:
            self.say(f"only: {', '.join(sorted(trial.only))}")
        if trial.skip:
            self.say(f"skipped: {', '.join(sorted(trial.skip))}")

    def rule(self, text: str) -> str:
        """The rule meant. Raises ValueError."""
        names = self.trial.names()
        text = text.strip("\"'")
        if text in names:
            return text
        near = [name for name in names if text.lower() in name.lower()]
        if len(near) == 1:
            return near[0]
        raise ValueError(f"which rule is {text!r}? " + (", ".join(near or names) or "there are none"))

    def why(self, rest: str) -> None:
        trial = self.trial
        if not trial.done:
            raise ValueError("no stage has run yet; :run does")
        self.say(f"{trial.result}")
        for index, one in enumerate(trial.done):
            decided = one.decided
            if decided is None and not one.ignored and not one.refused:
                continue
            who = f" <{one.recipient}>" if one.recipient is not None else ""
            if decided is None:
                why = one.ignored or "by the server itself, no rule decided"
                self.say(f"{paint(one.name + who, 'bold')}: {one.reply}  {why}")
                continue
            self.say(f'{paint(one.name + who, "bold")}: {decided.said} by "{decided.rule}" ({decided.where})')
            text = self.source(decided.where)
            if text:
                self.say(f"    {text}")
            for asked in decided.asked:
                self.say(f"    it asked {showing.asked(asked, True)}")
            if one.ignored:
                self.say(f"    note: {one.ignored}")
            for other in trial.others(index):
                self.say(paint(f'    "{other.rule}" ({other.where}) would have said {other.said}', "dim"))

    def source(self, where: str) -> str:
        """The line of a rule's file."""
        name, _, number = where.rpartition(":")
        for path in self.trial.rules.files:
            if str(path).endswith(name) and number.isdigit():
                lines = path.read_text("utf-8", "replace").splitlines()
                return lines[int(number) - 1].strip() if 0 < int(number) <= len(lines) else ""
        return ""

    def diff(self, rest: str) -> None:
        trial = self.trial
        found = list(difference.between(*saving.pictures(trial)))
        if not found:
            self.say("nothing has changed")
        for line in showing.changes(found):
            self.say(line)

    def trace(self, rest: str) -> None:
        if rest:
            if rest not in showing.LEVELS:
                raise ValueError(f"the levels are {' '.join(showing.LEVELS)}")
            self.level = rest
            self.trial.watch_each = rest in ("actions", "values")
        self.say(f"trace {self.level}")

    # -- the made-up world -------------------------------------------------------------------------------------------

    def dns(self, rest: str) -> None:
        words, world = shlex.split(rest), self.trial.world
        if not words:
            for name, types in sorted(world.dns.items()):
                for kind, values in types.items():
                    told = values if isinstance(values, str) else ", ".join(map(showing.value, values)) or "none"
                    self.say(f"{name} {kind} {told}")
            return
        if len(words) < 3:
            raise ValueError("NAME TYPE VALUE ...; VALUE may be none, or fail for a name server that cannot tell")
        for value in words[2:]:
            world.record(words[0], words[1], None if value == "fail" else value)

    def clock(self, rest: str) -> None:
        world = self.trial.world
        if rest == "real":
            world.time = None
        elif rest[:1] in ("+", "-"):
            moved = times.seconds(rest[1:]) or 0.0
            world.time = world.now() + (moved if rest[0] == "+" else -moved)
        elif rest:
            world.time = trying.moment(rest)
        self.say(datetime.datetime.fromtimestamp(world.now(), datetime.UTC).isoformat(timespec="seconds"))

    def store(self, rest: str) -> None:
        words, store = shlex.split(rest), self.trial.world.store
        if len(words) == 2:
            text = words[1]
            store.set(words[0], int(text) if text.lstrip("-").isdigit() else text)
        elif words:
            self.say(showing.value(store.get(words[0])))
        else:
            for name in sorted(getattr(store, "names", list)()):
                self.say(f"{name} = {showing.value(store.get(name))}")

    def service(self, rest: str) -> None:
        words, world = shlex.split(rest), self.trial.world
        if not words:
            for name in sorted(world.services.names()):
                answer = world.answers.get(name)
                self.say(f"{name}: {showing.value(answer._asdict()) if answer else 'no answer made up'}")
            return
        if world.answer(words[0], answer_of(words[1:])):
            self.trial.reload()

    def list(self, rest: str) -> None:
        words, texts = shlex.split(rest), self.trial.world.texts
        if len(words) < 2:
            raise ValueError("NAME ENTRY ...: what lists.has and lists.get find")
        before = texts.given.get(words[0], "")
        texts.given[words[0]] = before + "".join(f"{word}\n" for word in words[1:])
        self.trial.world.lists = GivenLists(texts)

    def live(self, rest: str) -> None:
        if rest:
            if rest not in ("on", "off"):
                raise ValueError(":live on asks the real DNS and services, :live off only what was made up")
            self.trial.world.live = rest == "on"
        self.say(f"live {'on' if self.trial.world.live else 'off'}")

    # -- again and again ---------------------------------------------------------------------------------------------

    def reload(self, rest: str) -> None:
        self.trial.reload()
        self.say(f"rules {self.trial.rules.version}: {len(self.trial.names())} rules")

    def watch(self, rest: str) -> None:
        self.watching = rest != "off" and not (self.watching and not rest)
        self.say("a saved file runs the session again" if self.watching else "no longer watching")

    def look(self) -> bool:
        """For whoever watches: if a file of the rules has changed, load them and run the session again."""
        try:
            if not self.watching or not self.trial.rules.changed():
                return False
        except OSError:
            return False
        stamp = max((path.stat().st_mtime for path in self.trial.rules.files if path.exists()), default=0.0)
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            self.trial.reload()
        except RulesError as error:
            self.wrong(str(error))
            return True
        self.run("")
        return True

    def bench(self, rest: str) -> None:
        number, trial = int(rest or 1000), self.trial
        watched, trial.watch_each = trial.watch_each, False
        try:
            began = time.perf_counter()
            calls = 0
            for _ in range(number):
                trial.reset()
                calls += sum(len(one.rules) for one in trial.run())
            took = time.perf_counter() - began
        finally:
            trial.watch_each = watched
            trial.reset()
        each = took / number * 1e6
        self.say(f"{number} mails, {each:.0f} us each with the trial's own work, {calls // number} rules a mail")
        self.say(f"rules alone: {sum(self.costs(min(number, 200)).values()) * 1.0:.0f} us a mail; :profile shows each")

    def costs(self, number: int) -> dict[tuple[str, str, str], float]:
        """Microseconds of each rule (stage, rule, where) in a mail, on average."""
        found: dict[tuple[str, str, str], float] = {}
        for _ in range(number):
            self.trial.reset()
            for stage in self.trial.run():
                for rule in stage.rules:
                    key = stage.name, rule.rule, rule.where
                    found[key] = found.get(key, 0.0) + rule.microseconds
        self.trial.reset()
        return {key: value / number for key, value in found.items()}

    def profile(self, rest: str) -> None:
        number, trial = int(rest or 200), self.trial
        total: dict[tuple[str, str], list[float]] = {}
        watched, trial.watch_each = trial.watch_each, False
        try:
            for _ in range(number):
                trial.reset()
                for stage in trial.run():
                    for rule in stage.rules:
                        known = total.setdefault((stage.name, f"{rule.rule}  ({rule.where})"), [0.0, 0.0, 0.0, 0.0])
                        outside = sum(asked.microseconds for asked in rule.asked)
                        for place, one in enumerate((rule.microseconds, outside, rule.instructions, len(rule.asked))):
                            known[place] += one
        finally:
            trial.watch_each = watched
            trial.reset()
        self.say(paint(f"{'us':>8} {'waits':>8} {'instr.':>8} {'calls':>6}  stage, rule", "bold"))
        for (stage_name, rule_name), (us, outside, steps, calls) in sorted(total.items(), key=lambda one: -one[1][0]):
            self.say(
                f"{us / number:8.1f} {outside / number:8.1f} {steps / number:8.0f} {calls / number:6.1f}"
                f"  {stage_name}: {rule_name}"
            )

    # -- and the rest ------------------------------------------------------------------------------------------------

    def save(self, rest: str) -> None:
        if not rest:
            raise ValueError("a name for the test, or its file")
        if not self.trial.done:
            for one in self.trial.run():
                self.tell(one)
        path = saving.save(self.trial, rest, self.file)
        self.say(f"{path}: run it with  {telling.myself()} lua test {path}")

    def doc(self, rest: str) -> None:
        found = wordbook.find(rest) if rest else []
        if not found:
            near = wordbook.nearest(rest) if rest else []
            raise ValueError(f"there is no word {rest}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
        self.say("\n\n".join(map(doc.page, found[:12])))

    def help(self, rest: str) -> None:
        for name, one in COMMANDS.items():
            if not rest or rest.lstrip(":") == name:
                self.say(f"{paint((':' + name + ' ' + one.arguments).ljust(28), 'bold')} {one.meaning}")
        if not rest:
            limits = self.settings.rules
            self.say("Everything else is Lua, as in a rule; the value of an expression is shown, _ is the last one.")
            self.say(
                f"Limits, as in the server: {limits.instructions:,} instructions, {limits.growth >> 20} MB more memory,"
                f" {limits.wall:g} s a stage."
            )

    def quit(self, rest: str) -> None:
        raise Quit


def answer_of(words: list[str]) -> Answer:
    """`code=1 stdout=... failed=...` as a service's answer. Raises ValueError."""
    fields: dict[str, object] = {"code": 0}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in Answer._fields:
            raise ValueError(f"{word}: write NAME=VALUE; the names are {' '.join(Answer._fields)}")
        if name in ("code", "signal"):
            fields[name] = int(value)
        elif name in ("stdout", "stderr"):
            fields[name] = value.encode("utf-8")
        elif name in ("timed_out", "cut"):
            fields[name] = value not in ("", "no", "false", "0")
        elif name == "ms":
            fields[name] = float(value)
        else:
            fields[name] = value
    return Answer(**fields)  # type: ignore[arg-type]


COMMANDS: dict[str, Command] = {
    "help": Command(Console.help, "[COMMAND]", "this list"),
    "load": Command(
        Console.load, "FILE.eml", "take a mail; sender and recipients are its header's unless you said others"
    ),
    "session": Command(
        Console.session, "ip=... helo=...", "who sends what: ip port name helo from rcpt tls user trusted"
    ),
    "step": Command(Console.step, "[STAGE]", "run the next stage, or all up to that one"),
    "run": Command(Console.run, "[STAGE]", "run what is left of the session, or the whole of it again"),
    "back": Command(Console.back, "[N]", "undo the last stage, also what it put into the store"),
    "reset": Command(Console.reset, "", "back to the beginning"),
    "rules": Command(Console.rules, "[STAGE]", "the rules this mail meets, in order"),
    "only": Command(Console.only, "[RULE]", "let only this rule speak (more than once: these); alone: all again"),
    "skip": Command(Console.skip, "[RULE]", "leave this rule out; alone: none"),
    "why": Command(Console.why, "", "who decided what, and what rules that were not reached would have said"),
    "diff": Command(Console.diff, "", "what changed: envelope, header, parts, bodies"),
    "trace": Command(Console.trace, "[LEVEL]", "how much is shown: actions, rules, tests (what was asked), values"),
    "dns": Command(Console.dns, "NAME TYPE VALUE", "make up a DNS record; none: there is none; fail: nobody can tell"),
    "clock": Command(Console.clock, "[+1h|DATE|real]", "what time it is"),
    "store": Command(Console.store, "[KEY [VALUE]]", "look into the store, or put something there"),
    "service": Command(Console.service, "NAME code=0 ...", "make up what a service answers"),
    "list": Command(Console.list, "NAME ENTRY ...", "make up a list for lists.has and lists.get"),
    "live": Command(Console.live, "on|off", "ask the real DNS, services and clock for what was not made up"),
    "reload": Command(Console.reload, "", "read the rules again and begin anew"),
    "watch": Command(Console.watch, "[off]", "run the session again whenever a file of the rules is saved"),
    "queued": Command(Console.queued, "ID", "take a mail from the spool, as a copy"),
    "bench": Command(Console.bench, "[N]", "run the session N times and tell what a mail costs"),
    "profile": Command(Console.profile, "[N]", "what each rule costs: time, waits, instructions, outside calls"),
    "save": Command(Console.save, "NAME", "write this session and what came of it as a test"),
    "doc": Command(Console.doc, "WORD", "what a word means, with an example"),
    "quit": Command(Console.quit, "", "leave (so does Ctrl-D)"),
}

__all__ = ["COMMANDS", "Asked", "Command", "Console", "Quit", "Rules"]
