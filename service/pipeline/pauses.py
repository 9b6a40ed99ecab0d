"""Pauses of one sender, one recipient or one pair of them at a provider. All else goes through meanwhile.

They are memory of this process, and bounded: a pause that is forgotten costs a call that the provider throttles again.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from service.domain.outcome import About
from service.pipeline.pace import Busy

MAX_PAUSE_S: Final = 300.0
"""However long a provider asks to be left alone, it is asked again after this time."""
_MOST: Final = 4096
_PROBE_S: Final = 2.0
"""How long the others wait for what the call that tries it after a pause finds."""
_SPREAD: Final = 0.25
"""Those who wait come back within this part of their wait after the end of the pause, not all at once."""

_Key: TypeAlias = tuple[About, str, str]


@dataclass(slots=True)
class _Pause:
    until_s: float
    lasts_s: float
    probed: bool = False
    """A call has been let through since, to see whether it is over."""


class Pauses:
    """When each may be called for again. `now` is a monotonic clock. The numbers in it are never shown."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._pauses: OrderedDict[_Key, _Pause] = OrderedDict()

    def add(self, about: About, sender: str, to: str, seconds: float) -> float:
        """Pause what a throttled call was about; returns for how long. Twice as long where a probe was throttled."""
        key = _key(about, sender, to)
        if key is None:
            return min(seconds, MAX_PAUSE_S)
        now_s = self._now()
        old = self._pauses.pop(key, None)
        grown_s = 0.0 if old is None else old.lasts_s * (2 if old.probed else 1)
        lasts_s = min(max(seconds, grown_s), MAX_PAUSE_S)
        self._pauses[key] = _Pause(now_s + lasts_s, lasts_s)
        self._forget(now_s)
        return lasts_s

    def _forget(self, now_s: float) -> None:
        """Drop the oldest while they are over, or too many."""
        while self._pauses:
            oldest = next(iter(self._pauses.values()))
            if len(self._pauses) <= _MOST and now_s < oldest.until_s + oldest.lasts_s:
                return
            self._pauses.popitem(last=False)

    def check(self, sender: str, to: str) -> None:
        """See whether a call must wait, before it waits for anything else.

        Raises:
            Busy: the pause is not over, or a probe of it is out.
        """
        self._over(sender, to)

    def admit(self, sender: str, to: str) -> None:
        """Let a call through that is made now: where a pause is over, it is the probe of that.

        Raises:
            Busy: as above.
        """
        for pause in self._over(sender, to):
            pause.until_s, pause.probed = self._now() + _PROBE_S, True

    def _over(self, sender: str, to: str) -> list[_Pause]:
        """The pauses that a call would probe."""
        now_s, over = self._now(), []
        for key in _keys(sender, to):
            pause = self._pauses.get(key)
            if pause is None:
                continue
            if (wait_s := pause.until_s - now_s) > 0:
                raise Busy(wait_s * (1 + _SPREAD * random.random()))  # noqa: S311 - jitter, not a secret
            if now_s >= pause.until_s + pause.lasts_s:
                del self._pauses[key]  # nobody wanted anything of it for as long again
            else:
                over.append(pause)
        return over

    def end(self, sender: str, to: str) -> None:
        """A call for them was accepted: what was probed is over."""
        for key in _keys(sender, to):
            pause = self._pauses.get(key)
            if pause is not None and pause.probed:
                del self._pauses[key]

    def __len__(self) -> int:
        return len(self._pauses)


def _keys(sender: str, to: str) -> tuple[_Key, ...]:
    return (About.SENDER, sender, ""), (About.RECIPIENT, "", to), (About.PAIR, sender, to)


def _key(about: About, sender: str, to: str) -> _Key | None:
    """What is paused. Of a brand only its sender is known; a message waits for itself."""
    by_sender, by_recipient, by_pair = _keys(sender, to)
    return {
        About.SENDER: by_sender,
        About.BRAND: by_sender,
        About.RECIPIENT: by_recipient,
        About.PAIR: by_pair,
    }.get(about)
