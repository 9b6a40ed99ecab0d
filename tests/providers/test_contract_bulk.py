"""What every adapter that has a bulk must do with it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.domain.message import Traffic
from service.domain.outcome import Accepted, Unknown
from tests.providers.case import FIRST, SECOND
from tests.providers.contract import (
    BULKS,
    CASES,
    SUBMISSION,
    adapter_of,
    bulk_adapter_of,
    bulk_of,
    each_bulk,
    each_case,
    each_of,
)


@each_bulk
def test_a_bulk_goes_out_in_order_under_its_own_key(name: str) -> None:
    numbers = tuple(f"+44770090012{digit}" for digit in "3914")
    request = bulk_adapter_of(name).bulk_request([replace(SUBMISSION, to=number) for number in numbers], "bulk-key")
    wire = CASES[name].read(request)
    assert (wire.to, wire.idempotency_key, wire.text) == (numbers, "bulk-key", SUBMISSION.text)


@each_bulk
def test_the_outcomes_of_a_bulk_come_in_the_order_of_the_input(name: str) -> None:
    bulk = bulk_of(name)
    errors = [(f"+4477009001{number:02}", None, code) for number, code in enumerate(bulk.errors, start=10)]
    results = [(FIRST, "id-1", None), *errors, (SECOND, "id-2", None)]
    outcomes = bulk_adapter_of(name).bulk_outcomes(
        [replace(SUBMISSION, to=to) for to, _, _ in results], bulk.reply(results)
    )
    assert outcomes == [Accepted("id-1"), *bulk.errors.values(), Accepted("id-2")]


@each_bulk
def test_results_that_are_not_ours_leave_every_submission_unknown(name: str) -> None:
    bulk, adapter = bulk_of(name), bulk_adapter_of(name)
    ours = [replace(SUBMISSION, to=FIRST), replace(SUBMISSION, to=SECOND)]
    first, second = (FIRST, "id-1", None), (SECOND, "id-2", None)
    foreign = ("+447700900199", "id-3", None)
    for results in ([], [first], [second, first], [first, foreign], [first, second, foreign]):
        outcomes = adapter.bulk_outcomes(ours, bulk.reply(results))
        assert [type(outcome) for outcome in outcomes] == [Unknown, Unknown]


@each_of("bulk.all_bad", BULKS)
def test_when_no_recipient_is_good_each_has_its_own_outcome(name: str, key: str) -> None:
    reply, *expected = bulk_of(name).all_bad[key]
    submissions = [replace(SUBMISSION, to=FIRST), replace(SUBMISSION, to=SECOND)]
    assert bulk_adapter_of(name).bulk_outcomes(submissions, reply) == expected


@each_of("bulk.half_readable", BULKS)
def test_an_unreadable_result_is_unknown_and_spoils_no_other(name: str, key: str) -> None:
    reply = bulk_of(name).half_readable[key]
    outcomes = bulk_adapter_of(name).bulk_outcomes(
        [replace(SUBMISSION, to=FIRST), replace(SUBMISSION, to=SECOND)], reply
    )
    assert isinstance(outcomes[0], Unknown)
    assert outcomes[1:] == [Accepted("id-2")]


@each_of("answers", BULKS)
def test_an_answer_to_a_whole_bulk_counts_for_each_submission(name: str, key: str) -> None:
    response, expected = CASES[name].answers[key]
    outcomes = bulk_adapter_of(name).bulk_outcomes([SUBMISSION, replace(SUBMISSION, to="+447700900199")], response)
    if isinstance(expected, Accepted):  # one id says nothing of two messages
        assert [type(outcome) for outcome in outcomes] == [Unknown, Unknown]
    else:
        assert outcomes == [expected, expected]


@each_bulk
def test_submissions_that_cannot_share_a_call_are_refused(name: str) -> None:
    adapter, other = bulk_adapter_of(name), "+447700900199"
    cannot = [
        [],
        [SUBMISSION, SUBMISSION],
        [SUBMISSION, replace(SUBMISSION, to=other, text="Another text")],
        [SUBMISSION, replace(SUBMISSION, to=other, sender="Other")],
        [SUBMISSION, replace(SUBMISSION, to=other, traffic=Traffic.MARKETING)],
        [SUBMISSION, replace(SUBMISSION, to=other, validity_s=299)],
        [SUBMISSION, replace(SUBMISSION, to=other, callback_url=None)],
        [replace(SUBMISSION, to=f"+4477{number:08}") for number in range(adapter.capabilities.bulk_size + 1)],
    ]
    for submissions in cannot:
        with pytest.raises(ValueError, match="bulk") as refused:
            adapter.bulk_request(submissions, "bulk-key")
        assert "+44" not in str(refused.value)


@each_case
def test_an_adapter_has_a_bulk_when_it_says_so(name: str) -> None:
    assert (name in BULKS) == (adapter_of(name).capabilities.bulk_size > 1) == hasattr(adapter_of(name), "bulk_request")
