// A video at a second: the file itself, or cuts of it where this browser cannot play the file.

import { frameLink, mediaLink, previewLink } from './api.js';
import { byId, clock, h, icon } from './dom.js';
import { persist } from './media.js';

/** How much of a file that cannot be played is cut at once: the longest that the server cuts, and the shortest. */
const CUT_SECONDS = 15;
const LEAST_SECONDS = 2;
/** Attempts at what the server cannot give yet. */
const MOST_TRIES = 5;

/** Gives `{element, row, video, play(), seek(at), close()}`. `onframe(at)` searches with the frame that is shown. */
export function playerOf({ video: id, title, duration, at = 0, thumbnail }, onframe) {
  /** The cut that is shown; none while the file itself is. */
  let cut = null;
  /** Where it is, for the case that it cannot be played on. */
  let reached = at;
  /** Whether it shall play: the element itself forgets that when it fails. */
  let plays = false;
  const length = duration || Infinity;
  const note = h('p', { class: 'note', role: 'status', hidden: true });
  const video = h('video', { controls: true, playsinline: true, preload: 'metadata', poster: thumbnail, 'aria-label': title });
  const before = h('button', { type: 'button', hidden: true, onclick: () => (showCut(Math.max(0, cut.from - CUT_SECONDS)), play()) });
  const further = h('button', { type: 'button', hidden: true, onclick: () => (showCut(cut.to), play()) });
  const row = h('div', { class: 'row' }, before, further, h('button', { type: 'button', onclick: () => onframe(now()) }, icon('search'), 'Search with the frame shown'));
  const element = h('div', { class: 'player' }, video, note, row);

  const now = () => (video.readyState ? (cut?.from ?? 0) + video.currentTime : reached);
  const play = () => {
    plays = true;
    return video.play().catch(() => null);
  };
  const tell = (words) => {
    // The same words anew would be read out anew.
    if (note.textContent !== words) note.textContent = words;
    note.hidden = false;
  };

  function showCut(second) {
    // Near the end a cut begins before what is asked for, for it has a least length.
    const from = Math.max(0, Math.min(second, length - LEAST_SECONDS));
    cut = { from, to: Math.min(from + CUT_SECONDS, length) };
    reached = second;
    video.src = `${previewLink(id, +from.toFixed(3), +cut.to.toFixed(3))}#t=${(second - from).toFixed(2)}`;
    showWays();
  }

  /** The note on the cut, and the buttons that lead beyond it. */
  function showWays() {
    tell(`This browser cannot play the file itself. What plays is a small copy of ${clock(cut.from)} – ${clock(cut.to)}, without sound.`);
    before.textContent = `Back to ${clock(cut.from - CUT_SECONDS)}`;
    further.textContent = `Go on at ${clock(cut.to)}`;
    const focused = [before, further].find((button) => button === document.activeElement);
    before.hidden = cut.from === 0;
    further.hidden = cut.to >= length;
    further.classList.remove('main');
    // A hidden button would lose the focus.
    if (focused?.hidden) video.focus();
  }

  function fall() {
    // Of a page that is only looked at nothing is cut until somebody plays it.
    video.preload = plays ? 'auto' : 'none';
    video.muted = true;
    showCut(reached);
    if (plays) play();
  }

  const again = () => {
    video.src = video.getAttribute('src');
    if (plays) play();
  };
  persist(video, again, {
    most: MOST_TRIES,
    waits: (seconds) => tell(`The server cannot give this video yet; trying again in ${seconds} s.`),
    lost(why) {
      if (!why && !cut) fall();
      else if (!why || why.final) tell('This video cannot be played here: the file is gone or cannot be read.');
      else tell('The server could not give this video now. Try again later.');
    },
  });
  video.addEventListener('loadedmetadata', () => {
    if (cut) showWays();
    // Sound without a picture: the browser knows one of the codecs only.
    else if (video.videoWidth === 0) fall();
    else note.hidden = true;
  });
  video.addEventListener('play', () => (plays = true));
  video.addEventListener('pause', () => (plays &&= video.readyState === 0));
  video.addEventListener('timeupdate', () => !cut && video.readyState > 0 && (reached = video.currentTime));
  video.addEventListener('ended', () => further.classList.toggle('main', !further.hidden));
  video.src = `${mediaLink(id)}#t=${at.toFixed(2)}`;

  return {
    element,
    row,
    video,
    play,
    seek(to) {
      reached = to;
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

/** Opens a result in the dialog, at its second. */
export function openPlayer(result, onframe) {
  const [dialog, body] = ['player', 'player-body'].map(byId);
  byId('player-title').textContent = `${result.title}, at ${clock(result.at)}`;
  const close = dialog.querySelector('[data-close]');
  if (!close.firstChild) close.append(icon('close'));
  const player = playerOf({ ...result, thumbnail: frameLink(result.video, result.at, 640) }, (at) => (dialog.close(), onframe(at)));
  player.row.append(h('a', { class: 'button', href: `#/library/${encodeURIComponent(result.video)}` }, 'All of this video'));
  body.replaceChildren(player.element);
  dialog.addEventListener('close', () => (player.close(), body.replaceChildren()), { once: true });
  dialog.showModal();
  player.video.focus();
  player.play();
}
