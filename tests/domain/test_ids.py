from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID

import pytest

from service.domain.ids import new_attempt_id, new_id, read, show, smallest_at


def test_an_id_is_a_uuid_of_version_7_that_says_when_it_was_made() -> None:
    before_ms = time.time_ns() // 1_000_000
    made = new_id()
    after_ms = time.time_ns() // 1_000_000
    assert (made.version, made.variant) == (7, RFC_4122)
    assert before_ms <= made.int >> 80 <= after_ms


def test_ids_are_unique() -> None:
    assert len({new_id() for _ in range(10_000)}) == 10_000


def test_the_ids_of_a_time_begin_at_its_smallest() -> None:
    before = smallest_at(datetime.now(UTC))
    made = new_id()
    after = smallest_at(datetime.now(UTC) + timedelta(milliseconds=1))
    assert before < made < after


def test_an_attempt_s_id_begins_like_its_message_s_and_is_another_each_time() -> None:
    message_id = new_id()
    made = [new_attempt_id(message_id) for _ in range(100)]
    assert {one.int >> 32 for one in made} == {message_id.int >> 32}
    assert len(set(made)) == 100


@pytest.mark.parametrize("prefix", ["msg", "bat", "whd"])
def test_what_is_shown_can_be_read_again(prefix: str) -> None:
    made = new_id()
    assert read(prefix, show(prefix, made)) == made


def test_an_id_is_shown_with_what_it_names() -> None:
    assert show("msg", UUID(int=0x0190 << 112)) == "msg_01900000000000000000000000000000"


@pytest.mark.parametrize(
    "shown",
    [
        "",
        "msg_",
        "bat_" + "0" * 32,
        "msg_" + "0" * 31,
        "msg_" + "0" * 33,
        "msg_" + "G" * 32,
        "msg_" + "A" * 32,
        " msg_" + "0" * 32,
        "msg_" + "0" * 32 + "\n",
        "msg_" + "٣" * 32,
    ],
)
def test_what_is_not_an_id_of_this_kind_is_none(shown: str) -> None:
    assert read("msg", shown) is None
