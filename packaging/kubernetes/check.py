"""Requires of the built Kubernetes manifests what the appliance promises: `check.py BUILT.yaml`.

kubectl has built them already, so they are well-formed; here is checked what no schema knows: that nothing runs as root
or writes, that the probes ask the right questions, and that the configuration names only paths that are mounted.
"""

import re
import sys
import tomllib

import yaml


def main(path):
    with open(path, encoding="utf-8") as file:
        objects = {entry["kind"]: entry for entry in yaml.safe_load_all(file)}
    assert sorted(objects) == ["ConfigMap", "Deployment", "NetworkPolicy", "Service"], sorted(objects)
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    config = tomllib.loads(objects["ConfigMap"]["data"]["ampoule.toml"])

    check_rights(pod, container)
    assert config["sandbox"]["required"] is True, "a pod would serve outside its sandbox"
    check_probes(container)
    check_paths(pod, container, config, objects["ConfigMap"]["metadata"]["name"])
    check_network(objects)
    phases = config["readiness_grace_seconds"] + config["drain_deadline_seconds"]
    assert phases < pod["terminationGracePeriodSeconds"], "the pod is killed before it has drained"
    print(f"{len(objects)} manifests: no root, nothing writable, no capability, no egress, probes and paths agree")


def check_rights(pod, container):
    assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True and context["runAsUser"] > 0 and context["runAsGroup"] > 0, context
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}, context
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }, container["securityContext"]


def check_probes(container):
    for probe, path in [("startupProbe", "/readyz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]:
        asked = container[probe]["httpGet"]
        assert asked == {"path": path, "port": "https", "scheme": "HTTPS"}, (probe, asked)


def check_paths(pod, container, config, config_map):
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert mounts.keys() == volumes.keys(), "each volume is mounted"
    assert all(mount["readOnly"] is True for mount in mounts.values()), "nothing is writable"
    # The generator's digest is in the name, so that a change of the configuration restarts the pods.
    assert re.fullmatch(r"ampoule-config-[a-z0-9]{10}", config_map), config_map
    assert volumes["config"]["configMap"]["name"] == config_map
    for secret in ("keys", "tls"):
        assert volumes[secret]["secret"]["defaultMode"] == 0o440, "the runtime refuses a key that others may read"
    named = [config["store"], config["trust_root"], config["keys_file"], *config["tls"].values()]
    for path in named:
        inside = [mount["mountPath"] for mount in mounts.values() if f"{path}/".startswith(mount["mountPath"] + "/")]
        assert len(inside) == 1, f"{path} is on no mount"


def check_network(objects):
    ports = {port["name"]: port["containerPort"] for port in containers(objects)[0]["ports"]}
    config = tomllib.loads(objects["ConfigMap"]["data"]["ampoule.toml"])
    assert config["listen"].endswith(f":{ports['https']}") and config["metrics_listen"].endswith(f":{ports['metrics']}")
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert objects["Service"]["spec"]["selector"].items() <= labels.items(), "the service finds the pods"
    policy = objects["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items(), "the policy finds the pods"
    assert policy["policyTypes"] == ["Ingress", "Egress"] and policy.get("egress", []) == [], "there is no egress"


def containers(objects):
    return objects["Deployment"]["spec"]["template"]["spec"]["containers"]


main(sys.argv[1])
