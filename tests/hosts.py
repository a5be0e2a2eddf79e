"""Several hosts on one machine: a network namespace for each, with a name, an address and a cable that can be pulled.

Where namespaces are refused (they take root and `ip`), hosts are addresses of the loopback device, and a host whose cable
is pulled is one whose processes are stopped. `Hosts.separate` says which it is.
"""

import os
import re
import shutil
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

from running import PATIENCE, launch, run

NETWORK = "10.213.77"
LOOPBACK = "127.77.0"
WHY = "hosts of their own take root and Debian's iproute2 and util-linux"


class Host:
    """A host: its name, its address, and what runs on it."""

    def __init__(self, name, number, hosts):
        self.name, self.hosts = name, hosts
        self.address = f"{NETWORK if hosts.separate else LOOPBACK}.{number}"
        self.folder = hosts.folder / name
        self.folder.mkdir()
        self.processes = []
        self._space, self._cable = f"gradsift-{os.getpid()}-{name}", f"gs{os.getpid() % 10**7}{number}"

    def plug_in(self, bridge):
        _ip("netns", "add", self._space)
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self._space)
        _ip("link", "set", self._cable, "master", bridge, "up")
        _ip("-n", self._space, "address", "add", f"{self.address}/24", "dev", "eth0")
        _ip("-n", self._space, "link", "set", "lo", "up")
        _ip("-n", self._space, "link", "set", "eth0", "up")

    def command(self, *words, user=None):
        """A command as it runs on this host."""
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
        if not self.hosts.separate:
            return [*as_user, *map(str, words)]
        own = 'hostname "$0"; mkdir -p /tmp/ray; mount --bind "$1" /tmp/ray; shift; exec "$@"'
        ray = self.folder / "ray"
        ray.mkdir(exist_ok=True)
        inside = ["unshare", "--uts", "--mount", "sh", "-c", own, self.name, str(ray)]
        return ["ip", "netns", "exec", self._space, *inside, *as_user, *map(str, words)]

    def start(self, *words, user=None, **variables):
        """Start a command here and go on; what it says goes to a file of the host."""
        name = f"{len(self.processes)}-{Path(str(words[0])).name}.log"
        with (self.folder / name).open("wb") as log:
            process = launch(
                self.command(*words, user=user), variables=variables, stdout=log, stderr=log, cwd=self.folder,
                start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def run(self, *words, code=0, **variables):
        """Run a command here to its end."""
        return run(self.command(*words), cwd=self.folder, code=code, **variables)

    def said(self):
        """What all commands that were started here have said."""
        return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')}" for path in self.folder.glob("*.log"))

    def wait_until_said(self, text):
        """Wait until a command that was started here has said something."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.said():
            assert time.monotonic() < deadline, self.said()
            assert any(process.poll() is None for process in self.processes), self.said()
            time.sleep(0.1)

    def cut_off(self):
        """Pull the cable: nobody hears of this host any more, and it hears of nobody."""
        if self.hosts.separate:
            _ip("link", "set", self._cable, "down")
        else:
            self._signal(signal.SIGSTOP)

    def plug_in_again(self):
        if self.hosts.separate:
            _ip("link", "set", self._cable, "up")
        else:
            self._signal(signal.SIGCONT)

    def _signal(self, number):
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, number)

    def end(self):
        """Kill all that was started here."""
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGKILL)
        for process in self.processes:
            process.wait(timeout=PATIENCE)

    def close(self):
        self.end()
        if self.hosts.separate:
            _ip("netns", "delete", self._space)  # the cable goes with it


class Hosts:
    """Hosts by name, `hosts["one"]`, on one network with the machine itself."""

    def __init__(self, folder, *names):
        self.folder, self._bridge = folder, f"gsb{os.getpid() % 10**7}"
        self.separate = _may_have_namespaces()
        if self.separate:
            _clear_away()
            _ip("link", "add", self._bridge, "type", "bridge")
            _ip("address", "add", f"{NETWORK}.1/24", "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
        self._hosts = {name: Host(name, number, self) for number, name in enumerate(names, 11)}
        for host in self._hosts.values():
            if self.separate:
                host.plug_in(self._bridge)

    def __getitem__(self, name):
        return self._hosts[name]

    def said(self):
        return "\n".join(f"#### {name}\n{host.said()}" for name, host in self._hosts.items())

    def close(self):
        for host in self._hosts.values():
            host.close()
        if self.separate:
            _ip("link", "delete", self._bridge)


def wait_for(address, port, process):
    """Wait until something listens there."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection((address, port), timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, "it has ended"
            assert time.monotonic() < deadline
            time.sleep(0.05)


def _ip(*words):
    return run(["ip", *words])


def _clear_away():
    """Take away the hosts and networks of test runs that were killed: with two bridges of one network nobody is
    reached."""
    for space, owner in re.findall(r"^(gradsift-(\d+)-\S+)", _ip("netns", "list").stdout, re.M):
        if not Path(f"/proc/{owner}").exists():
            for process in _ip("netns", "pids", space).stdout.split():
                with suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
            _ip("netns", "delete", space)
    for bridge, owner in re.findall(r"^(gsb(\d+))\b", _ip("-brief", "link", "show", "type", "bridge").stdout, re.M):
        if not Path(f"/proc/{owner}").exists():
            _ip("link", "delete", bridge)


def _may_have_namespaces():
    if os.getuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "setpriv"))):
        return False
    name = f"gradsift-{os.getpid()}-probe"
    if run(["ip", "netns", "add", name], code=None).returncode != 0:
        return False
    works = run(["ip", "netns", "exec", name, "unshare", "--uts", "--mount", "true"], code=None).returncode == 0
    _ip("netns", "delete", name)
    return works
