"""The name of an image in a container registry: [HOST[:PORT]/]REPOSITORY[:TAG][@sha256:DIGEST]."""

from __future__ import annotations

import re
from dataclasses import dataclass

from modelhub_hpc.errors import UsageError, shown

_NAME, _WORD = r"[A-Za-z0-9-]+", r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*"
# one word without a dot is a host only with a port, and localhost
_HOST = rf"(?:localhost|{_NAME}(?:\.{_NAME})+|{_NAME}(?=:)|\[[0-9A-Fa-f:.]+\])(?::\d{{1,5}})?"
_FORM = re.compile(
    rf"(?:(?P<host>{_HOST})/)?(?P<repository>{_WORD}(?:/{_WORD})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)


@dataclass(frozen=True)
class Reference:
    """host: "" for Docker Hub; digest: "" if the tag decides."""

    host: str
    repository: str
    tag: str
    digest: str

    @property
    def wanted(self) -> str:
        """What to ask for; a digest wins over a tag, which may have moved since."""
        return self.digest or self.tag

    @property
    def name(self) -> str:
        return f"{self.host}/{self.repository}" if self.host else self.repository

    def pinned(self, digest: str) -> str:
        return f"{self.name}{':' if self.tag else ''}{self.tag}@{digest}"

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"


def parse(text: str) -> Reference:
    """Raises UsageError for what is no such name."""
    match = _FORM.fullmatch(text)
    if not match:
        # user:password@host must not reach a log
        seen = "" if "@" in text.partition("/")[0] else f": {shown(text)}"
        raise UsageError(
            f"docker:// is not followed by the name of an image{seen}\n"
            "Write docker://[HOST[:PORT]/]REPOSITORY[:TAG][@sha256:DIGEST], the repository in lower case. "
            "Credentials do not belong there: log in with `apptainer registry login` or `docker login`."
        )
    tag = match["tag"] or ("" if match["digest"] else "latest")
    return Reference(match["host"] or "", match["repository"], tag, match["digest"] or "")
