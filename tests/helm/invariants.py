"""What holds in every rendering of the chart, whatever the values. Each check yields what is wrong."""
import re

from chart import at, pod_of

RECOMMENDED = ("name", "instance", "component", "part-of", "version", "managed-by")


def every(kinds, objects):
    return [entry for entry in objects if entry["kind"] in kinds]


def label(entry):
    return f"{entry['kind']}/{entry['metadata']['name']}"


def pods(objects):
    return [(entry, pod_of(entry)) for entry in objects if pod_of(entry)]


def containers(pod):
    return pod["spec"].get("initContainers", []) + pod["spec"]["containers"]


def chosen(selector, pod):
    wanted = selector.get("matchLabels", {})
    return all(pod["metadata"]["labels"].get(key) == value for key, value in wanted.items())


def objects_are_labelled_named_and_placed(objects, _):
    seen = set()
    for entry in objects:
        metadata = entry["metadata"]
        for word in RECOMMENDED:
            if f"app.kubernetes.io/{word}" not in metadata["labels"]:
                yield f"{label(entry)} has no label app.kubernetes.io/{word}"
        if len(metadata["name"]) > 63 or not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", metadata["name"]):
            yield f"{label(entry)} is no name that Kubernetes takes"
        if metadata.get("namespace") != "space":
            yield f"{label(entry)} does not state its namespace"
        if label(entry) in seen:
            yield f"{label(entry)} is there twice"
        seen.add(label(entry))


def nothing_is_left_of_the_templates(objects, text):
    for number, line in enumerate(text.splitlines()):
        if "<no value>" in line or "<nil>" in line or "%!" in line:
            yield f"line {number}: {line.strip()}"


def nobody_talks_to_the_api(objects, _):
    for entry in every({"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}, objects):
        yield f"{label(entry)} is there"
    for entry in every({"ServiceAccount"}, objects):
        if entry["automountServiceAccountToken"]:
            yield f"{label(entry)} mounts a token"


def pods_fit_the_restricted_level(objects, text):
    for entry, pod in pods(objects):
        spec = pod["spec"]
        if spec.get("hostNetwork") or at(spec, "containers/worker/securityContext/capabilities/add") == ["IPC_LOCK"]:
            continue  # what a value set with podSecurity: privileged asked for
        context = spec["securityContext"]
        if context.get("runAsNonRoot") is not True or context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{label(entry)}: the pod may be root or has no seccomp profile"
        for container in containers(pod):
            own = container.get("securityContext", {})
            wanted = own.get("allowPrivilegeEscalation") is False and own.get("readOnlyRootFilesystem") is True
            if not wanted or own.get("capabilities", {}).get("drop") != ["ALL"]:
                yield f"{label(entry)}: container {container['name']} is not restricted"


def containers_are_bounded(objects, _):
    for entry, pod in pods(objects):
        if pod["spec"].get("enableServiceLinks") is not False:
            yield f"{label(entry)}: service links would set DIPTYCH_* variables"
        for container in pod["spec"]["containers"]:
            resources = container.get("resources", {})
            if "memory" not in resources.get("limits", {}) or "cpu" not in resources.get("requests", {}):
                yield f"{label(entry)}: container {container['name']} has no CPU request or memory limit"
            if re.search(r":latest$|^[^:@]+$", container["image"]):
                yield f"{label(entry)}: {container['image']} names no version"


def volumes_match_their_mounts(objects, _):
    for entry, pod in pods(objects):
        claims = [claim["metadata"]["name"] for claim in entry["spec"].get("volumeClaimTemplates", [])]
        there = [volume["name"] for volume in pod["spec"].get("volumes", [])] + claims
        if len(set(there)) != len(there):
            yield f"{label(entry)}: two volumes of one name in {there}"
        for container in containers(pod):
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in there:
                    yield f"{label(entry)}: no volume {mount['name']}"


def references_lead_somewhere(objects, _):
    there = {label(entry) for entry in objects}
    for entry, pod in pods(objects):
        spec = pod["spec"]
        account = spec["serviceAccountName"]
        if account.startswith("d-") and f"ServiceAccount/{account}" not in there:
            yield f"{label(entry)}: no ServiceAccount {account}"
        for container in spec["containers"]:
            for source in container.get("envFrom", []):
                name = source.get("configMapRef", {}).get("name")
                if name and name.startswith("d-") and f"ConfigMap/{name}" not in there:
                    yield f"{label(entry)}: no ConfigMap {name}"
            names = [variable["name"] for variable in container.get("env", [])]
            if len(set(names)) != len(names):
                yield f"{label(entry)}: a variable twice in {names}"
        service = entry["spec"].get("serviceName")
        if service and f"Service/{service}" not in there:
            yield f"{label(entry)}: no Service {service}"


def selectors_find_pods(objects, _):
    all_pods = [pod for _, pod in pods(objects)]
    for entry, pod in pods(objects):
        selector = entry["spec"].get("selector")
        if selector and not chosen(selector, pod):
            yield f"{label(entry)} does not select its own pods"
        if selector and any("version" in key or "chart" in key for key in selector["matchLabels"]):
            yield f"{label(entry)}: its selector would change with the version"
    for entry in every({"Service"}, objects):
        wanted = {"matchLabels": entry["spec"]["selector"]}
        found = [pod for pod in all_pods if chosen(wanted, pod)]
        ports = {port.get("name") for pod in found for c in pod["spec"]["containers"] for port in c.get("ports", [])}
        for port in entry["spec"]["ports"]:
            if port["targetPort"] not in ports:
                yield f"{label(entry)}: no pod has a port {port['targetPort']}"
    for entry in every({"PodDisruptionBudget", "PodMonitor"}, objects):
        if not any(chosen(entry["spec"]["selector"], pod) for pod in all_pods):
            yield f"{label(entry)} selects nothing"
    for entry in every({"ServiceMonitor"}, objects):
        services = [s for s in every({"Service"}, objects)
                    if all(s["metadata"]["labels"].get(k) == v for k, v in entry["spec"]["selector"]["matchLabels"].items())]
        ports = [port["name"] for service in services for port in service["spec"]["ports"]]
        if ports.count("metrics") != 1:
            yield f"{label(entry)} finds {ports.count('metrics')} ports called metrics"


def policies_match_pods_and_ports(objects, _):
    policies = every({"NetworkPolicy"}, objects)
    all_pods = [pod for _, pod in pods(objects)]
    for entry in policies:
        found = [pod for pod in all_pods if chosen(entry["spec"]["podSelector"], pod)]
        ports = {port["name"] for pod in found for c in pod["spec"]["containers"] for port in c.get("ports", [])}
        for rule in entry["spec"].get("ingress", []):
            for port in rule["ports"]:
                if isinstance(port["port"], str) and port["port"] not in ports:
                    yield f"{label(entry)}: no selected pod has a port {port['port']}"
            if not rule.get("from"):
                yield f"{label(entry)}: a rule lets everybody in"
    if policies:
        deny = [p for p in policies if not p["spec"].get("ingress") and not p["spec"].get("egress")]
        for entry, pod in pods(objects):
            if not any(chosen(policy["spec"]["podSelector"], pod) for policy in deny):
                yield f"{label(entry)} stands outside the default-deny policy"


def workers_outlive_their_grace(objects, _):
    for entry, pod in pods(objects):
        if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "worker":
            config = next(o for o in objects if o["kind"] == "ConfigMap" and o["metadata"]["name"] == entry["metadata"]["name"])
            grace = int(config["data"]["DIPTYCH_GRACE"].rstrip("s"))
            if pod["spec"]["terminationGracePeriodSeconds"] < grace + 15:
                yield f"{label(entry)} is killed before its grace of {grace} s is over"


ALL = [objects_are_labelled_named_and_placed, nothing_is_left_of_the_templates, nobody_talks_to_the_api,
       pods_fit_the_restricted_level, containers_are_bounded, volumes_match_their_mounts, references_lead_somewhere,
       selectors_find_pods, policies_match_pods_and_ports, workers_outlive_their_grace]
