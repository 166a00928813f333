"""Run the tests of rules: conversations (*.smtp) and tests written in Lua (*_test.lua)."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from mta.cli import telling
from mta.cli.lua import inprocess, trying
from mta.cli.telling import paint
from mta.rules.engine.coverage import Coverage
from mta.rules.engine.engine import Rules, RulesError
from mta.rules.trying import dialogue, scripts
from mta.rules.trying.dialogue import DialogueError

LOOK = 0.5  # seconds between two looks at the files


class Result(NamedTuple):
    """How one test went; `error` is "" where it passed."""

    file: str
    name: str
    error: str
    seconds: float


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="*", help="files, or folders with tests in them (default: tests, or here)")
    parser.add_argument("--rules", metavar="DIR", help="folder with main.lua; without it the nearest one above a test")
    parser.add_argument("-k", dest="only", metavar="TEXT", help="only tests with this in their name or file")
    parser.add_argument("--watch", action="store_true", help="run again whenever a file is saved")
    parser.add_argument("--coverage", action="store_true", help="tell which rules and lines no test reaches")
    parser.add_argument("--junit", metavar="FILE", help="write the results as JUnit XML")
    parser.add_argument("--list", action="store_true", help="name the tests, run none")
    telling.json_option(parser)


def run(given: argparse.Namespace) -> int:
    files = tests(given.path)
    if not files:
        raise telling.Failed(f"no tests (*.smtp, *_test.lua) in {' '.join(given.path) or 'here'}", telling.NOT_FOUND)
    if given.list:
        return listed(given, files)
    while True:
        seen = stamps(given)  # before they run: what is saved meanwhile is run again
        code = once(given, files)
        if not given.watch:
            return code
        try:
            while stamps(given) == seen:
                time.sleep(LOOK)
        except KeyboardInterrupt:
            return code
        files = tests(given.path)
        print(paint(time.strftime("%H:%M:%S"), "dim"))


def tests(paths: list[str]) -> list[Path]:
    """The files of tests below these paths. Raises Failed."""
    found: list[Path] = []
    for path in map(Path, paths or (["tests"] if Path("tests").is_dir() else ["."])):
        if path.is_dir():
            found += sorted(one for one in path.rglob("*") if one.name.endswith(("_test.lua", ".smtp")))
        elif path.is_file():
            found.append(path)
        else:
            raise telling.Failed(f"{path}: there is no such file or folder", telling.NOT_FOUND)
    return found


def listed(given: argparse.Namespace, files: list[Path]) -> int:
    with TemporaryDirectory(prefix="mta-") as place:
        runner = scripts.runner(Path(place))
        for path in files:
            names = [path.stem] if path.suffix == ".smtp" else [name for name, _ in script(given, path, runner).tests]
            for name in names:
                if chosen(given, path, name):
                    telling.print_json({"file": str(path), "name": name}) if given.json else print(f"{path}: {name}")
    return telling.FINE


def once(given: argparse.Namespace, files: list[Path]) -> int:
    """Run everything once; the exit code."""
    coverage = Coverage() if given.coverage else None
    began, results, last = time.perf_counter(), [], ""
    for result in outcomes(given, files, coverage):
        results.append(result)
        if given.json:
            telling.print_json(result._asdict())
            continue
        if result.file != last:
            last = result.file
            print(paint(last, "bold"))
        mark = paint("FAIL", "red") if result.error else paint("ok  ", "green")
        print(f"  {mark} {result.name}  {paint(f'{result.seconds * 1000:.0f} ms', 'dim')}")
        for line in result.error.splitlines():
            print(f"       {line}")
    failed = sum(bool(one.error) for one in results)
    if given.junit:
        Path(given.junit).write_text(junit(results), "utf-8")
    if coverage is not None:
        report(coverage, given.json)
    if not given.json:
        told = f"{len(results) - failed} passed" + f", {failed} failed" * bool(failed)
        print(f"{paint(told, 'red' if failed else 'green')} in {time.perf_counter() - began:.1f} s")
    if not results and given.only:
        print(f"no test has {given.only!r} in its name", file=sys.stderr)
        return telling.NOT_FOUND
    return telling.FINDING if failed else telling.FINE


def chosen(given: argparse.Namespace, path: Path, name: str) -> bool:
    return not given.only or given.only.lower() in f"{path.name} {name}".lower()


def outcomes(given: argparse.Namespace, files: list[Path], coverage: Coverage | None) -> Iterator[Result]:
    with TemporaryDirectory(prefix="mta-") as place:
        runner = scripts.runner(Path(place))
        for path in files:
            began = time.perf_counter()
            try:
                if path.suffix == ".smtp":
                    if chosen(given, path, path.stem):
                        error = conversation(given, path, coverage)
                        yield Result(str(path), path.stem, error, time.perf_counter() - began)
                    continue
                for one in script(given, path, runner, coverage).run(partial(chosen, given, path)):
                    yield Result(str(path), one.name, one.error, one.seconds)
            except (RulesError, DialogueError, scripts.ScriptError, OSError, UnicodeDecodeError) as error:
                yield Result(str(path), path.stem, str(error), time.perf_counter() - began)


def conversation(given: argparse.Namespace, path: Path, coverage: Coverage | None) -> str:
    """Play one; the complaint, or nothing."""
    told = dialogue.read(path)
    near = argparse.Namespace(config=given.config, rules=given.rules or _nearest(given, path, told))
    made, found = trying.settings_for(near, told)
    if told.one("rules") or told.all("file"):
        coverage = None  # these are not the administrator's rules
    played = inprocess.play(told, made, found, folder=str(path.parent), coverage=coverage)
    if not played.complaint:
        return ""
    last = next((one for one in reversed(played.spoken) if one.verdict.rule), None)
    spoke = f'\nlast decision: {last.verdict.kind} by "{last.verdict.rule}" ({last.verdict.where})' if last else ""
    return played.complaint + spoke


def _nearest(given: argparse.Namespace, path: Path, told: dialogue.Dialogue) -> str | None:
    return None if told.one("rules") or told.all("file") or given.config else nearest(path)


def script(given: argparse.Namespace, path: Path, runner: Rules, coverage: Coverage | None = None) -> scripts.Script:
    """A file of tests in Lua, with the rules it is about. Raises ScriptError, Failed."""
    made, found = trying.settings_of(given, given.rules or (None if given.config else nearest(path)))
    return scripts.Script(
        path,
        runner,
        lambda: trying.world_of(made, found),
        lambda world: trying.loader(made, world, found, coverage),
        lambda: trying.sketch_of(made, found),
        coverage,
    )


def nearest(path: Path) -> str | None:
    """The folder of rules nearest above a test: one with main.lua in it, or in rules/ below it."""
    for folder in path.resolve().parents:
        for place in (folder, folder / "rules"):
            if (place / "main.lua").is_file():
                return str(place)
    return None


def report(coverage: Coverage, as_json: bool) -> None:
    """Which rules never were asked, and which lines never ran."""
    files, silent = coverage.files(), coverage.silent
    if as_json:
        telling.print_json(
            {
                "rules": len(coverage.rules),
                "silent": [{"stage": stage, "rule": name, "where": where} for stage, name, where in silent],
                "files": [{"file": one.name, "lines": len(one.lines), "missed": one.missed} for one in files],
            }
        )
        return
    print(f"rules: {len(coverage.rules) - len(silent)} of {len(coverage.rules)} were asked")
    for stage, name, where in silent:
        print(paint(f'  never asked: {stage} "{name}" ({where})', "yellow"))
    for one in files:
        share = 100 * len(one.ran) // len(one.lines) if one.lines else 100
        missed = f", not {spans(one.missed)}" if one.missed else ""
        print(f"{one.name}: {len(one.ran)} of {len(one.lines)} lines ran ({share} %){missed}")


def spans(numbers: list[int]) -> str:
    """ "3, 7-9"."""
    out: list[list[int]] = []
    for number in numbers:
        if out and out[-1][-1] == number - 1:
            out[-1][1:] = [number]
        else:
            out.append([number])
    return ", ".join("-".join(map(str, one)) for one in out)


def junit(results: list[Result]) -> str:
    """The results as JUnit XML, as most CI servers read it."""
    failed = sum(bool(one.error) for one in results)
    took = sum(one.seconds for one in results)
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        f'<testsuite name="mta lua test" tests="{len(results)}" failures="{failed}" errors="0" time="{took:.3f}">',
    ]
    for one in results:
        head = f'  <testcase classname={quoteattr(one.file)} name={quoteattr(one.name)} time="{one.seconds:.3f}"'
        if not one.error:
            lines.append(head + "/>")
            continue
        text = "".join(c if c in "\n\t" or c >= " " else "?" for c in one.error)
        first = text.partition("\n")[0]
        lines += [head + ">", f"    <failure message={quoteattr(first)}>{escape(text)}</failure>", "  </testcase>"]
    return "\n".join([*lines, "</testsuite>", ""])


def stamps(given: argparse.Namespace) -> dict[Path, tuple[int, int]]:
    """When each test and rule was saved, and its size."""
    files = tests(given.path)
    folders = {Path(place) for path in files for place in [given.rules or nearest(path) or path.parent]}
    return trying.saved({*files, *(one for folder in folders for one in folder.rglob("*.lua"))})
