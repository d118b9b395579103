// The part of the URL after `#`: `#/VIEW/REST?PARAMETERS`. It contains all state that fits into a URL.

export function parse(hash = location.hash) {
  const [path, query = ''] = hash.replace(/^#\/?/, '').split('?');
  const [view, ...rest] = path.split('/');
  return { view: view || 'search', rest: rest.map(decode), params: new URLSearchParams(query) };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** `#/search?filter=x`, without empty parameters. */
export function address(path, params = {}) {
  const kept = Object.entries(params).filter(([, value]) => value !== undefined && value !== null && value !== '');
  return `#/${path}${kept.length ? `?${new URLSearchParams(kept)}` : ''}`;
}

const listeners = [];
export const onroute = (listener) => listeners.push(listener);
const notify = () => listeners.forEach((listener) => listener(parse()));
/** Shows the current address again. */
export const reload = notify;

/** Goes to an address. With `replace` the Back button skips the previous address; the slider uses this. */
export function go(path, params, { replace = false } = {}) {
  const target = address(path, params);
  if (target === location.hash) return;
  history[replace ? 'replaceState' : 'pushState'](null, '', target);
  notify();
}

addEventListener('popstate', notify);
