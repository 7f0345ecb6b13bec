// The drawer: system prompt and sampling of this conversation. An empty field leaves the server's default.

import { byId, h } from './dom.js';
import { remember, state } from './state.js';

const FIELDS = [
  { key: 'temperature', name: 'Temperature', min: 0, max: 2, step: 0.05, help: '0 takes the likeliest token every time.' },
  { key: 'top_p', name: 'Top p', min: 0, max: 1, step: 0.01, help: 'Likeliest tokens that share this probability.' },
  { key: 'top_k', name: 'Top k', min: 0, step: 1, help: 'So many likeliest tokens; 0 is all.' },
  { key: 'min_p', name: 'Min p', min: 0, max: 1, step: 0.01, help: 'Least probability, relative to the likeliest.' },
  { key: 'repetition_penalty', name: 'Repetition penalty', min: 0.1, max: 3, step: 0.01, help: '1 is none.' },
  { key: 'max_tokens', name: 'Max tokens', min: 1, step: 1, help: 'Longest answer.' },
  { key: 'seed', name: 'Seed', min: 0, step: 1, help: 'The same seed draws the same answer.' },
];

/** Sampling fields of a request: those that are set. */
export function sampling(settings) {
  const body = {};
  for (const { key } of FIELDS) if (Number.isFinite(settings[key])) body[key] = settings[key];
  const stop = (settings.stop ?? '').split('\n').filter((line) => line !== '');
  if (stop.length) body.stop = stop;
  return body;
}

function keep(key, value) {
  if (value === null || value === '') delete state.settings[key];
  else state.settings[key] = value;
  remember();
}

function numberField({ key, name, min, max, step, help }) {
  const id = `setting-${key}`;
  const note = h('small', { id: `${id}-help` }, help);
  const input = h('input', {
    id, 'data-testid': id, type: 'number', min, max, step, inputmode: 'decimal', placeholder: 'default',
    'aria-describedby': note.id, value: state.settings[key] ?? '',
    oninput: () => {
      const good = input.checkValidity();
      input.setAttribute('aria-invalid', String(!good));
      note.textContent = good ? help : input.validationMessage;
      if (good) keep(key, input.value === '' ? null : input.valueAsNumber);
    },
  });
  return h('div', { class: 'field' }, h('label', { for: id }, name), input, note);
}

function textField(key, name, rows, help) {
  const id = `setting-${key}`;
  const area = h('textarea', {
    id, rows, 'data-testid': id, 'aria-describedby': `${id}-help`, spellcheck: 'false', value: state.settings[key] ?? '',
    oninput: () => keep(key, area.value),
  });
  return h('div', { class: 'field wide' }, h('label', { for: id }, name), area, h('small', { id: `${id}-help` }, help));
}

/** Fills the drawer; `changed` runs when something that is shown at once was changed. */
export function showSettings(changed) {
  const markdown = h('input', {
    type: 'checkbox', 'data-testid': 'setting-markdown', checked: state.settings.plain !== true,
    onchange: () => {
      keep('plain', markdown.checked ? null : true);
      changed();
    },
  });
  const reset = h('button', {
    type: 'button', 'data-testid': 'settings-reset',
    onclick: () => {
      state.settings = {};
      remember();
      showSettings(changed);
      changed();
    },
  }, 'Back to the defaults');
  byId('settings').replaceChildren(
    textField('system', 'System prompt', 5, 'Holds from the next message on, in every column.'),
    h('div', { class: 'fields' }, ...FIELDS.map(numberField)),
    textField('stop', 'Stop sequences', 2, 'One a line; the answer ends before the first that appears.'),
    h('label', { class: 'check' }, markdown, ' Show answers as Markdown'),
    reset,
  );
}
