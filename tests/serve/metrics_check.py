"""/metrics read by prometheus-client's own parsers. LORAKIT is the binary. Closes with "N passed, N failed"."""
import sys
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from serving import Checks, tiny

# Families by their kinds.
NAMES = {
    "gauge": [
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:lora_requests_info",
        "lorakit:adapter_requests",
        "lorakit:adapter_bytes",
        "lorakit:adapters_loaded",
    ],
    "counter": [
        "vllm:prompt_tokens",
        "vllm:generation_tokens",
        "vllm:prefix_cache_queries",
        "vllm:prefix_cache_hits",
        "lorakit:requests_given_up",
        "lorakit:requests_refused",
        "lorakit:turns_failed",
        "lorakit:adapter_swaps",
        "lorakit:adapter_loads",
        "lorakit:adapter_evictions",
    ],
    "histogram": ["vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds", "vllm:e2e_request_latency_seconds"],
}


def families(served):
    with urllib.request.urlopen(f"{served.url}/metrics") as response:
        assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        return {family.name: family for family in text_string_to_metric_families(response.read().decode())}


def names(served):
    found = families(served)
    for kind, names in NAMES.items():
        for name in names:
            assert name in found, f"{name} is not there"
            assert found[name].type == kind, f"{name} is a {found[name].type}"
            assert found[name].documentation
    known = {name for names in NAMES.values() for name in names}
    assert set(found) == known, f"not on the list: {set(found) - known}"


def counts(served):
    """A request of 20 tokens moves what it should, by as much as it should."""
    total = lambda found, family, sample: sum(s.value for s in found[family].samples if s.name == sample)
    before = families(served)
    body = {"model": "red", "prompt": "Weather", "max_tokens": 20, "ignore_eos": True}
    served.json("/v1/completions", body)
    after = families(served)
    moved = lambda family, sample: total(after, family, sample) - total(before, family, sample)
    assert moved("vllm:generation_tokens", "vllm:generation_tokens_total") == 20
    assert moved("vllm:prompt_tokens", "vllm:prompt_tokens_total") == len("Weather")
    first, latency = "vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds"
    assert moved(first, f"{first}_count") == 1 and moved(latency, f"{latency}_count") == 19
    labels = {s.labels["adapter_name"] for s in after["lorakit:adapter_requests"].samples}
    assert labels == {"red", "blue"}


def main():
    checks = Checks()
    with tiny() as served:
        checks.run("names", names, served)
        checks.run("counts", counts, served)
    return checks.close()


if __name__ == "__main__":
    sys.exit(main())
