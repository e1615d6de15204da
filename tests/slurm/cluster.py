"""A Slurm cluster of two nodes on this machine: real daemons, in a folder of their own, touching nothing else."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import psutil

NODES = ("n1", "n2")
CPUS = 32  # each node's in Slurm's books, whatever this machine has
GPUS = 4  # each node's, likewise
# Of a job in which the tests themselves may run, and of W&B's process for a test that trained in this one before.
_NOT_OURS = ("SLURM_", "SBATCH_", "WANDB_SERVICE")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")

# A requeued job waits for `cred_expire` seconds (120 by default) before it may start again.
_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=6
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,sched_min_interval=0,batch_sched_delay=0,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdTimeout=10
KillWait=20
ReturnToService=2
JobRequeue=1
MinJobAge=3600
MaxArraySize=1001
FirstJobId={first_job}
GresTypes=gpu
{nodes}
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=gpu Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


class SlurmCluster:
    """``slurmctld`` and a ``slurmd`` for each of :data:`NODES`, with ``munged``.

    Partition ``low`` is the default one, ``gpu`` is its like; a job in ``high`` preempts theirs, by requeue. Nodes have
    :data:`CPUS` processors and four GPUs, which exist in its books alone: a job that shall fill a node asks for them.

    Attributes:
        folder: configuration, state, spool and logs.
        env: the environment in which Slurm's commands find this cluster.
    """

    def __init__(self) -> None:
        # Not below pytest's folder: a path of a socket is at most 107 bytes long.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.folder.chmod(0o755)
        clean = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_OURS)}
        self.env = {**clean, "SLURM_CONF": str(self.folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> SlurmCluster:
        """Start the daemons; returns when all nodes take jobs."""
        for folder in ("state", *(f"spool/{name}" for name in NODES)):
            (self.folder / folder).mkdir(parents=True)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        host = socket.gethostname().split(".")[0]
        port, *ports = _free_ports(1 + len(NODES))
        nodes = (
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={its} CPUs={CPUS} "
            f"RealMemory=512000 Gres=gpu:{GPUS}"
            for name, its in zip(NODES, ports, strict=True)
        )
        for number in range(GPUS):
            (self.folder / f"gpu{number}").touch()
        (self.folder / "gres.conf").write_text(
            f"NodeName={','.join(NODES)} Name=gpu File={self.folder}/gpu[0-{GPUS - 1}]\n"
        )
        (self.folder / "slurm.conf").write_text(
            _CONF.format(
                host=host,
                port=port,
                user=psutil.Process().username(),
                folder=self.folder,
                nodes="\n".join(nodes),
                # Jobs of two clusters on one machine, whose ids give ports, shall not meet.
                first_job=1000 + secrets.randbelow(18000),
            )
        )
        self._start(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={self.folder}/munge.socket",
            f"--pid-file={self.folder}/munged.pid", f"--log-file={self.folder}/munged.log",
            f"--seed-file={self.folder}/munged.seed",
        )  # fmt: skip
        until(lambda: (self.folder / "munge.socket").exists(), "munged", self.logs)
        self._start("slurmctld", "-D")
        for name in NODES:
            self.start_slurmd(name)
        for name in NODES:
            self.wait_node(name, ["IDLE"])
        return self

    def stop(self) -> None:
        """End the daemons and whatever a job has left; removes the folder."""
        for name in ("slurmctld", *NODES, "munged"):
            daemon = self._daemons.pop(name, None)
            if daemon is not None:
                daemon.kill()
                daemon.wait()
        for process in self._of_jobs():
            _kill(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *command: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
        """Run a command that talks to this cluster; returns what it printed."""
        done = subprocess.run(
            command, cwd=cwd, env={**self.env, **(env or {})}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def sbatch(self, *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
        """Submit a job (or an array); returns its id."""
        return self.run("sbatch", "--parsable", *arguments, cwd=cwd, env=env).strip().split(";")[0]

    def jobs(self, job: str) -> list[dict[str, str]]:
        """What ``scontrol show job`` says of a job, an array or one of its tasks (``12_3``)."""
        lines = self.run("scontrol", "show", "job", "--oneliner", job).splitlines()
        return [_fields(line) for line in lines if line.startswith("JobId=")]

    def job(self, job: str) -> dict[str, str]:
        """What ``scontrol show job`` says of one job."""
        (fields,) = self.jobs(job)
        return fields

    def wait(self, job: str, states: Iterable[str], timeout: float = 180) -> dict[str, str]:
        """Wait until a job, or every task of an array, is in one of the states; returns the (first) job's fields.

        A job that has ended otherwise is an error at once, which shows the end of its log.
        """
        wanted = set(states)
        limit = time.monotonic() + timeout
        while True:
            jobs = self.jobs(job)
            if jobs and all(fields["JobState"] in wanted for fields in jobs):
                return jobs[0]
            lost = [fields for fields in jobs if fields["JobState"] in ENDED and fields["JobState"] not in wanted]
            if lost or time.monotonic() > limit:
                raise AssertionError(f"{job} is not in {sorted(wanted)}:\n" + "\n".join(map(_story, lost or jobs)))
            time.sleep(0.2)

    def requeue(self, job: str) -> None:
        """Have a job stopped and put back into the queue."""
        self.run("scontrol", "requeue", job)

    def signal(self, job: str, signum: signal.Signals) -> None:
        """Send a signal to the steps of a job (not to its script)."""
        self.run("scancel", f"--signal={signum.name.removeprefix('SIG')}", job)

    def cancel(self, job: str) -> None:
        """End a job."""
        self.run("scancel", job)

    def node(self, name: str) -> dict[str, str]:
        """What ``scontrol show node`` says of a node."""
        return _fields(self.run("scontrol", "show", "node", "--oneliner", name))

    def wait_node(self, name: str, states: Iterable[str]) -> None:
        """Wait until a node is in one of the states, without the flags behind it."""
        wanted = set(states)

        def there() -> bool:
            ended = [daemon for daemon, process in self._daemons.items() if process.poll() is not None]
            assert not ended, f"{ended} ended:\n{self.logs()}"
            return re.split(r"\W", self.node(name).get("State", ""))[0] in wanted

        until(there, f"{name} in {wanted}", self.logs)

    def start_slurmd(self, name: str) -> None:
        """Start a node's daemon."""
        self._start("slurmd", "-D", "-N", name, label=name)

    def kill_slurmd(self, name: str) -> None:
        """Let a node fail: nothing of it is left, and nobody is told."""
        daemon = self._daemons.pop(name)
        daemon.kill()
        daemon.wait()
        for process in self._of_jobs(name):
            _kill(process)

    def logs(self) -> str:
        """The end of every daemon's log."""
        return "\n".join(f"{path.name}:\n{_tail(path)}" for path in sorted(self.folder.glob("*.log")))

    def _start(self, *command: str, label: str | None = None) -> None:
        name = label or command[0]
        with (self.folder / f"{name}.stdout.log").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                [shutil.which(command[0], path=_PATH) or command[0], *command[1:]],
                env=self.env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

    def _of_jobs(self, node: str | None = None) -> list[psutil.Process]:
        """The processes of jobs and their keepers, on one node or on all; the keepers, which tell Slurm, first."""
        found = []
        for process in psutil.process_iter():
            try:
                keeper = process.name() == "slurmstepd"
                if keeper:  # it has written its title over its environment
                    logs = {Path(file.path) for file in process.open_files()}
                    its = next((name for name in NODES if self.folder / f"slurmd.{name}.log" in logs), None)
                else:
                    env = process.environ()
                    its = env.get("SLURMD_NODENAME") if env.get("SLURM_CONF") == self.env["SLURM_CONF"] else None
            except psutil.Error:
                continue
            if its is not None and node in (None, its):
                found.append((not keeper, process))
        return [process for _, process in sorted(found, key=lambda pair: pair[0])]


# Debian keeps daemons where a user's PATH need not lead.
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/sbin"])


def missing() -> list[str]:
    """The programs that a cluster needs and that are not installed here."""
    needed = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
    return [program for program in needed if shutil.which(program, path=_PATH) is None]


def until(true: Callable[[], object], what: str, story: Callable[[], str] = str, timeout: float = 90) -> None:
    """Wait until a call returns something true; else fail, with what a second call tells."""
    limit = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < limit, f"never came: {what}\n{story()}"
        time.sleep(0.1)


def _fields(line: str) -> dict[str, str]:
    return dict(re.findall(r"([A-Za-z][\w:/]*)=(\S*)", line))


def _story(fields: dict[str, str]) -> str:
    log = Path(fields.get("StdOut", ""))
    return f"{fields}\n{_tail(log) if log.is_file() else ''}"


def _tail(path: Path, lines: int = 60) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for its in sockets:
            its.bind(("127.0.0.1", 0))
        return [its.getsockname()[1] for its in sockets]
    finally:
        for its in sockets:
            its.close()
