"""The doctor: what this machine can do for Quilt, what is lost without the rest, and how to get it.

`places` knows where set-up puts things. `machine` reads the machine; `checks` turn what it read into findings, without
I/O of their own, so that tests feed them any machine. `node_user` decides who the node process runs as.
`python -m runtime.doctor [--json]` prints the findings and exits 0 where the platform can run.
Nothing is changed or installed here: that is tools/setup.
"""

from runtime.doctor.node_user import NodeUser, node_user
from runtime.doctor.report import examine

__all__ = ["NodeUser", "examine", "node_user"]
