from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.ids import new_id
from service.domain.keyring import Keyring, key_hash

KEYRING = Keyring("k" * 32)
OTHER = Keyring("o" * 32)


@given(st.text())
def test_what_is_sealed_can_be_opened_with_the_same_secret_only(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    sealed = KEYRING.seal(text)
    assert Keyring("k" * 32).open(sealed) == text
    assert OTHER.open(sealed) is None
    assert sealed != text.encode()


def test_what_was_not_sealed_or_was_changed_is_not_opened() -> None:
    sealed = KEYRING.seal("secret")
    assert KEYRING.open(b"rubbish") is None
    assert KEYRING.open(sealed[:-4] + b"AAAA") is None


def test_a_body_hash_is_the_same_for_the_same_body_and_needs_the_secret() -> None:
    assert KEYRING.body_hmac(b"body") == Keyring("k" * 32).body_hmac(b"body")
    assert KEYRING.body_hmac(b"body") != KEYRING.body_hmac(b"Body")
    assert KEYRING.body_hmac(b"body") != OTHER.body_hmac(b"body")
    assert KEYRING.body_hmac(b"body") != hashlib.sha256(b"body").digest()


def test_a_token_names_its_attempt_in_35_characters_that_a_url_can_carry() -> None:
    attempt_id = new_id()
    token = KEYRING.attempt_token("primary", attempt_id)
    assert len(token) == 35
    assert token.replace("-", "").replace("_", "").isalnum()
    assert KEYRING.read_token("primary", token) == attempt_id


def test_an_accounts_token_names_no_attempt() -> None:
    token = KEYRING.account_token("primary")
    assert len(token) == 14
    assert KEYRING.read_token("primary", token) is None


@pytest.mark.parametrize(
    "token", [KEYRING.attempt_token("primary", new_id()), KEYRING.account_token("primary")], ids=["attempt", "account"]
)
def test_a_token_holds_for_its_account_and_its_secret_only(token: str) -> None:
    for keyring, account in ((KEYRING, "fallback"), (OTHER, "primary")):
        with pytest.raises(ValueError, match="not a token"):
            keyring.read_token(account, token)


def test_while_the_secret_is_changed_both_are_read_and_one_is_written() -> None:
    old, attempt_id = "o" * 32, new_id()
    for before, after in ((Keyring(old), Keyring("n" * 32, old)), (Keyring("n" * 32), Keyring(old, "n" * 32))):
        assert after.open(before.seal("whsec_x")) == "whsec_x"
        assert after.read_token("primary", before.attempt_token("primary", attempt_id)) == attempt_id
        assert after.read_token("primary", before.account_token("primary")) is None
        assert before.open(after.seal("whsec_x")) is None
        with pytest.raises(ValueError, match="not a token"):
            before.read_token("primary", after.attempt_token("primary", attempt_id))
        assert after.body_hmac(b"body") != before.body_hmac(b"body")


def test_no_changed_token_is_taken() -> None:
    raw = base64.urlsafe_b64decode(KEYRING.attempt_token("primary", new_id()) + "=")
    for position in range(len(raw)):
        changed = raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :]
        with pytest.raises(ValueError, match="not a token"):
            KEYRING.read_token("primary", base64.urlsafe_b64encode(changed).decode().rstrip("="))


@given(st.text(max_size=60))
def test_no_rubbish_is_taken_and_none_breaks(token: str) -> None:
    with pytest.raises(ValueError, match="not a token"):
        KEYRING.read_token("primary", token)


def test_an_api_key_is_kept_as_its_sha_256() -> None:
    assert key_hash("sk_x") == hashlib.sha256(b"sk_x").digest()
