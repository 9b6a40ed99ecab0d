"""What a key or a token allows its holder to do."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """`admin` stands for the three before it too, and manages what is its own client's.

    `operator` manages every client, key and provider, and nothing else stands for it.
    """

    SEND = "send"
    HLR = "hlr"
    READ = "read"
    ADMIN = "admin"
    OPERATOR = "operator"
