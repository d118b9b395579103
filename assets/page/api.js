// Calls to the server: JSON in and out, and every failure as a sentence for people.

import { byId } from './dom.js';
import { alerts } from './alerts.js';
import { go } from './router.js';

/** What went wrong, in plain words, and what the server said. */
export class Trouble extends Error {
  constructor(words, { status = 0, detail = '', without = null } = {}) {
    super(words);
    this.status = status;
    this.detail = detail;
    /** What the server is, if what it lacks is an index. */
    this.without = without;
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
  503: 'The server could not do that now.',
  504: 'That took too long, so the server gave up.',
};

/** Where the sentence says all, and the server's own words are for programs. */
const SAID = [401, 413, 415, 429];
/** What would be refused again. */
const FINAL = [400, 403, 404, 410, 413, 415, 422];

const MOST_WAITS = 3;
const INFO = '/v1/info';
const NO_INDEX = 'There is no index to search yet.';

const pause = (ms, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener('abort', () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });

/** One request. Waits and asks again while the server is busy; asks the reader for the token if one is needed. `quiet` ones, which nobody asked for, only fail. */
async function send(path, { quiet = false, ...options } = {}) {
  for (let waits = 0; ; waits += 1) {
    let response;
    try {
      response = await fetch(path, { credentials: 'same-origin', ...options });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new Trouble('The server does not answer. Is reelseek serve still running?');
    }
    if (response.ok) return response;
    if (response.status === 401 && !quiet && (await askForToken())) continue;
    if (response.status === 429 && !quiet && waits < MOST_WAITS) {
      const seconds = Math.min(30, Math.max(1, Number(response.headers.get('Retry-After')) || 1));
      const notice = alerts.show({ words: `The server is busy; trying again in ${seconds} s.` });
      await pause(seconds * 1000, options.signal).finally(() => notice.remove());
      continue;
    }
    const detail = await response.json().then((body) => body.error ?? '', () => '');
    const now = response.status === 503 && path !== INFO ? await about(true, true).catch(() => null) : null;
    if (now && !now.index) throw new Trouble(NO_INDEX, { status: 503, without: now });
    // It came while this was asked.
    if (now && /no index/.test(detail) && waits < MOST_WAITS) continue;
    throw new Trouble(WORDS[response.status] ?? (detail || `The server answered ${response.status}.`), { status: response.status, detail });
  }
}

/** `/path?a=1&b=2` without what is empty. */
export function link(path, query = {}) {
  const kept = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== '');
  return kept.length ? `${path}?${new URLSearchParams(kept)}` : path;
}

export const get = async (path, query, signal) => (await send(link(path, query), { signal })).json();

/** For what the page asks by itself. */
export const quietly = async (path) => (await send(path, { quiet: true })).json();

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
  const answer = await response.json();
  if (known && answer.generation !== known.generation) about(true, true).catch(() => null);
  return answer;
}

export const frameLink = (video, at, width) => link('/v1/thumbnail', { video, at, width });
export const previewLink = (video, from, to) => link('/v1/preview', { video, from, to });
export const mediaLink = (video) => `/v1/media/${encodeURIComponent(video)}`;

let info = null;
/** What was heard of the server last. */
let known = null;
let facets = null;

/** What the server can do and has; asked once, again after `fresh`, and each time while there is no index: one may come at any time. */
export async function about(fresh = false, quiet = false) {
  if (!info || fresh) info = quiet ? quietly(INFO) : get(INFO);
  const asked = info;
  try {
    const now = await asked;
    if (info === asked) heed(now);
    return now;
  } catch (error) {
    if (info === asked) info = null;
    throw error;
  }
}

/** Tells the page, by the event `reelseek-indexed`, when the index is not the one that was known. */
function heed(now) {
  const before = known;
  known = now;
  if (!now.index) info = null;
  else lacking?.remove();
  if (!before || ['index', 'generation', 'videos', 'rows'].every((name) => before[name] === now[name])) return;
  facets = null;
  dispatchEvent(new CustomEvent('reelseek-indexed', { detail: now }));
}

let lacking = null;

/** Says what to do while there is no index, until there is one. */
export function tellNoIndex({ indexing }) {
  lacking = alerts.show({
    words: NO_INDEX,
    detail: indexing ? 'Start one in the indexing view.' : 'Make one with: reelseek index FOLDER. This page takes it up by itself.',
    actions: [{ label: 'Go to indexing', run: () => go('indexing') }],
  });
  return lacking;
}

/** Labels and folders, for completions; none if they cannot be had. */
export function completions() {
  const none = { labels: [], folders: [] };
  const ask = async () => ((await about()).index ? get('/v1/facets') : Promise.reject(new Trouble('no index')));
  if (!facets) {
    const asked = ask().catch(() => ((facets = facets === asked ? null : facets), none));
    facets = asked;
  }
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

/** Shows a failure, and gives the alert; `again` is what the button "Try again" does. Aborted calls are no failure. */
export function report(error, again) {
  if (error?.name === 'AbortError') return null;
  const ours = error instanceof Trouble;
  if (!ours) console.error(error);
  if (error.without) return tellNoIndex(error.without);
  const actions = again && !FINAL.includes(error.status) ? [{ label: error.status === 401 ? 'Sign in' : 'Try again', run: again }] : [];
  const detail = ours && !SAID.includes(error.status) && error.detail !== error.message ? error.detail : '';
  return alerts.show({ words: ours ? error.message : 'Something went wrong in this page.', detail, actions });
}
