"""Inputs and outputs as something to look at: slices, layers over them, outlines, charts, and files to take away.

Everything here is a pure function of files and arrays; who shows the result, and where, is another's concern.
"""

from __future__ import annotations

from modelhub_hpc.viewing.images import Image, Unviewable, read
from modelhub_hpc.viewing.layers import Layer, layers_of
from modelhub_hpc.viewing.poses import PLANES, Pose
from modelhub_hpc.viewing.views import View, view_of

__all__ = ["PLANES", "Image", "Layer", "Pose", "Unviewable", "View", "layers_of", "read", "view_of"]
