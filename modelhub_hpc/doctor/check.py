"""What a look at something gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing looked at. ok: None where it is not needed here, or could not be tried; mend: "" if all is well."""

    name: str
    ok: bool | None
    detail: str
    mend: str = ""

    def excused(self, why: str) -> Check:
        """The same where it does not count, such as for the "host runtime"."""
        return Check(self.name, None, f"{self.detail} (not needed: {why})")
