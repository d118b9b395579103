// One video: a player, and a strip of frames to jump to.

import * as api from './api.js';
import { alerts } from './alerts.js';
import { labelList } from './cards.js';
import { breakable, bytes, clock, h, icon, number, when } from './dom.js';
import { thumbnail } from './media.js';
import { playerOf } from './player.js';
import { reload } from './router.js';
import { searchWith } from './search.js';

/** Width of a strip frame's picture: twice its width on the page, for screens of high density. */
const STILL_WIDTH = 320;

/** Names and values of the sidecar's other fields. */
function extraRows(extra) {
  if (extra === null || typeof extra !== 'object' || Array.isArray(extra)) return [];
  const textOf = (value) => (typeof value === 'string' ? value : JSON.stringify(value));
  return Object.entries(extra).map(([name, value]) => [name, textOf(value)]);
}

export function videoView() {
  const root = h('div', { class: 'video' });
  let player = null;
  let currentId = null;

  const still = ({ video, title }, { at }) => {
    const time = clock(at);
    return h(
      'li',
      {},
      h('button', { type: 'button', class: 'open', 'aria-label': `Play from ${time}`, onclick: () => player.seek(at) }, thumbnail(api.frameLink(video, at, STILL_WIDTH)), h('span', { class: 'clock', 'aria-hidden': 'true' }, time)),
      h('button', { type: 'button', class: 'quiet', 'aria-label': `Search with the frame at ${time} of ${title}`, onclick: () => searchWith(video, at) }, icon('search'), 'Search'),
    );
  };

  function show(video) {
    player = playerOf(video, (at) => searchWith(video.video, at));
    const rows = [
      ['Length', clock(video.duration)],
      ['Indexed clips', number(video.rows)],
      ['File', breakable(video.path ?? video.name)],
      ['Size', bytes(video.size)],
      ['Changed', when(video.modified)],
      ...extraRows(video.extra),
    ];
    root.replaceChildren(
      h('a', { class: 'back', href: '#/library' }, icon('back'), 'Library'),
      h('h1', { tabindex: '-1' }, breakable(video.title)),
      ...[labelList(video.labels), video.warning && h('p', { class: 'warning box' }, icon('warning'), video.warning)].filter(Boolean),
      h(
        'div',
        { class: 'video-grid' },
        player.element,
        h('section', { 'aria-labelledby': 'details' }, h('h2', { id: 'details' }, 'Details'), h('dl', {}, rows.map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value))))),
      ),
      h('section', { 'aria-labelledby': 'strip' }, h('h2', { id: 'strip' }, 'Frames'), h('ol', { class: 'strip' }, video.strip.map((frame) => still(video, frame)))),
    );
  }

  return {
    title: 'Video',
    root,
    async update({ rest: [id] }) {
      player?.close();
      currentId = id;
      try {
        const video = await api.get(`/v1/videos/${encodeURIComponent(id)}`);
        if (currentId !== id) return;
        alerts.clear();
        show(video);
        this.title = video.title;
      } catch (error) {
        if (currentId !== id) return;
        this.title = [400, 404].includes(error.status) ? 'No such video' : 'No answer';
        root.replaceChildren(h('a', { class: 'back', href: '#/library' }, icon('back'), 'Library'), h('h1', { tabindex: '-1' }, this.title));
        api.showError(error, reload);
      }
    },
    enter() {},
    leave() {
      currentId = null;
      player?.close();
    },
  };
}
