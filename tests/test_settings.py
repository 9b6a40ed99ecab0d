from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from service.domain.message import Traffic
from service.errors import ConfigurationError
from service.settings import BadConfig, Complaint, Environment, load_config, parse_config

GOOD = """\
providers:
  primary: {adapter: smsroute, base_url: "https://api.example", api_key: "${KEY}"}
senders:
  MyApp: {traffic: transactional}
routes:
  - providers: [primary]
"""


def complaints(text: str, environ: dict[str, str] | None = None) -> list[Complaint]:
    with pytest.raises(BadConfig) as raised:
        parse_config(text, {"KEY": "k"} if environ is None else environ)
    return raised.value.complaints


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
        ("SMS_GATEWAY_SECRET_KEY", "x" * 31, "32 characters"),
    ],
)
def test_a_wrong_variable_is_named_with_its_remedy(name: str, value: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}.*{says}"):
        Environment.read({name: value})


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


def test_a_good_file_has_its_variables_replaced_and_its_defaults_filled_in(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(GOOD)
    config = load_config(path, {"KEY": "s3cret"})
    assert config.providers["primary"].api_key == "s3cret"
    assert config.senders["MyApp"].traffic is Traffic.TRANSACTIONAL
    assert (config.routes[0].providers, config.routes[0].hlr) == (("primary",), "cached")
    assert config.deliver.lanes[Traffic.OTP] == 128
    assert not config.webhooks.allow_loopback
    assert "s3cret" not in repr(config)


def test_everything_may_be_set() -> None:
    config = parse_config(
        GOOD
        + """\
    traffic: otp
    countries: [US, GB]
    on_unknown: hold
    hlr: required
    hlr_fail: closed
hlr: {provider: primary, budget_s: 0.5}
webhooks: {denied_networks: [10.0.0.0/8, "fd00::/8"]}
deliver: {lanes: {otp: 3}, otp_repeat_s: 2}
limits: {max_segments: 3}
""",
        {"KEY": "k"},
    )
    [route] = config.routes
    assert (route.traffic, route.countries, route.on_unknown) == (Traffic.OTP, ("US", "GB"), "hold")
    assert (route.hlr, route.hlr_fail, config.hlr.provider) == ("required", "closed", "primary")
    assert config.webhooks.denied_networks == (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    assert (config.deliver.lanes[Traffic.OTP], config.limits.max_segments) == (3, 3)


def test_a_missing_file_says_which_setting_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="SMS_GATEWAY_CONFIG"):
        load_config(tmp_path / "gateway.yaml", {})


def test_a_variable_that_is_not_set_is_named_with_its_line() -> None:
    assert complaints(GOOD, {}) == [Complaint(2, "", "the variable KEY is not set")]


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_an_empty_file_is_said_to_be_empty(text: str) -> None:
    assert complaints(text) == [Complaint(1, "", "the file is empty")]


def test_what_is_not_yaml_is_said_with_its_line() -> None:
    [complaint] = complaints("providers:\n  - [1,\nsenders: {")
    assert complaint.what.startswith("not YAML")
    assert complaint.line >= 2


def test_an_unfinished_escape_is_not_yaml_either() -> None:
    [complaint] = complaints('providers: "\\q"')
    assert complaint.what.startswith("not YAML")


def test_a_key_given_twice_is_a_mistake() -> None:
    assert complaints(GOOD + "senders: {}\n") == [Complaint(7, "senders", "is given twice")]


@pytest.mark.parametrize(
    ("change", "line", "where", "what"),
    [
        (("api_key: ", "apikey: "), 2, "providers.primary.api_key", "Field required"),
        (("traffic: transactional", "traffic: sms"), 4, "senders.MyApp.traffic", "Input should be"),
        (("providers: [primary]", "providers: []"), 6, "routes.0.providers", "at least 1 item"),
        (("providers: [primary]", "providers: [primary, primary]"), 6, "routes.0", "named twice"),
        (("providers: [primary]", "providers: [second]"), 1, "", "routes[0] names the provider 'second'"),
        (("MyApp:", "MyApplication:"), 1, "", "sender 'MyApplication' is neither"),
        (("https://api.example", "api.example"), 2, "providers.primary.base_url", "valid URL"),
        (("primary: {", "Primary: {"), 2, "providers.Primary", "should match pattern"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_place(change: tuple[str, str], line: int, where: str, what: str) -> None:
    found = complaints(GOOD.replace(*change))
    first = next(complaint for complaint in found if what in complaint.what)
    assert first.line == line
    assert first.where.startswith(where)


def test_a_setting_that_does_not_exist_is_said_not_to() -> None:
    found = complaints(GOOD + "retries: 3\nlimits: {max_segment: 2}\n")
    assert sorted(str(complaint) for complaint in found) == [
        "line 7: retries: there is no such setting",
        "line 8: limits.max_segment: there is no such setting",
    ]


def test_a_look_up_account_must_exist() -> None:
    [complaint] = complaints(GOOD + "hlr: {provider: nobody}\n")
    assert "hlr.provider 'nobody'" in complaint.what


def test_every_complaint_is_told_at_once_and_no_value_is_shown() -> None:
    text = GOOD.replace("MyApp: {traffic: transactional}", "MyApp: {traffic: s3cret}") + "deliver: {poll_s: -1}\n"
    with pytest.raises(BadConfig) as raised:
        parse_config(text, {"KEY": "k"}, name="my.yaml")
    assert len(raised.value.complaints) == 2
    assert str(raised.value).startswith("my.yaml is not usable:\n  line ")
    assert "s3cret" not in str(raised.value)


def test_a_file_that_is_a_list_is_refused() -> None:
    assert complaints("- providers\n")[0].line == 1
