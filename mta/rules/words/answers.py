"""The words Python answers: each declared beside the function that answers it.

A function is either pure (see pure.py) or a method of `Asking`, which knows the World; those that wait for
somebody park the greenlet. What they return goes to Lua as crossing.answered says.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

from mta import settings
from mta.rules.outside.lists import ListError
from mta.rules.outside.store import StoreError, Value
from mta.rules.outside.world import World
from mta.rules.words import addresses, chance, domains, network, patterns, system, text, times
from mta.rules.words.pure import Declared, declare
from mta.rules.words.word import Word

Answer = Callable[..., Any]


class _Chance(random.Random):
    """Everything drawn comes from the world; a class that has only random() draws whole numbers from it too."""

    def __init__(self, world: World) -> None:
        self._world = world
        super().__init__()

    def random(self) -> float:
        return self._world.random()


class Asking:
    """What the words that need more than their arguments know."""

    def __init__(self, world: World, settings: settings.Rules) -> None:
        self.world, self.settings = world, settings
        self.chance = _Chance(world)

    # -- dns ---------------------------------------------------------------------------------------------------------

    def lookup(self, name: str, type: str | None = None) -> list[str]:
        return self.world.lookup(name, type or "A")

    def names(self, ip: str) -> list[str] | tuple[None, str]:
        name = network.reverse(ip)
        return name if isinstance(name, tuple) else self.world.lookup(name, "PTR")

    def listed(self, thing: str, zone: str, codes: str | None = None) -> list[str] | tuple[None, str] | None:
        name = network.reverse(thing, zone)
        if isinstance(name, tuple):  # no address: a list of domains
            name = f"{thing.strip('.')}.{zone.strip('.')}"
        found = self.world.lookup(name, "A")
        for code in found:
            if not network.inside(code, "127.0.0.0/8") or network.inside(code, "127.255.255.0/24"):
                return None, f"{zone} answers {code}: it does not want to be asked from here"
        if codes:
            wanted = [(code, network.inside(code, codes)) for code in found]
            for _, fits in wanted:
                if isinstance(fits, tuple):
                    raise ValueError(fits[1])
            found = [code for code, fits in wanted if fits]
        return found or None

    # -- store and rate ----------------------------------------------------------------------------------------------

    def get(self, key: str) -> Value | None:
        return _kept(self.world.store.get, key)

    def set(self, key: str, value: Value, ttl: float | str | None = None) -> None:
        _kept(self.world.store.set, key, value, times.seconds(ttl))

    def add(self, key: str, value: Value, ttl: float | str | None = None) -> bool:
        return _kept(self.world.store.add, key, value, times.seconds(ttl))

    def increment(self, key: str, by: int | None = None, ttl: float | str | None = None) -> int:
        return _kept(self.world.store.increment, key, 1 if by is None else by, times.seconds(ttl))

    def delete(self, key: str) -> bool:
        return _kept(self.world.store.delete, key)

    def rate(self, key: str, rate: str, number: int = 1) -> tuple[bool, float]:
        if number < 0:
            raise ValueError("the number must be 0 or more")
        grant = _kept(self.world.rates.take, key, rate, number)
        if number == 0:
            return grant.left > 0, 0.0
        return grant.tokens > 0, grant.wait

    # -- lists -------------------------------------------------------------------------------------------------------

    def list_has(self, name: str, asked: str) -> bool:
        return self._row(name, asked) is not None

    def list_get(self, name: str, asked: str, column: int = 2) -> str | None:
        if not name.endswith(".csv"):
            raise ValueError(f"{name}: a list without columns; a map is called NAME.csv")
        row = self._row(name, asked)
        return row[column - 1] if row is not None and 0 < column <= len(row) else None

    def list_load(self, name: str) -> int:
        """Also while the rules are loaded."""
        try:
            return self.world.lists.count(name)
        except ListError as error:
            raise ValueError(str(error)) from None

    def _row(self, name: str, asked: str) -> tuple[str, ...] | None:
        try:
            return self.world.lists.find(name, asked)
        except ListError as error:
            raise ValueError(str(error)) from None

    # -- time, chance, the machine -----------------------------------------------------------------------------------

    def now(self) -> float:
        return self.world.now()

    def at(self, function: Answer) -> Answer:
        """A word about a time, which is now unless given."""
        return lambda when=None, *more: function(self.world.now() if when is None else when, *more)

    def number(self, first: int, last: int) -> Any:
        return chance.number(first, last, self.chance)

    def token(self, length: int) -> Any:
        return chance.text(length, self.chance)

    def hostname(self) -> str:
        return system.hostname()  # type: ignore[return-value]

    def env(self, name: str) -> Any:
        return system.env(name, self.settings.env)

    def user_exists(self, name: str) -> bool:
        return self.world.user_exists(name)


def _kept(function: Answer, *arguments: Any) -> Any:
    """Ask the store; what goes wrong there is an error of the rule's line, so that no mail passes by accident."""
    try:
        return function(*arguments)
    except StoreError as error:
        raise ValueError(str(error)) from None


DNS: list[Declared] = [
    declare(
        "dns.lookup(name: string, type?: string) -> string[]?, string?",
        "The records of a name (type A unless given); an empty list if there are none; nil and why if nobody can "
        "tell now.",
        'local hosts, why = dns.lookup(mail.sender.domain, "MX")\n'
        "if not hosts then return defer() end\n"
        'assert(hosts[1] == "10 mail.example.com" and why == nil)',
        Asking.lookup,
        waits=True,
    ),
    declare(
        "dns.names(ip: string) -> string[]?, string?",
        "The names an address says it has (PTR); whether they lead back to it, dns.lookup tells.",
        'local names = dns.names(mail.client.ip)\nassert(names and names[1] == "mail.example.com")',
        Asking.names,
        waits=True,
    ),
    declare(
        "dns.listed(thing: string, zone: string, codes?: string) -> string[]?, string?",
        "The codes with which a DNS list (RFC 5782) answers for an address or a domain, or only those that lie in "
        '`codes` ("127.0.0.2-127.0.0.11"); nil if it is not listed; nil and why if nobody can tell now.',
        'if dns.listed(mail.client.ip, "zen.example.test") then return defer("450 4.7.1 Try later") end\n'
        'local codes = dns.listed("192.0.2.66", "zen.example.test", "127.0.0.2-127.0.0.9")\n'
        'assert(#codes == 1 and codes[1] == "127.0.0.2")',
        Asking.listed,
        waits=True,
    ),
]

STORE: list[Declared] = [
    declare(
        "store.get(key: string) -> string|number|boolean?",
        "What all workers remember under a key, also after a restart; nil if there is nothing. An error ends the "
        "rule as rules.on_error says; with pcall it goes on.",
        'store.set("seen/" .. mail.client.ip, true, "1d")\nassert(store.get("seen/" .. mail.client.ip) == true)',
        Asking.get,
        waits=True,
    ),
    declare(
        "store.set(key: string, value: string|number|boolean, ttl?: string|number)",
        'Remember a value (text up to 64 KB) for ever, or for a time: seconds, or "30s", "5m", "2h", "36d".',
        'store.set("greeted", 1)\nassert(store.get("greeted") == 1)',
        Asking.set,
        waits=True,
    ),
    declare(
        "store.add(key: string, value: string|number|boolean, ttl?: string|number) -> boolean",
        "Remember a value if there is none under that key; whether there was none. Of many who ask at once only "
        "one gets true.",
        'assert(store.add("first", mail.client.ip, "1h"))\nassert(not store.add("first", "another"))',
        Asking.add,
        waits=True,
    ),
    declare(
        "store.increment(key: string, by?: integer, ttl?: string|number) -> integer",
        "Add to a counter, 1 unless given, and return it. It begins at 0; its time begins when it is made.",
        'assert(store.increment("mails") == 1)\nassert(store.increment("mails", 10, "1d") == 11)',
        Asking.increment,
        waits=True,
    ),
    declare(
        "store.delete(key: string) -> boolean",
        "Forget a key; whether it was there.",
        'store.set("brief", 1)\nassert(store.delete("brief") and store.get("brief") == nil)',
        Asking.delete,
        waits=True,
    ),
    declare(
        "rate(key: string, rate: string, number?: integer) -> boolean, number",
        'Whether one more (or `number` more; 0 only looks) is within a rate, "60/1h" being 60 in an hour, all '
        "workers together; if not, the seconds after which it would be.",
        'local within, wait = rate("client/" .. mail.client.ip, "100/1m")\n'
        'if not within then return defer("450 4.7.1 Too many, wait " .. math.ceil(wait) .. " seconds") end\n'
        'assert(rate("x", "1/1h") and not rate("x", "1/1h"))',
        Asking.rate,
        waits=True,
    ),
]

LISTS: list[Declared] = [
    declare(
        "lists.has(name: string, thing: string) -> boolean",
        "Whether an entry of the list `name`, a file in [rules] lists, fits an address, a domain, an IP address or "
        'a word, as "Lists" above tells. It is read again when it changes.',
        'if lists.has("blocked.txt", mail.sender) then return deny() end\n'
        'assert(lists.has("blocked.txt", "198.51.100.7") and lists.has("blocked.txt", "x@sub.bad.example"))',
        Asking.list_has,
    ),
    declare(
        "lists.get(name: string, thing: string, column?: integer) -> string?",
        "What stands in the second column (or another) of the entry that fits, in a map NAME.csv; nil if none does.",
        'assert(lists.get("aliases.csv", "sales@example.test") == "you@example.test")',
        Asking.list_get,
    ),
    declare(
        "lists.load(name: string) -> integer",
        "Read a list now, and say how many entries it has: at the top of a file of rules, so that a mistake in "
        "the list is found before the first mail.",
        'assert(lists.load("blocked.txt") == 3)',
        Asking.list_load,
    ),
]


MACHINE: list[Declared] = [
    declare("time.now() -> number", "Seconds since 1970.", "assert(time.now() > 1e9)", Asking.now),
    declare(
        "random.number(first: integer, last: integer) -> integer?, string?",
        "A whole number from first to last.",
        "local n = random.number(1, 6)\nassert(n >= 1 and n <= 6)",
        Asking.number,
    ),
    declare(
        "random.text(length: integer) -> string?, string?",
        "Letters and digits. Not for secrets.",
        "assert(#random.text(8) == 8)",
        Asking.token,
    ),
    declare(
        "hostname() -> string",
        "The name of this machine; mail.server is what we call ourselves.",
        "assert(#hostname() > 0)",
        Asking.hostname,
    ),
    declare(
        "env(name: string) -> string?, string?",
        "A variable of the environment that [rules] env names.",
        'local secret, why = env("NOT_NAMED")\nassert(secret == nil and why:find("rules"))',
        Asking.env,
    ),
    declare(
        "user_exists(name: string) -> boolean",
        "Whether this machine has an account of that name.",
        'assert(user_exists("you") and not user_exists("nobody-of-that-name"))',
        Asking.user_exists,
        waits=True,
    ),
]

ASKING: list[Declared] = [*DNS, *STORE, *LISTS, *MACHINE]  # methods of Asking
PURE = [*network.WORDS, *domains.WORDS, *addresses.WORDS, *patterns.WORDS, *text.WORDS, *times.WORDS]
ANSWERED: list[Word] = [declared for declared, _ in [*ASKING, *PURE, *times.OF_NOW]]


def bound(world: World, settings: settings.Rules) -> dict[str, Answer]:
    """The function behind every such word, by its name."""
    asking = Asking(world, settings)
    return {
        **{declared.name: function for declared, function in PURE},
        **{declared.name: partial(function, asking) for declared, function in ASKING},
        **{declared.name: asking.at(function) for declared, function in times.OF_NOW},
    }
