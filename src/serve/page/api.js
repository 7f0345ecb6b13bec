// Requests to the server of this page: keys, errors and the event stream.

import { byId } from './dom.js';

const STORED = { api: 'lorakit.key', admin: 'lorakit.admin-key' };
const keys = { api: null, admin: null };

for (const kind of ['api', 'admin']) {
  try {
    keys[kind] = sessionStorage.getItem(STORED[kind]);
  } catch {
    // Storage is off: keys last until the page is left.
  }
}

export const hasKey = (kind) => Boolean(keys[kind]);

/** What the server said when it refused: status, message and, where given, type, code and param. */
export class ApiError extends Error {
  constructor(status, error, retryAfter) {
    super(error?.message || `The server answered ${status}.`);
    this.status = status;
    this.type = error?.type ?? null;
    this.code = error?.code ?? null;
    this.param = error?.param ?? null;
    this.retryAfter = retryAfter ?? null;
  }
}

let asking = null;

function askKey(kind, wrong) {
  if (asking) return asking;
  const dialog = byId('key-dialog');
  const input = byId('key-input');
  byId('key-title').textContent = kind === 'admin' ? 'Admin key' : 'API key';
  byId('key-label').textContent = kind === 'admin' ? 'Admin key' : 'API key';
  byId('key-why').textContent = wrong ? 'The server did not accept this key.' : 'This server asks for a key.';
  input.value = '';
  dialog.returnValue = '';
  byId('key-cancel').onclick = () => dialog.close('');
  dialog.showModal();
  input.focus();
  asking = new Promise((resolve) => {
    const done = () => {
      asking = null;
      resolve(dialog.returnValue === 'save' && input.value ? input.value.trim() : null);
    };
    dialog.addEventListener('close', done, { once: true });
  });
  return asking;
}

function keep(kind, key) {
  keys[kind] = key;
  try {
    sessionStorage.setItem(STORED[kind], key);
  } catch {
    // Storage is off: see above.
  }
}

async function failure(response) {
  let error = null;
  try {
    const body = await response.json();
    error = typeof body.error === 'string' ? { message: body.error } : body.error;
  } catch {
    // Not JSON: the status says what there is to say.
  }
  return new ApiError(response.status, error, response.headers.get('retry-after'));
}

/**
 * Response of `path` (relative to this page). `kind` names the key, `body` makes it a POST. On 401 the reader is asked for a key
 * and the request goes out again, unless `quiet`. Throws ApiError, or TypeError where no connection came about.
 */
export async function request(path, { kind = 'api', body, signal, quiet = false } = {}) {
  for (;;) {
    const used = keys[kind];
    const headers = used ? { authorization: `Bearer ${used}` } : {};
    if (body) headers['content-type'] = 'application/json';
    const method = body ? 'POST' : 'GET';
    const response = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal, cache: 'no-store' });
    if (response.ok) return response;
    if (response.status !== 401 || quiet) throw await failure(response);
    if (keys[kind] !== used) continue;
    const key = await askKey(kind, Boolean(used));
    if (!key) throw await failure(response);
    keep(kind, key);
  }
}

export const getJson = async (path, options) => (await request(path, options)).json();

/** Data of the server-sent events of `response`, one string an event, comments and other fields left out. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    rest += done ? '\n\n' : value;
    const parts = rest.replace(/\r\n/g, '\n').split('\n\n');
    rest = parts.pop();
    for (const part of parts) {
      const lines = part.split('\n').filter((line) => line.startsWith('data:'));
      if (lines.length) yield lines.map((line) => line.slice(5).replace(/^ /, '')).join('\n');
    }
    if (done) return;
  }
}

/** Streams a chat completion: `take` gets every chunk. Resolves to whether the server ended the stream with [DONE]. */
export async function streamChat(body, { signal, take }) {
  const response = await request('v1/chat/completions', { body, signal });
  for await (const data of events(response)) {
    if (data === '[DONE]') return true;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(response.status, chunk.error);
    take(chunk);
  }
  return false;
}
