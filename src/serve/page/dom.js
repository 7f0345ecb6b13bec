// Building elements. Text reaches the page only as text nodes, never as markup.

const SVG = 'http://www.w3.org/2000/svg';

const ICONS = {
  plus: 'M12 5v14M5 12h14',
  'plus-page': 'M12 20H6a2 2 0 0 1-2-2V6a2 2 0 0 1 2-2h12a2 2 0 0 1 2 2v6M18 15v6M15 18h6M8 9h8M8 13h4',
  download: 'M12 4v11M7.5 11 12 15.5 16.5 11M5 20h14',
  sliders: 'M4 7h9M17 7h3M4 17h3M11 17h9M15 4.500v5M9 14.500v5',
  moon: 'M20 14.500A8 8 0 0 1 9.5 4a8 8 0 1 0 10.5 10.500Z',
  sun: 'M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8ZM12 3v1.500M12 19.500V21M3 12h1.500M19.5 12H21M5.6 5.600l1.1 1.100M17.3 17.300l1.1 1.100M18.4 5.600l-1.1 1.100M6.7 17.300l-1.1 1.1',
  'eye-off': 'M4 4l16 16M9.9 9.900a3 3 0 0 0 4.2 4.200M6.5 6.900C4.4 8.2 3 10.3 2.5 12c1.2 3.6 4.9 6.5 9.5 6.5 1.8 0 3.4-.4 4.8-1.200M10.5 5.600c.5-.1 1-.1 1.5-.1 4.6 0 8.3 2.9 9.5 6.5-.4 1.2-1.1 2.3-2 3.3',
  diff: 'M12 4v8M8 8h8M8 18h8',
  stop: 'M7 7h10v10H7z',
  send: 'M12 19V6M6.5 11.5 12 6l5.5 5.5',
  close: 'M6 6l12 12M18 6 6 18',
  copy: 'M9 9h10v11H9zM5 15V4h10',
  again: 'M19.5 12a7.5 7.5 0 1 1-2.3-5.400L20 9.300M20 4.500v4.800h-4.8',
  edit: 'M4 20l.8-4L16 4.800a1.5 1.5 0 0 1 2.1 0l1.1 1.100a1.5 1.5 0 0 1 0 2.100L8 19.2 4 20Z',
  terminal: 'M5 7l5 5-5 5M12.5 18H19',
  left: 'M14.5 6l-6 6 6 6',
  right: 'M9.5 6l6 6-6 6',
};

/** Element `tag` with `props` (class, data-*, aria-*, on…, other attributes; null and false are left out) and children. */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'value' || name === 'checked' || name === 'disabled') element[name] = value;
    else element.setAttribute(name, value === true ? '' : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** SVG element with attributes. */
export function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

/** Icon of 24 units; hidden from screen readers, because the control that holds it has a name. */
export function icon(name) {
  return svg('svg', { viewBox: '0 0 24 24', class: 'glyph', 'aria-hidden': 'true' }, svg('path', { d: ICONS[name] }));
}

/** Button with an icon; its label is its accessible name and its tooltip. */
export function iconButton(name, label, testid, onclick, focus) {
  return h(
    'button',
    { type: 'button', class: 'icon', 'aria-label': label, title: label, 'data-testid': testid, 'data-focus': focus, onclick },
    icon(name),
  );
}

export const byId = (id) => document.getElementById(id);

/** Puts the icons into the elements that index.html marks with data-icon. */
export function placeIcons() {
  for (const element of document.querySelectorAll('[data-icon]')) element.prepend(icon(element.dataset.icon));
}

/** The glyph of a button that index.html has, exchanged. */
export function setGlyph(button, name) {
  button.querySelector('.glyph').replaceWith(icon(name));
}

/** A short note at the foot of the page; `bad` colours it as an error and keeps it longer. */
export function toast(text, bad = false) {
  const note = h('p', { class: bad ? 'toast bad' : 'toast' }, text);
  byId('toasts').append(note);
  setTimeout(() => note.remove(), bad ? 8000 : 2500);
}

/** Says `text` to a screen reader. */
export function announce(text) {
  const live = byId('live');
  live.append(h('p', null, text));
  while (live.childElementCount > 8) live.firstElementChild.remove();
}

/** Puts text on the clipboard, also where the page is served over plain HTTP and the clipboard API is missing. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h('textarea', { class: 'hidden', 'aria-hidden': 'true' });
    const focused = document.activeElement;
    area.value = text;
    document.body.append(area);
    area.select();
    const copied = document.execCommand('copy');
    area.remove();
    focused?.focus();
    if (!copied) return toast('The browser did not allow copying.', true);
  }
  toast('Copied');
}

/** Asks yes or no; resolves to whether it was yes. */
export function confirmed(title, text, yes) {
  const dialog = byId('confirm-dialog');
  byId('confirm-title').textContent = title;
  byId('confirm-text').textContent = text;
  byId('confirm-yes').textContent = yes;
  dialog.returnValue = 'no';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true });
  });
}

/** Hands `text` to the browser as a file to save. */
export function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  h('a', { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
