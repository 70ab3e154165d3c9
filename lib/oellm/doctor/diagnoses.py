"""What a check has found: one line of oe-doctor's output (schema.json, table `check`)."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from oellm.core.display import one_line
from oellm.core.redaction import redact
from oellm.core.text_enum import TextEnum

# What to do about an error that says itself what is wrong.
MEND_THAT = "mend that, then run oe-doctor again"


class Health(TextEnum):
    """What a finding means for a run."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


class Diagnosis(NamedTuple):
    """What a check has found.

    Attributes:
        check: The name of what was checked, such as a setting.
        verdict: What it means for a run.
        text: What is there, or what is wrong.
        remedy: What to do about it; empty if nothing.
        host: The machine on which it was found.
    """

    check: str
    verdict: Health
    text: str
    remedy: str = ""
    host: str = ""

    def values(self, columns: Sequence[str]) -> list[str]:
        """Return the values of columns of the output."""
        known = {**self._asdict(), "status": str(self.verdict)}
        return [known[column] for column in columns]

    def to_json(self) -> list[str]:
        """Return what `from_json` reads."""
        return list(map(str, self))

    @classmethod
    def from_json(cls, content: Any) -> Diagnosis:
        """Read what another process has found; raises ValueError or TypeError for other things."""
        check, verdict, text, remedy, host = content
        return cls(str(check), Health(verdict), str(text), remedy=str(remedy), host=str(host))

    def cleaned(self) -> Diagnosis:
        """Return this finding with its texts on one line each, and without secrets."""
        text, remedy = (redact(one_line(part)) for part in (self.text, self.remedy))
        return self._replace(text=text, remedy=remedy)


def found_ok(check: str, text: str) -> Diagnosis:
    """Return the finding that something is as it should be on this machine."""
    return Diagnosis(check, Health.OK, text, host=socket.gethostname())


def found_doubtful(check: str, text: str, remedy: str) -> Diagnosis:
    """Return the finding that something on this machine may cost a run time or results."""
    return Diagnosis(check, Health.WARNING, text, remedy=remedy, host=socket.gethostname())


def found_wrong(check: str, text: str, remedy: str) -> Diagnosis:
    """Return the finding that runs fail because of something on this machine."""
    return Diagnosis(check, Health.WRONG, text, remedy=remedy, host=socket.gethostname())


def count_verdicts(findings: Iterable[Diagnosis]) -> Mapping[Health, int]:
    """Return how many findings have each verdict."""
    verdicts = [finding.verdict for finding in findings]
    return {verdict: verdicts.count(verdict) for verdict in Health}
