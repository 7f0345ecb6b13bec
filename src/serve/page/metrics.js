// Figures out of /metrics (Prometheus text format).

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{[^}]*\})?\s+(\S+)/;

function sums(text) {
  const found = new Map();
  for (const line of text.split('\n')) {
    const match = line.match(LINE);
    if (!match || line.startsWith('#')) continue;
    const value = Number(match[2]);
    if (Number.isFinite(value)) found.set(match[1], (found.get(match[1]) ?? 0) + value);
  }
  return found;
}

/**
 * Gauges as they are and counters as rates since `last` (null at the first reading): {now, totals}. `at` is in milliseconds.
 * The time to the first token is the mean of the answers begun since `last`; null where none began.
 */
export function readMetrics(text, at, last) {
  const found = sums(text);
  const get = (name) => found.get(`vllm:${name}`) ?? null;
  const totals = {
    at,
    prompt: get('prompt_tokens_total'),
    generated: get('generation_tokens_total'),
    firstSum: get('time_to_first_token_seconds_sum'),
    firstCount: get('time_to_first_token_seconds_count'),
  };
  const grown = (key) => (last === null || totals[key] === null || last[key] === null ? null : Math.max(totals[key] - last[key], 0));
  const rate = (key) => (grown(key) === null ? null : (grown(key) * 1000) / (at - last.at));
  const first = grown('firstCount') ? (1000 * grown('firstSum')) / grown('firstCount') : null;
  const gauges = { running: get('num_requests_running'), waiting: get('num_requests_waiting'), kv: get('kv_cache_usage_perc') };
  return { now: { ...gauges, prompt: rate('prompt'), generated: rate('generated'), first }, totals };
}
