"""Who vouches for an image: PGP signatures inside the SIF, made and verified by Apptainer.

A signature covers all objects of the file, the certificate included, so it shows every change. Signing changes the
file; the signed one is therefore published as a new file, and the one without stays what it is.
"""

from __future__ import annotations

import dataclasses
import shutil

from modelhub_hpc import apptainer
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.digests import file_digest
from modelhub_hpc.errors import InvalidError, UsageError, shown
from modelhub_hpc.images import integrity, store
from modelhub_hpc.images.image import Image
from modelhub_hpc.runfolder import storage
from modelhub_hpc.sif import read


def admit(image: Image, site: SiteConfig) -> None:
    """What a driver asks of an image before a run: signed as the site wants it, and whole.

    Workers need not look for signatures again: the sha256 that they check is that of the file which was verified.
    Raises InvalidError, TryAgainError or UnfitError.
    """
    if site.require_signature:
        require_signature(image, site)
    integrity.check(image)
    store.mark_used(image, site)


def require_signature(image: Image, site: SiteConfig) -> None:
    """Raises InvalidError unless one of the site's keys signed the image, and every signature on it is valid."""
    found = apptainer.verify(image.path)
    if found.valid and set(found.signers) & set(site.require_signature):
        return
    claimed = [each or "a key that is not PGP" for each in read(image.path).signers]
    raise InvalidError(
        f"The image '{shown(image.name)}' ({shown(image.path)}) is not signed as this site requires.\n"
        f"signed by: {', '.join(found.signers or claimed) or 'nobody'}{_why_not(found)}\n"
        f"required:  {' or '.join(site.require_signature)}  (require_signature)\n"
        f"Ask who keeps one of these keys for a signed image:  mh-hpc images sign {shown(image.name)} --key FINGERPRINT"
    )


def sign(image: Image, key: str, site: SiteConfig) -> Image:
    """Publish a signed copy of the image in this user's store, which from now on is found by its name.

    key: fingerprint of a secret key of this user's Apptainer keyring, or its end. Apptainer asks for its passphrase
    on the terminal. Raises UsageError for an unknown key, InvalidError if the image is not whole or not signed.
    """
    fingerprint = _fingerprint(key)
    integrity.verify(image)
    if fingerprint in apptainer.verify(image.path).signers:
        return image
    with store.workspace(site, image.bytes) as folder:
        copy = folder / "image.sif"
        with storage(copy, image.bytes):
            shutil.copyfile(image.path, copy)
        apptainer.sign(copy, fingerprint)
        found = apptainer.verify(copy)
        if fingerprint not in found.signers:
            raise InvalidError(f"The signature of {shown(image.name)} does not verify: {found.reason}")
        made = dataclasses.replace(image, path=copy, sha256=file_digest(copy), bytes=copy.stat().st_size)
        return store.publish(made, store.certificate(image), site, origin=store.recorded(image).source)


def _fingerprint(key: str) -> str:
    wanted, keys = "".join(key.split()).upper().removeprefix("0X"), apptainer.secret_keys()
    found = [each for each in keys if wanted and each.endswith(wanted)]
    if len(found) == 1:
        return found[0]
    raise UsageError(
        f"{len(found)} secret keys of Apptainer have the fingerprint '{shown(key)}'.\n"
        f"There are: {', '.join(keys) or 'none'}\n"
        "Make one (apptainer key newpair) or import one (apptainer key import FILE)."
    )


def _why_not(found: apptainer.Signatures) -> str:
    return "" if found.valid or not found.reason else f" ({found.reason})"
