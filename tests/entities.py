"""What of a mail is signed or encrypted, and the mail with another content, as part:sign and part:decrypt do it."""

from mta.message.entity import Entity, gathered
from mta.message.message import Message


def content_of(mail: bytes) -> bytes:
    return gathered(Message(mail).root.entity())


def with_content(mail: bytes, made: Entity) -> bytes:
    message = Message(mail)
    message.root.become(bytes(made))
    return bytes(message)
