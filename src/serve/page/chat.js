// Asking and stopping: what goes to the server and what becomes of its stream.

import { ApiError, streamChat } from './api.js';
import { announce } from './dom.js';
import { sampling } from './settings.js';
import { adapterOf, addTurn, columnOf, currentAnswer, emit, messagesFor, remember, running, scaleOf, shownName, state } from './state.js';

const aborts = new WeakMap();

/** Body of the request that asks `column` about `messages`. */
export function bodyFor(column, messages) {
  const body = { model: column.model, messages, stream: true, stream_options: { include_usage: true }, ...sampling(state.settings) };
  const adapter = adapterOf(column.model);
  if (adapter && column.scale !== 1) body.lora = [{ id: adapter, scale: column.scale }];
  return body;
}

function newAnswer(column, body) {
  return {
    model: column.model, scale: scaleOf(column), adapter: adapterOf(column.model), text: '', calls: [], status: 'waiting',
    error: null, finish: null, usage: null, generation: null, version: null, firstMs: null, perSecond: null, request: body,
  };
}

function takeCalls(answer, parts) {
  for (const part of parts) {
    const call = (answer.calls[part.index ?? answer.calls.length] ??= { name: '', arguments: '' });
    call.name += part.function?.name ?? '';
    call.arguments += part.function?.arguments ?? '';
  }
}

function takeChunk(answer, chunk, clock) {
  if (chunk.adapter_generation) answer.generation = chunk.adapter_generation;
  if (chunk.adapter_version) answer.version = chunk.adapter_version;
  if (chunk.usage) answer.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const { content, tool_calls: calls } = choice.delta ?? {};
  if (content || calls) {
    clock.last = performance.now();
    clock.first ??= clock.last;
    answer.firstMs = clock.first - clock.start;
    answer.status = 'streaming';
    answer.text += content ?? '';
    takeCalls(answer, calls ?? []);
  }
  if (choice.finish_reason) answer.finish = choice.finish_reason;
}

/** Reads finished sentences of a lone column out as they come; several columns would speak at once, and wait for their end. */
function speak(answer, clock) {
  if (state.columns.length > 1) return;
  const ends = [...answer.text.slice(clock.said).matchAll(/[.!?:](?=\s)|\n/g)];
  if (!ends.length) return;
  const to = clock.said + ends.at(-1).index + 1;
  announce(answer.text.slice(clock.said, to));
  clock.said = to;
}

function why(error) {
  if (!(error instanceof ApiError)) return 'The connection to the server was lost.';
  if (error.status === 429) return `${error.message}${error.retryAfter ? ` Try again in ${error.retryAfter} s.` : ''}`;
  return error.param ? `${error.message} (${error.param})` : error.message;
}

function speed(answer, clock) {
  const tokens = answer.usage?.completion_tokens ?? 0;
  if (tokens > 1 && clock.last > clock.first) answer.perSecond = ((tokens - 1) * 1000) / (clock.last - clock.first);
}

/** Lets column `uid` answer `turn`; an answer that is there stays as an alternative. */
export async function ask(turn, uid) {
  const column = columnOf(uid);
  const body = bodyFor(column, messagesFor(uid, state.turns.indexOf(turn)));
  const slot = (turn.answers[uid] ??= { list: [], at: 0 });
  const answer = newAnswer(column, body);
  const abort = new AbortController();
  const clock = { start: performance.now(), first: null, last: null, said: 0 };
  slot.at = slot.list.push(answer) - 1;
  aborts.set(answer, abort);
  emit('thread');
  const take = (chunk) => {
    takeChunk(answer, chunk, clock);
    speak(answer, clock);
    emit('answer', answer);
  };
  try {
    const whole = await streamChat(body, { signal: abort.signal, take });
    if (!whole && !answer.finish) throw new TypeError('the stream ended early');
    answer.status = 'done';
  } catch (error) {
    answer.status = abort.signal.aborted ? 'stopped' : 'error';
    if (answer.status === 'error') answer.error = why(error);
  }
  speed(answer, clock);
  remember();
  emit('thread');
  const said = { done: `answered: ${answer.text.slice(clock.said, clock.said + 600)}`, stopped: 'stopped', error: `failed: ${answer.error}` };
  if (state.turns.includes(turn) && columnOf(uid)) announce(`${shownName(turn, uid)} ${said[answer.status]}`);
}

/** Sends a prompt to every column. */
export function send(text) {
  const turn = addTurn(text);
  announce('Sent. Waiting for the answer.');
  for (const column of state.columns) void ask(turn, column.uid);
}

export function stop(answer) {
  aborts.get(answer)?.abort();
}

export function stopAll() {
  for (const turn of state.turns) {
    for (const slot of Object.values(turn.answers)) slot.list.filter(running).forEach(stop);
  }
}

/** Puts `text` in the place of an earlier prompt and goes on from there; what came after it is dropped. */
export function editAndSend(turn, text) {
  stopAll();
  state.turns.splice(state.turns.indexOf(turn));
  send(text);
}

export function showAlternative(turn, uid, step) {
  const slot = turn.answers[uid];
  slot.at = Math.min(Math.max(slot.at + step, 0), slot.list.length - 1);
  remember();
  emit('thread');
}

/** Whether every column of `turn` has finished an answer. */
export const answered = (turn) =>
  state.columns.every((column) => ['done', 'stopped'].includes(currentAnswer(turn, column.uid)?.status));
