"""What NNI's experiment manager is given, and what it leaves: address of its portal, trial command, processes.

NNI 3.0's manager listens on every interface (nni_node/rest_server/index.js: ``app.listen(port)``), has no password and
no setting for an address. Node itself can preload a file (``NODE_OPTIONS=--require``): ours lets the portal's port
listen on 127.0.0.1 alone, without a change to NNI. The port above it, on which trials on other machines report, stays.
"""

from __future__ import annotations

import copy
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from dcs_nas.config import Config, TuneConfig
from dcs_nas.errors import TrainingError
from dcs_nas.files import write_text
from dcs_nas.settings import to_yaml

TRIAL = "_trial"  # beside a trial's parameters: its number
_LOOPBACK = """\
const net = require('net');
const listen = net.Server.prototype.listen;
const port = Number(process.env.DCS_NAS_PORTAL);
net.Server.prototype.listen = function (first, ...rest) {
  return listen.call(this, first === port ? { port, host: '127.0.0.1' } : first, ...rest);
};
"""


def warning(tune: TuneConfig) -> str:
    """What a user has to know before the portal opens."""
    if tune.portal.everywhere:
        return (
            f"portal: port {tune.portal.port} on EVERY interface, without a password: whoever reaches it can see, "
            "change and stop the experiment; close the port in the firewall, or leave tune.portal.everywhere out"
        )
    service = (tune.training_service or {}).get("platform", "local")
    also = "" if service == "local" else f"; port {tune.portal.port + 1} is open to other machines for their trials"
    return (
        f"portal: http://127.0.0.1:{tune.portal.port}, this machine only, without a password: everyone logged in to it "
        f"can see, change and stop the experiment{also}"
    )


@contextmanager
def portal_environment(tune: TuneConfig, code: Path) -> Iterator[None]:
    """Within it, a manager that is started listens on 127.0.0.1, unless ``everywhere`` is set."""
    if tune.portal.everywhere:
        yield
        return
    script = code.parent / "loopback.js"
    write_text(script, _LOOPBACK)
    before = {name: os.environ.get(name) for name in ("NODE_OPTIONS", "DCS_NAS_PORTAL")}
    path = str(script.resolve()).replace("\\", "\\\\").replace('"', '\\"')
    os.environ["NODE_OPTIONS"] = f'{before["NODE_OPTIONS"] or ""} --require "{path}"'.strip()
    os.environ["DCS_NAS_PORTAL"] = str(tune.portal.port)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def require_address(experiment: Any, tune: TuneConfig) -> None:
    """Raises ``TrainingError`` where the portal listens on more than 127.0.0.1, though it should not."""
    if tune.portal.everywhere:
        return
    found = {
        c.laddr.ip
        for process in started_by(experiment)
        for c in process.net_connections(kind="inet")
        if c.status == psutil.CONN_LISTEN and c.laddr.port == tune.portal.port
    }
    if found != {"127.0.0.1"}:
        raise TrainingError(
            f"NNI's portal listens on {', '.join(sorted(found)) or 'no address'}, not on 127.0.0.1 alone, and was "
            "stopped; run without --portal"
        )


def started_by(experiment: Any) -> list[psutil.Process]:
    """The manager's process and all below it."""
    manager = getattr(experiment, "_proc", None)
    if manager is None:
        return []
    try:
        process = psutil.Process(manager.pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def end_all(processes: list[psutil.Process]) -> None:
    """End what is left of them."""
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            try:
                end(process)
            except psutil.NoSuchProcess:
                continue
        _, processes = psutil.wait_procs(processes, timeout=5)


def write_code(config: Config, folder: Path, genotype: Path | None) -> Path:
    """The folder that NNI hands to every trial: job.yaml with the section ``tune``, and the genotype."""
    code = folder / "nni" / "code"
    shutil.rmtree(code, ignore_errors=True)
    tune: TuneConfig = config.section("tune")
    job = config.model_copy(update={"tune": tune.model_copy(update={"training_service": None})})
    write_text(code / "job.yaml", to_yaml(job))
    if genotype is not None:
        write_text(code / "genotype.yaml", genotype.read_text(encoding="utf-8"))
    return code.resolve()


def training_service(tune: TuneConfig, folder: Path, code: Path) -> tuple[dict[str, Any], str]:
    """NNI's training service, local by default, and the command of a trial.

    On this machine a trial runs in the current folder, by this Python, and its run folder is in ``folder``; elsewhere
    it runs in NNI's copy of ``code``, by the machine's ``python3``. Roles of Kubernetes services have it as command.
    """
    service = copy.deepcopy({"platform": "local", **(tune.training_service or {})})
    if service["platform"] == "local":
        given = [] if not (code / "genotype.yaml").is_file() else ["--genotype", str(code / "genotype.yaml")]
        job = [str(code / "job.yaml"), "--as-trial", "--out", str(folder.resolve())]
        trial = shlex.join([sys.executable, "-m", "dcs_nas", "tune", *job, *given])
        return service, f"cd {shlex.quote(os.getcwd())} && {trial}"
    given = ["--genotype", "genotype.yaml"] if (code / "genotype.yaml").is_file() else []
    command = shlex.join(["python3", "-m", "dcs_nas", "tune", "job.yaml", "--as-trial", *given])
    roles = [service.get(name) for name in ("worker", "ps", "master")]
    for role in [*roles, *(service.get("taskRoles") or [])]:
        if isinstance(role, dict):
            role.setdefault("command", command)
            if service["platform"] == "kubeflow":
                role.setdefault("codeDirectory", str(code))
    return service, command
