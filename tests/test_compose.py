"""The server of docker-compose.yml: what it is not allowed to do."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).parents[1] / "docker-compose.yml"


@pytest.fixture(scope="module")
def server() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))["services"]["qdrant"]
    return found


def test_the_container_has_no_privileges_and_a_limit_of_memory(server: dict[str, Any]) -> None:
    assert server["cap_drop"] == ["ALL"]
    assert server["security_opt"] == ["no-new-privileges:true"]
    assert server["mem_limit"]
    assert server["read_only"] is True
    assert "privileged" not in server
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])


def test_what_the_server_writes_has_a_place_although_its_root_is_read_only(server: dict[str, Any]) -> None:
    places = [volume.split(":")[1] for volume in server["volumes"]] + server["tmpfs"]
    marker = Path(server["environment"]["QDRANT_INIT_FILE_PATH"])
    assert {"/qdrant/storage", "/qdrant/snapshots", "/tmp", str(marker.parent)} <= set(places)


@pytest.mark.parametrize(("key", "starts"), [("", False), ("x" * 15, False), ("x" * 16, True)])
def test_a_server_with_a_short_key_does_not_start(
    server: dict[str, Any], tmp_path: Path, key: str, starts: bool
) -> None:
    (tmp_path / "entrypoint.sh").write_text("#!/bin/bash\necho started\n")
    (tmp_path / "entrypoint.sh").chmod(0o755)
    command = [part.replace("$$", "$") for part in server["entrypoint"]]  # as compose reads it
    environment = {"QDRANT__SERVICE__API_KEY": key, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode == 0, "started" in done.stdout) == (starts, starts)
    if not starts:
        assert f"QDRANT_API_KEY has {len(key)} characters; expected at least 16" in done.stderr
