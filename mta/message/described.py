"""What a part says of itself in its Content-* fields (RFC 2045, 2183, 2231): read as mail programs do, and changed.

Strangers wrote them, so nothing here raises for what they say.
"""

from __future__ import annotations

import re

from mta.message import parameters
from mta.message.headers import Headers

_MAIN = re.compile(r"\s*([!#-'*+.^_`{|}~0-9a-z-]+)\s*/\s*([!#-'*+.^_`{|}~0-9a-z-]+)")


class Described:
    """A part in `parent`, None for a whole mail, with `headers` of its own."""

    __slots__ = ("parent",)

    parent: Described | None

    @property
    def headers(self) -> Headers:
        raise NotImplementedError

    def value(self, name: str) -> parameters.Value:
        """What a field says, an empty one if it is not there."""
        return parameters.parse(self.headers.get(name) or "")

    @property
    def type(self) -> str:
        """Type and subtype in lower case, "text/plain" where they cannot be read (RFC 2045 5.2)."""
        said = self.headers.get("content-type")
        if said is None and self.parent is not None and self.parent.type == "multipart/digest":
            return "message/rfc822"  # RFC 2046 5.1.5
        found = _MAIN.match(parameters.parse(said or "").main.lower())
        return f"{found[1]}/{found[2]}" if found else "text/plain"

    @property
    def charset(self) -> str:
        """As declared, in lower case; "" if it is not."""
        return self.value("content-type").get("charset").strip().lower()

    @property
    def disposition(self) -> str:
        """ "attachment", "inline", "", or what else it says, in lower case."""
        return re.split(r"[\s(]", self.value("content-disposition").main, maxsplit=1)[0].lower()

    @property
    def encoding(self) -> str:
        """The transfer encoding, in lower case; "" if none is given."""
        said = self.value("content-transfer-encoding").main
        return re.sub(r"\([^()]*\)", "", said).strip(" \t\"'").lower()

    @property
    def filename(self) -> str:
        """Safe to use as a name in a folder; "" if the part gives none."""
        return next(iter(self.filenames), "")

    @property
    def filenames(self) -> list[str]:
        """Every name it might be saved under: mail programs disagree about which of several counts."""
        said: list[str] = []
        for field, parameter in (("content-disposition", "filename"), ("content-type", "name")):
            for value in self.headers.all(field):
                said += parameters.parse(value).every(parameter)
        return list(dict.fromkeys(filter(None, map(parameters.file_name, said))))

    @property
    def id(self) -> str:
        """The Content-ID without its brackets."""
        return (self.headers.get("content-id") or "").strip().removeprefix("<").removesuffix(">")

    @property
    def multipart(self) -> bool:
        return self.type.startswith("multipart/")

    @property
    def attachment(self) -> bool:
        """Something to save rather than the text of the mail: it says so, or it has a name."""
        return not self.multipart and (self.disposition == "attachment" or bool(self.filenames))

    @property
    def whole(self) -> bool:
        """It is a whole mail (ours, or one inside a message/rfc822): Content-* fields stand among others."""
        return self.parent is None or not self.parent.multipart

    def exchange_content(self, texts: list[bytes]) -> list[bytes]:
        """Put these in the place of all Content-* fields: what was there."""
        gone = self.headers.exchange("content-", texts)
        self._version()
        return [text if text.endswith(b"\r\n") else text + b"\r\n" for text in gone]

    def rename(self, name: str) -> None:
        """Give the part another file name, the only one it has then."""
        self.describe("content-disposition", "filename", name, "attachment")
        if any(parameters.parse(value).every("name") for value in self.headers.all("content-type")):
            self.describe("content-type", "name", name, self.type)

    def describe(self, field: str, parameter: str, value: str, main: str) -> None:
        """Set a parameter of a Content-* field, which becomes `main` if it is not there or cannot be read."""
        said = self.headers.get(field) or ""
        if not said.strip() or (field == "content-type" and not _MAIN.match(said.lower())):
            said = main
        if self.headers.count(field) > 1:  # they say different things; from now on there is one
            self.headers.remove(field)
        self.headers.set(field.title(), parameters.change(said, parameter, value))
        self._version()

    def _version(self) -> None:
        """A mail with such fields says that it means them (RFC 2045 4)."""
        if self.whole and not self.headers.has("mime-version"):
            self.headers.append("MIME-Version", "1.0")
