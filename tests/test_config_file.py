from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.config_file import BadConfig, Complaint, ConfigFile
from service.domain.message import Traffic
from service.errors import ConfigurationError

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
        ConfigFile.parse(text, {"KEY": "k"} if environ is None else environ)
    return raised.value.complaints


def test_a_good_file_has_its_variables_replaced_and_its_defaults_filled_in(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(GOOD)
    config = ConfigFile.load(path, {"KEY": "s3cret"}).config
    assert config.providers["primary"].api_key == "s3cret"
    assert config.senders["MyApp"].traffic is Traffic.TRANSACTIONAL
    assert (config.routes[0].providers, config.routes[0].hlr) == (("primary",), "cached")
    assert config.deliver.lanes[Traffic.OTP] == 512
    assert not config.webhooks.allow_loopback
    assert "s3cret" not in repr(config)


def test_everything_may_be_set() -> None:
    config = ConfigFile.parse(
        GOOD
        + """\
    traffic: otp
    countries: [US, GB, "NO"]
    on_unknown: hold
    hlr: required
    hlr_fail: closed
hlr: {provider: primary, budget_s: 0.5}
webhooks: {denied_networks: [10.0.0.0/8, "fd00::/8"]}
deliver: {lanes: {otp: 3}, otp_repeat_s: 2}
limits: {max_segments: 3}
""",
        {"KEY": "k"},
    ).config
    [route] = config.routes
    assert (route.traffic, route.countries, route.on_unknown) == (Traffic.OTP, ("US", "GB", "NO"), "hold")
    assert (route.hlr, route.hlr_fail, config.hlr.provider) == ("required", "closed", "primary")
    assert config.webhooks.denied_networks == (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    assert (config.deliver.lanes[Traffic.OTP], config.limits.max_segments) == (3, 3)


def test_a_missing_file_says_which_setting_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="SMS_GATEWAY_CONFIG"):
        ConfigFile.load(tmp_path / "gateway.yaml", {})


def test_a_variable_that_is_not_set_is_named_with_its_line() -> None:
    assert complaints(GOOD, {}) == [Complaint(2, "", "the variable KEY is not set")]


def test_a_variable_may_come_from_a_file_that_another_variable_names(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("s3cret\n")

    config = ConfigFile.parse(GOOD, {"KEY_FILE": str(path)}).config
    assert config.providers["primary"].api_key == "s3cret"
    config = ConfigFile.parse(GOOD, {"KEY_FILE": str(path), "KEY": "it goes first"}).config
    assert config.providers["primary"].api_key == "it goes first"


def test_the_file_of_a_variable_that_cannot_be_read_is_complained_of_in_its_line(tmp_path: Path) -> None:
    [complaint] = complaints(GOOD, {"KEY_FILE": str(tmp_path / "none")})
    assert str(complaint) == "line 2: KEY_FILE: the file cannot be read (No such file or directory)."


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
        (("providers: [primary]", "providers: [primary, primary]"), 6, "routes.0.providers", "named twice"),
        (
            ("providers: [primary]", "providers: [primary,\n  second]"),
            7,
            "routes.0.providers.1",
            "there is no 'second'",
        ),
        (("providers: [primary]", "providers: [primary]\n    hlr: required"), 7, "routes.0.hlr", "hlr.provider"),
        (("MyApp:", "MyApplication:"), 4, "senders.MyApplication", "is neither"),
        (("[primary]", "[primary]\n    countries:\n    - DE\n    - UK"), 9, "routes.0.countries.1", "is no country"),
        (("[primary]", "[primary]\n    countries: [Germany]"), 7, "routes.0.countries.0", "is no country"),
        (("[primary]", "[primary]\n    countries: [de]"), 7, "routes.0.countries.0", "is no country"),
        (("[primary]", "[primary]\n    countries: [[DE]]"), 7, "routes.0.countries.0", "is no country"),
        (("[primary]", "[primary]\n    countries: [NO]"), 7, "routes.0.countries.0", "in quotes"),
        (("[primary]", "[primary]\n    countries: []"), 7, "routes.0.countries", "at least 1 item"),
        ((', api_key: "${KEY}"}', ',\n    api_key: "${KEY}", mps: .inf}'), 3, "providers.primary.mps", "finite"),
        ((', api_key: "${KEY}"}', ', api_key: "${KEY}", mps: .nan}'), 2, "providers.primary.mps", "finite"),
        (
            (', api_key: "${KEY}"}', ', api_key: "${KEY}", mps: 100001}'),
            2,
            "providers.primary.mps",
            "less than or equal",
        ),
        ((', api_key: "${KEY}"}', ', api_key: "${KEY}", mps: 1.0e-9}'), 2, "providers.primary.mps", "greater than"),
        (("senders:", "limits:\n  idempotency_hours: 9000\nsenders:"), 4, "limits.idempotency_hours", "less than"),
        (("senders:", "retention:\n  rows_days: 3\nsenders:"), 4, "retention.rows_days", "must be longer than limits"),
        (("senders:", "retention:\n  text_hours: {otp: -1}\nsenders:"), 4, "retention.text_hours.otp", "greater than"),
        (("senders:", "hlr:\n  budget_s: 1.0e+300\nsenders:"), 4, "hlr.budget_s", "less than"),
        (("senders:", "deliver:\n  lanes:\n    otp: 1000000\nsenders:"), 5, "deliver.lanes.otp", "less than"),
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
    assert str(complaint) == "line 7: hlr.provider: there is no 'nobody' under providers"


def test_every_complaint_is_told_at_once_and_no_value_is_shown() -> None:
    text = GOOD.replace("MyApp: {traffic: transactional}", "MyApp: {traffic: s3cret}") + "deliver: {poll_s: -1}\n"
    with pytest.raises(BadConfig) as raised:
        ConfigFile.parse(text, {"KEY": "k"}, name="my.yaml")
    assert len(raised.value.complaints) == 2
    assert str(raised.value).startswith("my.yaml is not usable:\n  line ")
    assert "s3cret" not in str(raised.value)


def test_a_file_that_is_a_list_is_refused() -> None:
    assert complaints("- providers\n")[0].line == 1


def test_the_line_of_a_section_is_that_of_its_name() -> None:
    text = GOOD.replace(
        'primary: {adapter: smsroute, base_url: "https://api.example", api_key: "${KEY}"}',
        "primary:\n    adapter: smsroute",
    )
    assert {complaint.line for complaint in complaints(text)} == {2}


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a: 1\nb: \x07", 2, "the character U+0007"),
        ("a: 1\n? [a, b]\n: 2", 2, "name must be plain text"),
        ("a: 1\n? {a: b}\n: 2", 2, "name must be plain text"),
        ("a: 1\nb: !!python/object/apply:os.getcwd []", 2, "neither text nor a number"),
        ("a: 1\nb: !!python/name:os.getcwd", 2, "neither text nor a number"),
        ("a: 1\nb: !secret key", 2, "neither text nor a number"),
        ("a: 1\nb: 2026-01-01", 2, "put it in quotes"),
        ("a: &a [*a]", 1, "aliases"),
        ("a: &a {b: 1}\nc: *a", 2, "aliases"),
        ("a: &a {b: 1}\nc: {<<: *a}", 2, "neither text nor a number"),
        ("a:\n" + "[" * 30, 2, "nested too deeply"),
        ('a: 1\nb: "\\UFFFFFFFF"', 2, "number that is too large"),
        ('a: 1\nb: "\\ud800"', 2, "surrogate"),
        ("a: 1\nb: 0x_", 2, "no number"),
        ("a: 1\nb: !!int ''", 2, "no number"),
        ("a: 1\nb: !!bool maybe", 2, "no number"),
        ("a: 1\nb: " + "9" * 5000, 2, "no number"),
        ("a: 1\n--- b", 2, "not YAML"),
    ],
)
def test_yaml_that_is_no_configuration_is_told_with_its_line(text: str, line: int, what: str) -> None:
    [complaint] = complaints(text)
    assert complaint.line == line
    assert what in complaint.what


def test_a_file_that_is_not_utf_8_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_bytes(b"a: 1\nb: M\xfcller\n")
    with pytest.raises(BadConfig) as raised:
        ConfigFile.load(path, {})
    assert [(complaint.line, complaint.what[:9]) for complaint in raised.value.complaints] == [(2, "not UTF-8")]


PIECES = [
    *"[]{}:,?-&*!|>%#'\"\\\n\t ab\x85\ufeff",
    *("\n  ", ": ", "- ", "? ", "!!", "&a ", "*a ", "<<: ", "${KEY}", "0x_", "1:60", ".inf", '"\\U', '"\\x', "%YAML 9"),
    *("!!int ", "!!float ", "!!binary ", "!!set ", "!!timestamp ", "\n---\n", "providers: ", "routes: "),
]


@given(st.lists(st.sampled_from(PIECES) | st.characters(), max_size=30).map("".join))
@example("!!float ''")
def test_no_text_is_more_than_wrong(text: str) -> None:
    for found in complaints(text):
        assert 1 <= found.line <= text.count("\n") + text.count("\x85") + text.count("\r") + 2
        str(found).encode()


def _auth(issuer: str, *, audience: str = "gateway", scopes: str = "[send]", more: str = "") -> str:
    return GOOD + (
        "auth:\n  issuers:\n"
        f"    - {{issuer: '{issuer}', audience: '{audience}', {more}"
        f" subjects: {{'system:serviceaccount:shop:api': {{client: shop, scopes: {scopes}}}}}}}\n"
    )


@pytest.mark.parametrize(
    "issuer", ["https://cluster.example", "http://localhost:9/x", "http://[::1]", "http://127.0.0.1:8"]
)
def test_issuers_of_tokens_are_read(issuer: str) -> None:
    [read] = ConfigFile.parse(
        _auth(issuer, more="jwks_url: 'https://keys.example/jwks',"), {"KEY": "k"}
    ).config.auth.issuers
    assert (read.issuer, str(read.jwks_url)) == (issuer, "https://keys.example/jwks")
    assert read.subjects["system:serviceaccount:shop:api"].scopes == ("send",)


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        (_auth("http://cluster.example"), "auth.issuers.0.issuer", "must begin with https://"),
        (_auth("http://localhost:x@cluster.example"), "auth.issuers.0.issuer", "must begin with https://"),
        (_auth("cluster.example"), "auth.issuers.0.issuer", "must begin with https://"),
        (
            _auth("https://cluster.example", more="jwks_url: 'http://keys.example/jwks',"),
            "auth.issuers.0.jwks_url",
            "must begin with https://",
        ),
        (
            _auth("https://cluster.example", audience=""),
            "auth.issuers.0.audience",
            "String should have at least 1 character",
        ),
        (
            _auth("https://cluster.example", scopes="[]"),
            "auth.issuers.0.subjects.system:serviceaccount:shop:api.scopes",
            "Tuple should have at least 1 item after validation, not 0",
        ),
        (
            _auth("https://a.example") + _auth("https://a.example").splitlines(keepends=True)[-1],
            "auth.issuers",
            "an issuer is named twice",
        ),
    ],
)
def test_an_issuer_that_could_not_be_trusted_is_refused(text: str, where: str, what: str) -> None:
    [complaint] = complaints(text)
    assert (complaint.where, complaint.what) == (where, what)
