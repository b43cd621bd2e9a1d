"""The version of the package, and where it lies."""

import os

__version__ = "0.1.0"
PACKAGE = os.path.dirname(__file__)
