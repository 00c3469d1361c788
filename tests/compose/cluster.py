"""A compose cluster of its own name, ports and volumes, and what a test does to it."""
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FILES = ROOT / "deploy" / "compose"
# In the form that every server takes: garage wants its own prefix and length.
KEY, SECRET = "GK" + 12 * "d1", 32 * "5e"


def tool():
    """Compose v2 where it is there, else docker-compose 1.29."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise SystemExit("compose-test: neither 'docker compose' nor docker-compose is here: apt-get install -y docker-compose")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Cluster:
    """Up on entry, gone with its volumes on exit."""

    def __init__(self, images, diptych, name):
        self.name, self.diptych_program = name, diptych
        self.port, self.s3_port = free_port(), free_port()
        self.environment = {
            **os.environ, "DIPTYCH_IMAGES": str(images), "DIPTYCH_PORT": str(self.port),
            "DIPTYCH_S3_PORT": str(self.s3_port), "DIPTYCH_S3_KEY": KEY, "DIPTYCH_S3_SECRET": SECRET,
            # What the command line reads, from outside the cluster.
            "DIPTYCH_SERVER": f"http://127.0.0.1:{self.port}", "AWS_ENDPOINT_URL": self.endpoint, "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ALLOW_HTTP": "true",
        }
        self.tool = tool()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.s3_port}"

    def __enter__(self):
        try:
            self.compose("up", "-d")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.compose("down", "-v", "--timeout", "5")

    def compose(self, *arguments, files=("docker-compose.yaml",)):
        chosen = [part for file in files for part in ("-f", str(FILES / file))]
        command = [*self.tool, "-p", self.name, *chosen, *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"compose-test: {' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def container(self, service):
        return self.compose("ps", "-q", service).strip()

    def docker(self, *arguments):
        subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True)

    def ask(self, *arguments):
        """The JSON that `diptych` answers; None while the coordinator is away."""
        done = subprocess.run([self.diptych_program, *arguments, "-o", "json"], env=self.environment, capture_output=True, text=True)
        if done.returncode == 5:
            return None
        if done.returncode:
            raise SystemExit(f"compose-test: diptych {' '.join(arguments)}: {done.stderr or done.stdout}")
        return json.loads(done.stdout)

    def lines(self, *arguments):
        """The JSON documents that `diptych` prints, one a line."""
        command = [self.diptych_program, *arguments, "-o", "json"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def until(self, what, seconds, question):
        """Waits for an answer that is true, and returns it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            answer = question()
            if answer:
                return answer
            time.sleep(0.5)
        logs = self.compose("logs", "--no-color", "--tail", "30")
        raise SystemExit(f"compose-test: {what}: not within {seconds} s\n{logs}")

    def ready(self, workers):
        def all_there():
            there = self.ask("worker", "list") or []
            return sum(worker["state"] == "ready" for worker in there) >= workers
        self.until(f"{workers} workers are ready", 60, all_there)

    def cut(self, service):
        self.docker("network", "disconnect", f"{self.name}_data", self.container(service))

    def mend(self, service):
        self.docker("network", "connect", "--alias", f"{service}.data", f"{self.name}_data", self.container(service))
