"""schemathesis against /openapi.json of a server of the tiny model. LORAKIT is the binary.

SCHEMATHESIS_CASES: about how many cases, 2 000 where it is not set. Closes with "N passed, N failed".
"""
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from serving import Checks, tiny

CASES = int(os.environ.get("SCHEMATHESIS_CASES", "2000"))
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
HERE = Path(__file__).parent


def operations(document):
    return sum(len(methods) for methods in document["paths"].values())


def run(served, folder):
    """schemathesis' own report, and its exit status. One worker: with two its generators fail now and then on Python 3.11."""
    document = served.json("/openapi.json")
    each = max(1, CASES // operations(document))
    command = [Path(sys.executable).parent / "schemathesis", "run", f"{served.url}/openapi.json", "--checks", CHECKS]
    command += ["--phases", "coverage,fuzzing", "--max-examples", each, "--mode", "all", "--seed", "1", "--continue-on-failure"]
    command += ["--request-timeout", "60", "--workers", "1", "--no-color", "--suppress-health-check", "all"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(HERE)}
    done = subprocess.run([*map(str, command)], env=environment, cwd=folder, capture_output=True, text=True)
    return done.stdout + done.stderr, done.returncode


def reached_the_model(served):
    """Most answers are refusals; enough are none, and no turn of the model failed."""
    total = lambda name: sum(float(l.rsplit(" ", 1)[1]) for l in served.ask("/metrics")[1].splitlines() if l.startswith(name))
    answered, failed = total("vllm:e2e_request_latency_seconds_count"), total("lorakit:turns_failed_total")
    assert answered >= CASES / 40, f"only {answered} answers came from the model"
    assert failed == 0, f"{failed} turns of the model failed"
    return f"{answered:.0f} answers came from the model"


def main():
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder, tiny("--max-new-tokens", 16) as served:
        report, status = run(served, folder)
        print(report)
        count = re.search(r"(\d+) generated", report)

        def conforms():
            assert status == 0, f"schemathesis ended with {status}"
            return f"{count.group(1) if count else '?'} cases"

        checks.run("schemathesis", conforms)
        checks.run("reached_the_model", reached_the_model, served)
        checks.run("still_answers", lambda: json.loads(served.ask("/ready")[1])["status"])
    return checks.close()


if __name__ == "__main__":
    sys.exit(main())
