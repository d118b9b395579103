// The search view: a picture in, moments out.

import * as api from './api.js';
import { alerts } from './alerts.js';
import { FOUND, card, percent } from './cards.js';
import { clock, code, count, h, icon, number, say } from './dom.js';
import { filterBox } from './filter.js';
import { persist } from './media.js';
import * as pictures from './pictures.js';
import { go, parse } from './router.js';

const PAGE = 24;
/** Where the threshold can stand: close together where it matters. */
const STOPS = [0, 0.5, 0.75, 0.9, FOUND, 0.98, 0.99, 0.999];
/** Width of a frame of a video that is searched with. */
const FRAME_WIDTH = 1280;
const MOST_ANSWERS = 30;

/** Answers of this visit, so that Back shows them at once; of the index as it is now. */
const answers = new Map();

/** As in style.css. */
const narrow = matchMedia('(max-width: 58rem)');

const chance = (p) => Math.round(1 / (1 - p));
const thresholdWords = (p) => (p === 0 ? 'Everything is shown, however weak.' : `A picture that is not in these videos gets this far by chance once in ${number(chance(p))}.`);

export function searchWith(video, at) {
  const { params } = parse();
  const kept = parse().view === 'search' ? Object.fromEntries(['filter', 'group', 'min'].map((k) => [k, params.get(k)])) : {};
  go('search', { ...kept, frame: `${video}@${at.toFixed(3)}` });
}

export function searchView() {
  let route = null;
  let info = {};
  let shown = null;
  let running = null;

  const change = (some, options) => go('search', { ...Object.fromEntries(route.params), ...some }, options);
  const ask = (some) => change({ picture: null, frame: null, url: null, ...some });

  // The query.

  const file = h('input', { type: 'file', accept: 'image/*', class: 'unseen', tabindex: '-1', 'aria-hidden': 'true', onchange: () => (take(file.files), (file.value = '')) });
  const pick = h('button', { type: 'button', class: 'main', onclick: () => file.click() }, 'Choose a picture');
  const preview = h('div', { class: 'query' });
  const wellWords = h('p', { class: 'well-words' });
  const well = h(
    'div',
    { class: 'well' },
    icon('picture'),
    wellWords,
    pick,
    file,
  );
  const address = h('input', { type: 'url', id: 'address', placeholder: 'https://…', required: true });
  const byAddress = h(
    'form',
    { class: 'field', hidden: true, onsubmit: (event) => (event.preventDefault(), ask({ url: address.value.trim() }), (address.value = '')) },
    h('label', { for: 'address' }, 'Or its web address'),
    h('div', { class: 'row tight' }, address, h('button', { type: 'submit' }, 'Search')),
  );

  // The options.

  const filter = filterBox({
    label: 'Filter',
    placeholder: 'label:surfing path:holiday',
    hint: ['Fields ', code('label:'), ' ', code('path:'), ' ', code('title:'), ' ', code('duration:[10 TO 60]'), ', joined by AND, OR, NOT and brackets.'],
    onapply: (text) => change({ filter: text }),
  });
  const group = (value, words) =>
    h('label', {}, h('input', { type: 'radio', name: 'group', value, onchange: () => change({ group: value === 'moment' ? value : null }) }), words);
  const groups = h('fieldset', { class: 'field choices' }, h('legend', {}, 'Results'), group('video', 'One for each video'), group('moment', 'All moments'));
  const slider = h('input', { type: 'range', id: 'threshold', min: 0, max: STOPS.length - 1, step: 1, 'aria-describedby': 'threshold-words' });
  const figure = h('output', { for: 'threshold' });
  const words = h('p', { class: 'hint', id: 'threshold-words' });
  const threshold = h('div', { class: 'field' }, h('div', { class: 'split' }, h('label', { for: 'threshold' }, 'Least confidence'), figure), slider, words);
  slider.addEventListener('input', () => change({ min: STOPS[slider.value] === standard() ? null : STOPS[slider.value] }, { replace: true }));

  // Folded where the page is narrow, so that the answers are in sight.
  const options = h('details', { class: 'options' }, h('summary', {}, 'Filter and confidence'), h('div', { class: 'options-body' }, filter.element, groups, threshold));
  const unfold = () => (options.open = !narrow.matches);
  narrow.addEventListener('change', unfold);
  unfold();

  // The answers.

  const heading = h('h2', { tabindex: '-1' });
  const about = h('p', { class: 'hint' });
  const found = h('ol', { class: 'cards' });
  const more = h('button', { type: 'button', class: 'more', onclick: () => load(true) }, 'Show more');
  const weakList = h('ol', { class: 'cards' });
  const weakWords = h('summary');
  const weak = h('details', { class: 'weak' }, weakWords, h('p', { class: 'hint' }, 'The nearest there is. Pictures that are not in these videos get this far too.'), weakList);
  const nothing = h(
    'div',
    { class: 'nothing', hidden: true },
    icon('search'),
    h('p', {}, 'No moment of these videos shows what the picture shows, as far as can be told.'),
    h('p', { class: 'hint' }),
  );
  const results = h('section', { class: 'results', 'aria-label': 'Results', 'aria-busy': 'false' }, h('div', { class: 'results-head' }, heading, about), nothing, found, weak, more);
  const root = h(
    'div',
    { class: 'search', 'data-state': 'start' },
    h(
      'section',
      { class: 'panel', 'aria-label': 'Query' },
      h('h1', { tabindex: '-1' }, 'Which video is this from?'),
      h('div', { class: 'picture' }, preview, well, byAddress),
      options,
    ),
    results,
  );

  /** Where the encoder finds the same kind of scene rather than the same scene, chance says little: all is shown. */
  const standard = () => (info.same_scene === false ? 0 : FOUND);
  const least = () => {
    const min = route.params.has('min') ? Number(route.params.get('min')) : standard();
    return Number.isFinite(min) ? min : standard();
  };

  function take(files) {
    const [first] = [...files].filter((f) => f.type.startsWith('image/')).concat(...files);
    if (first) ask({ picture: pictures.keep(first, first.name) });
  }

  /** What was dropped or pasted anywhere in the page. */
  async function takeIn(transfer) {
    // Read at once: when this event is over, what it carries is gone.
    const got = pictures.taken(transfer);
    info = await api.about().catch(() => info);
    if (got?.blob) return ask({ picture: pictures.keep(got.blob, got.name) });
    if (!got) return alerts.show({ words: 'There is no picture in that. Drop or paste a picture, or a file of one.' });
    if (new URL(got.address).origin === location.origin) {
      return api.picture(got.address).then((blob) => ask({ picture: pictures.keep(blob, 'a frame') }), (error) => api.report(error));
    }
    if (info.fetch) return ask({ url: got.address });
    return alerts.show({
      words: 'That is a web address, and this server fetches none.',
      detail: 'Copy the picture itself, or save it and drop the file. (Started with --fetch, the server fetches pictures.)',
    });
  }

  /** The query that the address names: `{name, key, load()}`; none at the start. */
  function query() {
    const { params } = route;
    const [video, at] = params.get('frame')?.split(/@(?=[^@]*$)/) ?? [];
    if (video) {
      const still = api.frameLink(video, at, FRAME_WIDTH);
      return { key: still, name: `Frame at ${clock(Number(at))}`, preview: api.frameLink(video, at, 640), load: () => api.picture(still) };
    }
    const url = params.get('url');
    if (url) return { key: url, name: url, load: async () => url };
    const kept = params.get('picture') && pictures.recall(params.get('picture'));
    return kept && { key: params.get('picture'), name: kept.name, preview: kept.preview, load: async () => kept.blob };
  }

  function showQuery(asked) {
    const key = asked?.key ?? '';
    if (preview.dataset.key === key) return;
    preview.dataset.key = key;
    root.dataset.state = asked ? 'asked' : 'start';
    results.hidden = !asked;
    pick.textContent = asked ? 'Choose another' : 'Choose a picture';
    wellWords.replaceChildren(...(asked ? ['Or drop or paste one'] : ['Drop a picture here, or paste one with ', h('kbd', {}, 'Ctrl'), ' ', h('kbd', {}, 'V')]));
    pick.classList.toggle('main', !asked);
    const image = asked?.preview && h('img', { src: asked.preview, alt: 'The picture that is searched for' });
    const lost = (why) => image.replaceWith(h('span', { class: 'no-picture' }, why ? 'No picture: the file is gone or cannot be read' : 'This browser cannot show it'));
    // The server's may come later; the reader's own does not.
    if (asked?.preview?.startsWith('/')) persist(image, () => (image.src = asked.preview), { lost });
    else image?.addEventListener('error', () => lost(null));
    preview.replaceChildren(...(asked ? [image ?? h('span', { class: 'no-picture' }, 'A picture from the web'), h('p', { class: 'query-name' }, asked.name)] : []));
  }

  async function load(next) {
    const asked = query();
    running?.abort();
    if (!asked) {
      shown = null;
      return;
    }
    const options = { filter: route.params.get('filter'), group: route.params.get('group') };
    const key = JSON.stringify([asked.key, options]);
    const before = next ? shown : null;
    const control = new AbortController();
    running = control;
    results.setAttribute('aria-busy', 'true');
    if (!next && answers.has(key)) {
      // If there is another index by now, this answer goes.
      await api.about(true, true).catch(() => null);
      if (running !== control) return;
      if (answers.has(key)) {
        running = null;
        results.setAttribute('aria-busy', 'false');
        shown = answers.get(key);
        return show();
      }
    }
    if (!next) {
      say('Searching');
      heading.textContent = 'Searching…';
    }
    try {
      const picture = await asked.load();
      const run = (body) => api.search(body, { ...options, top: PAGE, skip: before?.looked }, control.signal);
      const answer = await (typeof picture === 'string' ? run(picture) : pictures.asked(picture, run));
      if (running !== control) return;
      alerts.clear();
      filter.wrong('');
      // A page of another index than the one before may hold what is there already.
      const nameOf = ({ video, at }) => (options.group === 'moment' ? `${video}@${at}` : video);
      const there = new Set(before?.results.map(nameOf));
      const fresh = answer.results.filter((result) => !there.has(nameOf(result)));
      const old = before ?? { generation: answer.generation, looked: 0, results: [], cards: new Map() };
      shown = { ...old, ...answer, generation: old.generation, key, looked: old.looked + answer.results.length, results: old.results.concat(fresh) };
      answers.delete(key);
      answers.set(key, shown);
      if (answers.size > MOST_ANSWERS) answers.delete(answers.keys().next().value);
      show();
      if (next) leadTo(fresh[0]);
    } catch (error) {
      if (running !== control || error.name === 'AbortError') return;
      if (!next) fail(error);
      if (error.status === 400 && options.filter) filter.wrong((error.detail || error.message).split('\n')[0]);
      else api.report(error, () => load(next));
    } finally {
      if (running === control) {
        running = null;
        results.setAttribute('aria-busy', 'false');
      }
    }
  }

  /** The focus, from "Show more" to the first of what came; or to what unfolds it. */
  function leadTo(result) {
    const first = shown.cards.get(result);
    if (first && !(weak.contains(first) && !weak.open)) return first.querySelector('.open').focus();
    if (first) {
      weakWords.focus();
      say(`No more as sure as is asked for. ${weakWords.textContent}`);
    } else {
      (more.hidden ? heading : more).focus();
      say('That is all');
    }
  }

  function fail(error) {
    shown = null;
    heading.textContent = error.status === 400 ? 'The filter is not understood' : 'No answer';
    about.textContent = '';
    found.replaceChildren();
    nothing.hidden = weak.hidden = more.hidden = true;
  }

  function show() {
    const min = least();
    const node = (result) => {
      if (!shown.cards.has(result)) shown.cards.set(result, card(result, searchWith));
      return shown.cards.get(result);
    };
    const sure = shown.results.filter((r) => r.confidence >= min);
    const rest = shown.results.filter((r) => r.confidence < min);
    const videos = route.params.get('group') !== 'moment';
    const kind = videos ? 'video' : 'moment';
    found.replaceChildren(...sure.map(node));
    weakList.replaceChildren(...rest.map(node));
    const none = sure.length === 0;
    heading.textContent = none ? 'Nothing like this here' : `${count(sure.length, kind)}${shown.more && rest.length === 0 ? ' and more' : ''}`;
    nothing.hidden = !none;
    found.hidden = none;
    const best = shown.results[0];
    const filtered = route.params.get('filter') ? ' Only videos that the filter lets through were looked at.' : '';
    nothing.lastChild.textContent = (best ? `The nearest has a confidence of ${percent(best.confidence)}; asked for is ${percent(min)}.` : 'Nothing came near at all.') + filtered;
    about.textContent = `${number(Math.max(1, Math.round(shown.took_ms)))} ms${shown.exact ? ', every moment compared' : ''}`;
    weak.hidden = rest.length === 0;
    if (shown.key !== weak.dataset.key) weak.open = false;
    weak.dataset.key = shown.key;
    weakWords.textContent = none ? `Show the ${count(rest.length, `nearest ${kind}`)} anyway` : `${count(rest.length, `weaker ${kind}`)}`;
    more.hidden = !shown.more || (rest.length > 0 && !weak.open);
    const first = sure[0];
    say(none ? heading.textContent : `${heading.textContent}. First: ${first.title} at ${clock(first.at)}, confidence ${percent(first.confidence)}`);
  }

  addEventListener('reelseek-indexed', ({ detail: now }) => {
    info = now;
    // Not by their generation: a server that was started anew counts from one again.
    answers.clear();
    if (shown) shown.stale = true;
    // What was not found may be there now; what was found stays as it is under the reader's eyes.
    const nothingFound = !shown || (shown.stale && found.hidden);
    if (root.isConnected && route && nothingFound && !running) load(false);
  });

  weak.addEventListener('toggle', () => shown && (more.hidden = !shown.more || (!weakList.hidden && weakList.children.length > 0 && !weak.open)));

  function showOptions() {
    filter.value = route.params.get('filter') ?? '';
    const chosen = route.params.get('group') === 'moment' ? 'moment' : 'video';
    for (const radio of groups.querySelectorAll('input')) radio.checked = radio.value === chosen;
    const min = least();
    const nearest = STOPS.reduce((best, stop, i) => (Math.abs(stop - min) < Math.abs(STOPS[best] - min) ? i : best), 0);
    slider.value = nearest;
    figure.textContent = min === 0 ? 'any' : `${+(min * 100).toFixed(1)} %`;
    words.textContent = thresholdWords(min);
    slider.setAttribute('aria-valuetext', `${figure.textContent}. ${words.textContent}`);
  }

  return {
    title: 'Search',
    root,
    takeIn,
    async update(next) {
      const sameQuestion = route && ['picture', 'frame', 'url', 'filter', 'group'].every((k) => route.params.get(k) === next.params.get(k));
      route = next;
      showOptions();
      showQuery(query());
      if (sameQuestion && shown && !shown.stale) return show();
      const leftBehind = found.contains(document.activeElement) || weakList.contains(document.activeElement);
      const loaded = load(false);
      if (leftBehind && !results.hidden) heading.focus();
      await loaded;
    },
    async enter() {
      const before = standard();
      try {
        info = await api.about(true);
      } catch (error) {
        return api.report(error, () => location.reload());
      }
      byAddress.hidden = !info.fetch;
      if (route) showOptions();
      if (!info.index) api.tellNoIndex(info);
      if (shown?.stale && !running) await load(false);
      else if (shown && standard() !== before) show();
    },
    leave() {
      running?.abort();
      running = null;
      results.setAttribute('aria-busy', 'false');
    },
  };
}
