"""Renders the chart, and finds things in what comes out."""
import functools
import json
import pathlib
import shutil
import subprocess
import tempfile

import yaml

HERE = pathlib.Path(__file__).resolve().parent
CHART = HERE.parent.parent / "deploy" / "helm" / "diptych"
RELEASE, NAMESPACE = "d", "space"
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Refused(Exception):
    """helm said no."""


def helm(*arguments, values, chosen=None):
    """Runs helm with a value set (a name in values/) and values over it."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as over:
        json.dump(chosen or {}, over)
        over.flush()
        files = ["-f", str(HERE / "values" / f"{values}.yaml")] if values else []
        command = ["helm", *arguments, *files, "-f", over.name]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Refused(done.stderr + done.stdout)
    return done.stdout


@functools.lru_cache(maxsize=None)
def _rendered(values, chosen, release):
    return helm("template", release, str(CHART), "--namespace", NAMESPACE, "--kube-version", "1.33",
                values=values, chosen=json.loads(chosen))


def text(values, chosen=None, release=RELEASE):
    """The rendering as text."""
    return _rendered(values, json.dumps(chosen or {}), release)


def render(values, chosen=None, release=RELEASE):
    """The rendered objects."""
    return [entry for entry in yaml.load_all(text(values, chosen, release), Loader=Loader) if entry]


NOTES = """kind: Notes
metadata: { name: notes }
text: |
  {{- include (print .Template.BasePath "/NOTES.txt") . | nindent 2 }}
"""


def notes(values, chosen=None):
    """What helm tells after an installation: `helm template` leaves it out, so a copy of the chart prints it as an object."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = pathlib.Path(scratch) / "diptych"
        shutil.copytree(CHART, copy)
        (copy / "templates" / "notes.yaml").write_text(NOTES)
        out = helm("template", RELEASE, str(copy), "--namespace", NAMESPACE, "--show-only", "templates/notes.yaml",
                   values=values, chosen=chosen)
    return yaml.safe_load(out)["text"]


def find(objects, name):
    """The object `Kind/name`, or None."""
    kind, _, own = name.partition("/")
    return next((o for o in objects if o["kind"] == kind and o["metadata"]["name"] == own), None)


MISSING = object()


def at(value, path):
    """What stands at a path such as `spec/containers/worker/env/HOME/value`, or MISSING.

    An entry of a list is chosen by its number, its `name`, its `key`, its `alert` or its `mountPath`; `~1` in a step is a `/`.
    """
    for step in (step.replace("~1", "/") for step in path.split("/")):
        if isinstance(value, dict):
            value = value.get(step, MISSING)
        elif isinstance(value, list):
            names = ("name", "key", "alert", "mountPath")
            named = [e for e in value if isinstance(e, dict) and step in [e.get(n) for n in names]]
            if named:
                value = named[0]
            else:
                value = value[int(step)] if step.isdigit() and int(step) < len(value) else MISSING
        else:
            return MISSING
    return value


def pod_of(entry):
    """The pod template (metadata and spec) inside an object, or None."""
    kind = entry["kind"]
    if kind == "Pod":
        return entry
    if kind in ("StatefulSet", "Deployment", "Job"):
        return entry["spec"]["template"]
    if kind == "CronJob":
        return entry["spec"]["jobTemplate"]["spec"]["template"]
    if kind == "JobSet":
        return entry["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    return None
