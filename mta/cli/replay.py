"""Try rules on captured sessions, or on stored mail, and tell what they would decide otherwise.

A capture holds what the outside answered then; what new rules ask beyond that is shown as unknown, and nobody is asked.
Captures are made by [capture] in the settings. The exit code is 1 when a verdict differs.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mta import config, settings
from mta.cli import telling

AT_ONCE = 25  # sessions one process takes at a time
WORTH = 20 << 20  # bytes of captures for which another process is worth its start
SHOWN = 50  # cases printed unless more are asked for


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", metavar="FILE", help="captures, or folders of them")
    parser.add_argument("--maildir", action="append", default=[], metavar="DIR", help="stored mail, from preq on")
    parser.add_argument("--rules", required=True, metavar="NEW", help="the rules to try: their folder, or main.lua")
    parser.add_argument("--old", metavar="OLD", help="run these rules too, instead of believing the captured verdicts")
    parser.add_argument("--domains", metavar="DIR", help="the folder of domains to try with them")
    parser.add_argument("--lists", metavar="DIR", help="the folder of lists to try with them; else as captured")
    parser.add_argument("--all", action="store_true", help=f"every case that differs, not only the first {SHOWN}")
    parser.add_argument(
        "--jobs", type=int, default=0, metavar="N", help="processes; by default as many as are worth it"
    )
    telling.json_option(parser)


def run(given: argparse.Namespace) -> int:
    began = time.monotonic()
    made = _settings(given)
    jobs = [("capture", name) for name in _captures(given.files)]
    jobs += [("maildir", name) for folder in given.maildir for name in _mails(folder)]
    if not jobs:
        what = "give captures ([capture] in the settings makes them), or --maildir DIR"
        raise telling.Failed(f"there is no capture and no mail to try the rules on; {what}", telling.NOT_FOUND)
    old = given.old or (made.rules.path if given.maildir else "")
    services = _services(jobs)
    _Bench.ready(given, made, old, services)
    results = list(_played(jobs, given.jobs or _worth(jobs), (given, made, old, services)))
    report = _Report(results, given, time.monotonic() - began)
    if given.json:
        report.json()
    else:
        report.print()
    return telling.FINDING if report.differences or report.broken else telling.FINE


def _settings(given: argparse.Namespace) -> settings.Settings:
    """Those of the configuration; where there is none, the defaults with any domain."""
    try:
        config.find(given.config)
    except config.ConfigError:
        if given.config:
            raise telling.Failed(f"{given.config}: there is no such file", telling.NOT_FOUND) from None
        return settings.Settings(domain={"*": settings.Domain()})
    return telling.configuration(given, quiet=given.json).settings


def _captures(names: list[str]) -> Iterator[str]:
    for name in names:
        if os.path.isdir(name):
            yield from sorted(str(path) for path in Path(name).glob("*.json"))
        elif os.path.exists(name):
            yield name
        else:
            raise telling.Failed(f"{name}: there is no such file", telling.NOT_FOUND)


def _mails(folder: str) -> list[str]:
    found = [str(path) for part in ("new", "cur") for path in sorted(Path(folder, part).glob("*")) if path.is_file()]
    if not found and not Path(folder, "new").is_dir():
        raise telling.Failed(f"{folder}: this is no Maildir (there is no {folder}/new)", telling.NOT_FOUND)
    return found


def _services(jobs: list[tuple[str, str]]) -> list[str]:
    """The names of services the captures know; all captures of a server know the same, so the newest tells."""
    names = [name for kind, name in jobs if kind == "capture"]
    try:
        return list(_read(max(names, key=os.path.getmtime))["services"]) if names else []
    except (telling.Failed, KeyError):
        return []


def _read(name: str) -> dict[str, Any]:
    """A capture, with what the queue's rules said. Raises Failed."""
    import msgspec

    from mta.receive import queue_record

    try:
        record: dict[str, Any] = msgspec.json.decode(Path(name).read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise telling.Failed(f"{name}: {error.strerror}", telling.NOT_FOUND) from None
    except msgspec.DecodeError as error:
        raise telling.Failed(f"{name}: this is no capture: {error}", telling.FINDING) from None
    if record.get("format") != "mta capture 1":
        raise telling.Failed(f"{name}: this is no capture of this version of mta", telling.FINDING)
    try:
        return queue_record.joined(record, Path(queue_record.beside(name)).read_bytes())
    except OSError:  # no mail of it was tried
        return record


def _worth(jobs: list[tuple[str, str]]) -> int:
    """How many processes are quickest."""
    return min(settings.cores(), sum(os.path.getsize(name) for _, name in jobs) // WORTH + 1)


class _Bench:
    """Rules loaded once in each process, to play its share of the sessions with them."""

    new: Any = None
    old: Any = None
    server = ""

    @classmethod
    def ready(cls, given: argparse.Namespace, made: settings.Settings, old: str, services: list[str]) -> None:
        from mta.receive import replies

        replies.use(made.replies)
        cls.server = made.server.name
        queue = bool(old)
        cls.new = cls._player(given.rules, given.domains, given.lists, made, services, queue)
        cls.old = cls._player(old, None, given.lists, made, services, queue) if old else None

    @staticmethod
    def _player(
        path: str, domains: str | None, lists: str | None, made: settings.Settings, services: list[str], queue: bool
    ) -> Any:
        from mta.receive.replay import Player
        from mta.rules.engine.engine import Rules, RulesError
        from mta.rules.outside import facts
        from mta.rules.trying.recorded import RecordedWorld
        from mta.rules.trying.trial_world import Texts

        folder = path
        if os.path.isfile(path):
            folder = os.path.dirname(path) or "."
        if domains is None:
            beside = os.path.join(folder, "..", "domains")
            same = os.path.realpath(folder) == os.path.realpath(made.rules.path)
            domains = beside if os.path.isdir(beside) and not same else made.rules.domains
        rules = dataclasses.replace(made.rules, path=folder, domains=domains)
        world: Any = RecordedWorld(
            made.service, services, Texts(lists) if lists else None, facts.of(made), made.keys.path
        )
        try:
            loaded = Rules.load(rules, world, domains=None if "*" in made.domain else made.domain)
        except RulesError as error:
            raise telling.Failed(f"{path}: {error}", telling.FINDING) from None
        return Player(loaded, world, made, queue=queue)


def _played(jobs: list[tuple[str, str]], cores: int, bench: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    if cores == 1:
        yield from map(_play, jobs)
        return
    spawn = multiprocessing.get_context("spawn")  # a loop and its threads do not survive a fork
    with concurrent.futures.ProcessPoolExecutor(cores, spawn, _Bench.ready, bench) as pool:
        yield from pool.map(_play, jobs, chunksize=AT_ONCE)


def _play(job: tuple[str, str]) -> dict[str, Any]:
    """One session: {file, cases: [[old, new]], unknown, errors, redacted, whole}, or {file, broken: why}."""
    from mta.receive import outcome, replay

    kind, name = job
    try:
        if kind == "maildir":
            content, at = Path(name).read_bytes(), os.path.getmtime(name)
            record = replay.stored(content, os.path.basename(name).partition(":")[0], _Bench.server, at)
        else:
            record = _read(name)
        stages = frozenset({"preq", "postq", "delivery"}) if kind == "maildir" else None
        new = _Bench.new.play(record, stages)
        old = _Bench.old.play(record, stages) if _Bench.old is not None else record
        pairs = outcome.pairs(old, new)
    except telling.Failed as failed:
        return {"file": name, "broken": str(failed)}
    except OSError as error:
        return {"file": name, "broken": f"{name}: {error.strerror}"}
    except (KeyError, TypeError, ValueError, IndexError) as error:
        return {"file": name, "broken": f"{name}: this capture is damaged: {type(error).__name__}: {error}"}
    return {
        "file": name,
        "session": record["session"],
        "client": record["client"].get("ip", ""),
        "cases": [(before._asdict(), after._asdict(), outcome.differ(before, after)) for before, after in pairs],
        "unknown": new["unknown"],
        "errors": new["errors"],
        "redacted": record["redacted"],
        "whole": all(record["whole"]),
        "versions": record["rules"],
    }


class _Report:
    """What came out, for people or programs."""

    def __init__(self, results: list[dict[str, Any]], given: argparse.Namespace, seconds: float) -> None:
        self.given, self.seconds = given, seconds
        self.broken = [result["broken"] for result in results if "broken" in result]
        self.results = [result for result in results if "broken" not in result]
        self.counts: Counter[tuple[str, str]] = Counter()
        self.differences: list[dict[str, Any]] = []
        self.cases = 0
        for result in self.results:
            for old, new, differs in result["cases"]:
                self.cases += 1
                if differs:
                    self.counts[_kind(old), _kind(new)] += 1
                    self.differences.append(_case(result, old, new))
        self.uncertain = [result for result in self.results if result["unknown"]]
        self.redacted = sum(result["redacted"] != "none" or not result["whole"] for result in self.results)

    def json(self) -> None:
        telling.print_json(
            {
                "sessions": len(self.results),
                "cases": self.cases,
                "differences": len(self.differences),
                "counts": {f"{old} -> {new}": count for (old, new), count in self.counts.most_common()},
                "uncertain": len(self.uncertain),
                "redacted": self.redacted,
                "broken": self.broken,
                "seconds": round(self.seconds, 3),
            }
        )
        for case in self.differences:
            telling.print_json(case)

    def print(self) -> None:
        same = self.cases - len(self.differences)
        print(f"{len(self.results)} sessions, {self.cases} cases in {self.seconds:.1f} s: {same} as before")
        width = max((len(f"{old} -> {new}") for old, new in self.counts), default=0)
        for (old, new), count in self.counts.most_common():
            print(f"  {f'{old} -> {new}':<{width}}  {count}")
        cases = self.differences if self.given.all else self.differences[:SHOWN]
        for case in cases:
            print()
            for line in _lines(case):
                print(line)
        if len(cases) < len(self.differences):
            print(f"\n{len(self.differences) - len(cases)} more; --all shows them")
        if self.uncertain:
            asked = Counter(question for result in self.uncertain for question in result["unknown"])
            few = ", ".join(question for question, _ in asked.most_common(5))
            print(f"\nunknown: in {len(self.uncertain)} sessions the rules asked what is not in the capture: {few}")
            print("there they were told: no such record, no such entry, within the rate")
        if self.redacted:
            print(
                f"\n{self.redacted} captures are not whole (redact, size): rules that look there may decide otherwise"
            )
        for why in self.broken:
            print(f"mta replay: {why}", file=sys.stderr)


def _kind(outcome: dict[str, Any]) -> str:
    return f"{outcome['kind']} {outcome['folder']}".rstrip()


def _case(result: dict[str, Any], old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    case = {
        "file": result["file"],
        "session": result["session"],
        "client": result["client"],
        "mail": old["mail"] or new["mail"],
        "sender": old["sender"],
        "recipient": old["recipient"],
        "old": _told(old),
        "new": _told(new),
        "unknown": result["unknown"],
        "errors": result["errors"],
    }
    return {name: value for name, value in case.items() if value}


def _told(outcome: dict[str, Any]) -> dict[str, Any]:
    shown = {name: outcome[name] for name in ("kind", "stage", "reply", "rule", "where", "folder") if outcome[name]}
    if outcome["short"] and outcome["kind"] == "accept":
        shown["short"] = True
    return shown


def _lines(case: dict[str, Any]) -> Iterator[str]:
    """One case for people."""
    who = f"<{case.get('sender', '')}> -> {case['recipient']}" if "recipient" in case else case.get("client", "")
    change = f"{_kind({'folder': '', **case['old']})} -> {_kind({'folder': '', **case['new']})}"
    yield f"{telling.paint(change, 'bold')}  {case.get('mail') or case['session']}  {who}"
    yield f"  was  {_by(case['old'])}"
    yield f"  now  {_by(case['new'])}"
    for question in case.get("unknown", ()):
        yield telling.paint(f"       unknown: {question}", "yellow")
    for error in case.get("errors", ()):
        yield telling.paint(f"       failed: {error}", "red")


def _by(told: dict[str, Any]) -> str:
    kind, stage, reply = told["kind"], told.get("stage", ""), told.get("reply", "")
    said = f": {json.dumps(reply, ensure_ascii=False)}" if reply and kind in ("deny", "defer") else ""
    if told.get("rule"):
        return f'{kind} at {stage} by "{told["rule"]}" ({told["where"]}){said}'
    if kind == "accept":
        return "accept: no rule minded" + (", as far as the client went" if told.get("short") else "")
    return f"{kind} at {stage} by the server itself{said}"
