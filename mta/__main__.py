"""The command `mta`: reads the verb, loads its file from cli/, runs it; only verbs that run the server load gevent."""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import NamedTuple

import mta
from mta.cli.parser import CODES, Parser


class Verb(NamedTuple):
    meaning: str
    loop: bool | tuple[str, ...] = False  # runs the server's code, so the standard library is patched for gevent first


GROUPS: dict[str, dict[str, Verb]] = {
    "Run a server": {
        "dev": Verb("a server to play with: any address, rules in force when saved", loop=True),
        "serve": Verb("serve mail as the configuration says", loop=True),
        "status": Verb("what the running server does"),
        "reload": Verb("put a changed configuration, rules or certificates in force"),
        "stop": Verb("finish open work and end"),
    },
    "Look": {
        "log": Verb("read the log (-f follows it)"),
        "queue": Verb("mail that waits"),
        "why": Verb("what happened to a mail, a session or a refusal, and why"),
    },
    "Try": {
        "lua": Verb(
            "try rules by hand, run, test and check them, read about their words", loop=("repl", "run", "test")
        ),
        "send": Verb("send a mail to the server"),
        "replay": Verb("try rules on captured sessions or stored mail: what would they decide otherwise"),
    },
    "Set up": {
        "config": Verb("check, show, explain and print the configuration"),
    },
}
VERBS = {name: verb for group in GROUPS.values() for name, verb in group.items()}

USAGE = "mta [-c FILE] COMMAND ...\n"


def overview() -> str:
    lines = [f"usage: {USAGE}", "A mail transfer agent whose every decision can be written in Lua.", ""]
    for group, verbs in GROUPS.items():
        lines.append(group)
        lines += [f"  {name:<10}{verb.meaning}" for name, verb in verbs.items()]
        lines.append("")
    lines += [
        "-c FILE names the configuration; without it: $MTA_CONFIG, ./mta.toml, ./mta-dev/mta.toml, /etc/mta/mta.toml.",
        '"mta COMMAND --help" tells more, "mta --version" the version.',
        CODES,
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    _streams()
    try:
        try:
            return _obey([_readable(word) for word in (sys.argv[1:] if argv is None else argv)])
        finally:
            sys.stdout.flush()  # here a full disk can still be told
    except BrokenPipeError:  # piped into head
        _forget_output()
        return 0
    except KeyboardInterrupt:
        _forget_output()
        return 130
    except OSError as error:
        _forget_output()
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        print(f"mta: {where}{error.strerror or error}", file=sys.stderr)
        return 3 if isinstance(error, FileNotFoundError) else 1


def _obey(words: list[str]) -> int:
    config, words = _config(words)
    if config is not None and (not config or not words):
        print("mta: -c is followed by a file and a command", file=sys.stderr)
        return 2
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"mta {mta.__version__}")
        return 0
    name, *rest = words
    if name not in VERBS:
        import difflib

        near = difflib.get_close_matches(name, VERBS, 1)
        print(f"mta: there is no command {name}" + (f"; did you mean {near[0]}?" if near else ""), file=sys.stderr)
        print('"mta --help" lists them', file=sys.stderr)
        return 2
    loop = VERBS[name].loop
    if loop is True or (loop and set(loop) & set(rest)):  # "-c FILE" may stand before the verb
        from gevent import monkey

        # The master forks and waits for signals itself, without a hub; so these two stay as they are.
        monkey.patch_all(os=False, signal=False)
        from gevent.hub import Hub

        Hub.NOT_ERROR = (*Hub.NOT_ERROR, KeyboardInterrupt)  # Ctrl-C ends a command; its loop need not tell
    return _run(name, rest, config)


def _streams() -> None:
    """What a terminal's charset lacks is shown as \\u2014, and a stream that was closed takes everything."""
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _readable(word: str) -> str:
    """A word of the command line that Python could not read in the charset of the locale (PEP 383) is UTF-8."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return os.fsencode(word).decode("utf-8", "replace")
    return word


def _forget_output() -> None:
    """Nobody hears us: what is still buffered goes nowhere, or Python would complain at its end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError:  # a stream in memory
        pass


def _config(words: list[str]) -> tuple[str | None, list[str]]:
    """-c FILE before the verb; after it the verb's own parser takes it."""
    if words[:1] in (["-c"], ["--config"]):
        return "".join(words[1:2]), words[2:]
    if words and words[0].startswith("--config="):
        return words[0].partition("=")[2], words[1:]
    return None, words


def _run(name: str, words: list[str], config: str | None) -> int:
    module = importlib.import_module(f"mta.cli.{name}")
    parser = Parser(prog=f"mta {name}", description=module.__doc__)
    parser.set_defaults(config=config)
    module.arguments(parser)
    given = parser.parse_args(words)
    from mta.cli.telling import Failed

    try:
        code: int = module.run(given)
    except Failed as failed:
        print(f"mta {name}: {failed}", file=sys.stderr)
        return failed.code
    return code


if __name__ == "__main__":
    sys.exit(main())
