"""How the code treats secrets, read from the code itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICE = sorted((ROOT / "service").rglob("*.py"))

SECRET_NAME = re.compile(
    r"secret|token(?!s)|signature|proof|password|credential|api_?key|hmac|digest|mac$", re.IGNORECASE
)


def _names(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, ast.Attribute):
            yield part.attr


def _compares_a_secret(node: ast.AST) -> bool:
    """`==`, `!=`, `in` with something called like a secret, where the other side is no constant and no bare length."""
    if not isinstance(node, ast.Compare):
        return False
    sides = [node.left, *node.comparators]
    if any(isinstance(side, ast.Constant | ast.Dict | ast.Set) or _is_length(side) for side in sides):
        return False
    if not any(isinstance(operator, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for operator in node.ops):
        return False
    return any(SECRET_NAME.search(name) for side in sides for name in _names(side))


def _is_length(side: ast.AST) -> bool:
    return isinstance(side, ast.Call) and isinstance(side.func, ast.Name) and side.func.id == "len"


# A look-up of a SHA-256 says nothing of the key; and `dev` compares what it made with what it made.
ALLOWED = {
    ("service/api/auth.py", "api_key.count('.') == _JWT_DOTS"),  # what the caller sent, not what is known
    ("service/cli/dev.py", "runtime.keyring.open(sealed) != secret"),
}


def _plain_comparisons(source: str) -> list[str]:
    return [ast.unparse(node) for node in ast.walk(ast.parse(source)) if _compares_a_secret(node)]


def test_secrets_are_compared_in_a_time_that_says_nothing() -> None:
    found = {
        (str(path.relative_to(ROOT)), comparison)
        for path in SERVICE
        for comparison in _plain_comparisons(path.read_text())
    }
    assert found == ALLOWED, "compare with hmac.compare_digest, or look a hash up"


@pytest.mark.parametrize(
    "bad",
    [
        "if token == expected: pass", "signature != self._proof(a)", "given in signatures", "x = a.api_key == b",
        "webhook_secret == f(x)",
    ],
)  # fmt: skip
def test_the_search_finds_plain_comparisons(bad: str) -> None:
    assert _plain_comparisons(bad)


@pytest.mark.parametrize(
    "good", ["hmac.compare_digest(a.token, b)", "token is None", "secret == ''", "len(secret) != len(token)", "a == b"]
)
def test_the_search_leaves_the_rest_alone(good: str) -> None:
    assert not _plain_comparisons(good)


def _imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return found | {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def test_what_chance_decides_is_never_a_secret() -> None:
    """`random` can be foretold. It is there for jitter, and in the simulator."""
    users = {str(path.relative_to(ROOT)) for path in SERVICE if "random" in _imports(path)}
    jitter = {f"service/pipeline/{name}.py" for name in ("notify", "pauses", "submit")}
    spread = {f"service/api/{name}.py" for name in ("admission", "intake")}
    assert users == jitter | spread | {"service/simulator/faults.py"}


def test_nothing_that_was_sent_can_become_code() -> None:
    dangerous = {"pickle", "marshal", "shelve", "dill", "xml", "xml.etree.ElementTree", "code", "codeop"}
    assert {path.name for path in SERVICE if _imports(path) & dangerous} == set()
    calls = {
        (path.name, node.func.id)
        for path in SERVICE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"eval", "exec", "compile"}
    }
    assert calls == set()


def test_every_exception_from_the_security_rules_has_its_reason() -> None:
    bare = [
        f"{path.name}: {line.strip()}"
        for folder in ("service", "scripts")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in path.read_text().splitlines()
        if re.search(r"noqa: [\w, ]*\bS\d{3}", line) and not re.search(r"noqa: [\w, ]+? - \S", line)
    ]
    assert bare == []


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-test.lock"])
def test_every_locked_package_is_pinned_and_hashed(lock: str) -> None:
    entries = re.split(r"\n(?=\S)", (ROOT / lock).read_text())
    packages = [entry for entry in entries if entry.strip() and not entry.startswith(("#", "--"))]
    assert len(packages) > 20
    assert [entry.split()[0] for entry in packages if not re.match(r"[\w.\[\],-]+==\S+", entry)] == []
    assert [entry.split()[0] for entry in packages if "--hash=sha256:" not in entry] == []
