// Differences of two answers by words.

import { h } from './dom.js';

const MOST_CELLS = 4_000_000;

const words = (text) => text.match(/[\p{L}\p{N}_]+|\s+|[^\p{L}\p{N}_\s]/gu) ?? [];

function table(a, b) {
  const width = b.length + 1;
  const best = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      const here = i * width + j;
      best[here] = a[i] === b[j] ? best[here + width + 1] + 1 : Math.max(best[here + width], best[here + 1]);
    }
  }
  return { best, width };
}

/** Joins changes that only blanks or punctuation part: a replaced phrase reads better whole than word by word. */
function joined(pieces) {
  const out = [];
  let gone = '';
  let fresh = '';
  const flush = () => {
    if (gone) out.push({ kind: 'gone', text: gone });
    if (fresh) out.push({ kind: 'new', text: fresh });
    gone = fresh = '';
  };
  pieces.forEach(({ kind, text }, at) => {
    const between = kind === 'same' && (gone || fresh) && at + 1 < pieces.length && !/[\p{L}\p{N}\n]/u.test(text);
    if (kind === 'gone' || between) gone += text;
    if (kind === 'new' || between) fresh += text;
    if (kind === 'same' && !between) {
      flush();
      out.push({ kind, text });
    }
  });
  flush();
  return out;
}

/** Pieces [{kind: 'same'|'gone'|'new', text}] that lead from `before` to `after`; null where both are too long to compare. */
export function diff(before, after) {
  const a = words(before);
  const b = words(after);
  if (a.length * b.length > MOST_CELLS || Math.min(a.length, b.length) > 65535) return null;
  const { best, width } = table(a, b);
  const pieces = [];
  const add = (kind, text) => {
    if (pieces.at(-1)?.kind === kind) pieces.at(-1).text += text;
    else pieces.push({ kind, text });
  };
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      add('same', a[i]);
      i += 1;
      j += 1;
    } else if (j >= b.length || (i < a.length && best[(i + 1) * width + j] >= best[i * width + j + 1])) {
      add('gone', a[i]);
      i += 1;
    } else {
      add('new', b[j]);
      j += 1;
    }
  }
  return joined(pieces);
}

/** Shows in `target` what `after` changes in `before`. */
export function renderDiff(target, before, after) {
  const pieces = diff(before, after);
  target.shownBlocks = null;
  if (!pieces) return target.replaceChildren(h('p', { class: 'plain' }, after));
  const tag = { same: 'span', gone: 'del', new: 'ins' };
  target.replaceChildren(h('p', { class: 'plain diff' }, ...pieces.map((piece) => h(tag[piece.kind], null, piece.text))));
}
