"""Holders of leases: which process is meant, and whether it may still be at work.

A holder is `host:pid:start-time-of-the-process@system`. Names of hosts are no proof: containers that share their host's
name do not see each other's processes, and two machines may have the same name.
"""

import os
import socket
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

UNKNOWN = "?"
LEASES = "SELECT name, holder, expires FROM lease"


def _process_start(pid: int) -> str:
    """Start time of a process in clock ticks, '' if there is no such process, UNKNOWN if this system does not say."""
    if not Path("/proc/self/stat").exists():
        return UNKNOWN
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


@cache
def _system() -> str:
    """Where numbers of processes mean what they mean here: this boot of this machine, and its PID namespace; '' if
    unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())  # pid:[number]
        return f"{boot[:13]}-{namespace[5:-1]}"
    except OSError:
        return ""


def process_name() -> str:
    """This process: its host, its number, when it began and on which system."""
    pid = os.getpid()
    return f"{socket.gethostname()}:{pid}:{_process_start(pid)}@{_system()}"


def holder_name() -> str:
    """This thread of this process, as a lease holder."""
    return f"{process_name()}:{threading.get_ident()}"


def is_of_this_host(holder: str) -> bool:
    """Whether the holder is a process that this one would see, so that it is known whether it lives: nobody's is where
    a system does not say when its processes began."""
    host, _, start, *_ = [*holder.split(":"), "", ""]
    began, _, system = start.partition("@")  # none: an older version's, whose stores were of one host
    known = UNKNOWN not in (began, _process_start(os.getpid()))
    return known and host == socket.gethostname() and system in ("", _system())


def holder_is_dead(holder: str) -> bool:
    """True only when the holder ran on this system and its process has ended."""
    _, pid, start, *_ = [*holder.split(":"), "", "", ""]
    if not is_of_this_host(holder) or not pid.isdigit():
        return False
    return _process_start(int(pid)) != start.partition("@")[0]


def at_work(leases: Iterable[Any], now: float) -> set[str]:
    """Names of those of the leases (rows of `LEASES`) whose holder may be at work, for who deletes files or migrates. A
    process of this host is asked itself, whatever the clock says; of others the lease is believed until it ends."""
    return {
        str(row["name"])
        for row in leases
        if (not holder_is_dead(row["holder"]) if is_of_this_host(row["holder"]) else row["expires"] > now)
    }
