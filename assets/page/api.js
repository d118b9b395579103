// Requests to the server. Every failure becomes an error with a message for the user.

import { byId } from './dom.js';
import { alerts } from './alerts.js';
import { go } from './router.js';

/** A failed request: a message for the user, and the server's message as `detail`. */
export class RequestError extends Error {
  constructor(message, { status = 0, detail = '', noIndex = null } = {}) {
    super(message);
    this.status = status;
    this.detail = detail;
    /** The answer of `/v1/info`, if the request failed because there is no index. */
    this.noIndex = noIndex;
  }
}

const MESSAGES = {
  401: 'This server needs a token.',
  403: 'The server does not allow that.',
  404: 'Not found. It may have been removed from the index.',
  408: 'That took too long, so the server stopped.',
  409: 'The server is doing that already.',
  410: 'The file is no longer where it was indexed.',
  413: 'This picture is too large. The limit is 25 MB.',
  415: 'This picture cannot be read. JPEG, PNG, WebP, GIF, BMP and TIFF are supported.',
  422: 'This picture cannot be used.',
  429: 'The server is busy. Try again in a moment.',
  500: 'The server failed. Its log contains the reason.',
  503: 'The server cannot do that now.',
  504: 'That took too long, so the server stopped.',
};

/** Statuses whose message needs no detail from the server. */
const WITHOUT_DETAIL = [401, 413, 415, 429];
/** Statuses after which the same request would fail again. */
const FINAL = [400, 403, 404, 410, 413, 415, 422];

const MAX_RETRIES = 3;
const INFO = '/v1/info';
const NO_INDEX = 'There is no index to search yet.';

const pause = (ms, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener('abort', () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });

/**
 * Sends a request. Retries while the server is busy, and asks the user for the token if one is needed.
 * `quiet` requests fail instead.
 */
async function send(path, { quiet = false, ...options } = {}) {
  for (let retries = 0; ; retries += 1) {
    let response;
    try {
      response = await fetch(path, { credentials: 'same-origin', ...options });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new RequestError('The server does not answer. Is reelseek serve still running?');
    }
    if (response.ok) return response;
    if (response.status === 401 && !quiet && (await askForToken())) continue;
    if (response.status === 429 && !quiet && retries < MAX_RETRIES) {
      const seconds = Math.min(30, Math.max(1, Number(response.headers.get('Retry-After')) || 1));
      const notice = alerts.show({ text: `The server is busy; trying again in ${seconds} s.` });
      await pause(seconds * 1000, options.signal).finally(() => notice.remove());
      continue;
    }
    const detail = await response.json().then((body) => body.error ?? '', () => '');
    const now = response.status === 503 && path !== INFO ? await serverInfo(true, true).catch(() => null) : null;
    if (now && !now.index) throw new RequestError(NO_INDEX, { status: 503, noIndex: now });
    // The index has appeared since the request.
    if (now && /no index/.test(detail) && retries < MAX_RETRIES) continue;
    throw new RequestError(MESSAGES[response.status] ?? (detail || `The server answered ${response.status}.`), { status: response.status, detail });
  }
}

/** `/path?a=1&b=2` without empty parameters. */
export function link(path, query = {}) {
  const kept = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== '');
  return kept.length ? `${path}?${new URLSearchParams(kept)}` : path;
}

export const get = async (path, query, signal) => (await send(link(path, query), { signal })).json();

/** For requests that the page sends without an action of the user. */
export const getQuietly = async (path) => (await send(path, { quiet: true })).json();

export const getPicture = async (path, signal) => (await send(path, { signal })).blob();

export const post = async (path, body, signal) =>
  (await send(path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body), signal })).json();

export const cancelJob = async (job) => (await send(`/v1/jobs/${encodeURIComponent(job)}`, { method: 'DELETE' })).json();

/** Searches with a picture (a Blob) or, if the server fetches pictures, with its URL. */
export async function search(query, options, signal) {
  const isAddress = typeof query === 'string';
  const response = await send(link('/v1/search', options), {
    method: 'POST',
    headers: { 'Content-Type': isAddress ? 'application/json' : query.type || 'application/octet-stream' },
    body: isAddress ? JSON.stringify({ url: query }) : query,
    signal,
  });
  const answer = await response.json();
  if (lastInfo && answer.generation !== lastInfo.generation) serverInfo(true, true).catch(() => null);
  return answer;
}

export const frameLink = (video, at, width) => link('/v1/thumbnail', { video, at, width });
export const previewLink = (video, from, to) => link('/v1/preview', { video, from, to });
export const mediaLink = (video) => `/v1/media/${encodeURIComponent(video)}`;

let info = null;
/** The last answer of `/v1/info`. */
let lastInfo = null;
let facets = null;

/**
 * The answer of `/v1/info`. It is requested once, again if `fresh` is true, and each time while there is no
 * index.
 */
export async function serverInfo(fresh = false, quiet = false) {
  if (!info || fresh) info = quiet ? getQuietly(INFO) : get(INFO);
  const request = info;
  try {
    const now = await request;
    if (info === request) compareInfo(now);
    return now;
  } catch (error) {
    if (info === request) info = null;
    throw error;
  }
}

/** Dispatches the event `reelseek-indexed` if the index has changed. */
function compareInfo(now) {
  const before = lastInfo;
  lastInfo = now;
  if (!now.index) info = null;
  else noIndexAlert?.remove();
  if (!before || ['index', 'generation', 'videos', 'rows'].every((name) => before[name] === now[name])) return;
  facets = null;
  dispatchEvent(new CustomEvent('reelseek-indexed', { detail: now }));
}

let noIndexAlert = null;

/** Shows that there is no index, and what to do. The alert disappears when an index appears. */
export function showNoIndex({ indexing }) {
  noIndexAlert = alerts.show({
    text: NO_INDEX,
    detail: indexing ? 'Index a folder in the indexing view.' : 'Create one with: reelseek index FOLDER. This page then uses it by itself.',
    actions: [{ label: 'Go to indexing', run: () => go('indexing') }],
  });
  return noIndexAlert;
}

/** Labels and folders for completions; empty lists if the request fails. */
export function completions() {
  const none = { labels: [], folders: [] };
  const request = async () => ((await serverInfo()).index ? get('/v1/facets') : Promise.reject(new RequestError('no index')));
  if (!facets) {
    const pending = request().catch(() => ((facets = facets === pending ? null : facets), none));
    facets = pending;
  }
  return facets;
}

// The token: one dialog for all requests that need it. The session is a cookie that scripts cannot read.

const SIGNED_IN = 'reelseek-signed-in';
let tokenDialog = null;

function askForToken() {
  tokenDialog ??= new Promise((resolve) => {
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
          const isWrong = response.status === 401 || response.status === 403;
          wrong.textContent = isWrong ? 'That is not the token.' : 'The server cannot check it now. Try again in a moment.';
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
        tokenDialog = null;
        resolve(signedIn);
      },
      { once: true },
    );
    dialog.showModal();
    field.focus();
  });
  return tokenDialog;
}

export function setUpSignOut() {
  const button = byId('leave');
  button.hidden = !localStorage.getItem(SIGNED_IN);
  button.addEventListener('click', async () => {
    localStorage.removeItem(SIGNED_IN);
    await fetch('/v1/session', { method: 'DELETE' }).catch(() => null);
    location.reload();
  });
}

/**
 * Shows a failure and returns its alert. The button "Try again" calls `retry`. Aborted requests are not
 * failures.
 */
export function showError(error, retry) {
  if (error?.name === 'AbortError') return null;
  const isKnown = error instanceof RequestError;
  if (!isKnown) console.error(error);
  if (error.noIndex) return showNoIndex(error.noIndex);
  const actions = retry && !FINAL.includes(error.status) ? [{ label: error.status === 401 ? 'Sign in' : 'Try again', run: retry }] : [];
  const detail = isKnown && !WITHOUT_DETAIL.includes(error.status) && error.detail !== error.message ? error.detail : '';
  return alerts.show({ text: isKnown ? error.message : 'This page has failed.', detail, actions });
}
