// Calls to the server: JSON in and out, and every failure as a sentence for people.

import { byId } from './dom.js';
import { alerts } from './alerts.js';

/** What went wrong, in plain words, and what the server said. */
export class Trouble extends Error {
  constructor(words, { status = 0, detail = '' } = {}) {
    super(words);
    this.status = status;
    this.detail = detail;
  }
}

const WORDS = {
  401: 'This server asks for a token.',
  403: 'The server does not allow that.',
  404: 'That is not here: it may have been removed from the index.',
  408: 'That took too long, so the server gave up.',
  409: 'The server is doing that already.',
  410: 'The file is gone from where it was indexed.',
  413: 'This picture is too large; 25 MB is the most.',
  415: 'This is not a picture that can be read. JPEG, PNG, WebP, GIF, BMP and TIFF can.',
  422: 'This picture cannot be used.',
  429: 'The server is busy with other requests. Try again in a moment.',
  500: 'Something went wrong in the server. Its log says more.',
  503: 'There is no index to search yet.',
  504: 'That took too long, so the server gave up.',
};

/** Where the sentence says all, and the server's own words are for programs. */
const SAID = [401, 413, 415, 429];
/** What would be refused again. */
const FINAL = [400, 403, 404, 410, 413, 415, 422];

const MOST_WAITS = 3;

const pause = (ms, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener('abort', () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });

/** One request. Waits and asks again while the server is busy; asks the reader for the token if one is needed. */
async function send(path, options = {}) {
  for (let waits = 0; ; waits += 1) {
    let response;
    try {
      response = await fetch(path, { credentials: 'same-origin', ...options });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new Trouble('The server does not answer. Is reelseek serve still running?');
    }
    if (response.ok) return response;
    if (response.status === 401 && (await askForToken())) continue;
    if (response.status === 429 && waits < MOST_WAITS) {
      const seconds = Math.min(30, Math.max(1, Number(response.headers.get('Retry-After')) || 1));
      const notice = alerts.show({ words: `The server is busy; trying again in ${seconds} s.` });
      await pause(seconds * 1000, options.signal).finally(() => notice.remove());
      continue;
    }
    const detail = await response.json().then((body) => body.error ?? '', () => '');
    throw new Trouble(WORDS[response.status] ?? (detail || `The server answered ${response.status}.`), { status: response.status, detail });
  }
}

/** `/path?a=1&b=2` without what is empty. */
export function link(path, query = {}) {
  const kept = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== '');
  return kept.length ? `${path}?${new URLSearchParams(kept)}` : path;
}

export const get = async (path, query, signal) => (await send(link(path, query), { signal })).json();

export const picture = async (path, signal) => (await send(path, { signal })).blob();

export const post = async (path, body, signal) =>
  (await send(path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body), signal })).json();

export const cancelJob = async (job) => (await send(`/v1/jobs/${encodeURIComponent(job)}`, { method: 'DELETE' })).json();

/** Searches with a picture (a Blob) or, where the server fetches, with its web address. */
export async function search(query, options, signal) {
  const address = typeof query === 'string';
  const response = await send(link('/v1/search', options), {
    method: 'POST',
    headers: { 'Content-Type': address ? 'application/json' : query.type || 'application/octet-stream' },
    body: address ? JSON.stringify({ url: query }) : query,
    signal,
  });
  return response.json();
}

export const frameLink = (video, at, width) => link('/v1/thumbnail', { video, at, width });
export const previewLink = (video, from, to) => link('/v1/preview', { video, from, to });
export const mediaLink = (video) => `/v1/media/${encodeURIComponent(video)}`;

let info = null;

/** What the server can do and has; asked once, and again after `fresh`. */
export async function about(fresh = false) {
  if (!info || fresh) info = get('/v1/info');
  try {
    return await info;
  } catch (error) {
    info = null;
    throw error;
  }
}

let facets = null;

/** Labels and folders, for completions; none if they cannot be had. */
export function completions(fresh = false) {
  const none = { labels: [], folders: [] };
  const ask = async () => ((await about()).index ? get('/v1/facets') : Promise.reject(new Trouble('no index')));
  if (!facets || fresh) facets = ask().catch(() => ((facets = null), none));
  return facets;
}

// The token: asked for once, however many calls want it. It lives in a cookie that scripts cannot read.

const SIGNED_IN = 'reelseek-signed-in';
let asking = null;

function askForToken() {
  asking ??= new Promise((resolve) => {
    const [dialog, form, field, wrong] = ['token', 'token-form', 'token-field', 'token-wrong'].map(byId);
    const submit = async (event) => {
      event.preventDefault();
      wrong.textContent = '';
      try {
        const response = await fetch('/v1/session', {
          method: 'POST',
          headers: { 'Content-Type': 'application/json' },
          body: JSON.stringify({ token: field.value }),
        });
        if (response.ok) {
          localStorage.setItem(SIGNED_IN, '1');
          byId('leave').hidden = false;
          dialog.close('in');
        } else {
          const said = response.status === 401 || response.status === 403;
          wrong.textContent = said ? 'That is not the token.' : 'The server would not take it now. Try again in a moment.';
          field.select();
        }
      } catch {
        wrong.textContent = 'The server does not answer.';
      }
    };
    form.addEventListener('submit', submit);
    dialog.addEventListener(
      'close',
      () => {
        form.removeEventListener('submit', submit);
        const signedIn = dialog.returnValue === 'in';
        dialog.returnValue = '';
        field.value = '';
        asking = null;
        resolve(signedIn);
      },
      { once: true },
    );
    dialog.showModal();
    field.focus();
  });
  return asking;
}

export function offerToLeave() {
  const leave = byId('leave');
  leave.hidden = !localStorage.getItem(SIGNED_IN);
  leave.addEventListener('click', async () => {
    localStorage.removeItem(SIGNED_IN);
    await fetch('/v1/session', { method: 'DELETE' }).catch(() => null);
    location.reload();
  });
}

/** Shows a failure; `again` is what the button "Try again" does. Aborted calls are no failure. */
export function report(error, again) {
  if (error?.name === 'AbortError') return;
  const known = error instanceof Trouble;
  if (!known) console.error(error);
  const actions = again && !FINAL.includes(error.status) ? [{ label: error.status === 401 ? 'Sign in' : 'Try again', run: again }] : [];
  if (error.status === 503) actions.unshift({ label: 'Go to indexing', run: () => (location.hash = '#/indexing') });
  const detail = known && !SAID.includes(error.status) && error.detail !== error.message ? error.detail : '';
  alerts.show({ words: known ? error.message : 'Something went wrong in this page.', detail, actions });
}
