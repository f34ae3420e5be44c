"""Stands in for the engine that published images hold. Whoever imports it got the image's instead of today's."""

from __future__ import print_function

print("old engine")
