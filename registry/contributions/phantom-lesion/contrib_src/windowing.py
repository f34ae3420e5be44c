"""The window of grey values that the network looks at."""

import numpy

LOW, HIGH = -200.0, 250.0  # Hounsfield units


def windowed(hounsfield):
    """Return the window as -1 to 1, float32; what lies outside is cut."""
    values = numpy.asarray(hounsfield, numpy.float32).clip(LOW, HIGH)
    return ((values - LOW) * (2 / (HIGH - LOW)) - 1).astype(numpy.float32)
