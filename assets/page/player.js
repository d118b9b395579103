// A video at a second: the file itself, or cuts of it where this browser cannot play the file.

import { frameLink, mediaLink, previewLink } from './api.js';
import { byId, clock, h, icon } from './dom.js';

/** How much of a file that cannot be played is cut at once. */
const CUT_SECONDS = 10;

/** Gives `{element, video, seek(at), at()}`. `onframe(at)` searches with the frame that is shown. */
export function playerOf({ video: id, title, duration, at = 0, from, to, thumbnail }, onframe) {
  let cutFrom = null;
  const note = h('p', { class: 'note', role: 'status', hidden: true });
  const video = h('video', { controls: true, playsinline: true, preload: 'metadata', poster: thumbnail, 'aria-label': title });
  const now = () => (cutFrom ?? 0) + video.currentTime;

  const cut = (start, end = start + CUT_SECONDS) => {
    cutFrom = Math.max(0, start);
    video.src = previewLink(id, cutFrom, Math.min(end, duration || end));
  };
  const fall = () => {
    if (cutFrom === null) {
      note.textContent = 'This browser cannot play the file itself. What plays is a small copy of the moment, without sound.';
      note.hidden = false;
      cut(from ?? at, to !== undefined && to - from >= 1 ? to : undefined);
      video.muted = true;
      play();
    } else {
      note.textContent = 'This video cannot be played here: the file is gone or cannot be read.';
      note.hidden = false;
    }
  };
  const play = () => video.play().catch(() => null);

  video.addEventListener('error', fall);
  // Sound without a picture: the browser knows one of the codecs only.
  video.addEventListener('loadedmetadata', () => cutFrom === null && video.videoWidth === 0 && fall());
  video.src = `${mediaLink(id)}#t=${at.toFixed(2)}`;

  const row = h('div', { class: 'row' }, h('button', { type: 'button', onclick: () => onframe(now()) }, icon('search'), 'Search with the frame shown'));
  const element = h(
    'div',
    { class: 'player' },
    video,
    note,
    row,
  );
  return {
    element,
    row,
    video,
    play,
    at: now,
    seek(to) {
      if (cutFrom !== null) cut(to);
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
