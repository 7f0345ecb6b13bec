// The admin view: adapters with their generations, loading and rolling back, live figures.

import { ApiError, getJson, request } from './api.js';
import { byId, confirmed, h, svg, toast } from './dom.js';
import { readMetrics } from './metrics.js';

const EVERY_MS = 2000;
const KEPT = 60;

let timer = null;
let wanted = false;
const series = new Map();
let last = null;

const bytes = (n) => {
  if (!Number.isFinite(n)) return '–';
  const units = ['B', 'KiB', 'MiB', 'GiB'];
  let at = 0;
  for (; n >= 1024 && at < 3; at += 1) n /= 1024;
  return `${n >= 100 || at === 0 ? Math.round(n) : n.toFixed(1)} ${units[at]}`;
};

const short = (generation) => (generation ?? '').slice(0, 7);
const versionOf = (one) => (one.version ? `v${one.version}` : short(one.generation));

function when(seconds) {
  if (!seconds) return '–';
  const date = new Date(seconds * 1000);
  const text = date.toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'short' });
  return h('time', { datetime: date.toISOString() }, text);
}

/** Runs an admin action; says what came of it and reads the list again. */
async function act(path, body, done) {
  try {
    await request(path, { kind: 'admin', body });
    toast(done);
    return true;
  } catch (error) {
    toast(error instanceof ApiError ? error.message : 'Server not reachable', true);
    return false;
  } finally {
    await refreshAdapters();
  }
}

async function unload(name, requests) {
  const text = requests ? `${requests} requests in flight finish first.` : 'It stays on disk and can be loaded again.';
  if (await confirmed(`Unload ${name}?`, text, 'Unload')) await act('v1/unload_lora_adapter', { lora_name: name }, `${name} unloaded`);
}

function rollback(adapter) {
  const earlier = (adapter.history ?? [])
    .filter((one) => one.generation !== adapter.generation)
    .sort((a, b) => (b.published ?? 0) - (a.published ?? 0) || (b.version ?? 0) - (a.version ?? 0));
  if (!earlier.length || adapter.state !== 'loaded') return [];
  const select = h(
    'select', { 'data-testid': 'rollback-select', 'aria-label': `Earlier generation of ${adapter.id}` },
    ...earlier.map((one) => h('option', { value: one.generation }, `${versionOf(one)} · ${short(one.generation)}`)),
  );
  select.selectedIndex = 0;
  const go = () => {
    const one = earlier[select.selectedIndex];
    return act('v1/rollback_lora_adapter', { lora_name: adapter.id, generation: one.generation }, `${adapter.id} is back at ${versionOf(one)}`);
  };
  return [h('span', { class: 'select' }, select), h('button', { type: 'button', 'data-testid': 'rollback', onclick: go }, 'Roll back')];
}

function actions(adapter) {
  const { id } = adapter;
  const load = () => act('v1/load_lora_adapter', { lora_name: id, lora_path: id, load_inplace: false }, `${id} loaded`);
  const change = adapter.state === 'loaded'
    ? h('button', { type: 'button', 'data-testid': 'unload', 'aria-label': `Unload ${id}`, onclick: () => unload(id, adapter.requests) }, 'Unload')
    : h('button', { type: 'button', 'data-testid': 'load-again', 'aria-label': `Load ${id}`, onclick: load }, 'Load');
  return [...rollback(adapter), change];
}

const STATES = { loaded: 'loaded', on_disk: 'on disk' };

function row(adapter) {
  const cell = (name, content, props = {}) => h('td', { 'data-label': name, ...props }, content);
  const version = h('span', { 'data-testid': 'admin-version', title: adapter.generation }, versionOf(adapter));
  const stateName = h('span', { class: `badge ${adapter.state}`, 'data-testid': 'admin-state' }, STATES[adapter.state] ?? adapter.state);
  return h(
    'tr', { 'data-testid': 'admin-row', 'data-adapter': adapter.id },
    h('th', { scope: 'row' }, adapter.id),
    cell('Version', h('span', null, version, ' ', h('code', null, short(adapter.generation)))),
    cell('State', stateName),
    cell('Rank', String(adapter.rank ?? '–'), { class: 'num' }),
    cell('Size', bytes(adapter.bytes), { class: 'num' }),
    cell('In flight', String(adapter.requests ?? 0), { class: 'num', 'data-testid': 'admin-requests' }),
    cell('Published', when(adapter.published)),
    h('td', { class: 'row-actions', 'data-label': 'Actions' }, h('div', null, ...actions(adapter))),
  );
}

const keyOf = (adapter) => JSON.stringify({ ...adapter, requests: null });

/** Rows that did not change stay as they are, so that focus and an open list in them hold. */
function showRows(adapters) {
  const body = byId('adapter-rows');
  const old = new Map([...body.children].filter((tr) => tr.dataset.adapter).map((tr) => [tr.dataset.adapter, tr]));
  const focused = document.activeElement?.closest('tr')?.dataset.adapter;
  const testid = document.activeElement?.dataset?.testid;
  const rows = adapters.map((adapter) => {
    const there = old.get(adapter.id);
    const fresh = there?.dataset.key === keyOf(adapter) ? there : row(adapter);
    fresh.dataset.key = keyOf(adapter);
    fresh.querySelector('[data-testid="admin-requests"]').textContent = String(adapter.requests ?? 0);
    return fresh;
  });
  const same = rows.length === body.children.length && rows.every((tr, at) => tr === body.children[at]);
  if (!same) {
    const none = h('tr', null, h('td', { colspan: 8, class: 'none' }, 'No adapters yet. Load one below.'));
    body.replaceChildren(...(rows.length ? rows : [none]));
    if (focused) body.querySelector(`tr[data-adapter="${CSS.escape(focused)}"] [data-testid="${testid}"]`)?.focus();
  }
}

function showGenerations(generations) {
  const chips = generations.map((one) =>
    h('li', { 'data-testid': 'admin-generation', title: one.generation }, h('strong', null, `${one.id} ${versionOf(one)}`), ` ${one.leases} ${one.leases === 1 ? 'lease' : 'leases'}`),
  );
  byId('generations').replaceChildren(...(chips.length ? [h('h2', null, 'Generations in memory'), h('ul', null, ...chips)] : []));
}

function showLimits(limits) {
  const entries = Object.entries(limits ?? {});
  byId('limits-section').hidden = !entries.length;
  const value = (name, n) => (name.includes('bytes') && Number.isFinite(n) ? bytes(n) : Number.isFinite(n) ? n.toLocaleString() : String(n ?? 'none'));
  byId('limits').replaceChildren(...entries.map(([name, n]) => h('div', null, h('dt', null, name.replaceAll('_', ' ')), h('dd', null, value(name, n)))));
}

function notice(text) {
  byId('admin-notice').hidden = !text;
  byId('admin-notice').textContent = text;
}

async function refreshAdapters(quiet = false) {
  try {
    const list = await getJson('v1/lora_adapters', { kind: 'admin', quiet });
    showRows(list.data ?? []);
    showGenerations(list.generations ?? []);
    showLimits(list.limits);
    notice('');
    return true;
  } catch (error) {
    if (error instanceof ApiError) notice(error.status === 401 || error.status === 403 ? 'The admin key is needed to see and change adapters. Open Admin again to enter it.' : error.message);
    else notice('Server not reachable; trying again.');
    return !(error instanceof ApiError && error.status === 401);
  }
}

function spark(values) {
  const most = Math.max(...values, 1e-9);
  const span = Math.max(values.length, 15);
  const points = values.map((value, at) => `${(((at + span - values.length) * 120) / (span - 1)).toFixed(1)},${(30 - (28 * value) / most).toFixed(1)}`);
  const line = svg('polyline', { points: points.join(' '), class: 'spark-line' });
  const area = svg('polygon', { points: `${points[0].split(',')[0]},32 ${points.join(' ')} 120,32`, class: 'spark-area' });
  return svg('svg', { viewBox: '0 0 120 32', preserveAspectRatio: 'none', class: 'spark', 'aria-hidden': 'true' }, area, line);
}

const TILES = [
  ['running', 'Running', '', (n) => String(Math.round(n))],
  ['waiting', 'Waiting', '', (n) => String(Math.round(n))],
  ['kv', 'KV cache', '%', (n) => (n * 100).toFixed(n < 0.1 ? 1 : 0)],
  ['prompt', 'Prompt', 'tokens/s', (n) => Math.round(n).toLocaleString()],
  ['generated', 'Generated', 'tokens/s', (n) => Math.round(n).toLocaleString()],
  ['first', 'First token', 'ms', (n) => Math.round(n).toLocaleString()],
];

function showMetrics(now) {
  const tiles = TILES.map(([key, name, unit, write]) => {
    const values = series.get(key) ?? [];
    if (now[key] !== null) values.push(now[key]);
    series.set(key, values.slice(-KEPT));
    const value = values.length ? write(values.at(-1)) : '–';
    const figure = h('p', { class: 'figure', 'data-testid': `metric-${key}` }, value, unit ? h('small', null, ` ${unit}`) : null);
    return h('div', { class: 'tile' }, h('h2', null, name), figure, values.length > 1 ? spark(series.get(key)) : h('div', { class: 'spark' }));
  });
  byId('metrics').replaceChildren(...tiles);
}

async function refreshMetrics() {
  try {
    const text = await (await request('metrics', { kind: 'admin', quiet: true })).text();
    const read = readMetrics(text, performance.now(), last);
    last = read.totals;
    showMetrics(read.now);
  } catch {
    last = null;
  }
}

async function tick(quiet) {
  const good = document.hidden && quiet ? true : await refreshAdapters(quiet);
  if (good && !document.hidden) await refreshMetrics();
  if (wanted && good) timer = setTimeout(() => tick(true), EVERY_MS);
}

async function load(event) {
  event.preventDefault();
  const name = byId('load-name').value.trim();
  const body = { lora_name: name, lora_path: byId('load-path').value.trim(), load_inplace: byId('load-inplace').checked };
  if (await act('v1/load_lora_adapter', body, `${name} loaded`)) byId('load-form').reset();
}

/** Shows the view and keeps it current until hideAdmin. */
export function showAdmin() {
  if (wanted) return;
  wanted = true;
  byId('load-form').onsubmit = load;
  showMetrics({ running: null, waiting: null, kv: null, prompt: null, generated: null, first: null });
  void tick(false);
}

export function hideAdmin() {
  wanted = false;
  last = null;
  clearTimeout(timer);
}
