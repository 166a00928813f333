"""The prompt on a terminal: several lines of Lua, colours, completion and help from the declared words, a history."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app_or_none
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import HTML
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from prompt_toolkit.patch_stdout import patch_stdout
from pygments.lexers.scripting import LuaLexer

from mta.cli.lua import showing, trying
from mta.cli.lua.console import COMMANDS, Console, Quit
from mta.net import offload
from mta.rules.pages import wordbook
from mta.rules.trying import prompt
from mta.rules.verdict import STAGES
from mta.rules.words.word import Word

LOOK = 0.5  # seconds between two looks at the files of the rules
_NAME = re.compile(r"[\w.:]*$")
KEYWORDS = "and break do else elseif end false for function if in local nil not or repeat return then true until while"


def talk(console: Console) -> None:
    """Until Ctrl-D or :quit."""
    keys = KeyBindings()

    @Condition
    def complete() -> bool:
        app = get_app_or_none()
        text = app.current_buffer.document.text if app else ""
        return text.lstrip().startswith(":") or not console.unfinished(text) or text.endswith("\n")

    @keys.add("enter", filter=complete)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    session: PromptSession[str] = PromptSession(
        multiline=True,
        lexer=PygmentsLexer(LuaLexer),
        completer=Words(console),
        complete_while_typing=True,
        auto_suggest=AutoSuggestFromHistory(),
        history=history(),
        key_bindings=keys,
        prompt_continuation="  ... ",
        bottom_toolbar=lambda: toolbar(console, session),
    )
    watcher = {"on": True}
    offload.background(watch, console, watcher)
    try:
        with patch_stdout(raw=True):
            while True:
                try:
                    text = session.prompt(label(console))
                except KeyboardInterrupt:
                    continue
                except EOFError:
                    return
                try:
                    if text.lstrip().startswith(":"):
                        console.line(text)
                    elif text.strip():
                        console.lua(text)
                except Quit:
                    return
                except KeyboardInterrupt:
                    print("stopped")
    finally:
        watcher["on"] = False


def label(console: Console) -> str:
    upcoming = console.trial.upcoming
    where = console.trial.done[-1].name if console.trial.done else upcoming[0] if upcoming else ""
    return f"{where}> " if console.trial.done else "mta> "


def watch(console: Console, watcher: dict[str, bool]) -> None:
    """In a greenlet of its own: run the session again when a rule was saved."""
    while watcher["on"]:
        offload.pause(LOOK)
        console.look()


def history() -> History:
    """Lines of earlier days, in ~/.local/state/mta/history."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    path = Path(state) / "mta" / "history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))


def toolbar(console: Console, session: PromptSession[str]) -> HTML:
    """The signature of the word under the cursor, or the limits a line has."""
    text = session.default_buffer.document.text_before_cursor
    if text.lstrip().startswith(":"):
        name = text.lstrip()[1:].partition(" ")[0]
        one = COMMANDS.get(name)
        return HTML("<b>:{} {}</b> {}").format(name, one.arguments, one.meaning) if one else HTML(":help")
    found = word_before(text)
    if found is not None:
        return HTML("<b>{}</b>  {}").format(found.signature, found.meaning)
    limits, trial = console.settings.rules, console.trial
    return HTML("{} | {} instructions, {} MB, {} s | {}").format(
        trial.result,
        f"{limits.instructions:,}",
        limits.growth >> 20,
        f"{limits.wall:g}",
        "live" if trial.world.live else "",
    )


def word_before(text: str) -> Word | None:
    """The declared word that the text ends in, or whose call it is inside of."""
    for piece in (text, text.rpartition("(")[0]):
        found = _NAME.search(piece)
        name = found[0].strip(".:") if found else ""
        if name in wordbook.WORDS:
            return wordbook.WORDS[name]
    return None


class Words(Completer):
    """Completes commands, their arguments, declared words, fields, and names made at the prompt."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if text.lstrip().startswith(":"):
            yield from self.command(text.lstrip()[1:], event)
            return
        found = _NAME.search(text)
        name = found[0] if found else ""
        if name or event.completion_requested:
            yield from self.words(name)

    def command(self, text: str, event: CompleteEvent) -> Iterator[Completion]:
        name, space, rest = text.partition(" ")
        if not space:
            for known, one in COMMANDS.items():
                if known.startswith(name):
                    yield Completion(known, -len(name), display=f":{known}", display_meta=one.meaning)
            return
        if name == "load":
            yield from self.paths.get_completions(Document(rest), event)
            return
        last = rest.rpartition(" ")[2] if name not in ("only", "skip") else rest
        for word in self.arguments(name):
            if word.startswith(last):
                yield Completion(word, -len(last))

    def arguments(self, name: str) -> Iterable[str]:
        trial = self.console.trial
        if name in ("step", "run", "rules"):
            return STAGES
        if name in ("only", "skip"):
            return trial.names()
        if name == "trace":
            return showing.LEVELS
        if name == "session":
            return [f"{word}=" for word in trying.WORDS]
        if name == "live":
            return ("on", "off")
        if name == "help":
            return COMMANDS
        if name == "service":
            return list(trial.world.services.names())
        return wordbook.WORDS if name == "doc" else ()

    def words(self, name: str) -> Iterator[Completion]:
        stage, _ = self.console.trial.here()
        shown = set()
        for known, one in wordbook.WORDS.items():
            if not known.lower().startswith(name.lower()) or one.kind == "stage":
                continue
            rest = known[len(name) :]
            cut = re.search(r"[.:]", rest)
            ends = known if cut is None else name + rest[: cut.start()]
            if not ends or ends in shown:
                continue
            shown.add(ends)
            meta = one.meaning if ends == known else ""
            late = "" if ends != known or stage in one.stages else f"(not at {stage}) "
            yield Completion(ends, -len(name), display_meta=late + meta)
        for one_name in (*prompt.names(self.console.trial), *KEYWORDS.split()):
            if name and one_name.startswith(name) and one_name not in shown:
                yield Completion(one_name, -len(name))
