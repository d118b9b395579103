// Loads thumbnails and previews. A busy server refuses them, so failed ones are loaded again later.

import { h } from './dom.js';

/** Statuses after which a later attempt may succeed. */
const TEMPORARY = [401, 408, 429, 500, 502, 503, 504];
/** Wait before the next attempt if the server sends no `Retry-After`; doubled each time. */
const FIRST_WAIT_S = 4;
const LONGEST_WAIT_S = 60;

/**
 * The cause of a failed load: `{final, status, seconds}`, with the wait before another attempt; `null` if the
 * link works now.
 */
async function failureOf(link, attempts) {
  const later = Math.min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** attempts);
  try {
    const response = await fetch(link, { headers: { Range: 'bytes=0-0' } });
    response.body?.cancel();
    if (response.ok) return null;
    const named = Number(response.headers.get('Retry-After'));
    const seconds = named > 0 ? Math.min(LONGEST_WAIT_S, named) : later;
    return { final: !TEMPORARY.includes(response.status), status: response.status, seconds };
  } catch {
    return { final: false, status: 0, seconds: later };
  }
}

/**
 * Retries an image or video whose loading fails. The event does not contain the cause, so the link is
 * requested again to get the status. Calls `onwait(seconds)` and later `load()` if another attempt may
 * succeed; calls `onfailed(failure)` if none can, or after `maxAttempts`. `failure` is `null` if the server
 * sends the file but the browser cannot show it.
 */
export function retryLoading(element, load, { onfailed, onwait, maxAttempts = Infinity }) {
  let last = '';
  let attempts = 0;
  let retriedAtOnce = false;
  element.addEventListener('error', async () => {
    const link = element.getAttribute('src');
    if (!link) return;
    if (link !== last) [last, attempts, retriedAtOnce] = [link, 0, false];
    const failure = await failureOf(link, attempts);
    const isCurrent = () => element.getAttribute('src') === link;
    if (!isCurrent()) return;
    if (failure === null && !retriedAtOnce) {
      // The link works now, so the first failure may have been temporary.
      retriedAtOnce = true;
      load();
    } else if (failure === null || failure.final || (attempts += 1) >= maxAttempts) {
      onfailed(failure);
    } else {
      onwait?.(failure.seconds);
      setTimeout(() => isCurrent() && load(), failure.seconds * 1000);
    }
  });
}

// Thumbnails load when they are near the window, and only a few at once: a browser opens six connections to a
// server, and slow thumbnails must not delay searches.

const MAX_AT_ONCE = 4;
const due = [];
let loading = 0;

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
  while (loading < MAX_AT_ONCE && due.length > 0) {
    const image = due.shift();
    if (image.isConnected) {
      loading += 1;
      image.src = image.dataset.src;
    } else {
      // The view of this image is closed. The image loads when the view opens again.
      watcher.observe(image);
    }
  }
}

/** A thumbnail, with a text in its place if it cannot be loaded. */
export function thumbnail(src) {
  const image = h('img', { 'data-src': src, alt: '', decoding: 'async', width: 320, height: 180 });
  const words = h('span', { class: 'no-picture' });
  const loadEnded = () => {
    loading -= 1;
    fetchNext();
  };
  const load = () => watcher.observe(image);
  image.addEventListener('load', () => (words.remove(), loadEnded()));
  image.addEventListener('error', loadEnded);
  retryLoading(image, load, {
    onwait(seconds) {
      // A short wait needs no text.
      if (seconds < FIRST_WAIT_S) return;
      words.textContent = 'No picture yet; trying again';
      image.after(words);
    },
    onfailed(failure) {
      words.textContent = !failure || [404, 410, 422].includes(failure.status) ? 'No picture: the file is gone or cannot be read' : 'No picture: the server cannot make one';
      image.replaceWith(words);
    },
  });
  load();
  return image;
}
