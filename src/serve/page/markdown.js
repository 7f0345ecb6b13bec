// A small, safe part of Markdown, built from DOM nodes: paragraphs, headings, code, lists, quotes, tables, bold, italic.
// Links and images stay as they are written: what a model says is not made clickable and fetches nothing.

import { copyText, h } from './dom.js';

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^(#{1,6})\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const CELLS = /^\s*\|.*\|\s*$/;
const ALIGN = /^\s*\|(\s*:?-+:?\s*\|)+\s*$/;
const INLINE = /(`+)(?!`)([\s\S]+?)(?<!`)\1(?!`)|\*\*(?=\S)([\s\S]+?\S?)\*\*|\*(?=[^\s*])([^*\n]*[^\s*])\*/g;

const starts = (line) => [FENCE, HEADING, RULE, ITEM, QUOTE].some((form) => form.test(line));

/** Nodes of a run of text. */
export function inline(text) {
  const nodes = [];
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    if (match.index > at) nodes.push(text.slice(at, match.index));
    if (match[2] !== undefined) nodes.push(h('code', null, match[2].trim() || match[2]));
    else if (match[3] !== undefined) nodes.push(h('strong', null, ...inline(match[3])));
    else nodes.push(h('em', null, ...inline(match[4])));
    at = match.index + match[0].length;
  }
  if (at < text.length) nodes.push(text.slice(at));
  return nodes;
}

function fenced(lines, from) {
  const [, marks, language] = lines[from].match(FENCE);
  const closes = (line) => line.trim().startsWith(marks) && !line.trim().slice(marks.length).replaceAll(marks[0], '');
  let end = from + 1;
  while (end < lines.length && !closes(lines[end])) end += 1;
  return { kind: 'code', language, text: lines.slice(from + 1, end).join('\n'), end: Math.min(end + 1, lines.length) };
}

function run(lines, from, goesOn) {
  let end = from + 1;
  while (end < lines.length && goesOn(lines[end], lines[end + 1])) end += 1;
  return end;
}

function blockAt(lines, from) {
  const line = lines[from];
  if (FENCE.test(line)) return fenced(lines, from);
  if (HEADING.test(line)) return { kind: 'heading', end: from + 1 };
  if (RULE.test(line)) return { kind: 'rule', end: from + 1 };
  if (QUOTE.test(line)) return { kind: 'quote', end: run(lines, from, (next) => QUOTE.test(next)) };
  if (CELLS.test(line) && ALIGN.test(lines[from + 1] ?? '')) {
    return { kind: 'table', end: run(lines, from, (next) => CELLS.test(next)) };
  }
  if (ITEM.test(line)) {
    const belongs = (next, after) =>
      ITEM.test(next) || /^\s{2,}\S/.test(next) || (!next.trim() && after !== undefined && (ITEM.test(after) || /^\s{2,}\S/.test(after)));
    return { kind: 'list', end: run(lines, from, belongs) };
  }
  return { kind: 'paragraph', end: run(lines, from, (next) => next.trim() && !starts(next)) };
}

/** Blocks of `text`: [{kind, src, …}]. */
export function blocks(text) {
  const lines = text.replace(/\r\n?/g, '\n').split('\n');
  const found = [];
  for (let at = 0; at < lines.length; ) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const block = blockAt(lines, at);
    found.push({ ...block, src: lines.slice(at, block.end).join('\n') });
    at = block.end;
  }
  return found;
}

function list(lines) {
  const [, indent, mark] = lines[0].match(ITEM);
  const ordered = /\d/.test(mark);
  const items = [];
  for (const line of lines) {
    const item = line.match(ITEM);
    if (item && item[1].length <= indent.length) items.push({ text: [item[3]], inner: [] });
    else if (items.length && (item || items.at(-1).inner.length)) items.at(-1).inner.push(line);
    else if (items.length && line.trim()) items.at(-1).text.push(line.trim());
  }
  const nodes = items.map(({ text, inner }) => {
    const first = inner.findIndex((line) => ITEM.test(line));
    return h('li', null, ...inline(text.join('\n')), first < 0 ? null : list(inner.slice(first)));
  });
  const start = ordered && Number.parseInt(mark, 10) !== 1 ? Number.parseInt(mark, 10) : null;
  return h(ordered ? 'ol' : 'ul', { start }, ...nodes);
}

function table(lines) {
  const cells = (line) => line.trim().slice(1, -1).split('|').map((cell) => cell.trim());
  const row = (line, tag) => h('tr', null, ...cells(line).map((cell) => h(tag, null, ...inline(cell))));
  const body = lines.slice(2).map((line) => row(line, 'td'));
  return h('div', { class: 'table-wrap' }, h('table', null, h('thead', null, row(lines[0], 'th')), h('tbody', null, ...body)));
}

function code(block) {
  const copy = h('button', { type: 'button', class: 'code-copy', onclick: () => copyText(block.text) }, 'Copy');
  const head = h('div', { class: 'code-head' }, h('span', null, block.language || 'code'), copy);
  return h('div', { class: 'code' }, head, h('pre', { tabindex: '0' }, h('code', null, block.text)));
}

function node(block) {
  const lines = block.src.split('\n');
  switch (block.kind) {
    case 'code':
      return code(block);
    case 'heading': {
      const [, marks, text] = lines[0].match(HEADING);
      return h(`h${Math.min(marks.length + 2, 6)}`, null, ...inline(text));
    }
    case 'rule':
      return h('hr');
    case 'quote':
      return h('blockquote', null, ...blocks(lines.map((line) => line.match(QUOTE)[1]).join('\n')).map(node));
    case 'list':
      return list(lines);
    case 'table':
      return table(lines);
    default:
      return h('p', null, ...inline(block.src));
  }
}

/** Shows `text` in `target`; blocks that did not change since the last call keep their nodes, and with them a selection. */
export function render(target, text) {
  const now = blocks(text);
  const shown = target.shownBlocks ?? [];
  let same = 0;
  while (same < now.length && same < shown.length && now[same].src === shown[same].src && now[same].kind === shown[same].kind) same += 1;
  while (target.childNodes.length > same) target.lastChild.remove();
  target.append(...now.slice(same).map(node));
  target.shownBlocks = now;
}

/** Shows `text` in `target` as it is. */
export function renderPlain(target, text) {
  target.shownBlocks = null;
  target.replaceChildren(h('p', { class: 'plain' }, text));
}
