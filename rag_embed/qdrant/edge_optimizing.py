"""Building the search graph of a folder in a child process, which never outlives its parent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_OPTIMIZE = """
import os, sys
if sys.platform == "linux":  # to die with the parent; no thread could: the engine keeps Python's lock
    import ctypes, signal
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != int(sys.argv[2]):
        sys.exit("the parent ended")
import qdrant_edge
shard = qdrant_edge.EdgeShard.load(sys.argv[1])
shard.optimize()
shard.flush()
shard.close()
"""


def optimize_folder(shard: Path, parent: int) -> str | None:
    """Optimize the engine's files, which nobody may have open.

    Whatever interrupts the wait ends the child too. On Linux it also ends when this process is killed;
    elsewhere it would then go on to its end.

    Args:
        shard: The engine's folder.
        parent: Id of this process.

    Returns:
        None, or what the child said when it failed.
    """
    command = [sys.executable, "-c", _OPTIMIZE, str(shard), str(parent)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as child:
        try:
            said = child.communicate()[1]
        except BaseException:
            child.kill()
            raise
    return None if child.returncode == 0 else said.decode(errors="replace")[-500:].strip() or "killed"
