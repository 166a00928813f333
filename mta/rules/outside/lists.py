"""Lists and maps from files, for rules: loaded once, read again when the file changes.

A list (any name) has one entry a line; a map (NAME.csv) has the entry in its first column and values in the others:

    # a comment, on its own or behind an entry          partner.test, 10.0.0.5, tls
    word                  this word, or this phrase, and nothing else
    ann@example.test      this address                   ann@  this local part in any domain
    example.test          this domain, and the addresses in it (@example.test: the same)
    .example.test         this domain and all below it   *.example.test  only what lies below
    192.0.2.7             this IP address                192.0.2.0/24, 192.0.2.1-192.0.2.9, 2001:db8::/32: those

Capitals make no difference. What is asked decides what may fit: an IP address fits addresses and ranges; what has an
"@" fits addresses, local parts and domains; anything else fits words and domains. Of several the nearest wins, in the
order of that sentence, then the longest name or the smallest range.

All text is bytes, as Latin-1: what a rule asks came over the wire like that. Domains beyond ASCII are kept as A-labels.
"""

from __future__ import annotations

import csv
import ipaddress
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import idna

from mta import log

MAX_BYTES = 32 << 20
MAX_ENTRIES = 1_000_000
MAX_LINE = 4096
_SMALL = 256 << 10  # bytes of a file that may be read in passing (some milliseconds)
_LOOK = 1.0  # seconds between looks at a file
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
_QUAD = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_HEX = frozenset("0123456789abcdefABCDEF:.")

Row = tuple[str, ...]


class ListError(Exception):
    """A list cannot be used: says which file and line, and why."""


Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _between(first: Ip, last: Ip) -> list[Network]:
    """The networks that make up a range. Raises ValueError."""
    if isinstance(first, ipaddress.IPv4Address) and isinstance(last, ipaddress.IPv4Address):
        return list(ipaddress.summarize_address_range(first, last))
    if isinstance(first, ipaddress.IPv6Address) and isinstance(last, ipaddress.IPv6Address):
        return list(ipaddress.summarize_address_range(first, last))
    raise ValueError("a range from IPv4 to IPv6")


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        if "host bits" not in str(error):
            raise ValueError(f"{text!r} is no address, network or range") from None
        raise ValueError(
            f"{text!r} is not the first address of its network: {ipaddress.ip_network(text, False)}"
        ) from None


class Ranges:
    """IP addresses and networks, each with a row; `find` gives that of the smallest network an address lies in."""

    def __init__(self) -> None:
        # for each version: the lengths of prefix in use, longest first, and for each the networks of that length
        self._tables: dict[int, dict[int, dict[int, Row]]] = {4: {}, 6: {}}

    def add(self, text: str, row: Row) -> None:
        """An address, a network or "first-last". Raises ValueError."""
        first, dash, last = text.partition("-")
        if dash:
            networks = _between(ipaddress.ip_address(first.strip()), ipaddress.ip_address(last.strip()))
        else:
            networks = [_network(text)]
        for network in networks:
            table = self._tables[network.version]
            if network.prefixlen not in table:
                table[network.prefixlen] = {}
                self._tables[network.version] = dict(sorted(table.items(), reverse=True))
            bits = network.max_prefixlen - network.prefixlen
            self._tables[network.version][network.prefixlen].setdefault(int(network.network_address) >> bits, row)

    def find(self, address: Ip) -> Row | None:
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        number, width = int(address), address.max_prefixlen
        for length, networks in self._tables[address.version].items():
            row = networks.get(number >> (width - length))
            if row is not None:
                return row
        return None


class Index:
    """The entries of one file. Each stands for a row: the columns of a map, or the entry alone."""

    def __init__(self) -> None:
        self.count = 0
        self._words: dict[str, Row] = {}  # whatever is compared as a whole, domains included
        self._below: dict[str, Row] = {}  # of ".example.test": the domain and what lies below it
        self._under: dict[str, Row] = {}  # of "*.example.test": only what lies below
        self._ranges = Ranges()

    def add(self, entry: str, row: Row) -> None:
        """Take one entry in. Raises ValueError."""
        self.count += 1
        if _like_ip(entry):
            self._ranges.add(entry, row)
            return
        entry = fold(entry)
        if entry.startswith("*."):
            self._once(self._under, _ascii(entry[2:]), entry, row)
        elif entry.startswith(".") and len(entry) > 1:
            self._once(self._below, _ascii(entry[1:]), entry, row)
        elif entry.startswith("@") and len(entry) > 1:
            self._once(self._words, _ascii(entry[1:]), entry, row)
        else:
            local, at, domain = entry.rpartition("@")
            if at and (not local or " " in entry):
                raise ValueError(f"{entry!r} is no address")
            self._once(self._words, f"{local}@{_ascii(domain)}" if at else _ascii(entry), entry, row)

    def _once(self, table: dict[str, Row], key: str, entry: str, row: Row) -> None:
        if table.setdefault(key, row) is not row and len(row) > 1:
            raise ValueError(f"{entry!r} stands here a second time")

    def find(self, asked: str) -> Row | None:
        """The row of the nearest entry that fits, or None."""
        if _like_ip(asked):
            try:
                return self._ranges.find(ipaddress.ip_address(asked))
            except ValueError:
                pass
        asked = fold(asked)
        local, at, domain = asked.rpartition("@")
        if not asked.isascii():
            domain = _ascii(domain)
            asked = f"{local}@{domain}" if at else domain
        if at:
            row = self._words.get(asked) or self._words.get(local + "@")
            return row if row is not None else self._domain(domain)
        return self._domain(asked)

    def _domain(self, name: str) -> Row | None:
        row = self._words.get(name)
        if row is not None:
            return row
        if not self._below and not self._under:
            return None
        if name in self._below:
            return self._below[name]
        at = name.find(".")
        for _ in range(127):  # a name has no more labels (RFC 1035 2.3.4); what is longer is no name
            if at < 0:
                return None
            parent = name[at + 1 :]
            row = self._under.get(parent) or self._below.get(parent)
            if row is not None:
                return row
            at = name.find(".", at + 1)
        return None


def _like_ip(text: str) -> bool:
    """Whether this is meant as an IP address, a network or a range, well-formed or not."""
    head = re.split("[/-]", text[:100], maxsplit=1)[0].strip()
    return bool(_QUAD.fullmatch(head)) or (head.count(":") >= 2 and _HEX.issuperset(head))


def fold(text: str) -> str:
    """ASCII capitals made small; bytes beyond ASCII stay what they are."""
    return text.lower() if text.isascii() else text.encode("latin-1", "replace").lower().decode("latin-1")


def _ascii(name: str) -> str:
    """A domain beyond ASCII as A-labels, anything else as it is."""
    if name.isascii() or "." not in name or " " in name or len(name) > 255:
        return name
    try:
        return idna.encode(name.encode("latin-1").decode("utf-8"), uts46=True).decode("ascii")
    except (UnicodeError, idna.IDNAError):
        return name


# -- reading a file --------------------------------------------------------------------------------------------------


def _lines(blob: bytes, name: str) -> Iterator[tuple[int, str]]:
    """Line number and entry, without comments and blank lines. Raises ListError."""
    for number, raw in enumerate(blob.split(b"\n"), 1):
        line = raw.decode("latin-1").strip(" \t\r\f\v")
        if number == 1:
            line = line.removeprefix("\xef\xbb\xbf")  # an editor's byte order mark
        if not line or line.startswith("#"):
            continue
        if len(line) > MAX_LINE:
            raise ListError(f"{name}:{number}: the line is longer than {MAX_LINE} bytes")
        if any(c < " " and c != "\t" for c in line):
            raise ListError(f"{name}:{number}: a control character; is this a text file?")
        comment = re.search(r"\s#", line)
        if comment:
            line = line[: comment.start()].rstrip()
        yield number, line


def parse(blob: bytes, name: str) -> Index:
    """Read a file's content; `name` stands in errors, and its ending says whether this is a map. Raises ListError."""
    index, table = Index(), name.endswith(".csv")
    width = 0
    for number, line in _lines(blob, name):
        if index.count >= MAX_ENTRIES:
            raise ListError(f"{name}:{number}: more than {MAX_ENTRIES} entries")
        try:
            row: Row = (line,)
            if table:
                row = tuple(c.strip() for c in next(csv.reader([line], skipinitialspace=True, strict=True)))
                width = width or len(row)
                if len(row) != width or width < 2:
                    wanted = f"{width}, as in the first line" if width > 1 else "at least 2"
                    raise ValueError(f"{len(row)} column{'s' if len(row) > 1 else ''} instead of {wanted}")
                if not row[0]:
                    raise ValueError("the first column is empty")
            index.add(row[0], row)
        except (ValueError, csv.Error) as error:
            raise ListError(f"{name}:{number}: {error}") from None
    return index


class _Version(NamedTuple):
    """What tells one state of a file from another."""

    inode: int
    mtime: int
    size: int


class _File:
    def __init__(self, name: str, path: Path, version: _Version, index: Index, now: float) -> None:
        self.name, self.path, self.version, self.index = name, path, version, index
        self.looked = now  # when it was last looked at
        self.tried = version  # the state that was last read, also when it was wrong
        self.loading = False


class Lists:
    """All lists of one process. `folders` is where they may lie, the first that has one wins.

    `start(function)` runs a function apart (a greenlet whose reading is done off the loop): large files are read again
    that way while the old content still answers. Without it they are read in passing.
    """

    def __init__(
        self,
        folders: Sequence[str | os.PathLike[str]],
        start: Callable[[Callable[[], None]], object] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        run: Callable[..., Any] = lambda function, *arguments: function(*arguments),
    ) -> None:
        self.folders = [Path(os.path.realpath(f)) for f in folders]
        self._start, self.monotonic, self._run = start, monotonic, run
        self._files: dict[str, _File] = {}

    def load(self, name: str) -> None:
        """Load a list, if it is not; so that its errors are seen before the first mail. Raises ListError."""
        if name not in self._files:
            path = self._path(name)
            version, blob = _read(path, name)
            self._files[name] = _File(name, path, version, parse(blob, name), self.monotonic())

    def find(self, name: str, asked: str) -> Row | None:
        """The row of the entry in list `name` that fits, or None. Raises ListError."""
        file = self._files.get(name)
        if file is None:
            self.load(name)
            file = self._files[name]
        elif self.monotonic() - file.looked >= _LOOK:
            self._look(file)
        return file.index.find(asked)

    def count(self, name: str) -> int:
        self.load(name)
        return self._files[name].index.count

    def _path(self, name: str) -> Path:
        _check_name(name)
        for folder in self.folders:
            path = Path(os.path.realpath(folder / name))
            if path.is_file():
                if not path.is_relative_to(folder):
                    raise ListError(f"{name}: a link that leads out of {folder}")
                return path
        raise ListError(f"{name}: there is no such file in {' or '.join(map(str, self.folders))}")

    def _look(self, file: _File) -> None:
        """Has it changed? Then read it, now or apart; what is wrong is logged once and the old content stays."""
        file.looked = self.monotonic()
        if file.loading:
            return
        try:
            version = _version(os.stat(file.path))
        except OSError as error:
            version = _Version(0, 0, 0)
            if file.tried != version:
                log.event("list_rejected", list=file.name, error=f"{file.path}: {error.strerror}")
        if version == file.tried:
            return
        file.tried = version
        if not version.inode:
            return
        if self._start is None or version.size <= _SMALL:
            self._again(file)
        else:
            file.loading = True
            self._start(lambda: self._again(file))

    def _again(self, file: _File) -> None:
        try:
            index, version = self._run(_load, file.path, file.name) if file.loading else _load(file.path, file.name)
            file.index, file.version, file.tried = index, version, version
            log.event("list_loaded", list=file.name, entries=index.count)
        except ListError as error:
            log.event("list_rejected", list=file.name, error=str(error))
        finally:
            file.loading = False


class GivenLists:
    """Lists whose text is at hand, for tests and the REPL: {"name": "text"}."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts
        self._indexes: dict[str, Index] = {}

    def find(self, name: str, asked: str) -> Row | None:
        return self._index(name).find(asked)

    def count(self, name: str) -> int:
        return self._index(name).count

    def _index(self, name: str) -> Index:
        if name not in self._indexes:
            _check_name(name)
            if name not in self.texts:
                raise ListError(f"{name}: there is no such list")
            self._indexes[name] = parse(self.texts[name].encode(), name)
        return self._indexes[name]


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > 200:
        raise ListError(f"{name[:80]!r} is no name of a list (letters, digits, '.', '_', '-' and '/')")


def _version(found: os.stat_result) -> _Version:
    return _Version(found.st_ino, found.st_mtime_ns, found.st_size)


def _load(path: Path, name: str) -> tuple[Index, _Version]:
    version, blob = _read(path, name)
    return parse(blob, name), version


def _read(path: Path, name: str) -> tuple[_Version, bytes]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        with open(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise ListError(f"{name}: {path} is not a file")
            if found.st_size > MAX_BYTES:
                raise ListError(f"{name}: {found.st_size} bytes; a list may have {MAX_BYTES}")
            return _version(found), file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ListError(f"{name}: {path}: {error.strerror}") from None
