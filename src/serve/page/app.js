// Puts the page together: what is read at the start, what a control does, which view is shown.

import { hideAdmin, showAdmin } from './admin.js';
import { ApiError, getJson } from './api.js';
import { send, stopAll } from './chat.js';
import { renderColumns, renderScore, toggleBlind, toggleDiff } from './columns.js';
import { byId, placeIcons, setGlyph, toast } from './dom.js';
import { saveJson, saveMarkdown } from './export.js';
import { showSettings } from './settings.js';
import * as S from './state.js';
import { answerChanged, refreshVersions, renderThread } from './thread.js';

const { state } = S;
const POLL_MS = 5000;
const dark = matchMedia('(prefers-color-scheme: dark)');

function follow(act) {
  const scroll = byId('scroll');
  const atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 90;
  act();
  if (atEnd) scroll.scrollTop = scroll.scrollHeight;
}

let wasAtEnd = true;

function showButtons() {
  const busy = S.anyRunning();
  byId('stop').hidden = !busy;
  byId('send').hidden = busy;
}

function watch() {
  byId('scroll').addEventListener('scroll', () => {
    const scroll = byId('scroll');
    wasAtEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 90;
  });
  S.on('thread', () => {
    follow(renderThread);
    showButtons();
  });
  S.on('answer', (answer) => answerChanged(answer, () => {
    if (wasAtEnd) byId('scroll').scrollTop = byId('scroll').scrollHeight;
  }));
  S.on('columns', () => {
    renderColumns();
    renderThread();
    showButtons();
  });
  S.on('score', renderScore);
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === 'dark' : dark.matches;
}

function showTheme() {
  const button = byId('theme-toggle');
  setGlyph(button, isDark() ? 'sun' : 'moon');
  button.setAttribute('aria-label', isDark() ? 'Light appearance' : 'Dark appearance');
}

function toggleTheme() {
  const next = isDark() ? 'light' : 'dark';
  document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem('lorakit.theme', next);
  } catch {
    // Storage is off: the choice lasts until the page is left.
  }
  showTheme();
}

function fitPrompt() {
  const prompt = byId('prompt');
  prompt.style.height = 'auto';
  prompt.style.height = `${Math.min(prompt.scrollHeight, 240)}px`;
}

function submit(event) {
  event?.preventDefault();
  const prompt = byId('prompt');
  const text = prompt.value.trim();
  if (!state.columns.length) return void start(false).catch(unreachable);
  if (!text || S.anyRunning()) return;
  prompt.value = '';
  fitPrompt();
  send(text);
  byId('scroll').scrollTop = byId('scroll').scrollHeight;
}

function newConversation() {
  stopAll();
  state.turns = [];
  S.remember();
  S.emit('thread');
  byId('prompt').focus();
}

function wireComposer() {
  const prompt = byId('prompt');
  byId('composer').addEventListener('submit', submit);
  prompt.addEventListener('input', fitPrompt);
  prompt.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) submit(event);
  });
  byId('stop').addEventListener('click', () => {
    stopAll();
    prompt.focus();
  });
  byId('blind-toggle').addEventListener('click', toggleBlind);
  byId('diff-toggle').addEventListener('click', toggleDiff);
}

function wireBar() {
  byId('new-chat').addEventListener('click', newConversation);
  byId('theme-toggle').addEventListener('click', toggleTheme);
  dark.addEventListener('change', showTheme);
  byId('settings-open').addEventListener('click', () => {
    showSettings(renderThread);
    byId('drawer').showModal();
  });
  byId('drawer').addEventListener('click', (event) => {
    if (event.target === byId('drawer')) byId('drawer').close();
  });
  const menu = byId('export-menu');
  const leave = () => menu.removeAttribute('open');
  menu.addEventListener('focusout', (event) => menu.contains(event.relatedTarget) || leave());
  menu.addEventListener('keydown', (event) => event.key === 'Escape' && (leave(), menu.firstElementChild.focus()));
  byId('export-md').addEventListener('click', () => (saveMarkdown(), leave()));
  byId('export-json').addEventListener('click', () => (saveJson(), leave()));
  document.querySelector('.skip').addEventListener('click', (event) => {
    event.preventDefault();
    byId(location.hash === '#admin' ? 'load-name' : 'prompt').focus();
  });
}

function route() {
  const admin = location.hash === '#admin';
  byId('chat').hidden = admin;
  byId('admin').hidden = !admin;
  for (const element of document.querySelectorAll('.chat-only')) element.hidden = admin;
  byId(admin ? 'nav-admin' : 'nav-chat').setAttribute('aria-current', 'page');
  byId(admin ? 'nav-chat' : 'nav-admin').removeAttribute('aria-current');
  document.title = admin ? 'Admin · lorakit' : 'lorakit';
  if (admin) showAdmin();
  else hideAdmin();
}

/** Reads the list of models; `quiet` asks for no key. */
async function readModels(quiet) {
  const before = JSON.stringify(state.models);
  state.models = (await getJson('v1/models', { quiet })).data;
  byId('server-state').textContent = '';
  return JSON.stringify(state.models) !== before;
}

function unreachable(error) {
  byId('server-state').textContent = error instanceof ApiError ? (error.status === 401 ? 'Key needed: Send asks for it' : error.message) : 'Server not reachable';
}

async function poll() {
  try {
    if (document.hidden) return;
    if (!state.models.length) await start(true);
    else if (await readModels(true)) {
      if (document.activeElement?.dataset?.testid !== 'model-picker') renderColumns();
      refreshVersions();
    }
  } catch (error) {
    unreachable(error);
  } finally {
    setTimeout(poll, POLL_MS);
  }
}

async function start(quiet) {
  const names = S.namesInAddress(location.search);
  await readModels(quiet);
  if (!S.restore(names)) {
    const first = state.models.find((model) => model.kind === 'assistant') ?? state.models.find((model) => model.kind === 'adapter') ?? state.models[0];
    for (const name of names.length ? names : [first?.id].filter(Boolean)) S.addColumn(name);
  }
  S.writeAddress();
  S.emit('columns');
}

async function main() {
  placeIcons();
  showTheme();
  watch();
  wireComposer();
  wireBar();
  addEventListener('hashchange', route);
  route();
  try {
    await start(location.hash === '#admin');
  } catch (error) {
    unreachable(error);
    if (error instanceof ApiError && error.status !== 401) toast(error.message, true);
  }
  if (!byId('chat').hidden) byId('prompt').focus();
  setTimeout(poll, POLL_MS);
}

void main();
