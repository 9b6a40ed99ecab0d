"""A real Prometheus looks on while a real gateway works, and every query is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.observability.monitoring import panels, rules
from tests.observability.run import MAY_BE_ZERO, Answer, Run, a_run


@pytest.fixture(scope="module")
async def run(tmp_path_factory: pytest.TempPathFactory, cluster: Path) -> AsyncIterator[Run]:
    async with a_run(tmp_path_factory.mktemp("observability"), cluster) as one:
        yield one


@pytest.fixture(scope="module")
async def answers(run: Run) -> list[Answer]:
    """What every panel shows once all have something to show."""
    return await run.until_every_panel_has_data()


def test_every_panel_tells_of_what_happened(answers: list[Answer]) -> None:
    """A 0 would be no proof: nobody might count it."""
    assert [answer.panel for answer in answers] == panels()
    assert {answer.panel.title for answer in answers if answer.largest == 0} <= MAY_BE_ZERO
    assert all(answer.largest >= 0 for answer in answers)


async def test_every_rule_is_evaluated_without_an_error(run: Run, answers: list[Answer]) -> None:
    assert answers
    for rule in rules():
        await run.prometheus.query(rule.expr)
    health = {
        rule["name"]: (rule["health"], rule.get("lastError"))
        for group in (await run.prometheus.get("rules"))["groups"]
        for rule in group["rules"]
    }
    assert health == {rule.name: ("ok", None) for rule in rules()}


async def test_each_of_several_processes_counts_its_own_and_the_sum_is_right(run: Run, answers: list[Answer]) -> None:
    assert answers
    query = "sum by (instance) (sms_gateway_messages_accepted_total)"
    wanted = {address: len(ids) for address, ids in run.accepted.items()}
    assert all(wanted.values())
    seen: dict[str, float] = {}
    async with asyncio.timeout(60):
        while {address: seen.get(address) for address in wanted} != wanted:
            await asyncio.sleep(0.2)  # until the next scrape
            seen = {series.labels["instance"]: series.value for series in await run.prometheus.query(query)}
    assert await run.prometheus.number("sum(sms_gateway_messages_accepted_total)") == sum(wanted.values())


async def test_both_workers_report_the_whole_queue_and_the_rules_count_it_once(run: Run, answers: list[Answer]) -> None:
    assert answers
    assert len(await run.prometheus.query('sms_gateway_lane_due_messages{traffic="otp"}')) == len(run.stage.workers)
    assert len(await run.prometheus.query('sms_gateway:lane_due_messages:max{traffic="otp"}')) == 1


async def test_what_happened_is_seen(run: Run, answers: list[Answer]) -> None:
    assert answers
    happened = (
        "sms_gateway_failovers_total",
        'sms_gateway_webhook_deliveries_total{result="delivered"}',
        'sms_gateway_hlr_lookups_total{origin="live"}',
        'sms_gateway_hlr_lookups_total{origin="cache"}',
        'sms_gateway_callbacks_refused_total{reason="forged"}',
        'sms_gateway_receipts_total{status="undelivered"}',
        "sms_gateway_messages_replayed_total",
        "sms_gateway_messages_taken_over_total",
        'sms_gateway_messages_refused_total{code="overloaded"}',
        'sms_gateway_provider_standings_total{condition="failing"}',
        "sms_gateway_database_errors_total",
        "sms_gateway_worker_errors_total",
    )
    unseen = set(happened)
    async with asyncio.timeout(60):
        while unseen:
            await asyncio.sleep(0.2)  # until the next scrape
            for series in list(unseen):  # also what a process counted that was killed later
                if await run.prometheus.number(f"sum(max_over_time({series}[10m]))") > 0:
                    unseen.remove(series)
    roles = {series.labels["role"] for series in await run.prometheus.query("sms_gateway_build_info")}
    assert roles == {"serve", "worker"}


async def test_the_very_first_webhook_that_is_given_up_is_told(run: Run, answers: list[Answer]) -> None:
    """Its series was at 0 before, or else Prometheus would see no rise."""
    assert answers
    firing = 'ALERTS{alertname="SmsGatewayWebhooksDead", alertstate="firing"}'
    told = await run.prometheus.query(firing)
    assert told == []
    run.stage.listener.reply_status = 410
    await run.stage.send()
    async with asyncio.timeout(60):
        while not told:
            await asyncio.sleep(0.2)  # until the next evaluation
            told = await run.prometheus.query(firing)
    assert await run.prometheus.number('sum(sms_gateway_webhook_deliveries_total{result="dead"})') == 1
