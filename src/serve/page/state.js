// What the page knows: models, columns, turns and settings; the address bar and the storage that follow them.

const CHAT = 'lorakit.chat';
const SCORE = 'lorakit.score';
export const MAX_COLUMNS = 4;
export const LETTERS = ['A', 'B', 'C', 'D'];

/**
 * columns: [{uid, model, scale}]
 * turns: [{id, user, answers: {uid: {list: [answer], at}}, order: [uid]|null, vote: uid|'tie'|'open'|null}]
 * answer: {model, scale, adapter, text, calls, status, error, finish, usage, generation, version, firstMs, perSecond, request}
 */
export const state = { models: [], columns: [], turns: [], settings: {}, blind: false, diff: false };

let lastId = 0;
const newId = () => `${Date.now().toString(36)}-${(lastId += 1)}`;

const listeners = new Map();

/** Calls `act` at every emit of `event`. */
export function on(event, act) {
  listeners.set(event, [...(listeners.get(event) ?? []), act]);
}

export function emit(event, detail) {
  for (const act of listeners.get(event) ?? []) act(detail);
}

export const modelOf = (id) => state.models.find((model) => model.id === id) ?? null;
export const columnOf = (uid) => state.columns.find((column) => column.uid === uid) ?? null;

/** Name of the adapter that answers under model `id`; null under the base. */
export function adapterOf(id) {
  const model = modelOf(id);
  if (!model) return null;
  return model.kind === 'adapter' ? model.id : (model.adapter ?? null);
}

/** How a model and a scale are written: "sql" or "sql × 0.5". */
export const label = (model, scale) => (scale === null || scale === 1 ? model : `${model} × ${scale}`);

/** Scale that a column applies; null where its model has no adapter. */
export const scaleOf = (column) => (adapterOf(column.model) ? column.scale : null);

export const currentAnswer = (turn, uid) => turn.answers[uid]?.list[turn.answers[uid].at] ?? null;

export const running = (answer) => answer?.status === 'waiting' || answer?.status === 'streaming';

export const anyRunning = () =>
  state.turns.some((turn) => state.columns.some((column) => running(currentAnswer(turn, column.uid))));

/** Columns of a turn in the order in which they are shown. */
export function shownOrder(turn) {
  const all = state.columns.map((column) => column.uid);
  if (!turn.order || !state.blind) return all;
  const kept = turn.order.filter((uid) => all.includes(uid));
  return [...kept, ...all.filter((uid) => !kept.includes(uid))];
}

/** Whether the names of this turn's columns are still secret. */
export const isHidden = (turn) => state.blind && turn.order !== null && turn.vote === null && state.columns.length > 1;

/** Name over an answer: the letter of its place while the names are secret. */
export function shownName(turn, uid) {
  if (isHidden(turn)) return LETTERS[shownOrder(turn).indexOf(uid)];
  const answer = currentAnswer(turn, uid);
  const column = columnOf(uid);
  return answer ? label(answer.model, answer.scale) : label(column.model, scaleOf(column));
}

function shuffled(list) {
  const left = [...list];
  return list.map(() => left.splice(Math.floor(Math.random() * left.length), 1)[0]);
}

export function addTurn(user) {
  const blind = state.blind && state.columns.length > 1;
  const order = blind ? shuffled(state.columns.map((column) => column.uid)) : null;
  const turn = { id: newId(), user, answers: {}, order, vote: null };
  state.turns.push(turn);
  return turn;
}

/** Messages that column `uid` sends for turn number `at`; a pair without an answer is left out, since templates alternate roles. */
export function messagesFor(uid, at) {
  const messages = [];
  if (state.settings.system?.trim()) messages.push({ role: 'system', content: state.settings.system });
  for (const turn of state.turns.slice(0, at)) {
    const answer = currentAnswer(turn, uid);
    if (!answer?.text) continue;
    messages.push({ role: 'user', content: turn.user }, { role: 'assistant', content: answer.text });
  }
  messages.push({ role: 'user', content: state.turns[at].user });
  return messages;
}

/** A column beside the others: it takes over the conversation of the first one up to the last prompt. */
export function addColumn(model) {
  const first = state.columns[0];
  const column = { uid: newId(), model, scale: 1 };
  state.columns.push(column);
  for (const turn of first ? state.turns.slice(0, -1) : []) {
    const answer = currentAnswer(turn, first.uid);
    if (answer && !running(answer)) turn.answers[column.uid] = { list: [{ ...answer }], at: 0 };
  }
  return column;
}

/** Model for a new column: the first that no column shows, the base before others. */
export function nextModel() {
  const used = new Set(state.columns.map((column) => column.model));
  const base = state.models.filter((model) => model.kind === 'base');
  const free = [...base, ...state.models].find((model) => !used.has(model.id));
  return (free ?? state.models[0])?.id ?? '';
}

/** Model names of "?model=a&b&c" (or "?model=a&model=b"). */
export function namesInAddress(query) {
  const names = [];
  for (const part of query.replace(/^\?/, '').split('&')) {
    const [key, value] = part.split('=', 2);
    const name = value === undefined ? (names.length ? key : '') : key === 'model' ? value : '';
    try {
      if (name) names.push(decodeURIComponent(name.replaceAll('+', ' ')));
    } catch {
      // A malformed escape names no model.
    }
  }
  return names.slice(0, MAX_COLUMNS);
}

export function writeAddress() {
  const names = state.columns.map((column) => encodeURIComponent(column.model).replaceAll('%2F', '/').replaceAll('%3A', ':'));
  history.replaceState(null, '', `${location.pathname}?model=${names.join('&')}${location.hash}`);
}

/** Keeps the conversation for a reload of this tab. */
export function remember() {
  const { columns, turns, settings } = state;
  try {
    sessionStorage.setItem(CHAT, JSON.stringify({ columns, turns, settings }));
  } catch {
    // Storage is full or off: the conversation lasts until the page is left.
  }
}

function stored(storage, key) {
  try {
    return JSON.parse(storage.getItem(key));
  } catch {
    return null;
  }
}

/** Brings back the conversation of this tab where it was held with the models that the address names. */
export function restore(names) {
  const chat = stored(sessionStorage, CHAT);
  const models = chat?.columns?.map((column) => column.model) ?? [];
  if (!models.length || (names.length && names.join('\n') !== models.join('\n'))) return false;
  Object.assign(state, chat);
  for (const turn of state.turns) {
    for (const slot of Object.values(turn.answers)) {
      for (const answer of slot.list) if (running(answer)) answer.status = 'stopped';
    }
  }
  return true;
}

export const readScore = () => stored(localStorage, SCORE) ?? {};

export function writeScore(score) {
  try {
    localStorage.setItem(SCORE, JSON.stringify(score));
  } catch {
    // Storage is off: the score lasts as long as the page.
  }
  emit('score');
}

/** Takes a vote for `choice` (a column's uid or "tie") and adds it to the score. */
export function vote(turn, choice) {
  const score = readScore();
  turn.vote = choice;
  for (const column of state.columns) {
    const answer = currentAnswer(turn, column.uid);
    if (!answer) continue;
    const line = (score[label(answer.model, answer.scale)] ??= { won: 0, lost: 0, tied: 0 });
    line[choice === 'tie' ? 'tied' : choice === column.uid ? 'won' : 'lost'] += 1;
  }
  writeScore(score);
}
