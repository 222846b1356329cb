"""Holds deploy/compose.yaml, as podman-compose reads it, against what it promises.

Usage: check_compose.py --podman-compose DIR --programs DIR     DIR of the PyPI package; DIR of the installed programs
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys

import yaml

SOURCE = pathlib.Path(__file__).resolve().parents[2]


def read_compose(package):
    """compose.yaml with its variables filled in and its anchors resolved."""
    result = subprocess.run([sys.executable, "-m", "podman_compose", "-f", str(SOURCE / "deploy/compose.yaml"), "--profile", "load", "config"],
                            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONPATH": package},
                            capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"check_compose: {result.stderr}")
    return yaml.safe_load(result.stdout)


def check_confinement(name, service):
    assert service["read_only"] is True, name
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service and "privileged" not in service, name
    assert service["security_opt"] == ["no-new-privileges:true"], name
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), (name, port)


def check_volumes(name, service, named):
    for volume in service.get("volumes", []):
        source, _, options = volume.partition(":")
        if source in named:
            continue
        assert (SOURCE / "deploy" / source).exists(), (name, source)
        assert options.endswith(":ro"), (name, volume)


def check_flags(service, program):
    known = set(re.findall(r"--[a-z][a-z0-9-]*", subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout))
    used = [a.split("=")[0] for a in service["command"] if a.startswith("--")]
    assert used and set(used) <= known, (program, set(used) - known)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--podman-compose", required=True)
    parser.add_argument("--programs", required=True, type=pathlib.Path)
    args = parser.parse_args()
    compose = read_compose(args.podman_compose)
    services = compose["services"]
    assert set(services) == {"moed", "prometheus", "grafana", "load"}, list(services)
    for name, service in services.items():
        check_confinement(name, service)
        check_volumes(name, service, compose["volumes"])
    check_flags(services["moed"], args.programs / "moed")
    check_flags(services["load"], args.programs / "moed-load")
    # Prometheus finds the daemon under the name and port that it has here.
    scrape = yaml.safe_load((SOURCE / "deploy/observability/prometheus.yml").read_text())["scrape_configs"]
    assert "moed:9090" in [t for job in scrape for config in job["static_configs"] for t in config["targets"]]
    print(f"compose.yaml: {len(services)} services are confined, and find each other")


if __name__ == "__main__":
    main()
