"""A slow line: the loopback device of a network namespace of our own, with one rate for all its connections together.

A token bucket (``tc``'s tbf) sends what is queued at its rate, headers included, whoever sent it: what one connection
leaves unused the others have. There is no delay but that of the queue. Needs Linux, iproute2, and root or the right to
make user namespaces; nothing of the machine is changed, and the namespace ends with the last process in it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.headline.machine import program

_OUTSIDE = "HEADLINE_OUTSIDE"
_BURST = "128kb"  # the largest packet of the loopback device, 64 KiB and headers, must fit
_QUEUE = "300ms"  # longer than the send buffers of four connections, so nothing is ever dropped


def enter() -> None:
    """Start this program again in a namespace of its own, unless that has been done."""
    if _inside():
        return
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    unshare = program("unshare", package="util-linux")
    os.environ[_OUTSIDE] = _namespace()
    os.execv(unshare, [unshare, "--net", *as_root, sys.executable, *sys.orig_argv[1:]])


def limit(bytes_per_second: float) -> None:
    """Bring the line up at this rate, or change its rate. Only after :func:`enter`."""
    assert _inside(), "this would limit the machine's own loopback device"
    ip, tc = (program(name, package="iproute2") for name in ("ip", "tc"))
    rate = f"{round(8 * bytes_per_second)}bit"
    subprocess.run([ip, "link", "set", "lo", "up"], check=True)
    shape = ["tbf", "rate", rate, "burst", _BURST, "latency", _QUEUE]
    subprocess.run([tc, "qdisc", "replace", "dev", "lo", "root", *shape], check=True)


def _inside() -> bool:
    return os.environ.get(_OUTSIDE, _namespace()) != _namespace()


def _namespace() -> str:
    return str(Path("/proc/self/ns/net").readlink())
