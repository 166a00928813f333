"""A server to play with: takes mail for any address, keeps it in a Maildir, loads rules when they are saved."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from mta import config
from mta.cli import telling
from mta.cli.serve import serve

CONFIGURATION = """\
# A server to play with, made by "mta dev". Change what you like; "mta config explain" lists every setting.

[server]
name = "mta.localhost"
workers = 2

[[listener]]
address = "127.0.0.1:{port}"

[rules]
explain = true                     # refusals name the rule and its place
watch = true                       # rules/main.lua is in force as soon as it is saved

[domain."*"]                       # mail for any address stays here
path = "Maildir"
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", default="mta-dev", help="folder for everything (default: ./mta-dev)")
    parser.add_argument("--port", type=int, help="port on 127.0.0.1 (default: 2525)")


def run(given: argparse.Namespace) -> int:
    if given.config:
        raise telling.Failed('"mta dev" makes its own configuration; "mta serve -c FILE" takes yours', telling.USAGE)
    if given.port is not None and not 0 <= given.port <= 65535:
        raise telling.Failed(f"--port {given.port}: a port is at most 65535", telling.USAGE)
    file = prepare(Path(given.dir), given.port)
    try:
        made = config.read(file)
    except config.ConfigError as error:
        raise telling.Failed(str(error), telling.FINDING) from None
    print(first_lines(made), flush=True)
    return serve(made)


def prepare(folder: Path, port: int | None) -> Path:
    """Make what is missing in the folder; what is there stays."""
    file = folder / "mta.toml"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(CONFIGURATION.format(port=2525 if port is None else port), "utf-8")
    elif port is not None and f"127.0.0.1:{port}" not in file.read_text("utf-8"):
        raise telling.Failed(f"{file} is there already and listens elsewhere; change its address", telling.USAGE)
    rules = folder / "rules" / "main.lua"
    if not rules.exists():
        rules.parent.mkdir(exist_ok=True)
        shutil.copyfile(telling.shipped("rules/main.lua"), rules)
    return file


def first_lines(made: config.Config) -> str:
    settings = made.settings
    mine = telling.myself()
    if made.path != Path("mta-dev/mta.toml"):
        mine += f" -c {made.path}"
    domain = settings.domain.get("*")
    where = _near(domain.path) if domain and domain.transport == "maildir" else "see mta.toml"
    return "\n".join(
        [
            f"A mail server to play with: {', '.join(listener.address for listener in settings.listener)}",
            f"  mail for any address goes to   {where}",
            f"  the rules, in force when saved {_near(os.path.join(settings.rules.path, 'main.lua'))}",
            f"  the log                        {', '.join(map(_near, settings.log.to))}",
            f"  send a mail                    {mine} send --to you@demo.test --subject hi",
            f"  read the log                   {mine} log -f",
            "Ctrl-C ends it.",
        ]
    )


def _near(path: str) -> str:
    near = os.path.relpath(path)
    return near if len(near) < len(path) and not path.endswith(":") else path
