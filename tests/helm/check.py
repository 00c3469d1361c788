"""Every check of the Helm chart; `run` starts it. Prints each failure, and `N passed, N failed`."""
import collections
import concurrent.futures
import fnmatch
import json
import re
import subprocess
import sys

import yaml

import chart
import invariants
import schemas

ROOT = chart.HERE.parent.parent
VALUES = sorted(path.stem for path in (chart.HERE / "values").glob("*.yaml"))
BASE = "served"
COMPARISONS = {"is", "has", "matches", "absent"}

Check = collections.namedtuple("Check", "name problems")


def lint(values):
    try:
        chart.helm("lint", str(chart.CHART), "--strict", values=values)
    except chart.Refused as refused:
        yield str(refused)


def rendering(values):
    """Schemas of every minor and every invariant, for one value set."""
    try:
        objects, text = chart.render(values), chart.text(values)
    except chart.Refused as refused:
        yield Check(f"{values}: renders", [str(refused)])
        return
    for minor in schemas.MINORS:
        found = [problem for entry in objects for problem in schemas.problems(entry, minor)]
        yield Check(f"{values}: Kubernetes {minor}", found)
    for invariant in invariants.ALL:
        yield Check(f"{values}: {invariant.__name__.replace('_', ' ')}", list(invariant(objects, text)))


def compare(entry, expectation):
    """What differs from one line of a case."""
    path, how = expectation["at"], (COMPARISONS & set(expectation)).pop()
    found, wanted = chart.at(entry, path), expectation[how]
    if how == "absent":
        return None if found is chart.MISSING else f"{path} is there: {found!r}"
    if found is chart.MISSING:
        return f"{path} is missing"
    right = {"is": lambda: found == wanted,
             "has": lambda: wanted in found if isinstance(found, list) else
                    all(found.get(key) == value for key, value in wanted.items()),
             "matches": lambda: re.search(wanted, str(found)) is not None}[how]()
    return None if right else f"{path}: {found!r}, where it {how} {wanted!r}"


def case_problems(case):
    values, chosen = case.get("values", BASE), case.get("set")
    if "notes" in case:
        text = chart.notes(values, chosen)
        yield from (f"the notes do not say {w!r}" for w in case["notes"] if w not in text)
        return
    objects = chart.render(values, chosen)
    for absent in case.get("without", []):
        names = [f"{o['kind']}/{o['metadata']['name']}" for o in objects]
        if any(fnmatch.fnmatchcase(name, absent) for name in names):
            yield f"{absent} is there"
    if "object" not in case:
        return
    entry = chart.find(objects, case["object"])
    if entry is None:
        yield f"no {case['object']} among {sorted(o['kind'] + '/' + o['metadata']['name'] for o in objects)}"
        return
    yield from filter(None, (compare(entry, expectation) for expectation in case["expect"]))


def one_case(topic, case):
    try:
        problems = list(case_problems(case))
    except chart.Refused as refused:
        problems = [str(refused)]
    return Check(f"{topic}: {case['it']}", problems)


def refusal(case):
    name = f"refuses {json.dumps(case['set'])}"
    try:
        chart.render(BASE, case["set"])
    except chart.Refused as refused:
        said = str(refused)
        lines = [line for line in said.splitlines() if line.startswith("- ")]
        if case["says"] not in said:
            return Check(name, [f"says {said!r}, not {case['says']!r}"])
        if not case.get("schema") and not case.get("more") and len(lines) != 1:
            return Check(name, [f"says {len(lines)} things: {lines}"])
        return Check(name, [])
    return Check(name, ["renders"])


def every_refusal_has_a_case(cases):
    """Each sentence of the template must be said by one of the cases."""
    template = (chart.CHART / "templates" / "_refusals.tpl").read_text()
    sentences = [line for line in template.splitlines() if line.startswith("- ")]
    for sentence in sentences:
        pieces = [re.escape(piece) for piece in re.split(r"\{\{.*?\}\}", sentence[2:])]
        pattern = re.compile(".*".join(pieces))
        if not any(pattern.search(said) for said in cases):
            yield f"no case is refused with {sentence!r}"


def said_by(case):
    try:
        chart.render(BASE, case["set"])
    except chart.Refused as refused:
        return str(refused)
    return ""


def described_metrics():
    """Metrics and alerts as docs/operations.md lists them."""
    text = (ROOT / "docs" / "operations.md").read_text()
    return set(re.findall(r"`(diptych_[a-z_]+)", text)), set(re.findall(r"^### (Diptych\w+)", text, re.M))


def observability():
    metrics, headings = described_metrics()
    rule = chart.find(chart.render("observed"), "PrometheusRule/d-diptych")
    alerts = rule["spec"]["groups"][0]["rules"]
    panels = [target["expr"] for path in sorted((chart.CHART / "dashboards").glob("*.json"))
              for panel in json.loads(path.read_text())["panels"] for target in panel["targets"]]
    used = {name for text in [alert["expr"] for alert in alerts] + panels
            for name in re.findall(r"diptych_[a-z_]+", text)}
    plain = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used}
    yield Check("alerts and dashboards use metrics that docs/operations.md lists", sorted(plain - metrics))
    names = {alert["alert"] for alert in alerts}
    yield Check("docs/operations.md has a part for each alert, and no other", sorted(names ^ headings))


def readme():
    done = subprocess.run([sys.executable, ROOT / "deploy" / "helm" / "readme", "--check"], capture_output=True, text=True)
    return Check("the chart's README is current", [done.stderr] if done.returncode else [])


def load(name):
    return yaml.safe_load((chart.HERE / name).read_text())


def everything(pool):
    yield Check("value sets: at least 12", [] if len(VALUES) >= 12 else [f"only {len(VALUES)}"])
    yield from pool.map(lambda v: Check(f"{v}: helm lint", list(lint(v))), VALUES)
    list(pool.map(chart.text, VALUES))
    for values in VALUES:
        yield from rendering(values)
    cases = [(path.stem, case) for path in sorted((chart.HERE / "cases").glob("*.yaml")) for case in yaml.safe_load(path.read_text())]
    yield from pool.map(lambda pair: one_case(*pair), cases)
    refusals = load("refusals.yaml")
    yield from pool.map(refusal, refusals)
    said = list(pool.map(said_by, refusals))
    yield Check("every refusal has a case", list(every_refusal_has_a_case(said)))
    yield from observability()
    yield readme()


def main():
    count = collections.Counter()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for check in everything(pool):
            count[bool(check.problems)] += 1
            if check.problems:
                print(f"FAILED {check.name}")
                for problem in check.problems[:10]:
                    print(f"    {problem}")
    print(f"{count[False]} passed, {count[True]} failed")
    return bool(count[True])


if __name__ == "__main__":
    sys.exit(main())
