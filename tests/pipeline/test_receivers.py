"""Places for webhooks: none is taken from those who answer."""

from __future__ import annotations

from uuid import UUID

from service.domain.ids import new_id
from service.pipeline.receivers import Receivers
from service.storage.outbox import DueTarget

SHOP, BANK = new_id(), new_id()
CLOCK = [0.0]
"""The time of all limiters here: it only goes on."""


def due(*targets: str, client_id: UUID = SHOP, failures: int = 0, blocked: bool = False) -> list[DueTarget]:
    return [DueTarget(target, client_id, failures, blocked) for target in targets]


def take(receivers: Receivers, *targets: str, client_id: UUID = SHOP) -> dict[str, int]:
    """All that each of these targets may get, begun."""
    got = {}
    for target in targets:
        rooms = receivers.rooms(due(target, client_id=client_id))
        receivers.claimed(rooms, {target: room.most for target, room in rooms.items()})
        for room in rooms.values():
            got[target] = room.most
            for _ in range(room.most):
                receivers.begin(target, client_id)
    return got


def grown(receivers: Receivers, target: str, *, bad: bool, client_id: UUID = SHOP) -> None:
    """Twenty seconds of a target that is given all that it may have."""
    for _ in range(200):
        most = take(receivers, target, client_id=client_id)[target]
        CLOCK[0] += 0.1
        for _ in range(most):
            receivers.answered(target, None if bad else 0.1, bad=bad)
            receivers.end(target)


def test_a_target_begins_with_sixteen_and_has_no_room_while_they_are_under_way() -> None:
    receivers = Receivers(together=1024, each=256)
    assert take(receivers, "a") == {"a": 16}
    assert take(receivers, "a", "b") == {"b": 16}
    assert receivers.end("a"), "others of it wait"
    assert take(receivers, "a", "b") == {"a": 1}


def test_a_blocked_target_gets_none_and_one_that_failed_a_single_probe() -> None:
    receivers = Receivers(together=1024, each=256)
    assert receivers.rooms(due("a", blocked=True)) == {}
    assert receivers.rooms(due("a", failures=1))["a"].most == 1
    receivers.begin("a", SHOP)
    assert receivers.rooms(due("a", failures=1)) == {}


def test_a_client_whose_targets_all_hang_leaves_half_of_all_to_the_others() -> None:
    receivers = Receivers(together=1024, each=256)
    for number in range(1_000):
        take(receivers, f"t{number}")
    assert receivers.calls <= 513
    for number in range(1_000):
        take(receivers, f"u{number}", client_id=BANK)
    assert receivers.calls <= 770, "and of what it left another one leaves half again"
    assert take(receivers, "mine", client_id=new_id())["mine"] == 16


def test_a_target_that_hangs_leaves_half_of_what_its_client_has_to_the_clients_others() -> None:
    receivers = Receivers(together=64, each=256, now=lambda: CLOCK[0])
    grown(receivers, "a", bad=False)
    for _ in range(5):
        take(receivers, "a")
    assert receivers.calls <= 17
    assert take(receivers, "b")["b"] >= 8


def test_a_target_that_got_less_than_it_might_have_or_is_blocked_is_no_longer_looked_at_each_time() -> None:
    receivers = Receivers(together=1024, each=256)
    take(receivers, "a", "b")
    assert dict(receivers.full) == {"a": SHOP, "b": SHOP}
    receivers.end("a")
    receivers.claimed(receivers.rooms(due("a")), {})
    receivers.rooms(due("b", blocked=True))
    assert dict(receivers.full) == {}


def test_a_claim_of_many_targets_looks_for_little_more_than_it_can_take() -> None:
    receivers = Receivers(together=1024, each=256)
    rooms = receivers.rooms(due(*(f"t{number}" for number in range(1_000))))
    assert sum(room.most for room in rooms.values()) <= 2 * 1024


def test_a_target_that_answers_gets_more_and_one_that_fails_fewer() -> None:
    receivers = Receivers(together=1024, each=256, now=lambda: CLOCK[0])
    grown(receivers, "good", bad=False)
    grown(receivers, "bad", bad=True)
    assert receivers.rooms(due("good"))["good"].most > 200
    assert receivers.rooms(due("bad"))["bad"].most == 4
    receivers.begin("good", SHOP)
    receivers.begin("bad", SHOP)
    assert receivers.limits[0] == 4
    assert receivers.limits[1] > 200


def test_targets_that_clients_made_up_are_forgotten() -> None:
    receivers = Receivers(together=1024, each=256)
    receivers.begin("busy", SHOP)
    for number in range(10_050):
        receivers.begin(f"t{number}", BANK)
        receivers.end(f"t{number}")
    assert receivers.known <= 10_001
    receivers.end("busy")
