"""Play a conversation, or a mail, through the rules and see which rule spoke at each line."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mta.cli import telling
from mta.cli.lua import inprocess, showing, trying
from mta.cli.lua.inprocess import Played, Spoken
from mta.cli.telling import paint
from mta.message.message import Message
from mta.rules.engine.engine import RulesError
from mta.rules.transaction import Asked
from mta.rules.trying import dialogue
from mta.rules.trying.dialogue import DialogueError
from mta.rules.trying.sketch import Stage
from mta.rules.trying.trial import Trial

SAID = {
    "ip": "where the client comes from",
    "helo": "what it calls itself",
    "from": "the sender, in place of the header's",
    "rcpt": "the recipients, in place of the header's: a@x.example,b@y.example",
    "user": "who has logged in",
    "password": "with this the rules of authenticate decide whether that user logs in",
    "tls": "the version of TLS",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="a conversation (.smtp) or a mail")
    parser.add_argument("--rules", metavar="DIR", help="folder with main.lua; without it that of the configuration")
    for word, meaning in SAID.items():
        parser.add_argument(f"--{word}", dest=f"say_{word}", metavar=word.upper(), help=f"for a mail: {meaning}")
    telling.json_option(parser)


def run(given: argparse.Namespace) -> int:
    path = Path(given.file)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise telling.Failed(f"{path}: {error.strerror}", telling.NOT_FOUND) from None
    try:
        if path.suffix == ".smtp":
            return conversation(given, dialogue.parse(raw.decode("utf-8"), path.name), path)
        return mail(given, trying.message(raw))
    except RulesError as error:
        raise telling.Failed(str(error), telling.FINDING) from None
    except DialogueError as error:
        raise telling.Failed(str(error), telling.USAGE) from None


def conversation(given: argparse.Namespace, told: dialogue.Dialogue, path: Path) -> int:
    made, found = trying.settings_for(given, told)
    played = inprocess.play(told, made, found, folder=str(path.parent))
    failed = any(step.verdict == "failed" for one in played.spoken for step in one.steps)
    if given.json:
        telling.print_json(
            {
                "transcript": played.transcript,
                "rules": [spoken_record(one) for one in played.spoken],
                "log": played.log,
                "unknown": played.unknown,
                "complaint": played.complaint,
            }
        )
    else:
        for line in conversation_lines(played):
            print(line)
    return telling.FINDING if played.complaint or failed else telling.FINE


def conversation_lines(played: Played) -> list[str]:
    """The conversation with what rules said, each at its line."""
    lines: list[str] = []
    for number, line in enumerate([*played.transcript, ""]):
        for one in played.spoken:
            if one.line == number:
                lines += spoken_lines(one)
        if line:
            lines.append(paint(line, "bold" if line.startswith("C") else "red" if line[3:4] in ("4", "5") else "green"))
    lines += [paint(f"nobody made up {word}: rules were told there is none", "yellow") for word in played.unknown]
    if played.complaint:
        lines.append(paint(played.complaint.partition("\n")[0], "red"))
    return lines


def spoken_lines(one: Spoken) -> list[str]:
    lines = []
    for step in one.steps:
        said = paint(step.verdict.ljust(10), showing.COLOUR.get(step.verdict, ""))
        cost = f"{step.microseconds:.0f} us"
        lines.append(f"      {one.stage:<9} {said} {step.rule}  ({step.where}, {cost}) {one.about}".rstrip())
        lines += [f"                {showing.asked(asked)}" for asked in step.asked]
    return lines


def spoken_record(one: Spoken) -> dict[str, Any]:
    return {
        "line": one.line,
        "stage": one.stage,
        "about": one.about,
        "verdict": one.verdict.kind,
        "reply": str(one.verdict.reply) if one.verdict.reply is not None else "",
        "rule": one.verdict.rule,
        "where": one.verdict.where,
        "steps": [
            {
                "rule": step.rule,
                "where": step.where,
                "verdict": step.verdict,
                "microseconds": round(step.microseconds, 1),
                "instructions": step.instructions,
                "asked": asked_record(step.asked),
            }
            for step in one.steps
        ],
    }


def asked_record(asked: Iterable[Asked]) -> list[dict[str, Any]]:
    return [{"word": one.word, "arguments": list(one.arguments), "answer": one.answer} for one in asked]


# -- a mail -----------------------------------------------------------------------------------------------------------


def mail(given: argparse.Namespace, message: Message) -> int:
    made, found = trying.settings_of(given, given.rules)
    world = trying.world_of(made, found)
    words = {name[4:]: value for name, value in vars(given).items() if name.startswith("say_") and value is not None}
    facts = trying.envelope_of(message) | trying.session(words)
    sketch = dataclasses.replace(trying.sketch_of(made, found), message=message, **facts)
    trial = Trial(trying.loader(made, world, found), world, sketch)
    failed = False
    stages = list(trial.run())
    for one in stages:
        failed = failed or any(rule.said == "failed" for rule in one.rules)
        if given.json:
            telling.print_json(stage_record(one))
        else:
            for line in showing.stage(one):
                print(line)
    if given.json:
        telling.print_json({"result": trial.result})
    else:
        print(f"{paint('result', 'bold')}  {trial.result}")
    return telling.FINDING if failed else telling.FINE


def stage_record(one: Stage) -> dict[str, Any]:
    return {
        "stage": one.name,
        "recipient": str(one.recipient) if one.recipient is not None else None,
        "verdict": one.verdict.kind,
        "rule": one.verdict.rule,
        "where": one.verdict.where,
        "reply": one.reply,
        "ignored": one.ignored,
        "unknown": list(one.unknown),
        "rules": [
            {
                "rule": rule.rule,
                "where": rule.where,
                "said": rule.said,
                "microseconds": round(rule.microseconds, 1),
                "instructions": rule.instructions,
                "asked": asked_record(rule.asked),
            }
            for rule in one.rules
        ],
    }
