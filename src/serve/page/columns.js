// The heads of the columns: model, scale, adding and removing; the bar of the blind vote.

import { stop } from './chat.js';
import { byId, h, icon, iconButton } from './dom.js';
import * as S from './state.js';

const { state } = S;
const GROUPS = [['assistant', 'Assistants'], ['adapter', 'Adapters'], ['base', 'Base model']];

function changed() {
  S.writeAddress();
  S.remember();
  S.emit('columns');
}

function options(column) {
  const groups = GROUPS.map(([kind, name]) => {
    const models = state.models.filter((model) => model.kind === kind);
    return models.length ? h('optgroup', { label: name }, ...models.map((model) => h('option', { value: model.id }, model.id))) : null;
  });
  const known = S.modelOf(column.model) ? null : h('option', { value: column.model }, `${column.model} (not served)`);
  return [known, ...groups];
}

function picker(column, place) {
  const select = h('select', {
    'data-testid': 'model-picker', 'aria-label': state.columns.length > 1 ? `Model of column ${place + 1}` : 'Model',
    'data-focus': `pick:${column.uid}`, title: S.modelOf(column.model)?.description ?? null,
    onchange: () => {
      column.model = select.value;
      column.scale = 1;
      changed();
    },
  }, ...options(column).filter(Boolean));
  select.value = column.model;
  return h('span', { class: 'select' }, select);
}

function slider(column, place) {
  const adapter = S.adapterOf(column.model);
  if (!adapter) return null;
  const id = `scale-${place}`;
  const shown = h('output', { for: id, 'data-testid': 'scale-value' }, column.scale.toFixed(2));
  const input = h('input', {
    id, type: 'range', min: 0, max: 2, step: 0.05, 'data-testid': 'scale-slider', 'data-focus': `scale:${column.uid}`,
    oninput: () => {
      column.scale = Math.round(input.valueAsNumber * 100) / 100;
      shown.textContent = column.scale.toFixed(2);
      S.remember();
    },
    ondblclick: () => {
      input.value = '1';
      input.dispatchEvent(new Event('input'));
    },
  });
  input.value = String(column.scale);
  return h('span', { class: 'scale' }, h('label', { for: id, title: `Scale of ${adapter}; double-click for 1` }, 'Scale'), input, shown);
}

function remove(column) {
  for (const turn of state.turns) {
    turn.answers[column.uid]?.list.forEach(stop);
    delete turn.answers[column.uid];
    if (turn.vote === column.uid) turn.vote = 'open';
  }
  state.columns.splice(state.columns.indexOf(column), 1);
  changed();
  byId('prompt').focus();
}

function head(column, place) {
  const many = state.columns.length > 1;
  const close = many ? iconButton('close', `Remove column ${place + 1}`, 'column-remove', () => remove(column)) : null;
  return h(
    'div', { class: `column tone-${place}`, 'data-testid': 'column', 'data-column': place },
    h('div', { class: 'column-top' }, picker(column, place), close),
    slider(column, place),
  );
}

function adder() {
  if (state.columns.length >= S.MAX_COLUMNS || !state.models.length) return null;
  const act = () => {
    const column = S.addColumn(S.nextModel());
    changed();
    document.querySelector(`[data-focus="pick:${column.uid}"]`)?.focus();
  };
  return h('button', { type: 'button', class: 'add', 'data-testid': 'column-add', 'aria-label': 'Compare with another model', title: 'Compare with another model', onclick: act }, icon('plus'), h('span', null, 'Compare'));
}

/** Builds the heads anew, keeping focus. */
export function renderColumns() {
  const count = state.columns.length;
  const focused = document.activeElement?.dataset?.focus;
  byId('chat').dataset.columns = String(count);
  byId('columns').replaceChildren(...state.columns.map(head), ...[adder()].filter(Boolean));
  const secret = state.blind && count > 1;
  byId('columns').hidden = secret;
  byId('blind-bar').hidden = !secret;
  byId('blind-toggle').hidden = count < 2;
  byId('diff-toggle').hidden = count < 2;
  byId('blind-toggle').setAttribute('aria-pressed', String(secret));
  byId('diff-toggle').setAttribute('aria-pressed', String(state.diff));
  if (secret) renderScore();
  if (focused) document.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
}

function scoreRow([name, { won, lost, tied }]) {
  const share = won + lost + tied ? Math.round((100 * (won + tied / 2)) / (won + lost + tied)) : 0;
  const bar = h('progress', { max: 100, 'aria-label': `${share} % of votes` });
  bar.value = share;
  return h('li', null, h('strong', null, name), bar, h('span', null, `${won} won, ${lost} lost, ${tied} tied`));
}

/** The bar over a blind vote: who takes part, and the running score. */
export function renderScore() {
  const score = Object.entries(S.readScore()).sort((a, b) => b[1].won - a[1].won);
  const names = state.columns.map((column) => S.label(column.model, S.scaleOf(column)));
  const reset = h('button', { type: 'button', class: 'quiet', 'data-testid': 'score-reset', onclick: () => S.writeScore({}) }, 'Reset the score');
  const intro = h('p', null, h('strong', null, 'Blind vote. '), `${names.join(', ')} answer in shuffled columns; your vote shows who is who.`);
  const rows = h('ul', { class: 'score', 'data-testid': 'score', 'aria-label': 'Score' }, ...score.map(scoreRow));
  byId('blind-bar').replaceChildren(intro, score.length ? rows : h('span', { 'data-testid': 'score' }), ...(score.length ? [reset] : []));
}

/** Goes into or out of the blind vote; going out shows every name. */
export function toggleBlind() {
  state.blind = !state.blind;
  if (!state.blind) for (const turn of state.turns) if (turn.order && !turn.vote) turn.vote = 'open';
  S.emit('columns');
}

export function toggleDiff() {
  state.diff = !state.diff;
  S.emit('columns');
}
