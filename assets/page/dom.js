// Helpers of all views: elements, icons, numbers and times as text.

/**
 * An element: `h('p', {class: 'x', onclick: f}, 'text', child)`. `false`, `null` and `undefined` are left
 * out.
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value == null) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat().filter((child) => child !== false && child != null));
  return element;
}

const ICONS = {
  play: '<path d="M8 5.5v13l10.5-6.5z" fill="currentColor" stroke="none"/>',
  stop: '<rect x="7" y="7" width="10" height="10" rx="1" fill="currentColor" stroke="none"/>',
  search: '<circle cx="10.5" cy="10.5" r="6"/><path d="m15 15 5 5"/>',
  close: '<path d="m6 6 12 12M18 6 6 18"/>',
  picture: '<rect x="3.5" y="5" width="17" height="14" rx="2"/><circle cx="9" cy="10" r="1.6"/><path d="m4 17 5-4.5 3.5 3 3-2.5 5 4"/>',
  warning: '<path d="M12 4 2.8 19.5h18.4z"/><path d="M12 10v4.5M12 17v.4"/>',
  back: '<path d="M14.5 5.5 8 12l6.5 6.5"/>',
};

/** A value as the filter language quotes it. */
export const quoted = (text) => `"${text.replace(/["\\]/g, '\\$&')}"`;

/** A name that may wrap after `_`, `-` and `.`. */
export const breakable = (name) => name.split(/(?<=[_\-.])/).flatMap((part, i) => (i ? [h('wbr'), part] : [part]));

/** An element of SVG. */
export function shape(tag, attributes = {}, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** An icon, hidden from screen readers: the button around it has a label. */
export function icon(name) {
  const svg = shape('svg', { viewBox: '0 0 24 24', class: 'drawing', 'aria-hidden': 'true' });
  svg.innerHTML = ICONS[name];
  return svg;
}

/** Text that the user may type, such as a command. */
export const code = (text) => h('code', {}, text);

export const byId = (id) => document.getElementById(id);

/** Messages that stay in the log: a screen reader may still read one when the next arrives. */
const MAX_MESSAGES = 3;

/** Announces a change to screen readers. */
export function announce(text) {
  const log = byId('say');
  log.append(h('p', {}, text));
  while (log.children.length > MAX_MESSAGES) log.firstChild.remove();
}

/** 3725.4 → "1:02:05". */
export function clock(seconds) {
  const all = Math.max(0, Math.floor(seconds + 1e-6));
  const [hours, minutes, rest] = [Math.floor(all / 3600), Math.floor(all / 60) % 60, all % 60];
  const two = (n) => String(n).padStart(2, '0');
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

/** A rounded duration: "4 s", "3 min", "2 h 10 min". */
export function roughDuration(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function bytes(count) {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB'];
  let [value, unit] = [count, 0];
  while (value >= 1000 && unit < units.length - 1) [value, unit] = [value / 1000, unit + 1];
  return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

const whole = new Intl.NumberFormat('en');
export const number = (n) => whole.format(n);
export const count = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;

const dates = new Intl.DateTimeFormat('en-GB', { dateStyle: 'medium', timeStyle: 'short' });

/** A time of the server in the local time zone. */
export function when(rfc3339) {
  const date = new Date(rfc3339);
  return Number.isNaN(date.getTime()) ? String(rfc3339) : dates.format(date);
}
