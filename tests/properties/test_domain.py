"""Rules of the domain that hold for everything, where `tests/domain` does not look already."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address

import phonenumbers
import pytest
import smsutil  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from service.domain.backoff import put_back_delay_s, repeat_delay_s, webhook_delay_s
from service.domain.message import MessageStatus, may_become
from service.domain.msisdn import check_syntax, country, is_valid, line_type
from service.domain.pacing import admit
from service.domain.segments import GSM_BASIC, GSM_EXTENSION, measure
from service.errors import TargetRefused
from service.targets import TargetPolicy

NOW_S = 1_700_000_000.0
JITTER = st.floats(0, 1, exclude_max=True)
RATES = st.floats(min_value=0.1, max_value=5_000)


@given(st.from_regex(r"\+[0-9]{7,15}", fullmatch=True))
def test_whatever_passes_the_check_has_a_country_and_can_be_looked_at_further(number: str) -> None:
    if check_syntax(number) is None:
        assert country(number) == "001" or country(number) in phonenumbers.SUPPORTED_REGIONS
        assert phonenumbers.is_possible_number(phonenumbers.parse(number)) or number[1] != "1"
        assert is_valid(number) in {True, False}
        line_type(number)


@given(
    st.sampled_from([(160, 153, "a", "€"), (70, 67, "ж", "😀")]),
    st.integers(1, 10),
    st.integers(-3, 3),
    st.lists(st.integers(0, 1_600), max_size=4),
)
def test_wide_characters_at_the_edge_of_up_to_ten_segments_agree_with_smsutil(
    kind: tuple[int, int, str, str], segments: int, off: int, wide_at: list[int]
) -> None:
    single, part, narrow, wide = kind
    characters = [narrow] * max(1, (single if segments == 1 else part * segments) + off)
    for place in [*wide_at, part - 1]:
        characters[place % len(characters)] = wide
    text = "".join(characters)
    found, split = measure(text), smsutil.split(text)
    assert found.segments == len(split.parts)
    assert found.units == split.total_bytes // (1 if found.encoding == "gsm-7" else 2)


@given(st.text(st.sampled_from(sorted(GSM_BASIC | GSM_EXTENSION)), max_size=800), st.characters(codec="utf-8"))
def test_a_longer_text_never_takes_fewer_segments(text: str, more: str) -> None:
    assert measure(text + more).segments >= measure(text).segments


STATUSES = st.sampled_from(MessageStatus)
REASONS = st.sampled_from(["no_receipt", "submit_unknown", "expired", "carrier_failed", None])


@given(st.lists(st.tuples(STATUSES, REASONS), max_size=30))
def test_no_way_leads_out_of_an_end_more_than_once(wanted: list[tuple[MessageStatus, str | None]]) -> None:
    status, reason, left = MessageStatus.QUEUED, None, 0
    for new, why in wanted:
        if may_become(status, new, reason=reason):
            left += status.terminal
            assert not status.terminal or new is MessageStatus.DELIVERED
            # What was delivered has no reason: it is no guess of ours.
            status, reason = new, None if new is MessageStatus.DELIVERED else why
    assert left <= 1


@given(RATES, st.integers(1, 40), st.integers(1, 40), st.integers(0, 10))
def test_more_time_or_a_smaller_cost_is_never_refused_what_was_allowed(
    rate: float, burst: int, cost: int, used: int
) -> None:
    tat_s = NOW_S + used / rate
    decision = admit(tat_s, NOW_S, 1 / rate, burst, cost)
    for later_s in (0.0, 0.5 / rate, 100.0):
        for smaller in {1, cost}:
            if decision.allowed:
                assert admit(tat_s, NOW_S + later_s, 1 / rate, burst, smaller).allowed


@given(RATES, st.integers(1, 40), st.integers(1, 40))
def test_what_is_given_back_can_be_had_again(rate: float, burst: int, cost: int) -> None:
    cost = min(cost, burst)
    spent = admit(0.0, NOW_S, 1 / rate, burst, burst)
    assert not admit(spent.tat_s, NOW_S, 1 / rate, burst, cost).allowed
    assert admit(spent.tat_s - cost / rate, NOW_S, 1 / rate, burst, cost).allowed


@pytest.mark.parametrize("delay_s", [repeat_delay_s, put_back_delay_s, webhook_delay_s])
@given(attempt=st.integers(1, 10**6), jitter=JITTER)
def test_a_wait_is_above_nothing_and_grows_until_its_cap(
    delay_s: Callable[[int, float], float | None], attempt: int, jitter: float
) -> None:
    now, then = delay_s(attempt, jitter), delay_s(attempt + 1, jitter)
    assert now is None or now > 0
    assert then is None or (now is not None and then >= now)


HOSTS = st.sampled_from(["127.0.0.1", "[::1]", "localhost", "10.0.0.1", "169.254.169.254", "example.com", "0x7f.1"])
URLS = st.text(max_size=60) | st.builds(
    "{}://{}{}{}{}".format,
    st.sampled_from(["http", "https", "HTTP", "ftp", ""]),
    st.text(max_size=8) | st.sampled_from(["user@", "a:b@", ""]),
    HOSTS | st.ip_addresses().map(str) | st.ip_addresses(v=6).map(lambda ip: f"[{ip}]") | st.text(max_size=20),
    st.integers(-1, 70_000).map(lambda port: f":{port}") | st.just(""),
    st.text(max_size=20) | st.just("/hook"),
)


@given(URLS, st.booleans())
def test_a_target_is_permitted_or_refused_and_nothing_else(url: str, allow_loopback: bool) -> None:
    try:
        TargetPolicy(allow_loopback=allow_loopback).check_url(url)
    except TargetRefused:
        return
    assert url.lower().startswith(("http:", "https:"))


@given(st.ip_addresses(network="127.0.0.0/8") | st.ip_addresses(network="169.254.0.0/16"), st.integers(0, 65_535))
def test_no_way_to_write_a_forbidden_address_is_permitted(address: IPv4Address, port: int) -> None:
    number = int(address)
    for host in (str(address), f"[::ffff:{address}]", f"[64:ff9b::{address}]", str(number), hex(number), f"{address}."):
        with pytest.raises(TargetRefused):
            TargetPolicy().check_url(f"http://{host}:{port}/")
