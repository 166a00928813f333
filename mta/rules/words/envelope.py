"""The words that change the envelope: sender and recipients, until the mail is on its way out.

They change the Transaction; whoever runs the stage takes that over (`taken`) when it is `edited`. A recipient that a
rule brings in needs no leave of the relay rules: it was the administrator who said it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from msgspec.structs import replace

from mta.message import address as addresses
from mta.message.address import NULL, Address
from mta.message.envelope import Recipient
from mta.message.reply import Refused
from mta.rules.transaction import Transaction
from mta.rules.words.inner import Declared, declare
from mta.rules.words.pure import Tagged

MOST = 2000  # recipients to which rules may add others


def silent(known: Sequence[Recipient]) -> frozenset[Address]:
    """Those of whom the sender hears nothing."""
    return frozenset(recipient.address for recipient in known if not recipient.heard)


def taken(tx: Transaction, known: Sequence[Recipient]) -> list[Recipient]:
    """The recipients as rules left them; those known before keep what is known of them."""
    before = {recipient.address: recipient for recipient in known}
    return [_told(before.get(one) or Recipient(one, tx.originals.get(one)), one in tx.silent) for one in tx.recipients]


def _told(recipient: Recipient, silent: bool) -> Recipient:
    return replace(recipient, notify="never" if silent else "") if recipient.heard == silent else recipient


def _read(text: str) -> Address:
    """An address from a rule, brackets or not. Raises ValueError."""
    try:
        return addresses.parse(text.removeprefix("<").removesuffix(">"))
    except Refused as refused:
        raise ValueError(f"{text!r}: {refused.reply.text}") from None


def _same(one: Address | None, other: Address) -> bool:
    return one is not None and one.key == other.key


def _edited(tx: Transaction, answer: bool | int) -> Tagged:
    """The answer, and what Lua has to show from now on."""
    tx.edited = True
    if tx.side is not None:
        tx.side.edited()
    sender, recipient = tx.sender or NULL, tx.recipient
    here = (None, None) if recipient is None else (recipient.local_part, recipient.domain)
    return Tagged("envelope", (answer, sender.local_part, sender.domain, *here))


def _set_sender(tx: Transaction, number: int, text: str) -> Tagged:
    tx.sender = NULL if text in ("", "<>") else _read(text)
    return _edited(tx, True)


def _add(tx: Transaction, number: int, text: str, *, silent: bool = False) -> Tagged:
    new = _read(text)
    if any(_same(one, new) for one in [*tx.recipients, tx.recipient]):
        return _edited(tx, False)
    if len(tx.recipients) >= MOST:
        raise ValueError(f"the mail has {MOST} recipients")
    tx.recipients.append(new)
    if silent:
        tx.silent |= {new}
    return _edited(tx, True)


def _bcc(tx: Transaction, number: int, text: str) -> Tagged:
    return _add(tx, number, text, silent=True)


def _remove(tx: Transaction, number: int, text: str) -> Tagged:
    gone = _read(text)
    kept = [one for one in tx.recipients if not _same(one, gone)]
    there = len(kept) < len(tx.recipients) or _same(tx.recipient, gone)
    tx.recipients[:], tx.silent = kept, tx.silent.intersection(kept)
    if _same(tx.recipient, gone):
        tx.recipient = None
    return _edited(tx, there)


def _replace(tx: Transaction, number: int, old: str, new: str) -> Tagged:
    gone, come = _read(old), _read(new)
    there = False
    if _same(tx.recipient, gone) and not any(_same(one, gone) for one in tx.recipients):
        there, known = True, tx.recipient
        assert known is not None
        tx.originals.setdefault(come, tx.originals.get(known, known))
        tx.recipient = come
    for n, known in enumerate(tx.recipients):
        if _same(known, gone):
            there = True
            tx.originals.setdefault(come, tx.originals.get(known, known))
            if _same(tx.recipient, gone):
                tx.recipient = come
            other = next((one for one in tx.recipients if one is not known and _same(one, come)), None)
            if other is None:
                tx.recipients[n] = come
            else:
                del tx.recipients[n]
            if known in tx.silent and (other is None or other in tx.silent):
                tx.silent = tx.silent - {known} | {other or come}
            else:  # the sender asked for one of them
                tx.silent -= {known, other or come}
            break
    return _edited(tx, there)


light = partial(declare, stages="mail..postq", grows=False)

ENVELOPE_WORDS: list[Declared] = [
    light(
        "mail:set_sender(address: string) -> boolean",
        'Give the envelope another sender; "" is the null sender of a bounce. The From field stays as it is.',
        'mail:set_sender("bounces+ann@example.test")\nassert(mail.sender.local_part == "bounces+ann")',
        _set_sender,
    ),
    light(
        "mail:add_recipient(address: string) -> boolean",
        "Add a recipient, whom the header need not name; false if the mail has that one already.",
        'mail:add_recipient("me@example.test")\nassert(#mail.recipients == 2)',
        _add,
    ),
    light(
        "mail:bcc(address: string) -> boolean",
        "The same for a copy of which nobody is to hear: when it cannot be delivered the log tells, but no bounce.",
        'mail:bcc("archive@example.test")\nassert(#mail.recipients == 2)',
        _bcc,
    ),
    light(
        "mail:remove_recipient(address: string) -> boolean",
        "Take a recipient out; false if there was none. The client is told nothing. A mail that is left without any is "
        "thrown away.",
        "assert(mail:remove_recipient(mail.recipients[1]) and #mail.recipients == 0)",
        _remove,
    ),
    light(
        "mail:replace_recipient(old: string, new: string) -> boolean",
        "Let another address have the mail; false if there is no such recipient. At rcpt also the one in question: its "
        "domain must then be ours (or relayed to), and the new address have a mailbox if it is ours.",
        'assert(mail:replace_recipient("you@example.test", "me@example.test"))\n'
        'assert(mail.recipients[1].local_part == "me")',
        _replace,
    ),
]
