// The library view: the videos of the index.

import * as api from './api.js';
import { alerts } from './alerts.js';
import { labelList } from './cards.js';
import { breakable, clock, code, count, h, icon, number, announce } from './dom.js';
import { filterBox } from './filter.js';
import { thumbnail } from './media.js';
import { address, go } from './router.js';

const PAGE = 48;
const SORTS = { name: 'File name', newest: 'Newest first', duration: 'Longest first' };

/** The order that the page's URL names, if it is known. */
const sortOf = ({ params }) => (Object.hasOwn(SORTS, params.get('sort')) ? params.get('sort') : 'name');

const videoCard = (video) =>
  h(
    'li',
    { class: 'card' },
    h(
      'div',
      { class: 'frame' },
      h('a', { class: 'open', href: address(`library/${encodeURIComponent(video.video)}`), tabindex: '-1', 'aria-hidden': 'true' }, thumbnail(video.thumbnail)),
      h('span', { class: 'clock' }, h('span', { class: 'unseen' }, 'Length '), clock(video.duration)),
    ),
    h(
      'div',
      { class: 'words' },
      h('h2', {}, h('a', { href: address(`library/${encodeURIComponent(video.video)}`), title: video.path ?? video.name }, breakable(video.title))),
      labelList(video.labels),
      video.warning && h('p', { class: 'warning' }, icon('warning'), 'Partly readable'),
    ),
  );

export function libraryView() {
  let route = null;
  let running = null;

  const query = filterBox({
    label: 'Find videos',
    placeholder: 'words, or label:surfing',
    hint: ['Words of titles, names and labels, or fields as in ', code('label:'), ' and ', code('path:'), '.'],
    onapply: (text) => go('library', { query: text, sort: route.params.get('sort') }),
  });
  const sort = h(
    'select',
    { id: 'sort', onchange: () => go('library', { query: route.params.get('query'), sort: sort.value === 'name' ? null : sort.value }) },
    Object.entries(SORTS).map(([value, words]) => h('option', { value }, words)),
  );
  const total = h('p', { class: 'total' });
  const list = h('ul', { class: 'cards small' });
  const nothingWords = h('p');
  const nothingHint = h('p', { class: 'hint' }, 'Parts of words match too. Quotes and brackets belong to the filter language: close each of them, around some text.');
  const showAll = h('button', { type: 'button', onclick: () => (go('library', { sort: route.params.get('sort') }), query.input.focus()) }, 'Show all videos');
  const nothing = h('div', { class: 'nothing', hidden: true }, nothingWords, nothingHint, h('div', { class: 'row' }, showAll));
  const pages = h('nav', { class: 'pages', 'aria-label': 'Pages' });
  const root = h(
    'div',
    { class: 'library' },
    h('div', { class: 'view-head' }, h('h1', { tabindex: '-1' }, 'Library'), total),
    h('div', { class: 'tools' }, query.element, h('div', { class: 'field' }, h('label', { for: 'sort' }, 'Sort by'), sort)),
    nothing,
    list,
    pages,
  );

  const step = (words, skip) => h('a', { class: 'button', href: address('library', { query: route.params.get('query'), sort: route.params.get('sort'), skip: skip || null }) }, words);

  /** Shows that nothing matches, or that the index is empty. */
  function showNothing(none) {
    const text = route.params.get('query')?.trim();
    nothing.hidden = !none;
    nothingWords.textContent = text ? `No video matches “${text}”.` : 'There are no videos in the index yet.';
    nothingHint.hidden = showAll.hidden = !text;
  }

  async function load(isAnnounced = true) {
    running?.abort();
    const control = new AbortController();
    running = control;
    const skip = Math.max(0, Number.parseInt(route.params.get('skip'), 10) || 0);
    list.setAttribute('aria-busy', 'true');
    try {
      const answer = await api.get('/v1/videos', { query: route.params.get('query'), sort: sortOf(route), top: PAGE, skip }, control.signal);
      if (running !== control) return;
      alerts.clear();
      query.wrong('');
      list.replaceChildren(...answer.videos.map(videoCard));
      const last = skip + answer.videos.length;
      showNothing(answer.total === 0);
      total.textContent = answer.total === 0 ? '' : answer.total === answer.videos.length ? count(answer.total, 'video') : `${number(skip + 1)}–${number(last)} of ${count(answer.total, 'video')}`;
      pages.replaceChildren(...[skip > 0 && step('Previous', Math.max(0, skip - PAGE)), answer.more && step('Next', last)].filter(Boolean));
      if (isAnnounced) announce(answer.total === 0 ? nothingWords.textContent : total.textContent);
    } catch (error) {
      if (running !== control || error.name === 'AbortError') return;
      list.replaceChildren();
      pages.replaceChildren();
      total.textContent = '';
      showNothing(false);
      if (error.status === 400) query.wrong((error.detail || error.message).split('\n')[0]);
      else api.showError(error, load);
    } finally {
      if (running === control) list.removeAttribute('aria-busy');
    }
  }

  // After a change of the index an empty list is loaded again. Videos on screen do not change without a
  // user action.
  addEventListener('reelseek-indexed', () => root.isConnected && list.children.length === 0 && !list.hasAttribute('aria-busy') && load(false));

  return {
    title: 'Library',
    root,
    async update(next) {
      const turned = route && route.params.get('skip') !== next.params.get('skip');
      route = next;
      query.value = route.params.get('query') ?? '';
      sort.value = sortOf(route);
      await load();
      if (turned) root.querySelector('h1').focus();
    },
    enter() {},
    leave: () => running?.abort(),
  };
}
