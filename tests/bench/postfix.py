"""A private Postfix for comparison: own folders, own port on loopback, recipients discarded.

Tuned as its TUNING_README says for many clients and much mail: process limits up, no artificial delays, no per-client
limits, no name look-ups (there is no DNS here). Everything that makes it durable stays as Debian ships it.
"""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import socket
import subprocess
import time
from pathlib import Path

MAIN = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
mail_owner = postfix
setgid_group = postdrop
maillog_file = {folder}/maillog
maillog_file_prefixes = {folder}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = bench.test
mydestination =
local_recipient_maps =
relay_domains = demo.test
transport_maps = inline:{{ demo.test=discard: }}
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
disable_dns_lookups = yes
smtp_host_lookup = native
smtpd_peername_lookup = no
biff = no
default_process_limit = 200
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_client_message_rate_limit = 0
smtpd_client_event_limit_exceptions = 127.0.0.0/8
in_flow_delay = 0
qmgr_message_active_limit = 50000
qmgr_message_recipient_limit = 50000
default_destination_concurrency_limit = 50
discard_destination_concurrency_limit = 100
message_size_limit = 50000000
"""

MASTER = """
127.0.0.1:{port} inet n - n - - smtpd
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
tlsmgr    unix - - n 1000? 1 tlsmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
verify    unix - - n - 1 verify
proxymap  unix - - n - - proxymap
error     unix - - n - - error
retry     unix - - n - - error
discard   unix - - n - - discard
anvil     unix - - n - 1 anvil
scache    unix - - n - 1 scache
smtp      unix - - n - - smtp
postlog   unix-dgram n - n - 1 postlogd
pickup    unix n - n 60 1 pickup
"""


def missing() -> str:
    """Why Postfix cannot run here, or ""."""
    if os.geteuid() != 0:
        return "Postfix needs root"
    if not shutil.which("postfix", path="/usr/sbin:/sbin:/usr/bin:/bin"):
        return "Postfix is not installed (apt-get install postfix)"
    return ""


class Postfix:
    """Started on entry, stopped on exit. `port` takes mail for demo.test."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port

    def __enter__(self) -> Postfix:
        owner = pwd.getpwnam("postfix")
        for name in ("queue", "data", "etc"):
            (self.folder / name).mkdir(parents=True)
        os.chown(self.folder / "data", owner.pw_uid, grp.getgrnam("postfix").gr_gid)
        (self.folder / "etc" / "main.cf").write_text(MAIN.format(folder=self.folder))
        (self.folder / "etc" / "master.cf").write_text(MASTER.format(port=self.port))
        self._run("start")
        self.pid = int((self.folder / "queue" / "pid" / "master.pid").read_text())
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("Postfix does not answer: " + (self.folder / "maillog").read_text()[-2000:])

    def _run(self, verb: str) -> None:
        done = subprocess.run(
            ["/usr/sbin/postfix", "-c", str(self.folder / "etc"), verb], check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"postfix {verb}: {done.stderr}")

    def waiting(self) -> int:
        """Mails still in the queue."""
        return sum(
            len(files) for q in ("incoming", "active", "deferred") for *_, files in os.walk(self.folder / "queue" / q)
        )

    def __exit__(self, *_: object) -> None:
        self._run("stop")
