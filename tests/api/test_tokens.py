"""Tokens of a real issuer over HTTP, beside API keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from service.api.tokens import IssuerKeys, Tokens
from service.app import create_app
from service.domain.keyring import key_hash
from service.environment import Environment
from service.errors import Problem
from service.http import Transport
from service.settings import Issuer
from service.targets import TargetPolicy
from tests.api.client import CONFIG, body, problem
from tests.gateway import make_key, migrated_database, open_gateway, serve

SUBJECT = "system:serviceaccount:shop:api"
AUDIENCE = "sms-gateway"


@dataclass
class _World:
    """An issuer: what it publishes, and whether it answers."""

    url: str = ""
    keys: dict[str, ec.EllipticCurvePrivateKey] = field(default_factory=dict)
    extra: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    discovered_issuer: str | None = None
    fetches: int = 0
    authorization: str | None = None

    def key(self, kid: str) -> ec.EllipticCurvePrivateKey:
        return self.keys.setdefault(kid, ec.generate_private_key(ec.SECP256R1()))

    def token(self, kid: str = "one", **claims: Any) -> str:
        """Signed by the key of that id; None takes a claim out."""
        whole = {"iss": self.url, "aud": [AUDIENCE, "others"], "sub": SUBJECT, "exp": time.time() + 600} | claims
        payload = {name: value for name, value in whole.items() if value is not None}
        return jwt.encode(payload, self.key(kid), algorithm="ES256", headers={"kid": kid})

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/.well-known/openid-configuration")
        async def discovery() -> dict[str, str]:
            return {"issuer": self.discovered_issuer or self.url, "jwks_uri": f"{self.url}/jwks"}

        @app.get("/jwks")
        async def jwks(request: Request) -> Response:
            self.fetches += 1
            self.authorization = request.headers.get("authorization")
            keys = [
                ECAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": kid, "use": "sig", "alg": "ES256"}
                for kid, key in self.keys.items()
            ]
            return JSONResponse({"keys": keys + self.extra}, self.status)

        return app

    def issuer(self, **settings: Any) -> Issuer:
        subjects = {SUBJECT: {"client": "shop", "scopes": ["send", "read"]}}
        return Issuer.model_validate({"issuer": self.url, "audience": AUDIENCE, "subjects": subjects} | settings)


@pytest.fixture
async def world() -> AsyncIterator[_World]:
    world = _World()
    world.key("one")
    async with serve(world.app()) as world.url:
        yield world


class _Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class _Checked:
    tokens: Tokens
    clock: _Clock

    async def __call__(self, token: str) -> tuple[str, set[str]]:
        bearer = await self.tokens.bearer(token, key_hash(token))
        return bearer.client, {str(scope) for scope in bearer.scopes}

    async def refusal(self, token: str) -> tuple[int, str]:
        with pytest.raises(Problem) as refused:
            await self(token)
        return refused.value.status, refused.value.code


async def _checking(world: _World, **settings: Any) -> AsyncIterator[_Checked]:
    transport, clock = Transport(TargetPolicy.trusting()), _Clock()
    keys = IssuerKeys(world.issuer(**settings), transport, clock=clock)
    yield _Checked(Tokens({world.url: keys}), clock)
    await transport.aclose()


@pytest.fixture
async def check(world: _World) -> AsyncIterator[_Checked]:
    async for checked in _checking(world):
        yield checked


async def test_a_token_says_which_client_calls_and_what_it_may(check: _Checked, world: _World) -> None:
    for token in (world.token(), world.token(), world.token(aud=AUDIENCE)):
        assert await check(token) == ("shop", {"send", "read"})
    assert world.fetches == 1


async def test_a_token_is_verified_once_and_ends_on_time(check: _Checked, world: _World) -> None:
    soon = world.token(exp=time.time() - 9)  # within the leeway of ten seconds
    assert await check(soon) == ("shop", {"send", "read"})
    assert await check(soon) == ("shop", {"send", "read"})
    assert await check.refusal(world.token(exp=time.time() - 11)) == (401, "unauthorized")


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "others"},
        {"aud": None},
        {"exp": 1_700_000_000},
        {"exp": None},
        {"nbf": 4_000_000_000},
        {"sub": None},
        {"iss": "https://elsewhere.example"},
        {"iss": None},
    ],
    ids=str,
)
async def test_a_token_that_is_not_for_here_and_now_is_refused(
    check: _Checked, world: _World, claims: dict[str, Any]
) -> None:
    assert await check.refusal(world.token(**claims)) == (401, "unauthorized")


async def test_an_unknown_subject_may_not_call(check: _Checked, world: _World) -> None:
    other = world.token(sub="system:serviceaccount:other:api")
    assert await check.refusal(other) == (403, "subject_unknown")


async def test_a_token_without_a_genuine_signature_is_refused(check: _Checked, world: _World) -> None:
    claims = {"iss": world.url, "aud": AUDIENCE, "sub": SUBJECT, "exp": time.time() + 600}
    public = world.key("one").public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    secret = "s" * 64
    world.extra.append(jwt.algorithms.HMACAlgorithm.to_jwk(secret, as_dict=True) | {"kid": "oct", "alg": "HS256"})
    head, _, signature = world.token().split(".")
    payload = world.token(sub="system:serviceaccount:shop:admin").split(".")[1]
    forged = [
        jwt.encode(claims, "", algorithm="none", headers={"kid": "one"}),
        jwt.encode(claims, secret, algorithm="HS256", headers={"kid": "oct"}),
        jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256", headers={"kid": "one"}),
        jwt.encode(claims, world.key("one"), algorithm="ES256"),
        f"{head}.{payload}.{signature}",
        _hs256_by(pem, claims),
        "eyJ.e30.x",
        "ey..",
    ]
    for token in forged:
        assert await check.refusal(token) == (401, "unauthorized"), token


def _hs256_by(public_pem: bytes, claims: dict[str, Any]) -> str:
    """HS256 with the public key for a secret, which the library itself does not sign with."""
    unsigned = jwt.encode(claims, "s" * 64, algorithm="HS256", headers={"kid": "one"}).rpartition(".")[0]
    algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    return f"{unsigned}.{jwt.utils.base64url_encode(algorithm.sign(unsigned.encode(), public_pem)).decode()}"


async def test_a_short_key_of_an_issuer_is_not_trusted(check: _Checked, world: _World) -> None:
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is the point
    world.extra.append(RSAAlgorithm.to_jwk(weak.public_key(), as_dict=True) | {"kid": "weak", "alg": "RS256"})
    claims = {"iss": world.url, "aud": AUDIENCE, "sub": SUBJECT, "exp": time.time() + 600}
    with pytest.warns(jwt.warnings.InsecureKeyLengthWarning):
        token = jwt.encode(claims, weak, algorithm="RS256", headers={"kid": "weak"})
    assert await check.refusal(token) == (401, "unauthorized")


async def test_a_new_key_of_the_issuer_is_fetched_at_a_bounded_rate(check: _Checked, world: _World) -> None:
    await check(world.token())
    rotated = world.token("two")
    assert await check.refusal(rotated) == (401, "unauthorized")
    assert await check.refusal(rotated) == (401, "unauthorized")
    assert world.fetches == 1
    check.clock.now_s += 10
    assert await check(rotated) == ("shop", {"send", "read"})
    assert world.fetches == 2


async def test_a_key_that_the_issuer_withdraws_is_forgotten(check: _Checked, world: _World) -> None:
    token = world.token()
    await check(token)
    del world.keys["one"]
    renewed = world.token("two")
    check.clock.now_s += 10
    await check(renewed)
    assert await check.refusal(token) == (401, "unauthorized")


async def test_known_keys_go_on_while_the_issuer_is_away(check: _Checked, world: _World) -> None:
    await check(world.token())
    world.status = 503
    check.clock.now_s += 3600
    assert await check(world.token(jti="2")) == ("shop", {"send", "read"})
    assert await check.refusal(world.token("two")) == (503, "issuer_unavailable")
    world.status = 200
    check.clock.now_s += 10
    assert await check(world.token("two")) == ("shop", {"send", "read"})


@pytest.mark.parametrize(
    ("settings", "known"), [({}, True), ({"audience": "another"}, True), ({"token_file": "/elsewhere"}, False)]
)
async def test_another_gateway_yaml_goes_on_with_keys_from_the_same_place(
    check: _Checked, world: _World, settings: dict[str, Any], known: bool
) -> None:
    await check(world.token())
    async for later in _checking(world, **settings):
        later.tokens.take_over(check.tokens)
        world.status = 503
        token = world.token(jti="2", aud=[AUDIENCE, "another"])
        if known:
            assert await later(token) == ("shop", {"send", "read"})
        else:
            assert await later.refusal(token) == (503, "issuer_unavailable")


@pytest.mark.parametrize("odd", [{"status": 404}, {"discovered_issuer": "https://elsewhere.example"}])
async def test_without_keys_nobody_can_be_told_apart(check: _Checked, world: _World, odd: dict[str, Any]) -> None:
    for name, value in odd.items():
        setattr(world, name, value)
    assert await check.refusal(world.token()) == (503, "issuer_unavailable")


async def test_keys_that_are_not_public_are_fetched_with_a_token(world: _World, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("own-token\n")
    async for check in _checking(world, jwks_url=f"{world.url}/jwks", token_file=file):
        assert await check(world.token()) == ("shop", {"send", "read"})
    assert world.authorization == "Bearer own-token"


async def test_verified_tokens_do_not_pile_up(check: _Checked, world: _World) -> None:
    tokens = [world.token(jti=str(number)) for number in range(3)]
    for token in tokens * 2:
        assert await check(token) == ("shop", {"send", "read"})


async def test_a_service_account_sends_without_any_api_key(postgres: str, template: str, world: _World) -> None:
    auth = f"""
auth:
  issuers:
    - issuer: {world.url}
      audience: {AUDIENCE}
      subjects:
        "{SUBJECT}": {{client: shop, scopes: [send]}}
        "system:serviceaccount:new:api": {{client: new, scopes: [send]}}
"""
    async with (
        migrated_database(postgres, template) as dsn,
        open_gateway(CONFIG + auth, dsn, Environment()) as runtime,
        serve(create_app(runtime)) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):

        async def send(bearer: str) -> httpx.Response:
            return await http.post("/v1/send", json=body(), headers={"Authorization": f"Bearer {bearer}"})

        key = await make_key(runtime, "send", "read")
        sent = await send(world.token())
        assert sent.status_code == 200
        headers = {"Authorization": f"Bearer {key}"}
        assert (await http.get(f"/v1/messages/{sent.json()['message_id']}", headers=headers)).status_code == 200
        lacking = await http.get("/v1/messages", headers={"Authorization": f"Bearer {world.token()}"})
        assert problem(lacking, 403).code == "scope_missing"
        newcomer = world.token(sub="system:serviceaccount:new:api")
        assert problem(await send(newcomer), 403).code == "client_unknown"
        await runtime.clients.ensure_client("new", b"sealed")
        assert (await send(newcomer)).status_code == 200
        refused = await send(world.token(aud="others"))
        assert problem(refused, 401).code == "unauthorized"
        assert refused.headers["www-authenticate"] == "Bearer"
        assert (await send(key)).status_code == 200
        async with asyncio.timeout(60):
            while (await runtime.clients.keys(UUID(int=0), 500))[0]["last_used_at"] is None:  # noqa: ASYNC110 - a table tells nobody
                await asyncio.sleep(0.01)
