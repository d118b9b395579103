// One result as a card, and previews that play in place.

import { breakable, clock, h, icon, quoted } from './dom.js';
import { retryLoading, thumbnail } from './media.js';
import { openPlayer } from './player.js';
import { address } from './router.js';

/** Least confidence of a result that counts as found. One in 20 unrelated pictures reaches it. */
export const FOUND_CONFIDENCE = 0.95;
/** Least confidence of a video of the same kind that is shown without being asked for. */
export const KIND_CONFIDENCE = 0.5;
const LEVELS = [
  { from: 0.99, bars: 4, word: 'strong' },
  { from: FOUND_CONFIDENCE, bars: 3, word: 'likely' },
  { from: 0.75, bars: 2, word: 'doubtful' },
  { from: 0, bars: 1, word: 'by chance' },
];
const HOVER_MS = 250;
/** Attempts to load a preview while the server is busy. */
const MAX_ATTEMPTS = 3;

const calm = matchMedia('(prefers-reduced-motion: reduce)');
const hovers = matchMedia('(hover: hover)');

/** 0.9996 → "99.9 %": never 100 %. */
export const percent = (share) => `${Math.min(99.9, Math.floor(share * 1000) / 10).toFixed(1)} %`;

/** The confidence as bars, a number and a word, so that color is not needed. */
export function confidenceBadge(confidence) {
  const { bars, word } = LEVELS.find(({ from }) => confidence >= from) ?? LEVELS.at(-1);
  const barElements = [1, 2, 3, 4].map((i) => h('i', { class: i <= bars ? 'on' : '' }));
  return h('p', { class: `sureness at-${bars}` }, h('span', { class: 'bars', 'aria-hidden': 'true' }, barElements), h('span', { class: 'unseen' }, 'Confidence '), h('b', {}, percent(confidence)), ` ${word}`);
}

let playing = null;

function stop() {
  playing?.end();
  playing = null;
}

/**
 * A thumbnail that calls `onopen` when clicked. A button, or the mouse pointer, plays the moment in place.
 */
export function playableThumbnail({ still, preview, title, overlay, onopen, openLabel }) {
  let timer = 0;
  const toggle = h('button', { type: 'button', class: 'toggle' });
  const setToggle = (on) => {
    toggle.replaceChildren(icon(on ? 'stop' : 'play'));
    toggle.setAttribute('aria-label', `${on ? 'Stop' : 'Play'} the moment of ${title}`);
  };
  const open = h('button', { type: 'button', class: 'open', 'aria-label': openLabel, onclick: () => (stop(), onopen()) }, thumbnail(still));
  const frame = h('div', { class: 'frame' }, open, overlay && h('span', { class: 'clock', 'aria-hidden': 'true' }, overlay), toggle);

  const end = () => {
    frame.querySelector('video')?.remove();
    frame.classList.remove('waiting', 'playing');
    setToggle(false);
  };
  const start = (hovered) => {
    if (playing?.frame === frame) return;
    stop();
    playing = { frame, end, hovered };
    setToggle(true);
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
    const onfailed = () => {
      if (!video.isConnected) return;
      stop();
      frame.classList.add('failed');
      toggle.setAttribute('aria-label', `The moment of ${title} cannot be played`);
    };
    retryLoading(video, load, { onfailed, maxAttempts: MAX_ATTEMPTS });
    open.append(video);
    load();
  };
  setToggle(false);
  toggle.addEventListener('click', () => (playing?.frame === frame ? stop() : start(false)));
  frame.addEventListener('pointerenter', (event) => {
    if (event.pointerType === 'mouse' && hovers.matches && !calm.matches) timer = setTimeout(start, HOVER_MS, true);
  });
  frame.addEventListener('pointerleave', () => {
    clearTimeout(timer);
    if (playing?.frame === frame && playing.hovered) stop();
  });
  // A press inside the frame must not stop the video: that removes the video, and the click would have
  // no target.
  frame.addEventListener('focusout', ({ relatedTarget }) => playing?.frame === frame && !playing.hovered && !frame.contains(relatedTarget) && stop());
  return frame;
}

document.addEventListener('keydown', (event) => event.key === 'Escape' && stop());

/** Labels as links to their videos in the library. */
export const labelList = (labels) =>
  labels.length > 0 &&
  h('ul', { class: 'labels', 'aria-label': 'Labels' }, labels.map((label) => h('li', {}, h('a', { href: labelLink(label) }, label))));
const labelLink = (label) => address('library', { query: `label:${quoted(label)}` });

/** A result of a search. `onframe(video, at)` searches with its frame. */
export function card(result, onframe) {
  const at = clock(result.at);
  const open = () => openPlayer(result, (second) => onframe(result.video, second));
  return h(
    'li',
    { class: 'card' },
    playableThumbnail({ still: result.thumbnail, preview: result.preview, title: result.title, overlay: at, onopen: open, openLabel: `Open ${result.title} at ${at}` }),
    h(
      'div',
      { class: 'words' },
      h('h3', {}, h('a', { href: `#/library/${encodeURIComponent(result.video)}`, title: result.path ?? result.name }, breakable(result.title))),
      confidenceBadge(result.confidence),
      result.match === 'kind' && h('p', { class: 'kind' }, 'Same kind of scene'),
      h('p', { class: 'times' }, `${clock(result.from)} – ${clock(result.to)}`, h('span', {}, ` of ${clock(result.duration)}`)),
      labelList(result.labels),
      h('button', { type: 'button', class: 'quiet', onclick: () => onframe(result.video, result.at), 'aria-label': `Search with this frame of ${result.title}` }, icon('search'), 'Search with this frame'),
    ),
  );
}
