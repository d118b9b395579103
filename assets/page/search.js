// The search view: a picture in, moments out.

import * as api from './api.js';
import { alerts } from './alerts.js';
import { FOUND_CONFIDENCE, KIND_CONFIDENCE, card, percent } from './cards.js';
import { cropTool } from './crop.js';
import { clock, code, count, h, icon, number, announce } from './dom.js';
import { filterBox } from './filter.js';
import { boxOfText } from './geometry.js';
import { retryLoading } from './media.js';
import * as pictures from './pictures.js';
import { go, parse } from './router.js';

const PAGE = 24;
/** Positions of the threshold: denser where small differences matter. */
const STOPS = [0, 0.5, 0.75, 0.9, FOUND_CONFIDENCE, 0.98, 0.99, 0.999];
/** Width in pixels of a video frame that is the query. */
const FRAME_WIDTH = 1280;
const MAX_ANSWERS = 30;

/** Answers of this visit from the current index, so that the Back button shows them at once. */
const answers = new Map();

/** The same width as in style.css. */
const narrow = matchMedia('(max-width: 58rem)');

const chance = (p) => Math.round(1 / (1 - p));
const thresholdWords = (p) => (p === 0 ? 'All results are shown.' : `One in ${number(chance(p))} pictures that are not in these videos reaches this by chance.`);

export function searchWith(video, at) {
  const { params } = parse();
  const kept = parse().view === 'search' ? Object.fromEntries(['filter', 'group', 'min'].map((k) => [k, params.get(k)])) : {};
  go('search', { ...kept, frame: `${video}@${at.toFixed(3)}` });
}

export function searchView() {
  let route = null;
  let info = {};
  let current = null;
  let running = null;

  const change = (some, options) => go('search', { ...Object.fromEntries(route.params), ...some }, options);
  const ask = (some) => change({ picture: null, frame: null, url: null, crop: null, ...some });
  /** The crop of the address; null for the whole picture. */
  const cropOfRoute = () => (boxOfText(route.params.get('crop')) ? route.params.get('crop') : null);

  // The query.

  const file = h('input', { type: 'file', accept: 'image/*,video/*,.heic,.avif,.jxl', class: 'unseen', tabindex: '-1', 'aria-hidden': 'true', onchange: () => (take(file.files), (file.value = '')) });
  const pick = h('button', { type: 'button', class: 'main', onclick: () => file.click() }, 'Choose a picture');
  const preview = h('div', { class: 'query' });
  // One step back for all changes of a crop, and one for its removal.
  const crop = cropTool({ onchange: (text) => change({ crop: text }, { replace: Boolean(text && cropOfRoute()) }) });
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
  const threshold = h('div', { class: 'field' }, h('div', { class: 'split' }, h('label', { for: 'threshold' }, 'Minimum confidence'), figure), slider, words);
  slider.addEventListener('input', () => change({ min: STOPS[slider.value] === defaultMin() ? null : STOPS[slider.value] }, { replace: true }));

  // Closed on a narrow page, so that the results are visible.
  const options = h('details', { class: 'options' }, h('summary', {}, 'Filter and confidence'), h('div', { class: 'options-body' }, filter.element, groups, threshold));
  const unfold = () => (options.open = !narrow.matches);
  narrow.addEventListener('change', unfold);
  unfold();

  // The results.

  const heading = h('h2', { tabindex: '-1' });
  const about = h('p', { class: 'hint' });
  const found = h('ol', { class: 'cards' });
  const more = h('button', { type: 'button', class: 'more', onclick: () => load(true) }, 'Show more');
  const weakList = h('ol', { class: 'cards' });
  const weakWords = h('summary');
  const weak = h('details', { class: 'weak' }, weakWords, h('p', { class: 'hint' }, 'The closest results. Pictures that are not in these videos often score as high.'), weakList);
  const nothingWords = h('p');
  const reason = h('p', { class: 'hint' });
  const cropAdvice = h(
    'p',
    {},
    'Is the scene only a part of the picture? ',
    h('button', { type: 'button', class: 'quiet', onclick: () => crop.begin() }, 'Select this part'),
  );
  const nothing = h(
    'div',
    { class: 'nothing', hidden: true },
    icon('search'),
    nothingWords,
    reason,
    cropAdvice,
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

  /** The results by their cards. */
  const shown = new WeakMap();
  /** Marks in the query what the result of a card shows; without a card, what the best result shows. */
  function mark(element) {
    const best = current?.results[0];
    const result = shown.get(element?.closest('.card')) ?? (best && best.confidence >= minConfidence() ? best : null);
    crop.mark(result, current?.query_size, result && `“${result.title}” at ${clock(result.at)}`);
  }
  for (const event of ['pointerover', 'focusin']) results.addEventListener(event, ({ target }) => mark(target));
  results.addEventListener('pointerleave', () => mark(document.activeElement));
  results.addEventListener('focusout', ({ relatedTarget }) => mark(relatedTarget));

  /** An encoder that finds the same kind of scene has no useful confidence, so all results are shown. */
  const defaultMin = () => (info.same_scene === false ? 0 : FOUND_CONFIDENCE);
  const minConfidence = () => {
    const min = route.params.has('min') ? Number(route.params.get('min')) : defaultMin();
    return Number.isFinite(min) ? min : defaultMin();
  };

  function take(files) {
    const [first] = [...files].filter((f) => f.type.startsWith('image/')).concat(...files);
    if (first) ask({ picture: pictures.keep(first, first.name) });
  }

  /** Searches with a picture that was dropped or pasted in any view. */
  async function acceptTransfer(transfer) {
    // Read before the first await: the data is gone after the event.
    const got = pictures.pictureOf(transfer);
    info = await api.serverInfo().catch(() => info);
    if (got?.blob) return ask({ picture: pictures.keep(got.blob, got.name) });
    if (!got) return alerts.show({ text: 'That contains no picture. Drop or paste a picture or a picture file.' });
    if (new URL(got.address).origin === location.origin) {
      return api.getPicture(got.address).then((blob) => ask({ picture: pictures.keep(blob, 'a frame') }), (error) => api.showError(error));
    }
    if (info.fetch) return ask({ url: got.address });
    return alerts.show({
      text: 'This server does not fetch pictures from web addresses.',
      detail: 'Copy the picture itself, or save it and drop the file. A server started with --fetch fetches pictures.',
    });
  }

  /** The query in the page's URL: `{key, name, preview, load()}`; a falsy value if there is none. */
  function queryOfRoute() {
    const { params } = route;
    const [video, at] = params.get('frame')?.split(/@(?=[^@]*$)/) ?? [];
    if (video) {
      const still = api.frameLink(video, at, FRAME_WIDTH);
      return { key: still, name: `Frame at ${clock(Number(at))}`, preview: api.frameLink(video, at, 640), load: () => api.getPicture(still) };
    }
    const url = params.get('url');
    if (url) return { key: url, name: url, load: async () => url };
    const kept = params.get('picture') && pictures.recall(params.get('picture'));
    return kept && { key: params.get('picture'), name: kept.name, preview: kept.preview, load: async () => kept.blob };
  }

  /** Returns whether the picture is another one than before. */
  function showQuery(query) {
    const key = query?.key ?? '';
    if (preview.dataset.key === key) return false;
    preview.dataset.key = key;
    root.dataset.state = query ? 'searched' : 'start';
    results.hidden = !query;
    pick.textContent = query ? 'Choose another' : 'Choose a picture';
    wellWords.replaceChildren(...(query ? ['Or drop or paste one'] : ['Drop a picture here, or paste one with ', h('kbd', {}, 'Ctrl'), ' ', h('kbd', {}, 'V')]));
    pick.classList.toggle('main', !query);
    const image = query?.preview && h('img', { alt: 'The query picture' });
    const onfailed = (failure) => image.replaceWith(h('span', { class: 'no-picture' }, failure ? 'No picture: the file is gone or cannot be read' : 'This browser cannot show the picture'));
    // A frame from the server may load later; a local picture does not.
    if (query?.preview?.startsWith('/')) retryLoading(image, () => (image.src = query.preview), { onfailed });
    else image?.addEventListener('error', () => onfailed(null));
    crop.setPicture(image ?? h('span', { class: 'no-picture' }, 'A picture from the web'));
    if (image) image.src = query.preview;
    preview.replaceChildren(...(query ? [crop.element, h('p', { class: 'query-name' }, query.name)] : []));
    return true;
  }

  async function load(next) {
    const query = queryOfRoute();
    running?.abort();
    if (!query) {
      current = null;
      return;
    }
    const options = { filter: route.params.get('filter'), group: route.params.get('group'), crop: cropOfRoute() };
    const key = JSON.stringify([query.key, options]);
    const before = next ? current : null;
    const control = new AbortController();
    running = control;
    results.setAttribute('aria-busy', 'true');
    if (!next && answers.has(key)) {
      // If the index has changed, this removes the answer.
      await api.serverInfo(true, true).catch(() => null);
      if (running !== control) return;
      if (answers.has(key)) {
        running = null;
        results.setAttribute('aria-busy', 'false');
        current = answers.get(key);
        return show();
      }
    }
    if (!next) {
      announce('Searching');
      heading.textContent = 'Searching…';
    }
    try {
      const picture = await query.load();
      const run = (body) => api.search(body, { ...options, top: PAGE, skip: before?.offset }, control.signal);
      const answer = await (typeof picture === 'string' ? run(picture) : pictures.withRedraw(picture, run));
      if (running !== control) return;
      alerts.clear();
      filter.wrong('');
      // After a change of the index, the next page may repeat a result.
      const nameOf = ({ video, at }) => (options.group === 'moment' ? `${video}@${at}` : video);
      const known = new Set(before?.results.map(nameOf));
      const fresh = answer.results.filter((result) => !known.has(nameOf(result)));
      const old = before ?? { generation: answer.generation, offset: 0, results: [], cards: new Map() };
      current = { ...old, ...answer, generation: old.generation, key, offset: old.offset + answer.results.length, results: old.results.concat(fresh) };
      answers.delete(key);
      answers.set(key, current);
      if (answers.size > MAX_ANSWERS) answers.delete(answers.keys().next().value);
      show();
      if (next) focusFirst(fresh[0]);
    } catch (error) {
      if (running !== control || error.name === 'AbortError') return;
      if (!next) fail(error);
      if (error.status === 400 && options.filter) filter.wrong((error.detail || error.message).split('\n')[0]);
      else api.showError(error, () => load(next));
    } finally {
      if (running === control) {
        running = null;
        results.setAttribute('aria-busy', 'false');
      }
    }
  }

  /** Moves the focus from "Show more" to the first new result, or to the list that contains it. */
  function focusFirst(result) {
    const first = current.cards.get(result);
    if (first && !(weak.contains(first) && !weak.open)) return first.querySelector('.open').focus();
    if (first) {
      weakWords.focus();
      announce(`No more results with the minimum confidence. ${weakWords.textContent}`);
    } else {
      (more.hidden ? heading : more).focus();
      announce('No more results');
    }
  }

  function fail(error) {
    current = null;
    heading.textContent = error.status === 400 && route.params.get('filter') ? 'The filter is not understood' : 'No answer';
    mark(null);
    about.textContent = '';
    found.replaceChildren();
    nothing.hidden = weak.hidden = more.hidden = true;
  }

  function show() {
    const min = minConfidence();
    const node = (result) => {
      if (!current.cards.has(result)) current.cards.set(result, card(result, searchWith));
      shown.set(current.cards.get(result), result);
      return current.cards.get(result);
    };
    // Videos of the same kind are suggestions: unless the user sets a minimum, those better than chance are shown.
    const least = (r) => (r.match === 'kind' && !route.params.has('min') ? Math.min(min, KIND_CONFIDENCE) : min);
    const sure = current.results.filter((r) => r.confidence >= least(r));
    const rest = current.results.filter((r) => r.confidence < least(r));
    const videos = route.params.get('group') !== 'moment';
    const kind = videos ? 'video' : 'moment';
    found.replaceChildren(...sure.map(node));
    weakList.replaceChildren(...rest.map(node));
    const none = sure.length === 0;
    heading.textContent = none ? 'No match found' : `${count(sure.length, kind)}${current.more && rest.length === 0 ? ' and more' : ''}`;
    nothing.hidden = !none;
    found.hidden = none;
    const best = current.results[0];
    const filtered = route.params.get('filter') ? ' Only videos that match the filter were searched.' : '';
    // Without any result the server says why.
    const { code = 'nothing_similar', message = 'there are no results at all' } = best ? {} : (current.reason ?? {});
    nothingWords.textContent = code === 'nothing_similar' ? 'No moment of these videos seems to show this scene.' : `${message[0].toUpperCase()}${message.slice(1)}.`;
    reason.textContent = best ? `The best result has a confidence of ${percent(best.confidence)}; the minimum is ${percent(min)}.${filtered}` : filtered.trim();
    cropAdvice.hidden = !crop.canBegin() || code === 'no_videos' || code === 'no_match_for_filter';
    mark(null);
    about.textContent = `${number(Math.max(1, Math.round(current.took_ms)))} ms${current.exact ? ', all moments compared' : ''}`;
    weak.hidden = rest.length === 0;
    if (current.key !== weak.dataset.key) weak.open = false;
    weak.dataset.key = current.key;
    weakWords.textContent = none ? `Show the ${count(rest.length, `nearest ${kind}`)} anyway` : `${count(rest.length, `weaker ${kind}`)}`;
    more.hidden = !current.more || (rest.length > 0 && !weak.open);
    const first = sure[0];
    announce(none ? heading.textContent : `${heading.textContent}. First: ${first.title} at ${clock(first.at)}, confidence ${percent(first.confidence)}`);
  }

  addEventListener('reelseek-indexed', ({ detail: now }) => {
    info = now;
    // All answers, not only those of older generations: a restarted server counts generations from one again.
    answers.clear();
    if (current) current.stale = true;
    // An empty result is searched again. Results on screen do not change without a user action.
    const nothingFound = !current || (current.stale && found.hidden);
    if (root.isConnected && route && nothingFound && !running) load(false);
  });

  weak.addEventListener('toggle', () => current && (more.hidden = !current.more || (!weakList.hidden && weakList.children.length > 0 && !weak.open)));

  function showOptions() {
    filter.value = route.params.get('filter') ?? '';
    const chosen = route.params.get('group') === 'moment' ? 'moment' : 'video';
    for (const radio of groups.querySelectorAll('input')) radio.checked = radio.value === chosen;
    const min = minConfidence();
    const nearest = STOPS.reduce((best, stop, i) => (Math.abs(stop - min) < Math.abs(STOPS[best] - min) ? i : best), 0);
    slider.value = nearest;
    figure.textContent = min === 0 ? 'any' : `${+(min * 100).toFixed(1)} %`;
    words.textContent = thresholdWords(min);
    slider.setAttribute('aria-valuetext', `${figure.textContent}. ${words.textContent}`);
  }

  return {
    title: 'Search',
    root,
    acceptTransfer,
    async update(next) {
      const isSameQuery = route && ['picture', 'frame', 'url', 'filter', 'group', 'crop'].every((k) => route.params.get(k) === next.params.get(k));
      const hasNewCrop = route?.params.get('crop') !== next.params.get('crop');
      route = next;
      showOptions();
      if (showQuery(queryOfRoute()) || hasNewCrop) crop.setCrop(cropOfRoute());
      if (isSameQuery && current && !current.stale) return show();
      const loseFocus = found.contains(document.activeElement) || weakList.contains(document.activeElement);
      const loaded = load(false);
      if (loseFocus && !results.hidden) heading.focus();
      await loaded;
    },
    async enter() {
      const before = defaultMin();
      try {
        info = await api.serverInfo(true);
      } catch (error) {
        return api.showError(error, () => location.reload());
      }
      byAddress.hidden = !info.fetch;
      if (route) showOptions();
      if (!info.index) api.showNoIndex(info);
      if (current?.stale && !running) await load(false);
      else if (current && defaultMin() !== before) show();
    },
    leave() {
      crop.settle();
      running?.abort();
      running = null;
      results.setAttribute('aria-busy', 'false');
    },
  };
}
