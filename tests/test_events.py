"""Every event is declared once and written somewhere: a line in the table nobody writes is a promise nobody keeps."""

from __future__ import annotations

import re
from pathlib import Path

from daemon import Server

from mta.events import EVENTS

MTA = Path(__file__).parent.parent / "mta"


def test_every_event_is_written_somewhere() -> None:
    source = "\n".join(path.read_text("utf-8") for path in MTA.rglob("*.py") if path.name != "events.py")
    assert not [name for name in EVENTS if not re.search(rf'["\']{name}["\']', source)]


def test_the_rules_version_is_in_the_log_at_the_start_and_after_a_reload(tmp_path: Path) -> None:
    with Server(tmp_path, rules="-- nothing yet\n") as server:
        server.until(lambda: len(server.events("rules_loaded")) == 2, "not one of each worker")
        first = {line["version"] for line in server.events("rules_loaded")}
        server.rules('on.connect("another", function(mail) end)\n')
        server.reload()
        server.until(lambda: len(server.events("rules_loaded")) == 4, "the new version is not in the log")
        second = {line["version"] for line in server.events("rules_loaded")[2:]}
        assert len(first) == len(second) == 1
        assert first != second
        server.rules("this is no Lua\n")
        server.reload(code=1)
    assert len(server.events("rules_loaded")) == 4
    assert server.events("reload_failed")
