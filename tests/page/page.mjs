// Drives the server's page in a real browser.
//
//   cd FOLDER WITH playwright-core (npm i playwright-core)
//   node …/tests/page/page.mjs BASE SCREENSHOTS [--admin-key K] [--api-key K] [--load NAME=FOLDER1,FOLDER2] [--chromium PATH]
//
// The server needs one adapter besides its base. The admin steps run where an admin key is given; --load names two adapter folders
// with different weights, which become two generations of NAME, the second of which is rolled back.
// The last line says how many steps passed; a failing one is named and the exit status is 1.

import { mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

const { chromium } = createRequire(join(process.cwd(), 'here.js'))('playwright-core');

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    'admin-key': { type: 'string' },
    'api-key': { type: 'string' },
    load: { type: 'string' },
    chromium: { type: 'string', default: '/usr/bin/chromium' },
  },
});
const [base, shots] = positionals;
if (!base || !shots) {
  console.error('usage: page.mjs BASE SCREENSHOTS [--admin-key K] [--api-key K] [--load NAME=FOLDER1,FOLDER2]');
  process.exit(2);
}
mkdirSync(shots, { recursive: true });

const id = (name) => `[data-testid="${name}"]`;
const complaints = [];

function check(held, what) {
  if (!held) throw new Error(what);
}

async function open(browser, query, { width = 1280, height = 860, dark = false } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: dark ? 'dark' : 'light' });
  if (options['api-key']) await context.addInitScript((key) => sessionStorage.setItem('lorakit.key', key), options['api-key']);
  const page = await context.newPage();
  page.setDefaultTimeout(60_000);
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('console', (line) => {
    if (line.type() === 'error' && !/status of 40[0-9]/.test(line.text())) complaints.push(line.text());
  });
  await page.goto(new URL(`/${query}`, base).href);
  return page;
}

const shot = (page, name) => page.screenshot({ path: join(shots, `${name}.png`) });
const answers = (page) => page.locator(`${id('answer')}:not(.greeting)`);

/** Waits until no answer is under way. */
async function settled(page) {
  await page.waitForSelector(`${id('send')}:not([hidden])`);
  await page.waitForFunction(() => !document.querySelector('[data-status="waiting"], [data-status="streaming"]'));
}

async function ask(page, text) {
  await page.fill(id('prompt'), text);
  await page.click(id('send'));
  await settled(page);
}

const requestBody = (page) =>
  page.waitForRequest((request) => request.url().endsWith('/v1/chat/completions')).then((request) => request.postDataJSON());

async function fits(page, what) {
  const wide = await page.evaluate(() =>
    [document.documentElement, document.body, ...document.querySelectorAll('#scroll, #admin, #composer')].some((e) => e.scrollWidth > e.clientWidth + 1),
  );
  check(!wide, `${what} scrolls sideways`);
  const outside = await page.evaluate(() =>
    [...document.querySelectorAll('button, select, input, textarea, summary, a')]
      .filter((e) => e.checkVisibility() && !e.closest('.skip, .hidden, dialog:not([open])'))
      .filter((e) => e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < -1)
      .map((e) => e.dataset.testid ?? e.textContent),
  );
  check(!outside.length, `${what}: outside the screen: ${outside.join(', ')}`);
}

const names = {};

async function models() {
  const headers = options['api-key'] ? { authorization: `Bearer ${options['api-key']}` } : {};
  const { data } = await (await fetch(new URL('/v1/models', base), { headers })).json();
  names.base = data.find((model) => model.kind === 'base')?.id;
  names.adapter = data.find((model) => model.kind === 'adapter')?.id;
  names.greeted = data.find((model) => model.greeting);
  check(names.base && names.adapter, 'the server has no base or no adapter');
}

async function chat(browser) {
  const page = await open(browser, `?model=${names.adapter}`);
  await page.waitForSelector(id('model-picker'));
  check((await page.locator(id('model-picker')).inputValue()) === names.adapter, 'the picker does not follow the address');
  await ask(page, 'Hello, who are you?');
  check((await answers(page).getAttribute('data-status')) === 'done', 'the answer did not end well');
  check((await page.locator(id('answer-text')).last().innerText()).trim(), 'the answer is empty');
  const meta = await page.locator(id('answer-meta')).innerText();
  check(/first token/.test(meta) && /→ \d+ tokens/.test(meta), `figures are missing: ${meta}`);
  check(await page.locator(id('answer-version')).count(), 'the generation is not shown');
  await shot(page, 'chat');
  return page;
}

async function regenerate(page) {
  await page.click(id('regenerate'));
  await settled(page);
  check((await page.locator(id('alt-count')).innerText()) === '2 / 2', 'the earlier answer was not kept');
  await page.click(id('alt-prev'));
  check((await page.locator(id('alt-count')).innerText()) === '1 / 2', 'the earlier answer is not shown');
}

async function edit(page) {
  await ask(page, 'And one more.');
  check((await page.locator(id('turn')).count()) === 2, 'there are not two turns');
  await page.locator(id('turn')).first().hover();
  await page.locator(id('edit')).first().click();
  await page.fill(id('edit-input'), 'Hello again.');
  const [body] = await Promise.all([requestBody(page), page.click(id('edit-save'))]);
  await settled(page);
  check(body.messages.length === 1 && body.messages[0].content === 'Hello again.', 'the edited message was not sent alone');
  check((await page.locator(id('turn')).count()) === 1, 'later turns stayed');
}

async function stopping(page) {
  await page.click(id('settings-open'));
  await page.fill(id('setting-max_tokens'), '1500');
  await page.fill(id('setting-system'), 'You write long stories.');
  await page.fill(id('setting-temperature'), '0.7');
  await shot(page, 'drawer');
  await page.click(id('drawer-close'));
  await page.fill(id('prompt'), 'Write a very long story about a ship.');
  const [body] = await Promise.all([requestBody(page), page.click(id('send'))]);
  check(body.max_tokens === 1500 && body.temperature === 0.7 && body.messages[0].role === 'system', 'the settings were not sent');
  // An answer is drawn, and may end by itself before the button is found: then another one is.
  for (let tries = 1; ; tries++) {
    const pressed = await page.click(id('stop'), { timeout: 3000 }).then(() => true, () => false);
    await settled(page);
    if (pressed && (await answers(page).last().getAttribute('data-status')) === 'stopped') return;
    check(tries < 5, 'the answer was not stopped');
    await answers(page).last().hover();
    await page.locator(id('regenerate')).last().click();
  }
}

async function exporting(page) {
  for (const [button, end] of [['export-md', '.md'], ['export-json', '.json']]) {
    await page.click(id('export-menu'));
    const [file] = await Promise.all([page.waitForEvent('download'), page.click(id(button))]);
    check(file.suggestedFilename().endsWith(end), `${button} saved ${file.suggestedFilename()}`);
  }
  await page.reload();
  await page.waitForSelector(id('turn'));
  check((await page.locator(id('turn')).count()) === 2, 'the conversation did not outlast a reload');
  await page.click(id('new-chat'));
  check((await page.locator(id('turn')).count()) === 0, 'a new conversation is not empty');
}

async function compare(browser) {
  const page = await open(browser, `?model=${names.base}&${names.adapter}`, { width: 1440, dark: true });
  await page.waitForSelector(id('column'));
  check((await page.locator(id('column')).count()) === 2, 'the address did not open two columns');
  await page.click(id('column-add'));
  check((await page.locator(id('column')).count()) === 3, 'no column was added');
  check(/model=[^&]+&[^&]+&[^&]+$/.test(page.url()), `the address does not follow: ${page.url()}`);
  await page.locator(id('column-remove')).last().click();
  check((await page.locator(id('column')).count()) === 2, 'no column was removed');
  await ask(page, 'Say something about rain boots.');
  check((await answers(page).count()) === 2, 'not every column answered');
  await shot(page, 'compare');
  await page.click(id('diff-toggle'));
  check((await page.locator('.diff').count()) === 1, 'no differences are shown');
  await shot(page, 'diff');
  await page.click(id('diff-toggle'));
  return page;
}

async function slider(page) {
  const handle = page.locator(id('scale-slider'));
  check((await handle.count()) === 1, 'the adapter alone should have a scale');
  await handle.focus();
  for (let n = 0; n < 10; n += 1) await page.keyboard.press('ArrowLeft');
  check((await page.locator(id('scale-value')).innerText()) === '0.50', 'the scale does not follow the keyboard');
  const bodies = [];
  page.on('request', (request) => request.url().endsWith('/v1/chat/completions') && bodies.push(request.postDataJSON()));
  await ask(page, 'And about umbrellas?');
  const scaled = bodies.find((body) => body.model === names.adapter);
  check(scaled?.lora?.[0]?.scale === 0.5 && scaled.lora[0].id === names.adapter, 'the scale was not sent');
  check(!bodies.find((body) => body.model === names.base).lora, 'the base got a scale');
}

async function blindVote(page) {
  await page.click(id('blind-toggle'));
  await ask(page, 'Which of you is better?');
  const turn = page.locator(id('turn')).last();
  const shown = await turn.locator(id('answer-name')).allInnerTexts();
  check(shown.join() === 'A,B', `names are shown before the vote: ${shown.join()}`);
  check(!(await turn.locator(id('answer-version')).count()), 'the generation is shown before the vote');
  await shot(page, 'blind');
  await turn.locator(id('vote-B')).click();
  const after = await turn.locator(id('answer-name')).allInnerTexts();
  check(after.includes(names.base) && after.some((name) => name.startsWith(names.adapter)), 'names are not shown after the vote');
  check(/You chose/.test(await turn.locator(id('vote-result')).innerText()), 'the vote is not shown');
  check(/1 won/.test(await page.locator(id('score')).innerText()), 'the score did not move');
  await page.locator('#scroll').evaluate((scroll) => (scroll.scrollTop = 0));
  await shot(page, 'score');
  await page.click(id('score-reset'));
  check(!/won/.test(await page.locator(id('score')).innerText()), 'the score was not reset');
}

/** Presses Tab until the focus is at `wanted`; every control on the way must show its focus. */
async function tabTo(page, wanted, key = 'Tab') {
  for (let n = 0; n < 60; n += 1) {
    await page.keyboard.press(key);
    const at = await page.evaluate(() => {
      const style = getComputedStyle(document.activeElement);
      return { name: document.activeElement.dataset.testid, seen: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0, body: document.activeElement === document.body };
    });
    check(at.seen || at.body, `the focus on ${at.name} is not visible`);
    if (at.name === wanted) return;
  }
  throw new Error(`Tab does not reach ${wanted}`);
}

async function keyboard(browser) {
  const page = await open(browser, `?model=${names.adapter}`);
  await page.waitForSelector(id('model-picker'));
  check(await page.evaluate(() => document.activeElement.id === 'prompt'), 'the prompt has no focus at the start');
  await page.keyboard.type('Typed by keyboard.');
  await page.keyboard.press('Enter');
  await page.waitForSelector(id('answer'));
  await settled(page);
  await tabTo(page, 'regenerate', 'Shift+Tab');
  await page.keyboard.press('Enter');
  await settled(page);
  check((await page.locator(id('alt-count')).innerText()) === '2 / 2', 'Enter did not ask again');
  await tabTo(page, 'edit', 'Shift+Tab');
  await page.keyboard.press('Enter');
  await page.keyboard.press('Escape');
  check(await page.evaluate(() => document.activeElement.dataset.testid === 'edit'), 'Escape does not lead back from editing');
  await tabTo(page, 'column-add', 'Shift+Tab');
  await page.keyboard.press('Enter');
  check((await page.locator(id('column')).count()) === 2, 'Enter added no column');
  await tabTo(page, 'settings-open', 'Shift+Tab');
  await page.keyboard.press('Enter');
  await page.waitForSelector(`${id('drawer')}[open]`);
  await page.keyboard.press('Escape');
  check(await page.evaluate(() => document.activeElement.dataset.testid === 'settings-open'), 'the drawer does not give the focus back');
  await tabTo(page, 'nav-admin', 'Shift+Tab');
}

async function phone(browser) {
  for (const query of [`?model=${names.greeted?.id ?? names.adapter}`, `?model=${names.base}&${names.adapter}&${names.adapter}&${names.base}`]) {
    const page = await open(browser, query, { width: 360, height: 740 });
    await page.waitForSelector(id('model-picker'));
    await fits(page, `${query} before`);
    await ask(page, 'A word that does not break: ' + 'x'.repeat(120));
    await fits(page, `${query} after`);
    await shot(page, query.includes('&') ? 'phone-compare' : 'phone');
    await page.click(id('settings-open'));
    await fits(page, 'the drawer');
    await page.click(id('drawer-close'));
  }
}

async function login(browser) {
  const page = await open(browser, '#admin');
  await page.waitForSelector(`${id('key-dialog')}[open]`);
  await page.fill(id('key-input'), 'not the key');
  await page.click(id('key-save'));
  await page.waitForFunction(() => /did not accept/.test(document.getElementById('key-why').textContent) && document.getElementById('key-dialog').open);
  await page.fill(id('key-input'), options['admin-key']);
  await page.click(id('key-save'));
  await page.waitForSelector(id('admin-row'));
  await page.waitForFunction(() => /^\d/.test(document.querySelector('[data-testid="metric-generated"]').textContent));
  await shot(page, 'admin');
  return page;
}

async function load(page, name, folder, replace) {
  await page.fill(id('load-name'), name);
  await page.fill(id('load-path'), folder);
  await page.setChecked(id('load-inplace'), replace);
  await page.click(id('load-submit'));
  await page.waitForFunction(() => document.getElementById('load-name').value === '');
}

async function rollBack(page) {
  const [name, folders] = options.load.split('=');
  const [first, second] = folders.split(',');
  const version = page.locator(`tr[data-adapter="${name}"] ${id('admin-version')}`);
  await load(page, name, first, false);
  const before = await version.getAttribute('title');
  await load(page, name, second, true);
  const row = page.locator(`tr[data-adapter="${name}"]`);
  await row.locator(id('rollback')).waitFor();
  check((await version.getAttribute('title')) !== before, 'the second load published nothing');
  await row.locator(id('rollback-select')).selectOption(before);
  await row.locator(id('rollback')).click();
  await page.waitForFunction(([one, old]) => document.querySelector(`tr[data-adapter="${one}"] [data-testid="admin-version"]`)?.title === old, [name, before]);
  await page.setViewportSize({ width: 360, height: 740 });
  await fits(page, 'admin');
  await shot(page, 'phone-admin');
  await row.locator(id('unload')).click();
  await page.click(id('confirm-yes'));
  await page.waitForFunction((one) => document.querySelector(`tr[data-adapter="${one}"] [data-testid="admin-state"]`)?.textContent !== 'loaded', name);
}

async function main() {
  const browser = await chromium.launch({ executablePath: options.chromium, args: ['--no-sandbox', '--disable-gpu', '--disable-quic'] });
  let page = null;
  const steps = [
    ['models', () => models()],
    ['send', async () => (page = await chat(browser))],
    ['regenerate', () => regenerate(page)],
    ['edit', () => edit(page)],
    ['settings and stop', () => stopping(page)],
    ['export and reload', () => exporting(page)],
    ['compare', async () => (page = await compare(browser))],
    ['scale', () => slider(page)],
    ['blind vote', () => blindVote(page)],
    ['keyboard', () => keyboard(browser)],
    ['phone', () => phone(browser)],
    ...(options['admin-key'] ? [['admin login', async () => (page = await login(browser))]] : []),
    ...(options['admin-key'] && options.load ? [['load, roll back, unload', () => rollBack(page)]] : []),
    ['no errors in the console', () => check(!complaints.length, complaints.join('\n'))],
  ];
  let at = '';
  try {
    for (const [name, step] of steps) {
      at = name;
      await step();
      console.log(`ok    ${name}`);
    }
    console.log(`${steps.length} steps passed`);
  } catch (error) {
    if (page) await shot(page, 'failed').catch(() => {});
    console.error(`FAILED ${at}: ${error.message}`);
    process.exitCode = 1;
  } finally {
    await browser.close();
  }
}

await main();
