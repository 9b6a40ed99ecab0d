"""HLR look-ups: the number table once more, and a home network for each number."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from service.domain import msisdn
from service.domain.hlr import HlrStatus
from service.simulator.number_table import behaviour_of

# The operators' real codes (ITU-T E.212), so that routing rules written for them can be tried.
_NETWORKS: Final = {
    "US": ("310", "260", "T-Mobile US"),
    "GB": ("234", "10", "O2 UK"),
    "DE": ("262", "01", "Telekom"),
    "FR": ("208", "01", "Orange F"),
}
_PORTED_TO: Final = {
    "US": ("310", "410", "AT&T Mobility"),
    "GB": ("234", "15", "Vodafone UK"),
    "DE": ("262", "02", "Vodafone"),
    "FR": ("208", "10", "SFR"),
}
_NO_NETWORK: Final = (None, None, None)


def look_up(number: str, source: str) -> dict[str, Any]:
    """The answer of `GET /v1/hlr/{number}` for an E.164 number.

    A number that is dead has no network, and whether it is ported or roams is not known; the same goes for the network
    of a country that the simulator has none for.
    """
    behaviour = behaviour_of(number)
    country = msisdn.country(number)
    dead = behaviour.hlr is HlrStatus.INVALID
    networks = _PORTED_TO if behaviour.ported else _NETWORKS
    mcc, mnc, network = _NO_NETWORK if dead else networks.get(country, _NO_NETWORK)
    return {
        "number": number,
        "status": behaviour.hlr,
        "country": country,
        "mcc": mcc,
        "mnc": mnc,
        "network": network,
        "line_type": None if dead else "mobile",
        "ported": None if dead else behaviour.ported,
        "roaming": None if dead else behaviour.roaming,
        "error_code": behaviour.hlr_error_code,
        "checked_at": datetime.now(UTC),
        "cached": False,
        "source": source,
    }
