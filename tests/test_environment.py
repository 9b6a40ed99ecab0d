from __future__ import annotations

from pathlib import Path

import pytest

from service.environment import Environment, reachable
from service.errors import ConfigurationError


def test_without_variables_the_environment_has_its_defaults() -> None:
    environment = Environment.read({"PATH": "/bin", "PORT": "1"})
    assert environment == Environment()
    assert environment.base_url == "http://127.0.0.1:8080"


def test_variables_are_read_by_their_kind() -> None:
    environment = Environment.read(
        {
            "SMS_GATEWAY_PORT": "9090",
            "SMS_GATEWAY_CONNECTIONS": "5",
            "SMS_GATEWAY_DRAIN_S": "2.5",
            "SMS_GATEWAY_DATA_DIR": "/srv/data",
            "SMS_GATEWAY_CONFIG": "my.yaml",
            "SMS_GATEWAY_PUBLIC_URL": "https://sms.example/base/",
            "SMS_GATEWAY_SECRET_KEY": "x" * 32,
            "SMS_GATEWAY_LOG_LEVEL": "",
        }
    )
    assert (environment.port, environment.connections, environment.drain_s) == (9090, 5, 2.5)
    assert (environment.data_dir, environment.config) == (Path("/srv/data"), Path("my.yaml"))
    assert environment.base_url == "https://sms.example/base"
    assert environment.log_level == "INFO", "an empty variable is none"


def test_a_worker_does_everything_unless_it_is_told_what() -> None:
    assert Environment.read({}).work == ("otp", "transactional", "marketing", "webhooks")
    assert Environment.read({"SMS_GATEWAY_WORK": "webhooks, otp"}).work == ("otp", "webhooks")


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "dsn"
    file.write_text("postgresql://u:hunter2@h/d\n")
    environment = Environment.read({"SMS_GATEWAY_DATABASE_URL_FILE": str(file)})
    assert environment.database_url == "postgresql://u:hunter2@h/d"
    assert "hunter2" not in repr(environment)


def test_a_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(ConfigurationError, match="SMS_GATEWAY_SECRET_KEY_FILE"):
        Environment.read({"SMS_GATEWAY_SECRET_KEY_FILE": "/nowhere/key"})


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SMS_GATEWAY_PROT", "1", "is not a setting"),
        ("SMS_GATEWAY_READ", "1", "is not a setting"),
        ("SMS_GATEWAY_PORT", "http", "must be a number"),
        ("SMS_GATEWAY_CONNECTIONS", "2.5", "must be a number"),
        ("SMS_GATEWAY_DRAIN_S", "soon", "must be a number"),
        ("SMS_GATEWAY_PORT", "tcp://10.0.0.1:80", "enableServiceLinks"),
        ("SMS_GATEWAY_PORT", "0", "from 1 to 65535"),
        ("SMS_GATEWAY_PORT", "65536", "from 1 to 65535"),
        ("SMS_GATEWAY_CONNECTIONS", "1", "from 2 to 1000"),
        ("SMS_GATEWAY_CONNECTIONS", "-1", "from 2 to 1000"),
        ("SMS_GATEWAY_CONNECTIONS", "1" + "0" * 30, "from 2 to 1000"),
        ("SMS_GATEWAY_STATEMENT_CACHE", "-1", "from 0 to 10000"),
        ("SMS_GATEWAY_STATEMENT_CACHE", "all", "must be a number"),
        ("SMS_GATEWAY_DRAIN_S", "-0.1", "from 0 to 3600"),
        ("SMS_GATEWAY_DRAIN_S", "inf", "from 0 to 3600"),
        ("SMS_GATEWAY_DRAIN_S", "nan", "from 0 to 3600"),
        ("SMS_GATEWAY_WORK", "otp,texts", "otp, transactional, marketing, webhooks"),
        ("SMS_GATEWAY_WORK", "otp,", "otp, transactional, marketing, webhooks"),
        ("SMS_GATEWAY_PUBLIC_URL", "garbage", "https://sms.example.com"),
        ("SMS_GATEWAY_PUBLIC_URL", "sms.example", "https://sms.example.com"),
        ("SMS_GATEWAY_PUBLIC_URL", "https://", "https://sms.example.com"),
        ("SMS_GATEWAY_PUBLIC_URL", "https:///base", "https://sms.example.com"),
        ("SMS_GATEWAY_PUBLIC_URL", "ftp://sms.example", "https://sms.example.com"),
        ("SMS_GATEWAY_PUBLIC_URL", "https://sms.example?a=b", "https://sms.example.com"),
        ("SMS_GATEWAY_PUBLIC_URL", "https://sms.example/#top", "https://sms.example.com"),
        ("SMS_GATEWAY_PUBLIC_URL", "https://sms.example:port", "https://sms.example.com"),
        ("SMS_GATEWAY_PUBLIC_URL", "https://sms example", "https://sms.example.com"),
        ("SMS_GATEWAY_SECRET_KEY", "x" * 31, "32 characters"),
    ],
)
def test_a_wrong_variable_is_named_with_its_remedy(name: str, value: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}.*{says}"):
        Environment.read({name: value})


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"\xff" * 32)
    with pytest.raises(ConfigurationError, match=r"SMS_GATEWAY_SECRET_KEY_FILE.*UTF-8"):
        Environment.read({"SMS_GATEWAY_SECRET_KEY_FILE": str(file)})


@pytest.mark.parametrize(
    "url", ["http://10.0.0.7:8080", "https://sms.example.com/a-b/c", "http://[fd00::1]:80", "http://gw"]
)
def test_a_public_url_may_be_any_base_of_http(url: str) -> None:
    assert Environment.read({"SMS_GATEWAY_PUBLIC_URL": url}).base_url == url


@pytest.mark.parametrize("drain_s", ["0", "3600"])
def test_the_bounds_themselves_are_allowed(drain_s: str) -> None:
    assert Environment.read({"SMS_GATEWAY_DRAIN_S": drain_s}).drain_s == float(drain_s)


def test_what_kubernetes_injects_for_a_service_of_our_name_is_not_a_mistake() -> None:
    injected = {
        "SMS_GATEWAY_SERVICE_HOST": "10.0.0.1",
        "SMS_GATEWAY_SERVICE_PORT": "80",
        "SMS_GATEWAY_SERVICE_PORT_HTTP": "80",
        "SMS_GATEWAY_PORT_80_TCP": "tcp://10.0.0.1:80",
        "SMS_GATEWAY_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert Environment.read(injected) == Environment()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8080"),  # noqa: S104 - the case under test
        ("::", "http://[::1]:8080"),
        ("fd00::1", "http://[fd00::1]:8080"),
        ("sms.internal", "http://sms.internal:8080"),
    ],
)
def test_without_a_public_url_callbacks_come_to_the_address_that_is_served(host: str, url: str) -> None:
    assert Environment(host=host).base_url == url


@pytest.mark.parametrize(
    ("host", "shown"),
    [("sms.example", "sms.example"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("fd00::7", "[fd00::7]")],  # noqa: S104 - not bound
)
def test_a_host_is_shown_as_it_stands_in_a_url(host: str, shown: str) -> None:
    assert reachable(host) == shown
