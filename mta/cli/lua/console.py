"""What can be said at the prompt: Lua, and commands that begin with a colon. It prints, and counts what went wrong.

It knows no terminal: the REPL, a pipe and -e all hand it lines.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mta import settings
from mta.cli import telling
from mta.cli.lua import costs, doc, explaining, given, made_up, saving, showing, trying
from mta.cli.telling import paint
from mta.message.reply import Refused
from mta.rules.engine.engine import RulesError
from mta.rules.pages import wordbook
from mta.rules.trying import prompt
from mta.rules.trying.sketch import Stage
from mta.rules.trying.trial import Trial
from mta.rules.verdict import STAGES


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

    def __init__(self, made: settings.Settings, trial: Trial) -> None:
        self.settings, self.trial = made, trial
        self.say: Callable[[str], None] = print
        self.level = "tests"
        self.failed = self.misused = False
        self.watching = False
        self.pending = ""  # the lines of a piece of Lua that is not complete
        self.file = ""  # the mail that was loaded
        self._seen: dict[Path, tuple[int, int]] = {}  # the files that were loaded last, even in vain

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

    def trace(self, rest: str) -> None:
        if rest:
            if rest not in showing.LEVELS:
                raise ValueError(f"the levels are {' '.join(showing.LEVELS)}")
            self.level = rest
            self.trial.watch_each = rest in ("actions", "values")
        self.say(f"trace {self.level}")

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
        folders = (self.settings.rules.path, self.settings.rules.domains)
        saved = trying.saved(path for folder in folders if folder for path in Path(folder).rglob("*.lua"))
        if saved == self._seen:
            return False
        self._seen = saved
        try:
            self.trial.reload()
        except RulesError as error:
            self.wrong(str(error))
            return True
        self.run("")
        return True

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


COMMANDS: dict[str, Command] = {
    "help": Command(Console.help, "[COMMAND]", "this list"),
    "load": Command(
        given.load, "FILE.eml", "take a mail; sender and recipients are its header's unless you said others"
    ),
    "session": Command(
        given.session, "ip=... helo=...", "who sends what: ip port name helo from rcpt tls user password trusted"
    ),
    "step": Command(Console.step, "[STAGE]", "run the next stage, or all up to that one"),
    "run": Command(Console.run, "[STAGE]", "run what is left of the session, or the whole of it again"),
    "back": Command(Console.back, "[N]", "undo the last stage, also what it put into the store"),
    "reset": Command(Console.reset, "", "back to the beginning"),
    "rules": Command(Console.rules, "[STAGE]", "the rules this mail meets, in order"),
    "only": Command(Console.only, "[RULE]", "let only this rule speak (more than once: these); alone: all again"),
    "skip": Command(Console.skip, "[RULE]", "leave this rule out; alone: none"),
    "why": Command(explaining.why, "", "who decided what, and what rules that were not reached would have said"),
    "diff": Command(explaining.diff, "", "what changed: envelope, header, parts, bodies"),
    "trace": Command(Console.trace, "[LEVEL]", "how much is shown: actions, rules, tests (what was asked), values"),
    "dns": Command(made_up.dns, "NAME TYPE VALUE", "make up a DNS record; none: there is none; fail: nobody can tell"),
    "clock": Command(made_up.clock, "[+1h|DATE|real]", "what time it is"),
    "store": Command(made_up.store, "[KEY [VALUE]]", "look into the store, or put something there"),
    "service": Command(made_up.service, "NAME code=0 ...", "make up what a service answers"),
    "list": Command(made_up.list_, "NAME ENTRY ...", "make up a list for lists.has and lists.get"),
    "live": Command(made_up.live, "on|off", "ask the real DNS, services and clock for what was not made up"),
    "reload": Command(Console.reload, "", "read the rules again and begin anew"),
    "watch": Command(Console.watch, "[off]", "run the session again whenever a file of the rules is saved"),
    "queued": Command(given.queued, "ID", "take a mail from the spool, as a copy"),
    "bench": Command(costs.bench, "[N]", "run the session N times and tell what a mail costs"),
    "profile": Command(costs.profile, "[N]", "what each rule costs: time, waits, instructions, outside calls"),
    "save": Command(Console.save, "NAME", "write this session and what came of it as a test"),
    "doc": Command(Console.doc, "WORD", "what a word means, with an example"),
    "quit": Command(Console.quit, "", "leave (so does Ctrl-D)"),
}
