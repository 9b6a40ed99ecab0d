"""How much may come with a body in chunks that is none of it: lengths, extensions, trailers."""

from __future__ import annotations

from typing import Final

MOST_BEYOND_BYTES: Final = 16 * 1024
"""Far more than honest trailers and extensions take."""
_FOR_EACH_BYTE: Final = 8
"""A chunk of one byte takes five more: its length and two ends of lines. Some write a few zeros before the length."""


def beyond(so_far: int, read: int, body: int) -> int:
    """What is beyond that allowance, in bytes, after `read` more came, of which `body` are of the body.

    A body earns nothing for later: else a large one could be followed by as large a trailer, which the parser holds.
    """
    return max(0, so_far + read - body - _FOR_EACH_BYTE * body)
