"""The Dockerfile, read as far as it is ours: what its stages run, and how its image starts."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass

from tests.deploy.rendered import ROOT


@dataclass(frozen=True)
class Stage:
    """One stage: its instructions in order, each a keyword and the rest."""

    base: str
    instructions: list[tuple[str, str]]

    def all(self, keyword: str) -> list[str]:
        return [rest for word, rest in self.instructions if word == keyword]

    def last(self, keyword: str) -> str:
        return self.all(keyword)[-1]

    def command(self, keyword: str) -> list[str]:
        """An instruction in the exec form; of HEALTHCHECK, its command."""
        words: list[str] = json.loads(self.last(keyword)[self.last(keyword).index("[") :])
        return words

    def pairs(self, keyword: str) -> dict[str, str]:
        """What ENV or LABEL set."""
        words = [word for rest in self.all(keyword) for word in shlex.split(rest)]
        return {name: value for name, _, value in (word.partition("=") for word in words)}


def stages() -> list[Stage]:
    """All stages, in order."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: list[Stage] = []
    for line in text.replace("\\\n", " ").splitlines():
        keyword, _, rest = line.partition(" ")
        if keyword == "FROM":
            found.append(Stage(rest.partition(" AS ")[0], []))
        if line:
            found[-1].instructions.append((keyword, " ".join(rest.split("  "))))
    return found
