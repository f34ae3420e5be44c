"""The image store: SIF files that appear whole, are never overwritten, and are checked before they are used."""

from modelhub_hpc.images.image import Image
from modelhub_hpc.images.integrity import Inode, check, check_again, verify
from modelhub_hpc.images.signatures import admit
from modelhub_hpc.images.staging import stage
from modelhub_hpc.images.store import find
from modelhub_hpc.sif import CERTIFICATE

__all__ = ["CERTIFICATE", "Image", "Inode", "admit", "check", "check_again", "find", "stage", "verify"]
