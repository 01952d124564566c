"""The recipes: their shell parses, their YAML says what the programs expect, and the Slurm script stops and goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest

from genopt.cli import cli
from tests.processes import ROOT, log, write_study
from tests.studies import query


def get_command(name: str) -> click.Command:
    """The command of that name."""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


yaml = pytest.importorskip("yaml", reason="needs PyYAML")
RECIPES = ROOT / "studies" / "recipes"


def test_every_recipe_is_told_of() -> None:
    told = (RECIPES / "README.md").read_text(encoding="utf-8")
    files = {path.name for path in RECIPES.iterdir()} - {"README.md"}
    assert files == {"slurm.sbatch", "tmux.sh", "kubernetes.yaml", "compose.yaml"}
    assert all(f"`{name}`" in told for name in files)


@pytest.mark.parametrize("name", ["slurm.sbatch", "tmux.sh"])
def test_the_shell_parses(name: str) -> None:
    subprocess.run(["bash", "-n", str(RECIPES / name)], check=True)


def test_the_kubernetes_job_grants_grace_and_takes_the_password_from_a_secret() -> None:
    (job,) = yaml.safe_load_all((RECIPES / "kubernetes.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "what podFailurePolicy requires"
    assert pod["terminationGracePeriodSeconds"] >= 60
    (container,) = pod["containers"]
    (secret,) = container["env"]
    assert secret["name"] == "GENOPT_STORAGE" and set(secret["valueFrom"]) == {"secretKeyRef"}
    assert container["command"][:2] == ["genopt", "optimize"] and "://" not in json.dumps(job)
    assert "STORAGE" not in json.dumps(container["command"]), "everybody sees command lines"
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    actions = {rule["action"]: rule for rule in spec["podFailurePolicy"]["rules"]}
    assert actions["FailJob"]["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [2]}
    assert spec["completions"] == spec["parallelism"]


def test_compose_publishes_nothing_but_the_dashboard_on_this_machine() -> None:
    file = yaml.safe_load((RECIPES / "compose.yaml").read_text(encoding="utf-8"))
    services: dict[str, Any] = file["services"]
    assert set(services) == {"database", "worker", "dashboard"}
    assert {name: service.get("ports") for name, service in services.items() if service.get("ports")} == {
        "dashboard": ["127.0.0.1:8080:8080"]
    }
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        secrets = [value for value in service["environment"].values() if "POSTGRES_PASSWORD" in value]
        assert len(secrets) == 1 and "${POSTGRES_PASSWORD:?" in secrets[0], "no password stands in the file"
        assert "PASSWORD" not in json.dumps(service.get("command", [])), "everybody sees command lines"
    named = {volume.split(":")[0] for volume in services["database"]["volumes"]}
    assert named == set(file["volumes"])
    assert services["worker"]["restart"].startswith("on-failure") and services["worker"]["stop_grace_period"]


def test_every_command_of_the_recipes_is_one_that_genopt_has() -> None:
    (job,) = yaml.safe_load_all((RECIPES / "kubernetes.yaml").read_text(encoding="utf-8"))
    services = yaml.safe_load((RECIPES / "compose.yaml").read_text(encoding="utf-8"))["services"]
    told = [job["spec"]["template"]["spec"]["containers"][0], services["worker"], services["dashboard"]]
    for command in [each["command"] for each in told]:
        program, name, study, *options = command
        assert program == "genopt" and study == "study.toml"
        context = get_command(name).make_context(name, [study, *map(str, options)])
        assert context.params["study"] is not None


@pytest.mark.real
def test_kubernetes_takes_the_job() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed").validate
    (job,) = yaml.safe_load_all((RECIPES / "kubernetes.yaml").read_text(encoding="utf-8"))
    validate(job, "1.31", strict=True)
    job["spec"]["podFailurePolicy"]["rules"][0]["onExitCode"] = {}
    with pytest.raises(Exception, match="onExitCode"):
        validate(job, "1.31", strict=True)


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
def test_compose_reads_the_file_and_asks_for_the_password() -> None:
    command = ["docker-compose", "-f", str(RECIPES / "compose.yaml"), "config"]
    environment = {"PATH": os.environ["PATH"], "STUDY": "/study"}
    refused = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert refused.returncode != 0 and "set POSTGRES_PASSWORD" in refused.stderr
    read = subprocess.run(command, env=environment | {"POSTGRES_PASSWORD": "geheim"}, capture_output=True, text=True)
    assert read.returncode == 0, read.stderr
    services = yaml.safe_load(read.stdout)["services"]
    assert services["worker"]["environment"]["GENOPT_STORAGE"] == "postgresql://genopt:geheim@database/genopt"
    assert services["dashboard"]["environment"] == services["worker"]["environment"]


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_tmux_runs_two_workers_to_the_verdict_and_starts_one_again_that_is_killed(tmp_path: Path) -> None:
    write_study(tmp_path, rows=20, trials=4, delay=0.1)
    genopt = tmp_path / "genopt"
    genopt.write_text(f'#!/bin/sh\nexec {sys.executable} -m genopt "$@" --quiet >>{tmp_path}/out 2>>{tmp_path}/err\n')
    genopt.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TMUX")}
    environment |= {"TMUX_TMPDIR": str(tmp_path), "GENOPT": str(genopt), "PYTHONPATH": str(ROOT), "PAUSE": "0.1"}
    environment["GENOPT_STORAGE"] = f"sqlite:///{tmp_path}/shared.db"

    def tmux(*arguments: str) -> str:
        return subprocess.run(["tmux", *arguments], env=environment, capture_output=True, text=True).stdout

    begun = subprocess.run(
        ["bash", str(RECIPES / "tmux.sh"), "study.toml", "2"], cwd=tmp_path, env=environment, capture_output=True
    )
    try:
        assert begun.returncode == 0, begun.stderr
        assert tmux("list-windows", "-t", "genopt", "-F", "#W").split() == ["worker-0", "worker-1"]
        until = time.monotonic() + 90
        while len(log(tmp_path)) < 12 and time.monotonic() < until:
            time.sleep(0.05)
        shell = int(tmux("list-panes", "-t", "genopt:worker-0", "-F", "#{pane_pid}"))
        (worker,) = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        os.kill(int(worker), signal.SIGKILL)
        for window in ("worker-0", "worker-1"):
            while "ended: 0" not in tmux("capture-pane", "-p", "-t", f"genopt:{window}") and time.monotonic() < until:
                time.sleep(0.1)
            assert "ended: 0" in tmux("capture-pane", "-p", "-t", f"genopt:{window}"), (tmp_path / "err").read_text()
    finally:
        tmux("kill-server")
    assert query(tmp_path, "SELECT count(*) FROM trials WHERE state IN ('RUNNING', 'WAITING')", name="shared.db") == [
        (0,)
    ]
    workers = query(tmp_path, "SELECT count(*) FROM genopt_workers", name="shared.db")
    assert workers == [(3,)], "two, and one that was started again"


def test_the_slurm_script_stops_in_time_goes_back_into_the_queue_and_goes_on(tmp_path: Path) -> None:
    write_study(tmp_path, rows=24, trials=4, delay=0.15)
    bin = tmp_path / "bin"
    bin.mkdir()
    for name, lines in {
        "srun": 'exec "$@"',
        "scontrol": f'echo "$@" >>{tmp_path}/scontrol.log',
        "genopt": f'exec {sys.executable} -m genopt "$@"',
    }.items():
        (bin / name).write_text(f"#!/bin/sh\n{lines}\n")
        (bin / name).chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment |= {"PATH": f"{bin}:{environment['PATH']}", "PYTHONPATH": str(ROOT), "STUDY": "study.toml"}
    environment |= {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "6", "SLURM_ARRAY_TASK_ID": "2"}
    environment["GENOPT_STORAGE"] = f"sqlite:///{tmp_path}/shared.db"
    command = ["bash", str(RECIPES / "slurm.sbatch")]
    log = tmp_path / "log.jsonl"
    first = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while (not log.exists() or log.read_text().count("\n") < 24) and time.monotonic() < until:
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)  # as Slurm signals the batch shell alone
    out, _ = first.communicate(timeout=60)
    assert first.returncode == 75 and "back into the queue" in out
    assert (tmp_path / "scontrol.log").read_text() == "requeue 6_2\n"
    paid = query(tmp_path, "SELECT count(*) FROM genopt_generations", name="shared.db")[0][0]
    assert paid >= 8
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["verdict"] in ("improved", "not shown", "worse")
    assert (tmp_path / "scontrol.log").read_text() == "requeue 6_2\n", "what has its verdict is not queued again"
