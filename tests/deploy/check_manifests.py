"""Renders deploy/kubernetes and holds the result against the schemas of Kubernetes and of the custom resources.

Usage: check_manifests.py --kubectl PROGRAM --schemas WHEEL --scratch DIR [--moed PROGRAM --moed-engine PROGRAM]
WHEEL is the package kubernetes-validate of PyPI, for the schemas in it; unknown fields are refused ("strict").
"""
import argparse
import copy
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import jsonschema
import yaml

SOURCE = pathlib.Path(__file__).resolve().parents[2]
KUBERNETES = SOURCE / "deploy/kubernetes"
OWN_SCHEMAS = {"LeaderWorkerSet": "leaderworkerset.json", "ServiceMonitor": "servicemonitor.json"}
VERSIONS = ["1.30.0", "1.37.0"]  # the oldest that knows preStop sleep without a feature gate, and a late one

# What the multi-node overlay needs; a build without them makes the rest of the overlay no less worth checking.
JOIN_FLAGS = {"--wait-for-ranks", "--join-listen", "--join-key-file", "--join"}

# What users are told to put together, beside the overlays alone: (name, overlay, components, patches).
COMBINATIONS = [
    ("cpu", "cpu", [], []),
    ("single-node-gpu", "single-node-gpu", [], []),
    ("multi-node", "multi-node", [], []),
    ("cpu-tls-autoscaling", "cpu", ["tls", "autoscaling"], []),
    ("single-node-gpu-tls-autoscaling", "single-node-gpu", ["tls", "autoscaling"], []),
    ("multi-node-tls-autoscaling", "multi-node", ["tls", "autoscaling"],
     [{"target": {"kind": "HorizontalPodAutoscaler", "name": "moed"},
       "patch": "- {op: replace, path: /spec/scaleTargetRef/apiVersion, value: leaderworkerset.x-k8s.io/v1}\n"
                "- {op: replace, path: /spec/scaleTargetRef/kind, value: LeaderWorkerSet}\n"}]),
]


class Schemas:
    """The JSON schemas of one version of Kubernetes, unknown fields refused, and our own of custom resources."""

    def __init__(self, wheel, version):
        self.folder = f"kubernetes_validate/kubernetes-json-schema/v{version}-local-strict/"
        self.wheel = wheel
        self.definitions = self._read("_definitions.json")

    def _read(self, name):
        schema = json.loads(self.wheel.read(self.folder + name))
        schema.pop("$id", None)  # references between the files are relative, and nothing is fetched
        return schema

    def _schema(self, resource):
        kind = resource["kind"]
        if kind in OWN_SCHEMAS:
            return json.loads((pathlib.Path(__file__).parent / "schemas" / OWN_SCHEMAS[kind]).read_text())
        group, _, version = resource["apiVersion"].rpartition("/")
        prefix = f"{group.split('.')[0]}-" if group else ""
        return self._read(f"{kind.lower()}-{prefix}{version}.json")

    def errors(self, resource):
        """Texts of what is wrong with a resource."""
        resolver = jsonschema.RefResolver("file:///api/schema.json", {},
                                          store={"file:///api/_definitions.json": self.definitions})
        validator = jsonschema.Draft202012Validator(self._schema(resource), resolver=resolver)
        return [f"{'.'.join(map(str, e.absolute_path))}: {e.message[:300]}" for e in validator.iter_errors(resource)]


def render(kubectl, folder):
    result = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"check_manifests: {folder}: {result.stderr}")
    if result.stderr:
        sys.exit(f"check_manifests: {folder}: rendering warns: {result.stderr}")
    return [r for r in yaml.safe_load_all(result.stdout) if r]


def render_combination(kubectl, scratch, combination):
    """Renders an overlay of our own on top, as a user would write it; kustomize wants relative paths."""
    name, overlay, components, patches = combination
    folder = scratch / name
    folder.mkdir(parents=True)
    relative = os.path.relpath(KUBERNETES, folder)
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "resources": [f"{relative}/overlays/{overlay}"],
        "components": [f"{relative}/components/{c}" for c in components], "patches": patches}))
    return render(kubectl, folder)


def pod_templates(resources):
    """(who, pod template) of every workload."""
    for r in resources:
        if r["kind"] == "Deployment":
            yield "deployment", r["spec"]["template"]
        if r["kind"] == "LeaderWorkerSet":
            yield "leader", r["spec"]["leaderWorkerTemplate"]["leaderTemplate"]
            yield "worker", r["spec"]["leaderWorkerTemplate"]["workerTemplate"]


def check_pod_security(who, template):
    """What every pod of ours promises, whatever its overlay."""
    spec = template["spec"]
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert spec["automountServiceAccountToken"] is False
    for container in spec["containers"]:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"], who
        assert security["capabilities"]["drop"] == ["ALL"], who
        assert set(security["capabilities"].get("add", [])) <= {"IPC_LOCK"}, who
        assert container["resources"]["limits"]["memory"], who
        for mount in container["volumeMounts"]:
            assert mount.get("readOnly") or mount["mountPath"] in ("/tmp", "/dev/shm"), (who, mount)


def check_drain(who, template, config):
    """The pod is killed only after whatever its own drain may take."""
    spec = template["spec"]
    before = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = config["drain_timeout_s"] + 16 if who != "worker" else 0
    assert spec["terminationGracePeriodSeconds"] >= before + drain, (who, before, drain)
    if who == "worker":
        assert before >= 5 + config["drain_timeout_s"], "engines leave before the leader has drained"


def check_references(resources, templates):
    """Every ConfigMap that a pod names is there, and every selector finds the pods it is meant for."""
    config_maps = {r["metadata"]["name"] for r in resources if r["kind"] == "ConfigMap"}
    for who, template in templates:
        for volume in template["spec"]["volumes"]:
            if "configMap" in volume:
                assert volume["configMap"]["name"] in config_maps, (who, volume, config_maps)
        names = {v["name"] for v in template["spec"]["volumes"]}
        for container in template["spec"]["containers"]:
            assert {m["name"] for m in container["volumeMounts"]} == names, (who, names)
    labels = [t["metadata"]["labels"] for _, t in templates]
    selectors = [r["spec"]["selector"] for r in resources if r["kind"] == "Service"]
    selectors += [r["spec"]["selector"]["matchLabels"] for r in resources if r["kind"] in ("Deployment", "PodDisruptionBudget")]
    selectors += [r["spec"]["podSelector"]["matchLabels"] for r in resources if r["kind"] == "NetworkPolicy"]
    for selector in selectors:
        assert selector and any(selector.items() <= own.items() for own in labels), (selector, labels)
    services = [r for r in resources if r["kind"] == "Service"]
    for monitor in (r["spec"] for r in resources if r["kind"] == "ServiceMonitor"):
        found = [s for s in services if monitor["selector"]["matchLabels"].items() <= s["metadata"]["labels"].items()]
        assert len(found) == 1 and {e["port"] for e in monitor["endpoints"]} <= {p["name"] for p in found[0]["spec"]["ports"]}
    for scaler in (r["spec"]["scaleTargetRef"] for r in resources if r["kind"] == "HorizontalPodAutoscaler"):
        assert any((r["apiVersion"], r["kind"], r["metadata"]["name"]) == (scaler["apiVersion"], scaler["kind"], scaler["name"])
                   for r in resources), scaler


def check_ports(templates):
    """Probes go to ports that there are, and never to the one that may speak TLS."""
    for who, template in templates:
        for container in template["spec"]["containers"]:
            ports = {p["name"] for p in container.get("ports", [])}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if who != "worker":
                    assert container[probe]["httpGet"]["port"] == "metrics" and "metrics" in ports, (who, probe)


def flags_of(program):
    text = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"--[a-z][a-z0-9-]*", text))


def check_flags(name, templates, config, programs):
    """Every key of moed.json and every flag is one that the programs have. Returns what was unknown."""
    unknown = []
    for who, template in templates:
        container = template["spec"]["containers"][0]
        known = programs["moed-engine" if who == "worker" else "moed"]
        flags = [a.split("=")[0] for a in container["args"] if a.startswith("--")]
        unknown += [f"{name}: {who}: {f}" for f in flags if f not in known and f.replace("--no-", "--") not in known]
    keys = ["--" + key.replace("_", "-") for key in config]
    return unknown + [f"{name}: moed.json: {k}" for k in keys if k not in programs["moed"]]


def check_combination(resources, schemas):
    for s in schemas:
        for r in resources:
            errors = s.errors(r)
            assert not errors, f"{r['kind']}/{r['metadata']['name']}: {errors}"
    templates = list(pod_templates(resources))
    assert templates, "no workload"
    config = json.loads(next(r for r in resources if r["kind"] == "ConfigMap")["data"]["moed.json"])
    for who, template in templates:
        check_pod_security(who, template)
        check_drain(who, template, config)
    check_references(resources, templates)
    check_ports(templates)
    return templates, config


def check_that_typos_are_refused(resources, schemas):
    """The schemas themselves: a misspelt field at each depth, a missing and a mistyped one are errors."""
    def damage(kind, change):
        resource = copy.deepcopy(next(r for r in resources if r["kind"] == kind))
        change(resource)
        assert schemas.errors(resource), f"a damaged {kind} passes"

    def leader(r):
        return r["spec"]["leaderWorkerTemplate"]["leaderTemplate"]["spec"]["containers"][0]

    damage("LeaderWorkerSet", lambda r: r["spec"].update(replica=1))
    damage("LeaderWorkerSet", lambda r: r["spec"]["leaderWorkerTemplate"].update(size="5"))
    damage("LeaderWorkerSet", lambda r: r["spec"]["leaderWorkerTemplate"].pop("workerTemplate"))
    damage("LeaderWorkerSet", lambda r: leader(r).update(volumeMount=[]))
    damage("LeaderWorkerSet", lambda r: leader(r)["readinessProbe"]["httpGet"].pop("port"))
    damage("LeaderWorkerSet", lambda r: r["spec"].update(startupPolicy="LeaderStarted"))
    damage("ServiceMonitor", lambda r: r["spec"]["endpoints"][0].update(intervall="5s"))
    damage("NetworkPolicy", lambda r: r["spec"].update(policyType=["Ingress"]))
    damage("PodDisruptionBudget", lambda r: r["spec"].update(maxUnavailabel=1))
    damage("Service", lambda r: r["spec"]["ports"][0].update(port="grpc"))


def main():
    parser = argparse.ArgumentParser()
    for name in ("kubectl", "schemas", "scratch"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--moed")
    parser.add_argument("--moed-engine")
    args = parser.parse_args()
    scratch = pathlib.Path(args.scratch).resolve()
    shutil.rmtree(scratch, ignore_errors=True)
    wheel = zipfile.ZipFile(args.schemas)
    schemas = [Schemas(wheel, v) for v in VERSIONS]
    programs = {"moed": flags_of(args.moed), "moed-engine": flags_of(args.moed_engine)} if args.moed else None
    unknown = []
    for combination in COMBINATIONS:
        resources = render_combination(args.kubectl, scratch, combination)
        templates, config = check_combination(resources, schemas)
        print(f"{combination[0]}: {len(resources)} resources are valid for Kubernetes {' and '.join(VERSIONS)}")
        if programs:
            unknown += check_flags(combination[0], templates, config, programs)
        if combination[0] == "multi-node":
            check_that_typos_are_refused(resources, schemas[-1])
            print("multi-node: ten kinds of damage are refused")
    not_yet = [u for u in unknown if u.rpartition(" ")[2] in JOIN_FLAGS]
    for u in not_yet:
        print(f"SKIPPED: {u}: this build cannot let engines join yet")
    unknown = [u for u in unknown if u not in not_yet]
    if unknown:
        sys.exit("check_manifests: settings that the programs do not have:\n  " + "\n  ".join(unknown))


if __name__ == "__main__":
    main()
