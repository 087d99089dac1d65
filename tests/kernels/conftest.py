"""The kernels' tests run in Triton's interpreter where there is no GPU."""

import importlib.util

from tests.interpreter import hasten

if importlib.util.find_spec("triton"):
    hasten()
