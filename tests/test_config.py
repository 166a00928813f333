"""mta.toml: found, read, checked, explained; every complaint says file, line, key and what to do."""

import dataclasses
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mta import config
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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[smtp]\nmax_sise = 4", "mta.toml:2: [smtp] there is no setting max_sise; did you mean max_size?"),
        ("[smpt]\nmax_size = 4", "mta.toml:1: there is no section smpt; did you mean smtp?"),
        ('[smtp]\nmax_size = "10X"', 'mta.toml:2: [smtp] max_size must be a size like "500K", "10M" or "2G"'),
        (
            '[server]\ndrain = "soon"',
            'mta.toml:2: [server] drain must be a duration like "30s", "5m", "2h" or "5d"',
        ),
        ('[server]\nworkers = "2"', "mta.toml:2: [server] workers must be a whole number"),
        ("[server]\nworkers = 0", "mta.toml:2: [server] workers must be greater than 0"),
        ("[server]\nworkers = true", "mta.toml:2: [server] workers must be a whole number"),
        ('[rules]\nwatch = "yes"', "mta.toml:2: [rules] watch must be true or false"),
        ('[server]\nname = "a b"', "mta.toml:2: [server] 'a b' is not a domain name"),
        ('[log]\nto = "mta.log"', "mta.toml:2: [log] to must be a list"),
        ('[log]\nto = ["journal:"]', "mta.toml:2: [log] logging to journal: is not built yet"),
        ("server = 3", "mta.toml:1: server must be a table"),
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
        ('[domain."a b"]', "mta.toml:1: [domain] 'a b' is not a domain name"),
        (
            '[domain."a.test"]\n[route."a.test"]',
            "mta.toml:2: [route] a.test is a domain of ours; set transport there",
        ),
        (
            '[server]\ntrusted = [\n  "127.0.0.1",\n  "10.0.0.0/33",\n]',
            "mta.toml:2: [server] trusted: '10.0.0.0/33' does not appear to be an IPv4 or IPv6 network (entry 2)",
        ),
        (
            '[queue]\nretry = ["1m", "x"]',
            'mta.toml:2: [queue] retry: \'x\' must be a duration like "30s", "5m", "2h" or "5d"',
        ),
        ("[server\nworkers = 3", "mta.toml:1: Expected ']' at the end of a table declaration"),
    ],
)
def test_a_complaint_says_where_and_what_to_do(tmp_path: Path, text: str, said: str) -> None:
    assert complaints(tmp_path, text) == [said]


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
    lines = config.line_numbers(text)
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


def test_the_sample_for_an_installed_system() -> None:
    text = command.sample(command.INSTALLED)
    table = tomllib.loads(text)
    assert table["spool"]["path"] == "/var/lib/mta/spool"
    assert table["log"]["to"] == ["/var/log/mta/mta.log"]


def mta(*words: str, cwd: Path, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mta", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(TREE)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


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
    (tmp_path / "mta.toml").write_text('[server]\nname = "a.test"\n')
    assert mta("config", "check", cwd=tmp_path) == "mta.toml: fine\n"
