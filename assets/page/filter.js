// A text box for the index's filter language, with completions: a combobox with a list, as ARIA describes it.

import { completions } from './api.js';
import { count, h, icon, quoted } from './dom.js';

const FIELDS = [
  { text: 'label:', note: 'a label from the file beside the video' },
  { text: 'path:', note: 'a folder or file name' },
  { text: 'title:', note: 'words of the title' },
  { text: 'duration:[', note: 'seconds, as in duration:[10 TO 60]' },
];
const MAX_PROPOSALS = 8;

/** The word that ends at the caret: its start, its field (if any) and the typed part of its value. */
export function wordAt(text, caret) {
  const before = text.slice(0, caret);
  const quotes = before.split('"').length - 1;
  // After a closing quote there is nothing to complete.
  const [word] = quotes % 2 === 0 && before.endsWith('"') ? [''] : /(?:[a-z]+:)?(?:"[^"]*|[^\s"()+-][^\s"()]*|)$/.exec(before);
  const colon = word.indexOf(':');
  const field = colon > 0 ? word.slice(0, colon) : '';
  return { start: caret - word.length, field, typed: word.slice(colon + 1).replace(/^"/, '').toLowerCase() };
}

/**
 * The text after the caret that remains when the word is completed. If the completion is a field name
 * (`whole` is false), it replaces only the name of a field.
 */
export function restAfter(text, caret, whole) {
  const rest = text.slice(caret);
  if (!whole) return rest.replace(/^[a-z]*:?\[?/i, '');
  const quotes = (part) => part.split('"').length - 1;
  const inQuotes = quotes(text.slice(0, caret)) % 2 === 1;
  // The quote before the caret may be closed after it, or not at all.
  if (inQuotes && quotes(rest) % 2 === 1) return rest.replace(/^[^"]*"/, '').trimStart();
  return rest.replace(/^[^\s"()]*(?:(?<=:)"[^"]*"?)?/, '').trimStart();
}

/**
 * Completions of the word: `{text, note, whole}`. `whole` is false for a field name, whose value must follow.
 */
export function proposals({ field, typed }, { labels, folders }) {
  const fits = (name) => name.toLowerCase().includes(typed);
  const first = (name) => !name.toLowerCase().startsWith(typed);
  const of = (key, list, name) =>
    list
      .filter((entry) => fits(entry[name]))
      .map((entry) => ({ text: `${key}:${quoted(entry[name])}`, note: count(entry.videos, 'video'), whole: true, late: first(entry[name]) }));
  const values = [...(field === 'path' ? [] : of('label', labels, 'label')), ...(field === 'label' ? [] : of('path', folders, 'folder'))];
  if (field && field !== 'label' && field !== 'path') return [];
  values.sort((a, b) => a.late - b.late);
  const fields = field ? [] : FIELDS.filter(({ text }) => text.startsWith(typed)).map((f) => ({ ...f, whole: false }));
  return (typed ? [...values, ...fields] : [...fields, ...values]).slice(0, MAX_PROPOSALS);
}

let boxes = 0;

/**
 * A filter box. Calls `onapply(text)` with a complete filter. Returns `{element, input, value, wrong(text)}`.
 */
export function filterBox({ label, hint, placeholder, onapply }) {
  boxes += 1;
  const id = `filter-${boxes}`;
  let offered = [];
  let active = -1;
  let applied = '';

  const list = h('ul', { role: 'listbox', id: `${id}-list`, class: 'proposals', 'aria-label': `Completions of ${label}`, hidden: true });
  const wrong = h('p', { class: 'wrong', id: `${id}-wrong`, role: 'alert' });
  const input = h('input', {
    id,
    type: 'text',
    role: 'combobox',
    placeholder,
    autocomplete: 'off',
    autocapitalize: 'none',
    spellcheck: 'false',
    enterkeyhint: 'search',
    'aria-autocomplete': 'list',
    'aria-expanded': 'false',
    'aria-controls': list.id,
    'aria-describedby': `${wrong.id} ${id}-hint`,
  });

  const close = () => {
    list.hidden = true;
    active = -1;
    input.setAttribute('aria-expanded', 'false');
    input.removeAttribute('aria-activedescendant');
  };
  const mark = (index) => {
    active = index;
    [...list.children].forEach((option, i) => option.setAttribute('aria-selected', String(i === index)));
    if (index < 0) return input.removeAttribute('aria-activedescendant');
    input.setAttribute('aria-activedescendant', `${id}-${index}`);
    list.children[index].scrollIntoView({ block: 'nearest' });
  };
  const apply = () => {
    close();
    const text = input.value.trim();
    if (text === applied) return;
    applied = text;
    wrong.textContent = '';
    input.removeAttribute('aria-invalid');
    onapply(text);
  };
  const accept = (index) => {
    const { start } = wordAt(input.value, input.selectionStart);
    const { text, whole } = offered[index];
    const rest = restAfter(input.value, input.selectionStart, whole);
    const put = whole ? `${text} ` : text;
    input.value = input.value.slice(0, start) + put + rest;
    input.setSelectionRange(start + put.length, start + put.length);
    input.focus();
    if (whole) apply();
    else open();
  };
  const open = async () => {
    const facets = await completions();
    if (document.activeElement !== input) return;
    offered = proposals(wordAt(input.value, input.selectionStart), facets);
    list.replaceChildren(
      ...offered.map(({ text, note }, i) =>
        h(
          'li',
          // `mousedown`, because the box loses the focus and closes the list before a `click`.
          { role: 'option', id: `${id}-${i}`, 'aria-selected': 'false', onmousedown: (event) => (event.preventDefault(), accept(i)) },
          h('span', {}, text),
          h('small', {}, note),
        ),
      ),
    );
    close();
    list.hidden = offered.length === 0;
    input.setAttribute('aria-expanded', String(offered.length > 0));
  };

  input.addEventListener('input', open);
  input.addEventListener('blur', () => apply());
  input.addEventListener('keydown', (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && list.hidden) {
      event.preventDefault();
      open().then(() => offered.length && mark(step > 0 ? 0 : offered.length - 1));
    } else if (step) {
      event.preventDefault();
      mark((active + step + offered.length + (active < 0 && step < 0 ? 1 : 0)) % offered.length);
    } else if (event.key === 'Enter') {
      event.preventDefault();
      if (active >= 0) accept(active);
      else apply();
    } else if (event.key === 'Escape' && !list.hidden) {
      event.preventDefault();
      event.stopPropagation();
      close();
    }
  });

  const clear = h('button', { type: 'button', class: 'quiet icon clear', 'aria-label': `Clear ${label}`, hidden: true, onclick: () => ((box.value = ''), (applied = null), apply(), input.focus()) }, icon('close'));
  const showClear = () => (clear.hidden = input.value === '');
  input.addEventListener('input', showClear);

  const box = {
    element: h(
      'div',
      { class: 'field combobox' },
      h('label', { for: id }, label),
      h('div', { class: 'box' }, input, clear, list),
      wrong,
      h('p', { class: 'hint', id: `${id}-hint` }, hint),
    ),
    input,
    get value() {
      return applied;
    },
    set value(text) {
      applied = text.trim();
      if (document.activeElement !== input || input.value.trim() !== applied) input.value = text;
      showClear();
    },
    wrong(text) {
      wrong.textContent = text;
      if (text) input.setAttribute('aria-invalid', 'true');
      else input.removeAttribute('aria-invalid');
    },
  };
  return box;
}
