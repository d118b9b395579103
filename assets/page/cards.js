// One result as a card, and previews that play in place.

import { breakable, clock, h, icon } from './dom.js';
import { persist, thumbnail } from './media.js';
import { openPlayer } from './player.js';

/** Confidence from which a result counts as found: a foreign picture gets there once in 20. */
export const FOUND = 0.95;
const LEVELS = [
  { from: 0.99, bars: 4, word: 'strong' },
  { from: FOUND, bars: 3, word: 'likely' },
  { from: 0.75, bars: 2, word: 'doubtful' },
  { from: 0, bars: 1, word: 'by chance' },
];
const HOVER_MS = 250;
/** Attempts at a preview that the server cannot give yet. */
const MOST_TRIES = 3;

const calm = matchMedia('(prefers-reduced-motion: reduce)');
const hovers = matchMedia('(hover: hover)');

/** 0.9996 → "99.9 %": never told as certain. */
export const percent = (share) => `${Math.min(99.9, Math.floor(share * 1000) / 10).toFixed(1)} %`;

/** Bars, number and word: none of it needs colour. */
export function sureness(confidence) {
  const { bars, word } = LEVELS.find(({ from }) => confidence >= from) ?? LEVELS.at(-1);
  const drawn = [1, 2, 3, 4].map((i) => h('i', { class: i <= bars ? 'on' : '' }));
  return h('p', { class: `sureness at-${bars}` }, h('span', { class: 'bars', 'aria-hidden': 'true' }, drawn), h('span', { class: 'unseen' }, 'Confidence '), h('b', {}, percent(confidence)), ` ${word}`);
}

let playing = null;

function stop() {
  playing?.end();
  playing = null;
}

/** A thumbnail that opens something when clicked, with a button (and, with a mouse, hovering) that plays the moment in place. */
export function moving({ still, preview, title, overlay, onopen, openLabel }) {
  let timer = 0;
  const toggle = h('button', { type: 'button', class: 'toggle' });
  const face = (on) => {
    toggle.replaceChildren(icon(on ? 'stop' : 'play'));
    toggle.setAttribute('aria-label', `${on ? 'Stop' : 'Play'} the moment of ${title}`);
  };
  const open = h('button', { type: 'button', class: 'open', 'aria-label': openLabel, onclick: () => (stop(), onopen()) }, thumbnail(still));
  const frame = h('div', { class: 'frame' }, open, overlay && h('span', { class: 'clock', 'aria-hidden': 'true' }, overlay), toggle);

  const end = () => {
    frame.querySelector('video')?.remove();
    frame.classList.remove('waiting', 'playing');
    face(false);
  };
  const start = (hovered) => {
    if (playing?.frame === frame) return;
    stop();
    playing = { frame, end, hovered };
    face(true);
    frame.classList.remove('failed');
    frame.classList.add('waiting');
    const video = h('video', { muted: true, loop: true, playsinline: true, tabindex: '-1', 'aria-hidden': 'true' });
    video.muted = true;
    video.addEventListener('playing', () => (frame.classList.remove('waiting'), frame.classList.add('playing')), { once: true });
    const load = () => {
      if (!video.isConnected) return;
      video.src = preview;
      video.play().catch(() => null);
    };
    const lost = () => {
      if (!video.isConnected) return;
      stop();
      frame.classList.add('failed');
      toggle.setAttribute('aria-label', `The moment of ${title} cannot be played`);
    };
    persist(video, load, { lost, most: MOST_TRIES });
    open.append(video);
    load();
  };
  face(false);
  toggle.addEventListener('click', () => (playing?.frame === frame ? stop() : start(false)));
  frame.addEventListener('pointerenter', (event) => {
    if (event.pointerType === 'mouse' && hovers.matches && !calm.matches) timer = setTimeout(start, HOVER_MS, true);
  });
  frame.addEventListener('pointerleave', () => {
    clearTimeout(timer);
    if (playing?.frame === frame && playing.hovered) stop();
  });
  // Not for a press on the frame itself: the video would go from under the pointer before the click.
  frame.addEventListener('focusout', ({ relatedTarget }) => playing?.frame === frame && !playing.hovered && !frame.contains(relatedTarget) && stop());
  return frame;
}

document.addEventListener('keydown', (event) => event.key === 'Escape' && stop());

/** Labels as links that show the library's videos with them. */
export const labelList = (labels) =>
  labels.length > 0 &&
  h('ul', { class: 'labels', 'aria-label': 'Labels' }, labels.map((label) => h('li', {}, h('a', { href: labelLink(label) }, label))));
const labelLink = (label) => `#/library?${new URLSearchParams({ query: `label:"${label.replace(/["\\]/g, '\\$&')}"` })}`;

/** A result of a search. `onframe(video, at)` searches with its frame. */
export function card(result, onframe) {
  const at = clock(result.at);
  const open = () => openPlayer(result, (second) => onframe(result.video, second));
  return h(
    'li',
    { class: 'card' },
    moving({ still: result.thumbnail, preview: result.preview, title: result.title, overlay: at, onopen: open, openLabel: `Open ${result.title} at ${at}` }),
    h(
      'div',
      { class: 'words' },
      h('h3', {}, h('a', { href: `#/library/${encodeURIComponent(result.video)}`, title: result.path ?? result.name }, breakable(result.title))),
      sureness(result.confidence),
      h('p', { class: 'times' }, `${clock(result.from)} – ${clock(result.to)}`, h('span', {}, ` of ${clock(result.duration)}`)),
      labelList(result.labels),
      h('button', { type: 'button', class: 'quiet', onclick: () => onframe(result.video, result.at), 'aria-label': `Search with this frame of ${result.title}` }, icon('search'), 'Search with this frame'),
    ),
  );
}
