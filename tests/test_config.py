"""mta.toml: found, read, checked, explained; every complaint says file, line, key and what to do."""

import dataclasses
import os
import re
import tomllib
from pathlib import Path

import pytest
from commands import mta

from mta import config, toml
from mta.cli import config as command
from mta.settings import Settings

TREE = Path(__file__).parent.parent


def complaints(tmp_path: Path, text: str) -> list[str]:
    """What is said about a file, without the folder before its name."""
    file = tmp_path / "mta.toml"
    file.write_text(text, "utf-8")
    try:
        config.read(file)
    except config.ConfigError as error:
        return [line.removeprefix(f"{tmp_path}/") for line in error.complaints]
    return []


def read(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "mta.toml"
    file.write_text(text, "utf-8")
    return config.read(file).settings


def test_values_and_units(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        """
        [server]
        name = "mx.example.test"
        workers = 3
        drain = "1m 30s"
        [[listener]]
        address = "[::]:25"
        tls = { certificate = "tls/chain.pem", key = "/etc/key.pem" }
        [[listener]]
        address = "127.0.0.1:587"
        kind = "submission"
        [smtp]
        max_size = "10M"
        command_timeout = 20
        [domain."Example.TEST"]
        users = "users.txt"
        """,
    )
    assert (settings.server.workers, settings.server.drain) == (3, 90.0)
    assert (settings.smtp.max_size, settings.smtp.command_timeout) == (10 << 20, 20.0)
    tls = settings.listener[0].tls
    assert tls is not None
    assert (tls.certificate, tls.key) == (f"{tmp_path}/tls/chain.pem", "/etc/key.pem")
    assert settings.listener[1].kind == "submission"
    assert settings.domain["example.test"].users == f"{tmp_path}/users.txt"


def test_paths_lie_beside_the_file_also_when_the_file_does_not_name_them(tmp_path: Path) -> None:
    settings = read(tmp_path, '[domain."a.test"]\n[log]\nto = ["stdout:", "x.log"]\n')
    assert settings.spool.path == f"{tmp_path}/spool"
    assert settings.rules.path == f"{tmp_path}/rules"
    assert settings.server.run == f"{tmp_path}/run"
    assert settings.domain["a.test"].users == "any"
    assert settings.domain["a.test"].path == f"{tmp_path}/mail/{{domain}}/{{local_part}}"
    assert settings.log.to == ["stdout:", f"{tmp_path}/x.log"]


def test_lists_are_checked_entry_by_entry(tmp_path: Path) -> None:
    text = '[capture]\nverdicts = ["deny", "discard"]\nnetworks = ["192.0.2.0/24", "2001:db8::1"]\n'
    capture = read(tmp_path, text).capture
    assert (capture.verdicts, capture.networks) == (["deny", "discard"], ["192.0.2.0/24", "2001:db8::1"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[capture]\nverdicts = ["deny", "no"]',
            "mta.toml:2: [capture] verdicts must hold only accept, faccept, deny, defer, reply, quarantine, discard",
        ),
        (
            '[capture]\nnetworks = ["192.0.2.0/24", "here"]',
            "mta.toml:2: [capture] networks must hold networks like \"192.0.2.0/24\", not 'here'",
        ),
        ("[smtp]\nmax_sise = 4", "mta.toml:2: [smtp] there is no setting max_sise; did you mean max_size?"),
        ("[smpt]\nmax_size = 4", "mta.toml:1: there is no section smpt; did you mean smtp?"),
        ('[smtp]\nmax_size = "10X"', 'mta.toml:2: [smtp] max_size must be a size like "500K", "10M" or "2G"'),
        (
            '[server]\ndrain = "soon"',
            'mta.toml:2: [server] drain must be a duration like "30s", "5m", "2h" or "5d"',
        ),
        ('[server]\nworkers = "2"', "mta.toml:2: [server] workers must be a whole number"),
        ("[server]\nworkers = 0", "mta.toml:2: [server] workers must be from 1 to 256"),
        ("[server]\nworkers = 2000", "mta.toml:2: [server] workers must be from 1 to 256"),
        ("[queue]\nport = 70000", "mta.toml:2: [queue] port must be from 1 to 65535"),
        ('[spool]\npath = ""', "mta.toml:2: [spool] path must not be empty"),
        ('[rules]\nexport = ["a", ""]', "mta.toml:2: [rules] export must not be empty"),
        ('[log]\nto = ["a\\u0000b"]', "mta.toml:2: [log] to cannot hold a NUL"),
        ('[domain."a.test"]\nusers = ""', 'mta.toml:2: [domain."a.test"] users must not be empty'),
        ("[server]\nworkers = true", "mta.toml:2: [server] workers must be a whole number"),
        ('[rules]\nwatch = "yes"', "mta.toml:2: [rules] watch must be true or false"),
        ('[server]\nname = "a b"', "mta.toml:2: [server] 'a b' is not a domain name"),
        ('[log]\nto = "mta.log"', "mta.toml:2: [log] to must be a list"),
        ('[log]\nto = ["journal:"]', "mta.toml:2: [log] logging to journal: is not built yet"),
        ("server = 3", "mta.toml:1: server must be a table"),
        (
            '[server]\ntrusted = ["10.0.0.5/24"]',
            "mta.toml:2: [server] trusted: '10.0.0.5/24' is not a network; write '10.0.0.0/24'",
        ),
        (
            '[dns]\nservers = ["192.0.2.1", "2001:db8::1", "[2001:db8::1]:53", "here"]',
            'mta.toml:2: [dns] servers: \'here\' is not an address; write "192.0.2.1" or "192.0.2.1:53"',
        ),
        ('[[listener]]\nkind = "lmtp"', "mta.toml:2: [[listener]] lmtp listeners are not built yet"),
        (
            '[[listener]]\nkind = "submissions"',
            "mta.toml:2: [[listener]] submissions speaks TLS at once: add tls = { certificate = ..., key = ... }",
        ),
        (
            '[[listener]]\naddress = "here"',
            'mta.toml:2: [[listener]] \'here\' is not an address; write "host:port" or "[::1]:port"',
        ),
        (
            '[[listener]]\naddress = "[::]:25"\n[[listener]]\n# the same\naddress = "[::]:25"',
            "mta.toml:5: [[listener]] [::]:25 has a listener already",
        ),
        (
            '[[listener]]\n\ntls = { certifcate = "x" }',
            "mta.toml:3: [[listener]] tls: there is no setting certifcate; did you mean certificate?",
        ),
        (
            '[domain."a.test"]\ntransport = "lmtp"',
            'mta.toml:2: [domain."a.test"] the lmtp transport is not built yet',
        ),
        ('[domain."a.test"]\ntransport = "smtp"', 'mta.toml:2: [domain."a.test"] smtp needs a host'),
        (
            '[domain."a.test"]\npath = "mail/{domain}/{user}"',
            'mta.toml:2: [domain."a.test"] path cannot hold {user}; there are {domain} and {local_part}',
        ),
        (
            '[route."a.test"]\ntransport = "mbox"\npath = "{local_part}{"\n[route."b.test"]\npath = "{localpart}"',
            'mta.toml:5: [route."b.test"] path cannot hold {localpart}; there are {domain} and {local_part}',
        ),
        ('[domain."a b"]', "mta.toml:1: [domain] 'a b' is not a domain name"),
        (
            '[domain."a.test"]\n[route."a.test"]',
            "mta.toml:2: [route] a.test is a domain of ours; set transport there",
        ),
        (
            '[server]\ntrusted = [\n  "127.0.0.1",\n  "10.0.0.0/33",\n]',
            'mta.toml:2: [server] trusted: \'10.0.0.0/33\' is not a network; write "192.0.2.1" or "192.0.2.0/24"',
        ),
        (
            '[queue]\nretry = ["1m", "x"]',
            'mta.toml:2: [queue] retry: \'x\' must be a duration like "30s", "5m", "2h" or "5d"',
        ),
        (
            '[queue]\nretry = ["1m", "0s"]',
            "mta.toml:2: [queue] retry: '0s' would try again without end; wait at least a moment",
        ),
        ("[server\nworkers = 3", "mta.toml:1: Expected ']' at the end of a table declaration"),
    ],
)
def test_a_complaint_says_where_and_what_to_do(tmp_path: Path, text: str, said: str) -> None:
    assert complaints(tmp_path, text) == [said]


def test_a_mistake_of_one_kind_hides_none_of_another(tmp_path: Path) -> None:
    """What a value is and what several values mean together is looked at in one go."""
    said = complaints(
        tmp_path,
        '[server]\nworkers = 0\ntrusted = ["here"]\n[[listener]]\naddress = "x"\n[[listener]]\nkind = "no"\n'
        "address = 3\n",
    )
    assert [line.partition("]")[0] for line in said] == [
        "mta.toml:2: [server",
        "mta.toml:3: [server",
        "mta.toml:5: [[listener",
        "mta.toml:7: [[listener",
        "mta.toml:8: [[listener",
    ]
    for wrong in ("trusted = 3", "trusted = [3]", "name = 3"):
        assert len(complaints(tmp_path, f"[server]\n{wrong}\n")) == 1
    for wrong in ("retry = 3", "retry = [3]"):
        assert len(complaints(tmp_path, f"[queue]\n{wrong}\n")) == 1
    for wrong in ("listener = 3", "domain = 3", "domain = [3]", "dns = 3", "replies = 3", "service = [1]", "route = 1"):
        assert len(complaints(tmp_path, f"{wrong}\n")) == 1
    for wrong in ('[[listener]]\ntls = "x"', '[domain."a.test"]\npath = 3', "[service.a]\narguments = 3"):
        assert len(complaints(tmp_path, f"{wrong}\n")) == 1
    assert len(complaints(tmp_path, "[replies]\nok = 3\n")) == 1


def test_all_complaints_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    said = complaints(tmp_path, '[smtp]\nmax_lines = 1\n[server]\nwrokers = 2\n[log]\nlevel = "loud"\n')
    assert [line.split()[0] for line in said] == ["mta.toml:2:", "mta.toml:4:", "mta.toml:6:"]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match=r"none\.toml: cannot be read: No such file"):
        config.read(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b'[server]\nname = "\xe9"')
    with pytest.raises(config.ConfigError, match=r"is not UTF-8 \(byte 17\)"):
        config.read(tmp_path / "latin.toml")


def test_line_numbers_step_over_long_values() -> None:
    text = (
        'a = """\n[not.a.table]\nb = 1\n"""\n'  # 1-4
        "[one] # x = 1\n"  # 5
        'list = [ # "]"\n  "=",\n  "[two]",\n]\n'  # 6-9
        "'quoted key' = 1\n"  # 10
        "dotted.key = 2\n"  # 11
        '[domain."a.b"]\nx = 1\n'  # 12, 13
        "[[l]]\n[[l]]\n[l.tls]\nkey = 1\n"  # 14-17
    )
    tomllib.loads(text)
    lines = toml.line_numbers(text)
    assert lines[("one", "list")] == 6
    assert lines[("one", "quoted key")] == 10
    assert lines[("one", "dotted", "key")] == 11
    assert lines[("domain", "a.b", "x")] == 13
    assert lines[("l", 1)] == 15
    assert lines[("l", 1, "tls", "key")] == 17
    assert ("not", "a", "table") not in lines


def test_where_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MTA_CONFIG", raising=False)
    monkeypatch.setattr(config, "PLACES", ("mta.toml", "mta-dev/mta.toml"))
    with pytest.raises(config.ConfigError, match="mta dev"):
        config.find()
    (tmp_path / "mta-dev").mkdir()
    (tmp_path / "mta-dev" / "mta.toml").touch()
    assert config.find() == (Path("mta-dev/mta.toml"), "found here")
    (tmp_path / "mta.toml").touch()
    assert config.find() == (Path("mta.toml"), "found here")
    monkeypatch.setenv("MTA_CONFIG", "/x/y.toml")
    assert config.find() == (Path("/x/y.toml"), "$MTA_CONFIG")
    assert config.find("z.toml") == (Path("z.toml"), "-c")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("mx.test:25", "mx.test", 25),
        ("[::1]:2525", "::1", 2525),
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("systemd:smtp", "systemd:smtp", 0),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert config.address(text) == (host, port)


@pytest.mark.parametrize("text", ["", ":25", "a:b", "::1:25", "a:99999", "[::1]", "smtp://a:25", "a b:25"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError):
        config.address(text)


def test_a_default_port() -> None:
    assert config.address("mx.test", port=25) == ("mx.test", 25)
    assert config.address("[::1]", port=25) == ("::1", 25)


def test_the_shipped_sample_is_current_and_good() -> None:
    shipped = (TREE / "conf" / "mta.toml").read_text("utf-8")
    assert shipped == command.sample(), "mta config sample > conf/mta.toml"
    settings = config.read(TREE / "conf" / "mta.toml").settings
    assert settings.listener[0].address == "[::]:25"


def test_the_sample_names_every_setting() -> None:
    lines = [line.removeprefix("# ") for line in command.sample().split("\n")]
    table = tomllib.loads("\n".join(line for line in lines if re.match(r"\w+ = |\[", line)))
    for section, kind in command.sections():
        names = {field.name for field in dataclasses.fields(kind)}
        given = table[section]
        given = (
            given[0] if isinstance(given, list) else next(iter(given.values())) if section in command.NAMES else given
        )
        assert set(given) == names, section


def test_an_installed_server_writes_nothing_beside_its_file(tmp_path: Path) -> None:
    """The unit lets it write below /var and /run only; what is read may lie in /etc."""
    (tmp_path / "mta.toml").write_text(command.sample(command.INSTALLED))
    beside = set()
    for section, _, values in command.tables(config.read(tmp_path / "mta.toml").settings):
        beside |= {f"{section} {name}" for name, value in values.items() if str(tmp_path) in str(value)}
    assert beside == {"[rules] path", "[rules] domains", "[rules] lists", "[keys] path"}


def test_the_sample_for_an_installed_system() -> None:
    text = command.sample(command.INSTALLED)
    table = tomllib.loads(text)
    assert table["spool"]["path"] == "/var/lib/mta/spool"
    assert table["log"]["to"] == ["/var/log/mta/mta.log"]


def test_check_warns_of_folders_one_may_not_write(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "main.lua").write_text("")
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "mta.toml").write_text(
        '[[listener]]\naddress = "127.0.0.1:0"\n[store]\npath = "file/store"\n[spool]\npath = "file"\n'
        '[domain."a.test"]\npath = "file/{domain}/{local_part}"\n[domain."b.test"]\npath = "mail/{domain}"\n'
    )
    said = mta("config", "check", cwd=tmp_path).splitlines()
    assert [line.partition(": ")[0] for line in said] == ["mta.toml:6", "mta.toml:4", "mta.toml:8", "mta.toml"]
    assert "file/store: " in said[1] and "may not write there (a warning)" in said[1]


def test_check_of_empty_paths_comes_to_an_end(tmp_path: Path) -> None:
    (tmp_path / "mta.toml").write_text('[spool]\npath = ""\n[store]\npath = ""\n[log]\nto = [""]\n')
    said = mta("config", "check", cwd=tmp_path, code=1)
    assert all(f"{name} must not be empty" in said for name in ("[spool] path", "[store] path", "[log] to")), said


def test_check_knows_who_asks_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "mta.toml").write_text('[spool]\npath = "file/spool"\n')
    monkeypatch.setattr(os, "geteuid", lambda: 4_123_456)
    made = config.read(tmp_path / "mta.toml")
    assert any(": user 4123456, who asks, may not write there" in said for said in command._warnings(made))


def test_show_says_where_each_value_comes_from(tmp_path: Path) -> None:
    (tmp_path / "mta.toml").write_text('[server]\nname = "a.test"\n[smtp]\nmax_size = "1M"\n')
    shown = mta("config", "show", cwd=tmp_path)
    assert [line.split() for line in shown.splitlines() if line.startswith("max_size")] == [
        ["max_size", "=", "1048576", "#", "mta.toml:4"]
    ]
    assert [line.split()[-1] for line in shown.splitlines() if line.startswith("max_line")] == ["default"]
    assert mta("config", "show", "--changed", cwd=tmp_path).count(" = ") == 2
    assert '{"section":"[smtp]","key":"max_size","value":1048576,"from":"mta.toml:4"}' in mta(
        "config", "show", "--json", cwd=tmp_path
    )


def test_explain(tmp_path: Path) -> None:
    told = mta("config", "explain", "smtp.max_size", cwd=tmp_path)
    assert "Largest mail." in told
    assert "a size, by default" in told
    assert "did you mean smtp.max_size?" in mta("config", "explain", "smtp.max_sise", cwd=tmp_path, code=3)


def test_check_finds_what_no_reader_can(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "main.lua").write_text("on.rcpt(\n")
    (tmp_path / "mta.toml").write_text(
        '[server]\nname = "a.test"\n'
        '[[listener]]\naddress = "127.0.0.1:0"\ntls = { certificate = "none.pem" }\n'
        '[domain."a.test"]\nusers = "nobody.txt"\n'
    )
    told = mta("config", "check", cwd=tmp_path, code=1)
    assert "none.pem: the certificate cannot be read" in told
    assert "main.lua" in told
    assert '[domain."a.test"] users:' in told
    (tmp_path / "rules" / "main.lua").write_text("")
    (tmp_path / "mta.toml").write_text('[server]\nname = "a.test"\n[[listener]]\naddress = "127.0.0.1:0"\n')
    assert mta("config", "check", cwd=tmp_path) == "mta.toml: fine\n"


def test_check_says_where(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "main.lua").write_text("")
    (tmp_path / "mta.toml").write_text(
        '[server]\nuser = "nobody-has-this-name"\n[replies]\nbusy = "250 Ok"\n'
        '[domain."a.test"]\nusers = "nobody.txt"\n[service.a]\narguments = ["/nothing/here"]\n'
        '[[listener]]\naddress = "127.0.0.1:0"\ntls = { certificate = "none.pem" }\n'
    )
    assert mta("config", "check", cwd=tmp_path, code=1).replace(f"{tmp_path}/", "").splitlines() == [
        "mta.toml:11: [[listener]] none.pem: the certificate cannot be read: No such file or directory",
        'mta.toml:6: [domain."a.test"] users: nobody.txt: No such file or directory',
        "mta.toml:4: [replies] busy must be a 452, not 250",
        "mta.toml:2: [server] user: there is no user nobody-has-this-name",
        "mta.toml:8: [service.a] /nothing/here: there is no such program here, or it may not be run (a warning)",
    ]


def test_warnings_do_not_keep_a_server_from_starting(tmp_path: Path) -> None:
    """The unit asks mta config check before it starts, and an old certificate is better than no mail."""
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "main.lua").write_text("")
    (tmp_path / "mta.toml").write_text('[server]\nname = "a.test"\n')
    said = mta("config", "check", cwd=tmp_path)
    assert said == "mta.toml: there is no [[listener]], so the server takes no mail (a warning)\nmta.toml: fine\n"
