"""Ray in these tests stays on the loopback address, in whatever order they run: this is read when it is imported."""

import os

from hubstore.extraction.cluster import ENVIRONMENT

os.environ |= {
    **ENVIRONMENT,
    "OMP_NUM_THREADS": "1",  # of the nodes' processes, which inherit it
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # as on macOS and Windows, where Ray listens on that address alone
}
