// Pictures and clips of moments. A server that is busy gives them later, so what did not come is asked for again.

import { h } from './dom.js';

/** Of these answers another may come later; all others are final. */
const PASSING = [401, 408, 429, 500, 502, 503, 504];
/** Until it is asked again where the server does not say: twice as long each time. */
const FIRST_WAIT_S = 4;
const LONGEST_WAIT_S = 60;

/** Why a link gives nothing: `{final, status, seconds}`, these until it is worth another attempt; `null` if it gives something now. */
async function refusal(link, tries) {
  const later = Math.min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** tries);
  try {
    const response = await fetch(link, { headers: { Range: 'bytes=0-0' } });
    response.body?.cancel();
    if (response.ok) return null;
    const named = Number(response.headers.get('Retry-After'));
    const seconds = named > 0 ? Math.min(LONGEST_WAIT_S, named) : later;
    return { final: !PASSING.includes(response.status), status: response.status, seconds };
  } catch {
    return { final: false, status: 0, seconds: later };
  }
}

/**
 * An image or video says that it failed, and not why. When `element` does, asks why, and calls `load()` again once the server may give it; `lost(why)` when it
 * never will, or has not after `most` attempts. `why` is `null` if it was given and cannot be shown. Meanwhile `waits(seconds)` is told.
 */
export function persist(element, load, { lost, waits, most = Infinity }) {
  let last = '';
  let tries = 0;
  let given = false;
  element.addEventListener('error', async () => {
    const link = element.getAttribute('src');
    if (!link) return;
    if (link !== last) [last, tries, given] = [link, 0, false];
    const why = await refusal(link, tries);
    const wanted = () => element.getAttribute('src') === link;
    if (!wanted()) return;
    if (why === null && !given) {
      // It was busy a moment ago.
      given = true;
      load();
    } else if (why === null || why.final || (tries += 1) >= most) {
      lost(why);
    } else {
      waits?.(why.seconds);
      setTimeout(() => wanted() && load(), why.seconds * 1000);
    }
  });
}

// Thumbnails come when they are near the window, and only a few at once: a browser has six connections for a server, and
// a page of new thumbnails, each of which takes a while to make, must not stand in the way of searches.

const MOST_AT_ONCE = 4;
const due = [];
let coming = 0;

const watcher = new IntersectionObserver(
  (entries) => {
    for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
      watcher.unobserve(target);
      due.push(target);
    }
    fetchNext();
  },
  { rootMargin: '300px' },
);

function fetchNext() {
  while (coming < MOST_AT_ONCE && due.length > 0) {
    const image = due.shift();
    if (image.isConnected) {
      coming += 1;
      image.src = image.dataset.src;
    } else {
      // Of a view that was left meanwhile: again when it is shown again.
      watcher.observe(image);
    }
  }
}

/** A thumbnail that says so if it cannot be had, or not yet. */
export function thumbnail(src) {
  const image = h('img', { 'data-src': src, alt: '', decoding: 'async', width: 320, height: 180 });
  const words = h('span', { class: 'no-picture' });
  const come = () => {
    coming -= 1;
    fetchNext();
  };
  const ask = () => watcher.observe(image);
  image.addEventListener('load', () => (words.remove(), come()));
  image.addEventListener('error', come);
  persist(image, ask, {
    waits(seconds) {
      // What comes in a moment needs no words.
      if (seconds < FIRST_WAIT_S) return;
      words.textContent = 'No picture yet: it is asked for again';
      image.after(words);
    },
    lost(why) {
      words.textContent = !why || [404, 410, 422].includes(why.status) ? 'No picture: the file is gone or cannot be read' : 'No picture: the server cannot make one';
      image.replaceWith(words);
    },
  });
  ask();
  return image;
}
