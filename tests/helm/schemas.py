"""Strict schema checks: built-in objects by Kubernetes' own schemas, custom ones by those in schemas/."""
import functools
import importlib.resources
import json

import jsonschema
import referencing

from chart import HERE, pod_of

MINORS = ["1.29", "1.31", "1.33", "1.35"]


@functools.lru_cache(maxsize=None)
def _definitions(minor):
    folder = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{minor}.0-local-strict"
    return folder, referencing.Resource.from_contents(json.loads((folder / "_definitions.json").read_text()))


@functools.lru_cache(maxsize=None)
def _built_in(minor, kind, version):
    folder, definitions = _definitions(minor)
    group, _, number = version.rpartition("/")
    short = f"{group.split('.')[0]}-{number}" if group else number
    file = folder / f"{kind.lower()}-{short}.json"
    if not file.is_file():
        return None
    schema = json.loads(file.read_text())
    registry = definitions @ (referencing.Resource.from_contents(schema) @ referencing.Registry())
    return jsonschema.Draft202012Validator(schema, registry=registry)


@functools.lru_cache(maxsize=None)
def _custom(kind):
    file = HERE / "schemas" / f"{kind.lower()}.json"
    if not file.is_file():
        return None
    schema = json.loads(file.read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def _problems(validator, entry):
    for error in validator.iter_errors(entry):
        path = ".".join(str(step) for step in error.absolute_path)
        yield f"{entry['kind']}/{entry['metadata']['name']}: {path}: {error.message[:300]}"


def problems(entry, minor):
    """What a server of that minor would refuse in an object."""
    validator = _built_in(minor, entry["kind"], entry["apiVersion"])
    if validator:
        yield from _problems(validator, entry)
        return
    validator = _custom(entry["kind"])
    if not validator:
        yield f"{entry['kind']} {entry['apiVersion']}: Kubernetes {minor} does not know it, and schemas/ has no schema of it"
        return
    yield from _problems(validator, entry)
    pod = pod_of(entry)
    if pod:
        template = {"apiVersion": "v1", "kind": "Pod", "metadata": {**pod["metadata"], "name": entry["metadata"]["name"]},
                    "spec": pod["spec"]}
        yield from _problems(_built_in(minor, "Pod", "v1"), template)
