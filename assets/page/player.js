// Plays the file of a video, or previews of it if this browser cannot play the file.

import { frameLink, mediaLink, previewLink } from './api.js';
import { byId, clock, h, icon } from './dom.js';
import { retryLoading } from './media.js';

/** Longest and shortest preview that the server makes. */
const LONGEST_S = 15;
const SHORTEST_S = 2;
/** Attempts to load a video while the server is busy. */
const MAX_ATTEMPTS = 5;

/**
 * Returns `{element, row, video, play(), seek(at), close()}`. `onframe(at)` searches with the current frame.
 */
export function playerOf({ video: id, title, duration, at = 0, thumbnail }, onframe) {
  /** The span of the preview that plays; null while the file plays. */
  let cut = null;
  /** The current second, to continue from if playing fails. */
  let position = at;
  /** Whether the video should play: the element loses this state when it fails. */
  let shouldPlay = false;
  const length = duration || Infinity;
  const note = h('p', { class: 'note', role: 'status', hidden: true });
  const video = h('video', { controls: true, playsinline: true, preload: 'metadata', poster: thumbnail, 'aria-label': title });
  const before = h('button', { type: 'button', hidden: true, onclick: () => (showCut(Math.max(0, cut.from - LONGEST_S)), play()) });
  const next = h('button', { type: 'button', hidden: true, onclick: () => (showCut(cut.to), play()) });
  const row = h('div', { class: 'row' }, before, next, h('button', { type: 'button', onclick: () => onframe(now()) }, icon('search'), 'Search with the frame shown'));
  const element = h('div', { class: 'player' }, video, note, row);

  const now = () => (video.readyState ? (cut?.from ?? 0) + video.currentTime : position);
  const play = () => {
    shouldPlay = true;
    return video.play().catch(() => null);
  };
  const showNote = (text) => {
    // Setting the same text again would make screen readers repeat it.
    if (note.textContent !== text) note.textContent = text;
    note.hidden = false;
  };

  function showCut(second) {
    // Near the end a preview begins earlier, because it has a minimum length.
    const from = Math.max(0, Math.min(second, length - SHORTEST_S));
    cut = { from, to: Math.min(from + LONGEST_S, length) };
    position = second;
    video.src = `${previewLink(id, +from.toFixed(3), +cut.to.toFixed(3))}#t=${(second - from).toFixed(2)}`;
    showCutControls();
  }

  /** Shows the span of the preview, and buttons for the spans before and after it. */
  function showCutControls() {
    showNote(`This browser cannot play the file. This is a small copy of ${clock(cut.from)} – ${clock(cut.to)} without sound.`);
    before.textContent = `Back to ${clock(cut.from - LONGEST_S)}`;
    next.textContent = `Continue at ${clock(cut.to)}`;
    const focused = [before, next].find((button) => button === document.activeElement);
    before.hidden = cut.from === 0;
    next.hidden = cut.to >= length;
    next.classList.remove('main');
    // A hidden button loses the focus.
    if (focused?.hidden) video.focus();
  }

  function switchToPreviews() {
    // The server makes no preview until the user plays the video.
    video.preload = shouldPlay ? 'auto' : 'none';
    video.muted = true;
    showCut(position);
    if (shouldPlay) play();
  }

  const reloadVideo = () => {
    video.src = video.getAttribute('src');
    if (shouldPlay) play();
  };
  retryLoading(video, reloadVideo, {
    maxAttempts: MAX_ATTEMPTS,
    onwait: (seconds) => showNote(`The server cannot send this video yet; trying again in ${seconds} s.`),
    onfailed(failure) {
      if (!failure && !cut) switchToPreviews();
      else if (!failure || failure.final) showNote('This video cannot be played here: the file is gone or cannot be read.');
      else showNote('The server cannot send this video now. Try again later.');
    },
  });
  video.addEventListener('loadedmetadata', () => {
    if (cut) showCutControls();
    // Sound without a picture: the browser supports only the audio codec.
    else if (video.videoWidth === 0) switchToPreviews();
    else note.hidden = true;
  });
  video.addEventListener('play', () => (shouldPlay = true));
  video.addEventListener('pause', () => (shouldPlay &&= video.readyState === 0));
  video.addEventListener('timeupdate', () => !cut && video.readyState > 0 && (position = video.currentTime));
  video.addEventListener('ended', () => next.classList.toggle('main', !next.hidden));
  video.src = `${mediaLink(id)}#t=${at.toFixed(2)}`;

  return {
    element,
    row,
    video,
    play,
    seek(to) {
      position = to;
      if (cut) showCut(to);
      else if (video.readyState) video.currentTime = to;
      else video.src = `${mediaLink(id)}#t=${to.toFixed(2)}`;
      return play();
    },
    close() {
      video.pause();
      video.removeAttribute('src');
      video.load();
    },
  };
}

/** Opens a result in the dialog, at its moment. */
export function openPlayer(result, onframe) {
  const [dialog, body] = ['player', 'player-body'].map(byId);
  byId('player-title').textContent = `${result.title}, at ${clock(result.at)}`;
  const close = dialog.querySelector('[data-close]');
  if (!close.firstChild) close.append(icon('close'));
  const player = playerOf({ ...result, thumbnail: frameLink(result.video, result.at, 640) }, (at) => (dialog.close(), onframe(at)));
  player.row.append(h('a', { class: 'button', href: `#/library/${encodeURIComponent(result.video)}` }, 'Open this video'));
  body.replaceChildren(player.element);
  dialog.addEventListener('close', () => (player.close(), body.replaceChildren()), { once: true });
  dialog.showModal();
  player.video.focus();
  player.play();
}
