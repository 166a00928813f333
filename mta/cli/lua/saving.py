"""Turns a session at the prompt into a test: what was made up, who sent what, and what came of it."""

from __future__ import annotations

import re
from pathlib import Path

from mta.rules.engine.difference import Picture
from mta.rules.transaction import Transaction
from mta.rules.trying.trial import Trial

LARGEST = 20_000  # bytes of a mail that are written into the test; a larger one is named


def pictures(trial: Trial) -> tuple[Picture, Picture]:
    """The mail as it was sent, and as it stands now."""
    sketch = trial.sketch
    sent = Transaction()
    if trial.tx.sender is not None:
        sent.sender = sketch.sender
    tried = {one.recipient for one in trial.done}
    sent.recipients = [one for one in sketch.recipients if one in tried]
    sent.vars = sketch.vars
    before = Picture.of(sent, sketch.message) if trial.tx.message is not None else Picture.of(sent)
    return before, Picture.of(trial.tx)


def save(trial: Trial, name: str, file: str = "") -> Path:
    """Write the test; where it is. Raises OSError, also when there is a file of that name."""
    path = Path(name if name.endswith(".lua") else f"{name}_test.lua")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as out:
        out.write(text(trial, path.name.removesuffix("_test.lua").removesuffix(".lua").replace("_", " "), file))
    return path


def text(trial: Trial, name: str, file: str = "") -> str:
    """The test as Lua."""
    sketch, world, lines = trial.sketch, trial.world, [f"test({quoted(name)}, function(t)"]
    for host, types in world.dns.items():
        for kind, values in types.items():
            told = "false" if isinstance(values, str) else ", ".join(map(quoted, values)) or "nil"
            lines.append(f"  t:dns({quoted(host)}, {quoted(kind)}, {told})")
    for service, answer in world.answers.items():
        about = answer._asdict()
        given = [f"{key} = {_value(about[key])}" for key in about if about[key] not in (None, b"", "", False, 0.0)]
        lines.append(f"  t:service({quoted(service)}, {{ {', '.join(given)} }})")
    for listed, entries in world.texts.given.items():
        lines.append(f"  t:list({quoted(listed)}, {quoted(entries)})")
    facts = [f"ip = {quoted(sketch.ip)}", f"helo = {quoted(sketch.helo)}"]
    facts += [f"{key} = {quoted(getattr(sketch, key))}" for key in ("name", "user", "tls") if getattr(sketch, key)]
    facts += ["trusted = true"] if sketch.trusted else []
    if sketch.sender is not None:
        facts.append(f"from = {quoted(str(sketch.sender))}")
    if sketch.recipients:
        facts.append("to = { " + ", ".join(quoted(str(one)) for one in sketch.recipients) + " }")
    lines += ["  t:session {"] + [f"    {fact}," for fact in facts] + ["  }"]
    if sketch.message is not None:
        raw = bytes(sketch.message.raw)
        if len(raw) > LARGEST and file:
            lines.append(f"  t:load({quoted(str(Path(file).resolve()))})")
        else:
            lines += [f"  t:message({long(raw)})"]
    lines.append("  t:run()")
    return "\n".join([*lines, "", *expectations(trial), "end)", ""])


def expectations(trial: Trial) -> list[str]:
    """What came of it, as assertions."""
    lines = []
    for stage in trial.done:
        if stage.recipient is not None:
            reply = f'  t:expect("rcpt", {quoted(stage.reply)}, {quoted(str(stage.recipient))})'
        elif stage.reply and (stage.refused or stage.name == "preq"):
            reply = f"  t:expect({quoted(stage.name)}, {quoted(stage.reply)})"
        else:
            reply = ""
        lines += [reply] if reply else []
        if stage.decided is not None:
            lines.append(
                f"  t:decided({quoted(stage.name)}, {quoted(stage.decided.rule)}, {quoted(stage.decided.said)})"
            )
    before, after = pictures(trial)
    known = set(before.header)
    for field in after.header:
        name, _, value = field.partition(": ")
        if field not in known and name.lower() != "received":
            lines.append(f"  t:header({quoted(name)}, {quoted(value)})")
    gone = {field.partition(":")[0].lower() for field in before.header}
    gone -= {field.partition(":")[0].lower() for field in after.header}
    if after.header:
        lines += [f"  t:no_header({quoted(name)})" for name in sorted(gone)]
    for name, value in sorted(trial.tx.vars.items()):
        if isinstance(value, str | int | float | bool):
            lines.append(f"  t:var({quoted(name)}, {_value(value)})")
    lines.append(f"  t:result({quoted(trial.result)})")
    return lines


def quoted(text: str) -> str:
    """Text as a literal of Lua."""
    out = text.encode("utf-8", "surrogateescape").decode("latin-1")
    out = re.sub(r'[\x00-\x1f"\\\x7f]', lambda found: f"\\x{ord(found[0]):02x}", out)
    return '"' + out.encode("latin-1").decode("utf-8", "replace") + '"'


def long(raw: bytes) -> str:
    """A mail as a literal with its lines; what is no UTF-8 or has lone line ends is written byte by byte."""
    try:
        written = raw.decode("utf-8")
    except UnicodeDecodeError:
        written = ""
    clean = written.replace("\r\n", "\n")
    if not written or "\r" in clean or "\0" in clean or "]==]" in clean:
        return '"' + "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\x{b:02x}" for b in raw) + '"'
    return f"[==[\n{clean}]==]"


def _value(one: object) -> str:
    if isinstance(one, bool):
        return str(one).lower()
    if isinstance(one, bytes):
        return quoted(one.decode("utf-8", "replace"))
    return quoted(one) if isinstance(one, str) else str(one)
