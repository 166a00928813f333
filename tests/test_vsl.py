"""lua/VSL.rst: every word of vSL is there, and every word of Lua it names exists and is used as it can be."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from mta.rules import check
from mta.rules.check import ERROR, Source
from mta.rules.check.tree import Tree
from mta.rules.outside import facts
from mta.rules.pages import wordbook

LUA = Path(__file__).parent.parent / "lua"
PAGE = (LUA / "VSL.rst").read_text("utf-8")

# What scripts of vSMTP 1, 2 and 3 can say.
VSL = re.findall(r"\S+", """
import export rule action delegate delegated delegation_result ctx.run ctx.flow throw try is not in eval evaluate
description filter.vsl main.vsl incoming.vsl outgoing.vsl internal.vsl fallback.vsl
connect helo authenticate mail rcpt preq postq delivery on_connect on_helo on_auth on_mail_from on_rcpt_to on_data
on_pre_queue on_post_queue
next accept faccept deny info quarantine packet success to_string to_debug
client_address client_ip client_port server_address server_ip server_port server_name connection_timestamp is_secured
is_authenticated auth credentials sasl type authid authpass anonymous_token mechanism password helo mail_from sender
is_null local_part domain rcpt rcpt_list recipients address local_parts domains mail_timestamp message_id ctx srv msg
set_variable get_variable set_routing_path
rewrite_mail_from_envelop rw_mail_from rewrite_mail_from rewrite_rcpt_envelop rw_rcpt rewrite_rcpt add_rcpt_envelop
add_rcpt bcc remove_rcpt_envelop rm_rcpt remove_rcpt
has_header get_header get_headers get_all_headers headers get_header_untouched count_header append_header prepend_header
set_header rename_header rm_header remove_header rewrite_mail_from_message rewrite_rcpt_message add_rcpt_message
remove_rcpt_message mail() mail_str body
forward forward_all deliver deliver_all mbox mbox_all maildir maildir_all disable_delivery disable_delivery_all
code c554_7_1 code554_7_1 c550_7_20 c550_7_21 c550_7_22 c550_7_23 c550_7_24 c451_7_24 c550_7_25 c500_7_26 c550_7_27
c556_1_10 c451_7_1 c451_3_0 c550_1_1 smtp.codes
check_mail_relay check_rcpt_relay in_domain unix_users
check_spf spf::check spf::check_raw spf::check_host spf::store dkim_sign dkim_verify dkim::sign dkim::verify
dkim::has_result dkim::result dkim::store dkim::get_private_keys dkim::create_signature sys::parse_signature
sys::has_expired sys::get_public_key has_debug_flag sdid auid dmarc::check dmarc::store iprev::check iprev::store
auth::create_header auth::add_header
dns::lookup dns::rlookup dns::resolver net::rg_192 net::rg_172 net::rg_10 net::non_routable
log logging::log print debug time::now time::date time date hostname unix::hostname user_exist unix::user_exist env
unix::env env::variable utils::get_root_domain write fs::write dump fs::dump send_mail crypto::load_pem_rsa_pkcs8
crypto::load_pem_rsa_pkcs1 crypto::load_pem_ed_pkcs8 crypto::load_cert process::run rand rand_bool cfg::server cfg::app
toml
ip4 ip6 rg4 rg6 address fqdn regex identifier string group file object contains
csv db:csv csv.get csv.set csv.rm csv.query csv.add csv.remove cmd cmd_run cmd::build process smtp smtp::connect mysql
sqlite redis memcached ldap mongodb dnsxl clamav plugins deserialize_transport
""")  # fmt: skip


class Entry(NamedTuple):
    vsl: list[str]
    lua: str  # what stands below


def entries() -> list[Entry]:
    found = re.findall(r"^(``.+``)\n((?:    .+\n?)+)", PAGE, re.M)
    return [Entry(re.findall(r"``(.+?)``", head), " ".join(below.split())) for head, below in found]


ENTRIES = entries()


def test_every_word_of_vsl_is_there() -> None:
    named = {word for entry in ENTRIES for word in entry.vsl}
    assert [word for word in VSL if word not in named] == []
    assert len(VSL) > 200


def test_no_word_is_explained_that_vsl_does_not_have() -> None:
    others = {"unix accounts", "state::next", "status::next"}
    assert {word for entry in ENTRIES for word in entry.vsl} - set(VSL) - others == set()


def test_a_word_is_explained_once_in_a_section() -> None:
    for section in re.split(r"\n(?=[A-Z].+\n-{3,}\n)", PAGE):
        heads = re.findall(r"^(``.+``)\n    ", section, re.M)
        words = [word for head in heads for word in re.findall(r"``(.+?)``", head)]
        assert len(words) == len(set(words))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.vsl[0])
def test_it_has_a_counterpart_or_a_reason(entry: Entry) -> None:
    literals = re.findall(r"``(.+?)``", entry.lua)
    assert literals or entry.lua.startswith(("Left out", "Not yet", "Text.")), entry.lua
    if entry.lua.startswith("Left out: "):
        assert len(entry.lua) > len("Left out: ") + 20


def snippets() -> list[str]:
    """What stands below the words, and in the paragraphs of what is new, as far as it is Lua."""
    text = [entry.lua for entry in ENTRIES] + re.findall(r"^New here: (?:.+\n)+", PAGE, re.M)
    return sorted({" ".join(one.split()) for below in text for one in re.findall(r"``(.+?)``", below, re.S)})


ROOTS = {re.split(r"[.:]", name)[0] for name in wordbook.WORDS} - {"address"}
STARTS = (ROOTS - {"require"}) | {"for", "local", "return"}
CODE = [one for one in snippets() if re.split(r"\W", one)[0] in STARTS or " = " in one]


def tree(code: str) -> bytes:
    """The snippet inside a rule: as a value, or as statements."""
    for body in (f"local _ = {code}", code):
        for stage in ("preq", "rcpt", "connect", "authenticate"):
            text = f'on.{stage}("x", function(mail)\n{body}\nend)'.encode()
            if Tree(Source("x", text)).whole and not errors(text):
                return text
    return f'on.preq("x", function(mail)\nlocal _ = {code}\nend)'.encode()


def errors(text: bytes) -> list[str]:
    found = check.look([Source("x", text)], wordbook.WORDS, services=True)
    return [str(one) for one in found if one.level == ERROR and "there is no global" not in one.what]


@pytest.mark.parametrize("code", CODE)
def test_its_lua_is_lua_that_works(code: str) -> None:
    if code.startswith("on."):
        assert re.match(r"on\.\w+", code)[0] in wordbook.WORDS  # type: ignore[index]
    elif "..." not in code and not code.startswith("return"):
        text = tree(code)
        assert Tree(Source("x", text)).whole
        assert errors(text) == []
        words = check.look([Source("x", text)], wordbook.WORDS, services=True)
        unknown = [one.what for one in words if "there is no global" in one.what]
        assert not [what for what in unknown if re.search(rf"global ({'|'.join(ROOTS - {'part'})})\b", what)]


def test_its_words_exist() -> None:
    for one in snippets():
        for name in re.findall(r"\b[a-z]+(?:[.:][a-z_]+)+\b", re.sub(r'"[^"]*"', '""', one)):
            name = re.sub(r"^mail\.(sender|recipient)\.", "address.", name)
            root, *rest = re.split(r"[.:]", name)
            if root in ("config", "service") or name.startswith("mail.vars.") or name.endswith((".lua", ".csv")):
                continue
            if root == "replies":
                assert rest[0] in facts.STANDARD, name
            elif root in ROOTS | {"address"}:
                assert name in wordbook.WORDS or name in {wordbook.prefix(word) for word in wordbook.WORDS}, name
        for module in re.findall(r'require "(\w+)"', one):
            assert module == "name" or (LUA / "lib" / f"{module}.lua").is_file()
        for file in re.findall(r"lua/[\w/]+\.lua", one):
            assert (LUA.parent / file).is_file()


def test_what_is_not_yet_there_is_not() -> None:
    """A "not yet" goes when its word comes."""
    for name in ("spf", "dkim", "dmarc", "service.clamd"):
        assert not wordbook.find(name), f"{name} is there: say so in VSL.rst"
