//! `GET /metrics`: what is counted, in Prometheus' text form.

use std::sync::atomic::Ordering;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::app::App;
use crate::job::unix_time;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Model {
    model_name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AdapterLabels {
    adapter_name: String,
    generation: String,
    loaded: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoraLabels {
    max_lora: u64,
    running_lora_adapters: String,
}

/// All of it, now.
///
/// # Errors
/// When a number cannot be written, which the crate does not say when.
pub(super) fn text(app: &App) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::default();
    let model = Model { model_name: app.settings.base_name.clone() };
    engine(app, &mut registry, &model);
    app.metrics.register(&mut registry);
    adapters(app, &mut registry);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn engine(app: &App, registry: &mut Registry, model: &Model) {
    let stats = app.engine.stats();
    let (held, most) = (stats.held_tokens.load(Ordering::Relaxed), stats.most_tokens.load(Ordering::Relaxed));
    let gauge = |registry: &mut Registry, name: &str, help: &str, value: f64| {
        let family = Family::<Model, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
        family.get_or_create(model).set(value);
        registry.register(name, help, family);
    };
    let count = |n: &std::sync::atomic::AtomicUsize| n.load(Ordering::Relaxed) as f64;
    gauge(registry, "vllm:num_requests_running", "Texts that are worked on", count(&stats.running));
    gauge(registry, "vllm:num_requests_waiting", "Requests that wait for a row", count(&stats.waiting));
    gauge(
        registry,
        "vllm:kv_cache_usage_perc",
        "Share of the keys' and values' room that texts hold",
        held as f64 / most.max(1) as f64,
    );
    let counter = |registry: &mut Registry, name: &str, help: &str, value: &std::sync::atomic::AtomicU64| {
        let family = Family::<Model, Counter>::default();
        family.get_or_create(model).inc_by(value.load(Ordering::Relaxed));
        registry.register(name, help, family);
    };
    counter(registry, "vllm:prompt_tokens", "Tokens of prompts", &stats.prompt_tokens);
    counter(registry, "vllm:generation_tokens", "Tokens of answers", &stats.answer_tokens);
    counter(
        registry,
        "vllm:prefix_cache_queries",
        "Tokens of prompts that were looked for in what was kept",
        &stats.prompt_tokens,
    );
    counter(registry, "vllm:prefix_cache_hits", "Those of them that were there", &stats.reused_tokens);
    counter(registry, "lorakit:requests_given_up", "Requests whose asker went away", &stats.given_up);
    counter(registry, "lorakit:turns_failed", "Turns of the model that failed", &stats.failed_turns);
}

fn adapters(app: &App, registry: &mut Registry) {
    let published = app.registry.published();
    let requests = Family::<AdapterLabels, Gauge>::default();
    for (name, generation) in published.iter() {
        let loaded = app.registry.cache.look(&generation.version.hash).is_some();
        let labels =
            AdapterLabels { adapter_name: name.clone(), generation: generation.version.id().into(), loaded: loaded.to_string() };
        requests.get_or_create(&labels).set(generation.requests() as i64);
    }
    registry.register("lorakit:adapter_requests", "Choices that run with an adapter", requests);
    let running: Vec<&str> = published.iter().filter(|(_, g)| g.requests() > 0).map(|(name, _)| name.as_str()).collect();
    let lora = Family::<LoraLabels, Gauge>::default();
    let labels = LoraLabels { max_lora: app.settings.engine.rows as u64, running_lora_adapters: running.join(",") };
    lora.get_or_create(&labels).set(i64::try_from(unix_time()).unwrap_or(0));
    registry.register("vllm:lora_requests_info", "Adapters that requests run with", lora);
    let (bytes, loaded) = app.registry.cache.occupied();
    let cache = &app.registry.cache;
    let gauges: [(&str, &str, u64); 2] = [
        ("lorakit:adapter_bytes", "Bytes of adapters in memory", bytes),
        ("lorakit:adapters_loaded", "Adapters in memory", loaded as u64),
    ];
    for (name, help, value) in gauges {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
    for (name, help, value) in [
        ("lorakit:adapter_loads", "Adapters read from disk", &cache.loads),
        ("lorakit:adapter_evictions", "Adapters let go for want of room", &cache.evictions),
    ] {
        let counter = Counter::<u64>::default();
        counter.inc_by(value.load(Ordering::Relaxed));
        registry.register(name, help, counter);
    }
}
