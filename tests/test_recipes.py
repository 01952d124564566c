"""The recipes: their shell parses, their YAML says what the programs expect, and the Slurm script stops and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ROOT, write_study
from tests.studies import query

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
    assert "$GENOPT_STORAGE" in container["command"][-1] and "://" not in json.dumps(job)
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
        password = service["environment"]["POSTGRES_PASSWORD"]
        assert password.startswith("${POSTGRES_PASSWORD:?"), "no password stands in the file"
    named = {volume.split(":")[0] for volume in services["database"]["volumes"]}
    assert named == set(file["volumes"])
    assert services["worker"]["restart"].startswith("on-failure") and services["worker"]["stop_grace_period"]


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
