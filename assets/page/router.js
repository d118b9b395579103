// The address after `#`: `#/VIEW/REST?PARAMETERS`. It holds all of the state that an address can hold.

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

/** `#/search?filter=x`, without what is empty. */
export function address(path, params = {}) {
  const kept = Object.entries(params).filter(([, value]) => value !== undefined && value !== null && value !== '');
  return `#/${path}${kept.length ? `?${new URLSearchParams(kept)}` : ''}`;
}

const listeners = [];
export const onroute = (listener) => listeners.push(listener);
const tell = () => listeners.forEach((listener) => listener(parse()));
/** Shows once more what the address names. */
export const again = tell;

/** Goes there; `replace` leaves no step for the Back button, for what is only turned a little (a slider). */
export function go(path, params, { replace = false } = {}) {
  const target = address(path, params);
  if (target === location.hash) return;
  history[replace ? 'replaceState' : 'pushState'](null, '', target);
  tell();
}

addEventListener('popstate', tell);
