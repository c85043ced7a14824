"""Functions that derive deterministic session keys from the ids of a connector.

The same inputs give the same key on every machine and in every release. ``tests/vectors/keys.json``
has test vectors. A key is made of parts in one of two forms:

* **Joined by** ``:`` (:func:`telegram_update_to_session_key`, :func:`webhook_to_session_key`,
  :func:`canonical_session_key`). Existing deployments fix this form. It is ambiguous if a part
  contains a ``:``, because ``a:b`` and ``c`` equal ``a`` and ``b:c``. Such parts use the second
  form.
* **Length-prefixed, version 2** (every other connector): ``v2:`` and each part as a netstring
  (``5:hello,``, length in UTF-8 bytes, https://cr.yp.to/proto/netstrings.txt). Different parts have
  different texts. The first form has exactly three colons and this form has at least four, so they
  never collide.

A digest does not protect inputs that can be guessed. Keep secrets out of them.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from ._validation import MAX_KEY_CHARS, require_clean_text, require_text
from .errors import InvalidInputError
from .model import SessionKey

__all__ = [
    "canonical_session_key",
    "discord_message_to_session_key",
    "email_to_session_key",
    "slack_event_to_session_key",
    "teams_activity_to_session_key",
    "telegram_update_to_session_key",
    "webhook_to_session_key",
    "whatsapp_message_to_session_key",
]

_MAX_PART_CHARS: Final = 4096
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def _part(value: object, field: str, *, required: bool = True) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value == "" and not required:
        return ""
    text = require_text(value, field, _MAX_PART_CHARS)
    # A digest accepts any text, control characters too. A lone surrogate has no UTF-8 form.
    if not text.isprintable() and _SURROGATE.search(text):
        raise InvalidInputError(field, "contains a lone surrogate")
    return text


def _length_prefixed(parts: tuple[str, ...]) -> str:
    return "v2:" + "".join(f"{len(part.encode())}:{part}," for part in parts)


def _joined(parts: tuple[str, ...]) -> str:
    if any(":" in part for part in parts):
        return _length_prefixed(parts)
    return ":".join(parts)


def _digest(text: str) -> SessionKey:
    return SessionKey(hashlib.sha256(text.encode()).hexdigest())


def telegram_update_to_session_key(
    bot_id: str | int, chat_id: str | int, user_id: str | int
) -> SessionKey:
    """Return the key of a user's conversation with a bot in a chat.

    :param bot_id: the bot's id.
    :param chat_id: ``message.chat.id``.
    :param user_id: ``message.from.id``.
    :returns: hex SHA-256 of ``tg:{bot}:{chat}:{user}``.
    :raises InvalidInputError: for a part over 4096 characters, or with a lone surrogate.
    """
    parts = (
        "tg",
        _part(bot_id, "bot_id", required=False),
        _part(chat_id, "chat_id", required=False),
        _part(user_id, "user_id", required=False),
    )
    return _digest(_joined(parts))


def webhook_to_session_key(source: str, subject: str, id_hint: str | int) -> SessionKey:
    """Return the key of the subject of a webhook.

    :param source: the sender.
    :param subject: the subject.
    :param id_hint: distinguishes subjects of the same name.
    :returns: hex SHA-256 of ``wh:{source}:{subject}:{id_hint}``.
    :raises InvalidInputError: for a part over 4096 characters, or with a lone surrogate.
    """
    parts = (
        "wh",
        _part(source, "source", required=False),
        _part(subject, "subject", required=False),
        _part(id_hint, "id_hint", required=False),
    )
    return _digest(_joined(parts))


def canonical_session_key(
    tenant: str, provider: str, anchor: str | int | None = None, user: str | int | None = None
) -> SessionKey:
    """Return the readable key ``{tenant}:{provider}:{anchor}:{user}``.

    :param tenant: the tenant.
    :param provider: the connector.
    :param anchor: identifies the conversation. ``conversation`` if absent or empty.
    :param user: the user. ``user`` if absent or empty.
    :raises InvalidInputError: for a part with control characters, or a key over 512 characters.
    """
    parts = (
        _part(tenant, "tenant"),
        _part(provider, "provider"),
        _part("conversation" if anchor is None else anchor, "anchor", required=False)
        or "conversation",
        _part("user" if user is None else user, "user", required=False) or "user",
    )
    return SessionKey(require_clean_text(_joined(parts), "key", MAX_KEY_CHARS))


def slack_event_to_session_key(
    team_id: str, channel_id: str, user_id: str, thread_ts: str = ""
) -> SessionKey:
    """Return the key of a user's conversation in a Slack channel, or in one thread of it.

    :param team_id: workspace, ``T…``.
    :param channel_id: ``C…``, ``D…`` or ``G…``.
    :param user_id: ``U…``.
    :param thread_ts: timestamp of the thread's first message, empty outside a thread.
    :raises InvalidInputError: for a part that is empty, over 4096 characters, or with a lone
        surrogate.
    """
    return _digest(
        _length_prefixed(
            (
                "slack",
                _part(team_id, "team_id"),
                _part(channel_id, "channel_id"),
                _part(user_id, "user_id"),
                _part(thread_ts, "thread_ts", required=False),
            )
        )
    )


def teams_activity_to_session_key(tenant_id: str, conversation_id: str, user_id: str) -> SessionKey:
    """Return the key of a user's conversation in Microsoft Teams.

    :param tenant_id: ``channelData.tenant.id``.
    :param conversation_id: ``conversation.id``, which includes the thread's message id, if any.
    :param user_id: ``from.aadObjectId``, or ``from.id`` if that is absent.
    :raises InvalidInputError: for a part that is empty, over 4096 characters, or with a lone
        surrogate.
    """
    return _digest(
        _length_prefixed(
            (
                "teams",
                _part(tenant_id, "tenant_id"),
                _part(conversation_id, "conversation_id"),
                _part(user_id, "user_id"),
            )
        )
    )


def whatsapp_message_to_session_key(phone_number_id: str | int, wa_id: str | int) -> SessionKey:
    """Return the key of a person's chat with a WhatsApp business number.

    :param phone_number_id: ``metadata.phone_number_id``, the business side.
    :param wa_id: ``contacts[].wa_id``, the person.
    :raises InvalidInputError: for a part that is empty, over 4096 characters, or with a lone
        surrogate.
    """
    return _digest(
        _length_prefixed(
            (
                "whatsapp",
                _part(phone_number_id, "phone_number_id"),
                _part(wa_id, "wa_id"),
            )
        )
    )


def discord_message_to_session_key(
    channel_id: str | int, user_id: str | int, guild_id: str | int = ""
) -> SessionKey:
    """Return the key of a user's conversation in a Discord channel or thread.

    :param channel_id: snowflake of the channel. A thread is a channel.
    :param user_id: snowflake of the author.
    :param guild_id: snowflake of the guild, empty in direct messages.
    :raises InvalidInputError: for a part that is empty, over 4096 characters, or with a lone
        surrogate.
    """
    return _digest(
        _length_prefixed(
            (
                "discord",
                _part(guild_id, "guild_id", required=False),
                _part(channel_id, "channel_id"),
                _part(user_id, "user_id"),
            )
        )
    )


def email_to_session_key(mailbox: str, thread_id: str, sender: str) -> SessionKey:
    """Return the key of a sender's thread in a mailbox.

    Addresses are compared without a change of case. Convert them to lower case first if your mail
    host does. RFC 5321 leaves the case of the local part to the receiving host.

    :param mailbox: the address that received the mail.
    :param thread_id: ``Message-ID`` of the thread's first mail (first of ``References``).
    :param sender: the address that sent it.
    :raises InvalidInputError: for a part that is empty, over 4096 characters, or with a lone
        surrogate.
    """
    return _digest(
        _length_prefixed(
            (
                "email",
                _part(mailbox, "mailbox"),
                _part(thread_id, "thread_id"),
                _part(sender, "sender"),
            )
        )
    )
