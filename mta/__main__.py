"""The command `mta`: reads the verb, loads its file from cli/, runs it; only verbs that run the server load gevent."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import NamedTuple

import mta


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
CODES = "Exit codes: 0 fine, 1 a finding, 2 wrong usage, 3 not found, 4 no server answers."


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
    words = sys.argv[1:] if argv is None else argv
    config, words = _config(words)
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
    if loop is True or (loop and rest and rest[0] in loop):
        from gevent import monkey

        # The master forks and waits for signals itself, without a hub; so these two stay as they are.
        monkey.patch_all(os=False, signal=False)
    try:
        return _run(name, rest, config)
    except BrokenPipeError:  # piped into head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _config(words: list[str]) -> tuple[str | None, list[str]]:
    """-c FILE before the verb; after it the verb's own parser takes it."""
    if words[:1] == ["-c"] or words[:1] == ["--config"]:
        return (words[1], words[2:]) if len(words) > 1 else (None, [])
    if words and words[0].startswith("--config="):
        return words[0].partition("=")[2], words[1:]
    return None, words


def _run(name: str, words: list[str], config: str | None) -> int:
    module = importlib.import_module(f"mta.cli.{name}")
    parser = argparse.ArgumentParser(prog=f"mta {name}", description=module.__doc__, epilog=CODES, allow_abbrev=False)
    parser.add_argument("-c", "--config", metavar="FILE", default=config, help="the configuration file")
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
