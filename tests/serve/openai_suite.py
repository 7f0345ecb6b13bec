"""The `openai` client against `lorakit serve` on a tiny random model. LORAKIT is the binary. Closes with "N passed, N failed"."""
import sys
import tempfile
from pathlib import Path

import openai
from openai import OpenAI

import openai_adapters
import openai_chat
import openai_constrained
import openai_errors
import openai_texts
from serving import Checks, tiny

ADMIN, KEY = "admin-key-of-the-suite", "inference-key-of-the-suite"


def client(served, key="none"):
    return OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0, timeout=120)


def run_all(checks, module, served):
    """All functions of a module whose names begin with `check_`."""
    api = client(served)
    for name, work in list(vars(module).items()):
        if name.startswith("check_"):
            checks.run(name.removeprefix("check_"), work, api, served)


def main():
    checks = Checks()
    print(f"openai {openai.__version__}")
    with tiny() as served:
        for module in (openai_chat, openai_constrained, openai_texts, openai_errors, openai_adapters):
            run_all(checks, module, served)
    with tempfile.TemporaryDirectory() as folder:
        keys, admins = Path(folder, "keys"), Path(folder, "admins")
        keys.write_text(f"{KEY}\n")
        admins.write_text(f"{ADMIN}\n")
        with tiny("--key-file", keys, "--admin-key-file", admins) as served:
            checks.run("keys", openai_errors.keys, lambda key: client(served, key), served, KEY, ADMIN)
    with tiny("--rows", 1, "--queue", 0) as served:
        checks.run("too_many_requests", openai_errors.too_many, client(served))
    return checks.close()


if __name__ == "__main__":
    sys.exit(main())
