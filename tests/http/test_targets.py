from __future__ import annotations

import traceback
from ipaddress import ip_address, ip_network

import pytest

from service.errors import TargetRefused
from service.targets import TargetPolicy
from tests.http.raw_server import OK, names, opened, post, serving


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/relative",
        "//example.org/",
        "ftp://example.org/",
        "file:///etc/passwd",
        "http:///path",
        "http://.",
        "http://[::1",
        "http://example.org:0/",
        "http://example.org:99999/",
        "http://example.org:http/",
        "http://user:password@example.org/",
        "http://example.org\\@127.0.0.1/",
        "http://example .org/",
        "http://127%2e0%2e0%2e1/",
        "http://\uff11\uff12\uff17.0.0.1/",
        "http://127.0.0.1/",
        "http://127.8.8.8/",
        "http://127.0.0.1./",
        "http://127.1/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://2130706433/",
        "http://localhost/",
        "http://LOCALHOST./",
        "http://api.localhost/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[::127.0.0.1]/",
        "http://[64:ff9b::127.0.0.1]/",
        "http://[2002:7f00:1::]/",
        "http://[2001:0:4136:e378:8000:63bf:5601:5601]/",
        "http://0.0.0.0/",
        "http://[::]/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:169.254.169.254]/",
        "http://[fd00:ec2::254]/",
        "http://100.100.100.200/",
        "http://168.63.129.16/",
        "http://[fe80::1]/",
        "http://[fe80::1%25eth0]/",
        "http://224.0.0.1/",
        "http://[ff02::1]/",
        "http://255.255.255.255/",
        "http://240.0.0.1/",
    ],
)
def test_by_default_no_target_is_called_that_a_webhook_must_not_reach(url: str) -> None:
    with pytest.raises(TargetRefused):
        TargetPolicy().check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/hook?x=1",
        "http://example.org:8443/",
        "http://b\u00fccher.example/",
        "http://my_service.internal./hook",
        "http://93.184.216.34/",
        "http://[2606:2800:220:1::1]/",
        "http://[2002:5db8:d822::]/",
        "http://10.1.2.3/",
        "http://192.168.0.7:8080/",
        "http://[fd12::7]/",
    ],
)
def test_by_default_public_and_private_targets_are_called(url: str) -> None:
    TargetPolicy().check_url(url)


@pytest.mark.parametrize("url", ["http://xn--/hook", "http://xn--a/"])
def test_a_url_that_no_request_can_be_made_of_is_refused(url: str) -> None:
    with pytest.raises(TargetRefused, match="not a URL"):
        TargetPolicy().check_url(url)


def test_loopback_is_called_where_the_operator_allows_it() -> None:
    policy = TargetPolicy(allow_loopback=True)
    for url in ("http://127.0.0.1:9/", "http://localhost:9/", "http://[::1]:9/", "http://[::ffff:127.0.0.1]/"):
        policy.check_url(url)
    for url in ("http://0.0.0.0/", "http://169.254.169.254/", "http://127.1/"):
        with pytest.raises(TargetRefused):
            policy.check_url(url)


def test_private_networks_can_be_closed_as_a_whole_or_in_part() -> None:
    for policy in (
        TargetPolicy(allow_private=False),
        TargetPolicy(denied_networks=(ip_network("10.0.0.0/8"), ip_network("fd12::/16"))),
    ):
        for url in ("http://10.1.2.3/", "http://[::ffff:10.1.2.3]/", "http://[fd12::7]/"):
            with pytest.raises(TargetRefused):
                policy.check_url(url)
        policy.check_url("http://93.184.216.34/")


def test_the_operators_own_urls_may_lead_anywhere_but_must_be_urls() -> None:
    policy = TargetPolicy.trusting()
    policy.check_url("http://127.0.0.1:8081/")
    policy.check_url("http://localhost:8081/")
    assert policy.permits(ip_address("169.254.169.254"))
    for url in ("gopher://10.0.0.1/", "http://key@provider.example/"):
        with pytest.raises(TargetRefused):
            policy.check_url(url)


def test_a_refusal_says_nothing_of_the_url() -> None:
    for url in ("http://s3cret@example.org/", "http://127.0.0.1/?token=s3cret", "s3cret://x/", "http://s3cret:x/"):
        with pytest.raises(TargetRefused) as caught:
            TargetPolicy().check_url(url)
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))


async def test_a_literal_address_is_judged_before_it_is_dialled() -> None:
    async with serving(OK) as server, opened(TargetPolicy()) as transport:
        for host in ("127.0.0.1", "[::ffff:127.0.0.1]", "0x7f.1", "2130706433", "localhost"):
            with pytest.raises(TargetRefused):
                await transport.send(post(f"http://{host}:{server.port}"), timeout_s=5)
    assert server.connections == 0


async def test_a_name_that_leads_to_a_forbidden_address_is_not_dialled() -> None:
    async with serving(OK) as server, opened(TargetPolicy(), resolve=names(["127.0.0.1"])) as transport:
        url = f"http://hook.example:{server.port}/"
        TargetPolicy().check_url(url)
        with pytest.raises(TargetRefused):
            await transport.send(post(url), timeout_s=5)
    assert server.connections == 0


async def test_a_name_that_changes_its_address_between_check_and_call_gains_nothing() -> None:
    dns = names(["93.184.216.34"], ["127.0.0.1"])
    assert await dns("hook.example") == ["93.184.216.34"]
    async with serving(OK) as server, opened(TargetPolicy(), resolve=dns) as transport:
        with pytest.raises(TargetRefused):
            await transport.send(post(f"http://hook.example:{server.port}/"), timeout_s=5)
    assert server.connections == 0


async def test_of_several_addresses_only_the_permitted_ones_are_dialled() -> None:
    dns = names(["169.254.169.254", "127.0.0.1"])
    async with serving(OK) as server, opened(TargetPolicy(allow_loopback=True), resolve=dns) as transport:
        response = await transport.send(post(f"http://hook.example:{server.port}/"), timeout_s=5)
    assert response.content == b"ok"
