// The conversation: prompts, answers beside each other, votes.

import { hasKey } from './api.js';
import { answered, ask, editAndSend, showAlternative, stop } from './chat.js';
import { renderDiff } from './diff.js';
import { byId, copyText, h, iconButton } from './dom.js';
import { render, renderPlain } from './markdown.js';
import * as S from './state.js';

const { state } = S;
const views = new Map();
let editing = null;

const asFixed = (value) => (value < 10 ? value.toFixed(1) : Math.round(value).toString());

function versionName(version, generation) {
  if (version) return `v${version}`;
  return generation ? generation.slice(0, 7) : null;
}

/** "v3", or "v3, now v4" once a newer generation of the adapter is published. */
export function versionText(answer) {
  const name = versionName(answer.version, answer.generation);
  if (!name) return null;
  const now = S.modelOf(answer.model) ?? S.modelOf(answer.adapter);
  const moved = now?.adapter_generation && now.adapter_generation !== answer.generation;
  return moved ? `${name}, now ${versionName(now.adapter_version, now.adapter_generation)}` : name;
}

const FINISH = { stop: 'complete', length: 'cut at the token limit', tool_calls: 'calls a tool', content_filter: 'filtered' };

function metaParts(answer) {
  const parts = [];
  const version = versionText(answer);
  if (version) {
    const title = answer.generation ? `generation ${answer.generation}` : null;
    parts.push(h('span', { class: version.includes('now') ? 'moved' : null, title, 'data-testid': 'answer-version' }, version));
  }
  if (answer.perSecond) parts.push(h('span', null, `${asFixed(answer.perSecond)} tokens/s`));
  if (answer.firstMs !== null) {
    const first = answer.firstMs < 1000 ? `${Math.round(answer.firstMs)} ms` : `${(answer.firstMs / 1000).toFixed(1)} s`;
    parts.push(h('span', null, `first token ${first}`));
  }
  if (answer.usage) parts.push(h('span', null, `${answer.usage.prompt_tokens} → ${answer.usage.completion_tokens} tokens`));
  if (answer.status === 'stopped') parts.push(h('span', null, 'stopped'));
  else if (answer.finish) parts.push(h('span', null, FINISH[answer.finish] ?? answer.finish));
  return parts;
}

function callNodes(calls) {
  return calls.filter(Boolean).map((call) => h('pre', { class: 'call', tabindex: '0' }, `${call.name}(${call.arguments})`));
}

function fillText(view) {
  const { answer, text, against } = view;
  if (against && !S.running(answer) && !S.running(against)) renderDiff(text, against.text, answer.text);
  else if (state.settings.plain) renderPlain(text, answer.text);
  else render(text, answer.text);
}

function fill(view) {
  const { answer, element, meta, calls, hidden } = view;
  element.dataset.status = answer.status;
  element.setAttribute('aria-busy', String(S.running(answer)));
  fillText(view);
  calls.replaceChildren(...callNodes(answer.calls));
  meta.replaceChildren(...(hidden || S.running(answer) ? [] : metaParts(answer)));
}

function curl(answer) {
  const body = JSON.stringify({ ...answer.request, stream: false, stream_options: undefined }, null, 2).replaceAll("'", "'\\''");
  const key = hasKey('api') ? ' \\\n  -H "Authorization: Bearer $LORAKIT_KEY"' : '';
  const address = new URL('v1/chat/completions', document.baseURI);
  return `curl ${address} \\\n  -H 'Content-Type: application/json'${key} \\\n  -d '${body}'`;
}

function alternatives(turn, uid, slot, focus) {
  if (slot.list.length < 2) return null;
  const step = (by) => () => showAlternative(turn, uid, by);
  const left = iconButton('left', 'Earlier answer', 'alt-prev', step(-1), `${focus}:prev`);
  const right = iconButton('right', 'Later answer', 'alt-next', step(1), `${focus}:next`);
  left.disabled = slot.at === 0;
  right.disabled = slot.at === slot.list.length - 1;
  return h('span', { class: 'alts' }, left, h('span', { 'data-testid': 'alt-count' }, `${slot.at + 1} / ${slot.list.length}`), right);
}

function actions(turn, uid, answer, hidden) {
  const focus = `${turn.id}:${uid}`;
  if (S.running(answer)) return [iconButton('stop', 'Stop this answer', 'answer-stop', () => stop(answer), `${focus}:again`)];
  const last = turn === state.turns.at(-1);
  const redo = last && (!turn.vote || turn.vote === 'open') && !hidden;
  return [
    alternatives(turn, uid, turn.answers[uid], focus),
    answer.text ? iconButton('copy', 'Copy the answer', 'copy', () => copyText(answer.text), `${focus}:copy`) : null,
    redo ? iconButton('again', 'Answer again', 'regenerate', () => ask(turn, uid), `${focus}:again`) : null,
    hidden ? null : iconButton('terminal', 'Copy as curl', 'copy-curl', () => copyText(curl(answer)), `${focus}:curl`),
  ].filter(Boolean);
}

function answerElement(turn, uid, place) {
  const hidden = S.isHidden(turn);
  const answer = S.currentAnswer(turn, uid);
  const tone = hidden || turn.order === null ? place : state.columns.findIndex((column) => column.uid === uid);
  const name = h('h3', { class: 'answer-name', 'data-testid': 'answer-name' }, S.shownName(turn, uid));
  if (!answer) {
    const act = () => ask(turn, uid);
    const now = h('button', { type: 'button', 'data-testid': 'answer-now', onclick: act }, 'Answer this prompt');
    return h('article', { class: `answer tone-${tone}`, 'data-testid': 'answer', 'data-status': 'none' }, name, now);
  }
  const text = h('div', { class: 'prose', 'data-testid': 'answer-text' });
  const calls = h('div', null);
  const meta = h('p', { class: 'meta', 'data-testid': 'answer-meta' });
  const wait = h('p', { class: 'wait', 'aria-hidden': 'true' }, h('i'), h('i'), h('i'));
  const error = answer.error ? h('p', { class: 'error', role: 'alert' }, answer.error) : null;
  const foot = h('footer', null, meta, h('div', { class: 'actions' }, ...actions(turn, uid, answer, hidden)));
  const won = turn.vote === uid && state.blind ? h('span', { class: 'won' }, 'your choice') : null;
  const element = h(
    'article',
    { class: `answer tone-${tone}`, 'data-testid': 'answer', 'data-place': place },
    h('header', null, name, won), wait, text, calls, error, foot,
  );
  const first = S.currentAnswer(turn, S.shownOrder(turn)[0]);
  const against = state.diff && place > 0 && first?.text && answer.text ? first : null;
  const view = { answer, element, text, calls, meta, hidden, against };
  views.set(answer, view);
  fill(view);
  return element;
}

function editor(turn) {
  const area = h('textarea', { rows: 3, 'aria-label': 'Edit the message', 'data-testid': 'edit-input', value: turn.user });
  const leave = () => {
    editing = null;
    renderThread();
    document.querySelector(`[data-focus="${turn.id}:edit"]`)?.focus();
  };
  const save = (event) => {
    event.preventDefault();
    if (!area.value.trim()) return;
    editing = null;
    editAndSend(turn, area.value.trim());
    byId('prompt').focus();
  };
  area.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') leave();
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) save(event);
  });
  const buttons = h(
    'div', { class: 'buttons' },
    h('button', { type: 'button', 'data-testid': 'edit-cancel', onclick: leave }, 'Cancel'),
    h('button', { type: 'submit', class: 'primary', 'data-testid': 'edit-save' }, 'Send'),
  );
  return h('form', { class: 'editor', onsubmit: save }, area, h('p', { class: 'small' }, 'What follows this message is dropped.'), buttons);
}

function prompt(turn) {
  if (editing === turn.id) return editor(turn);
  const edit = () => {
    editing = turn.id;
    renderThread();
    const area = document.querySelector('[data-testid="edit-input"]');
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  };
  return h(
    'div', { class: 'user' },
    iconButton('edit', 'Edit this message', 'edit', edit, `${turn.id}:edit`),
    h('p', { class: 'bubble', 'data-testid': 'user-message' }, h('span', { class: 'hidden' }, 'You: '), turn.user),
  );
}

function voteBar(turn) {
  if (!state.blind || !turn.order || state.columns.length < 2) return null;
  if (turn.vote) {
    const winner = turn.vote === 'tie' ? 'A tie' : S.columnOf(turn.vote) ? `You chose ${S.shownName(turn, turn.vote)}` : 'Shown without a vote';
    return h('p', { class: 'vote-result', 'data-testid': 'vote-result', role: 'status' }, winner);
  }
  const ready = answered(turn);
  const cast = (choice) => () => {
    S.vote(turn, choice);
    S.remember();
    S.emit('thread');
    byId('prompt').focus();
  };
  const button = (text, id, choice) =>
    h('button', { type: 'button', 'data-testid': id, disabled: !ready, 'data-focus': `${turn.id}:${id}`, onclick: cast(choice) }, text);
  const order = S.shownOrder(turn);
  return h(
    'div', { class: 'vote-bar', 'data-testid': 'vote-bar', role: 'group', 'aria-label': 'Vote' },
    h('span', null, ready ? 'Which is better?' : 'Vote when all have answered'),
    ...order.map((uid, place) => button(S.LETTERS[place], `vote-${S.LETTERS[place]}`, uid)),
    button('Tie', 'vote-tie', 'tie'),
  );
}

function turnElement(turn) {
  const order = S.shownOrder(turn);
  const answers = h('div', { class: 'answers grid' }, ...order.map((uid, place) => answerElement(turn, uid, place)));
  return h('section', { class: 'turn', 'data-testid': 'turn' }, prompt(turn), answers, voteBar(turn));
}

/** What stands before the first prompt: greetings, and what the models are for while nothing was asked. */
function opening() {
  const fresh = !state.turns.length;
  const lead = (text) => (fresh ? h('div', { class: 'opening' }, h('p', { class: 'lead' }, text)) : null);
  if (state.blind && state.columns.length > 1) return lead('Ask something; who answers is shown after your vote.');
  const columns = state.columns.map((column) => S.modelOf(column.model));
  const speaks = (model) => model?.greeting || (fresh && model?.description);
  if (!columns.some(speaks)) return lead('Ask something to begin.');
  const cell = (model, place) => {
    if (!speaks(model)) return h('span');
    const greeting = model.greeting ? h('div', { class: 'prose', 'data-testid': 'greeting' }) : null;
    if (greeting) render(greeting, model.greeting);
    const about = fresh && model.description ? h('p', { class: 'about' }, model.description) : null;
    return h('article', { class: `answer greeting tone-${place}` }, h('h3', { class: 'answer-name' }, model.id), about, greeting);
  };
  return h('div', { class: 'answers grid' }, ...columns.map(cell));
}

/** Builds the conversation anew, keeping focus and the scrolled place. */
export function renderThread() {
  const focused = document.activeElement?.dataset?.focus;
  const kept = byId('turns').querySelector('.editor textarea')?.value;
  views.clear();
  const parts = [opening(), ...state.turns.map(turnElement)].filter(Boolean);
  byId('turns').replaceChildren(...parts);
  const area = byId('turns').querySelector('.editor textarea');
  if (area && kept !== undefined) area.value = kept;
  if (focused) (document.querySelector(`[data-focus="${CSS.escape(focused)}"]:not(:disabled)`) ?? byId('prompt')).focus({ preventScroll: true });
}

let due = new Set();

/** Shows the new state of a streaming answer at the next frame. */
export function answerChanged(answer, after) {
  if (!due.size) {
    requestAnimationFrame(() => {
      const now = due;
      due = new Set();
      for (const one of now) if (views.has(one)) fill(views.get(one));
      after();
    });
  }
  due.add(answer);
}

/** Shows again which generation answered, after the list of models changed. */
export function refreshVersions() {
  for (const view of views.values()) if (!S.running(view.answer) && !view.hidden) view.meta.replaceChildren(...metaParts(view.answer));
}
