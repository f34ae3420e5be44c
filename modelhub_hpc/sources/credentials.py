"""Log in to a container registry with what Apptainer and Docker keep for it.

oras knows the forms of those files, their credential helpers and the two ways registries ask; what it logs is
silenced, since some of it would be wrong here and none of it is in our words.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, cast

import oras.auth  # type: ignore[import-untyped]
import oras.auth.utils  # type: ignore[import-untyped]
import oras.container  # type: ignore[import-untyped]
import oras.defaults  # type: ignore[import-untyped]
import oras.logger  # type: ignore[import-untyped]
import requests

from modelhub_hpc import config
from modelhub_hpc.errors import InvalidError, UsageError, shown

_HUB = oras.defaults.registry
DOCKER_HUB_HOST: str = _HUB.default_v2_registry["host"]
DOCKER_HUB_NAMES: tuple[str, ...] = (_HUB.index_name, _HUB.index_hostname)

oras.logger.logger.set_level(logging.CRITICAL + 1)


class Login:
    """Answers one registry's demands for credentials."""

    def __init__(self, host: str, session: requests.Session, https: bool) -> None:
        self._host = host
        self._session = session
        self._https = https
        self.source = ""  # where the credentials that were used come from; "" for none

    def answer(self, demand: requests.Response) -> str | None:
        """The Authorization header that a response with status 401 asks for; None without a way to get one.

        Raises InvalidError for a demand that cannot or must not be met, UsageError for a broken file of credentials,
        and what requests raises.
        """
        challenge = demand.headers.get("Www-Authenticate", "")
        basic = _asks_for_basic(challenge)
        if not basic:
            self._require_private(oras.auth.utils.parse_auth_header(challenge).realm)
        backend = oras.auth.get_auth_backend("basic" if basic else "token", self._session, not self._https)
        known = self._equip(backend)
        if basic and not known:
            return None
        try:
            headers, answered = backend.authenticate_request(demand, {})
        except (AttributeError, TypeError) as error:  # JSON of another form, which oras takes on trust
            raise InvalidError(f"What {self._host} has for a token is none.") from error
        return cast(str, headers["Authorization"]) if answered else None

    def _require_private(self, realm: str | None) -> None:
        if not realm or not realm.startswith("https://" if self._https else ("http://", "https://")):
            raise InvalidError(
                f"The registry {self._host} sends for a token to {shown(realm or 'nowhere')}, "
                "where a password would not be safe."
            )

    def _equip(self, backend: oras.auth.base.AuthBackend) -> bool:
        """Give the backend the first credentials there are for this registry; whether there are any."""
        found = config.logins()
        if found.username and found.password:
            backend.set_basic_auth(found.username, found.password)
            self.source = "APPTAINER_DOCKER_USERNAME and APPTAINER_DOCKER_PASSWORD"
            return True
        for path in found.files:
            if path.is_file() and self._load(backend, path):
                self.source = shown(path)
                return True
        return False

    def _load(self, backend: oras.auth.base.AuthBackend, path: Path) -> bool:
        content = _read(path)
        for key in self._keys():
            backend._auth_config = content
            try:
                backend.load_configs(oras.container.Container("repository", registry=key))
            except (OSError, ValueError, KeyError) as error:
                reason = f"the credential helper of {shown(path)} gave no answer that can be used"
                raise InvalidError(f"No login to {self._host}: {reason} ({type(error).__name__}).") from None
            if getattr(backend, "_basic_auth", None):
                return True
        return False

    def _keys(self) -> tuple[str, ...]:
        """The names under which a login may be kept."""
        if self._host == DOCKER_HUB_HOST:
            return _HUB.index_server, *DOCKER_HUB_NAMES, DOCKER_HUB_HOST
        return self._host, f"https://{self._host}", f"http://{self._host}"


def _asks_for_basic(challenge: str) -> bool:
    scheme = challenge.split(" ")[0].lower()
    if scheme not in ("basic", "bearer"):
        raise InvalidError(
            f"The registry asks for a login of a kind that mh-hpc has not: {shown(scheme) or 'unnamed'}"
        )
    return scheme == "basic"


def _read(path: Path) -> dict[str, Any]:
    """A file of credentials in the form that oras has once it has read it."""
    try:
        content = json.loads(path.read_bytes())
        auths, helpers = content.get("auths") or {}, content.get("credHelpers") or {}
        tables = {str(host): dict(entry or {}) for host, entry in auths.items()}
        return {"auths": tables, "credHelpers": dict(helpers), "credsStore": content.get("credsStore")}
    except OSError as error:
        raise UsageError(f"{shown(path)} cannot be read: {error.strerror}") from error
    except (ValueError, AttributeError, TypeError):
        # without the reason, which may quote the content
        raise UsageError(f"{shown(path)} does not have the form of a file of registry logins.") from None
