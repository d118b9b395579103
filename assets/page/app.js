// The frame around the views: navigation, drag and drop, paste, and dialogs.

import * as api from './api.js';
import { alerts } from './alerts.js';
import { byId, count } from './dom.js';
import { indexingView } from './indexing.js';
import * as jobs from './jobs.js';
import { libraryView } from './library.js';
import { mayBePicture } from './pictures.js';
import { go, onroute, parse } from './router.js';
import { searchView } from './search.js';
import { videoView } from './video.js';

const VIEWS = { search: searchView, library: libraryView, video: videoView, indexing: indexingView };
const views = new Map();
const main = byId('main');
let currentView = null;

/** Views are created once and keep their state. */
function viewOf(name) {
  if (!views.has(name)) views.set(name, VIEWS[name]());
  return views.get(name);
}

async function show(route) {
  let name = Object.hasOwn(VIEWS, route.view) ? route.view : 'search';
  if (name === 'library' && route.rest[0]) name = 'video';
  const view = viewOf(name);
  const changed = view !== currentView;
  byId('player').close();
  if (changed) {
    currentView?.leave();
    alerts.clear();
    const first = currentView === null;
    currentView = view;
    main.replaceChildren(view.root);
    for (const link of document.querySelectorAll('[data-view]')) {
      if (link.dataset.view === route.view || (name === 'search' && link.dataset.view === 'search')) link.setAttribute('aria-current', 'page');
      else link.removeAttribute('aria-current');
    }
    if (!first) scrollTo(0, 0);
    view.enter();
    await view.update(route);
    if (!first && currentView === view) (view.root.querySelector('h1') ?? main).focus({ preventScroll: true });
  } else {
    await view.update(route);
  }
  if (currentView === view) document.title = `${view.title} · reelseek`;
}

async function showVideoCount() {
  const info = await api.serverInfo().catch(() => null);
  byId('stock').textContent = info?.index ? count(info.videos, 'video') : '';
}

/** Searches with a picture that was dropped or pasted in any view. */
function acceptTransfer(transfer) {
  const search = viewOf('search');
  if (currentView !== search) go('search');
  search.acceptTransfer(transfer);
}

// Dragging. `depth` counts the elements that the pointer has entered and not left. When it moves between two
// elements, the two events may arrive in either order.

let depth = 0;
const showOverlay = (on) => (byId('drop').hidden = !on);
addEventListener('dragenter', (event) => {
  if (!mayBePicture(event.dataTransfer)) return;
  event.preventDefault();
  depth += 1;
  showOverlay(true);
});
addEventListener('dragleave', (event) => {
  if (mayBePicture(event.dataTransfer) && --depth <= 0) showOverlay(((depth = 0), false));
});
addEventListener('dragover', (event) => mayBePicture(event.dataTransfer) && event.preventDefault());
addEventListener('drop', (event) => {
  depth = 0;
  showOverlay(false);
  if (!mayBePicture(event.dataTransfer)) return;
  event.preventDefault();
  acceptTransfer(event.dataTransfer);
});
addEventListener('paste', (event) => {
  const typing = event.target.closest?.('input, textarea');
  // Text pasted into a text box stays there.
  if (typing && event.clipboardData.files.length === 0) return;
  event.preventDefault();
  acceptTransfer(event.clipboardData);
});

document.addEventListener('click', (event) => {
  if (event.target.closest?.('[data-close]')) event.target.closest('dialog').close();
  // A click outside the dialog closes it.
  if (event.target === byId('player')) byId('player').close();
});
byId('skip').addEventListener('click', (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener('reelseek-indexed', showVideoCount);

api.setUpSignOut();
onroute(show);
show(parse()).then(() => api.completions());
showVideoCount();
// `poll` watches a running job, and waits for an index if there is none.
api.serverInfo().then(({ indexing }) => jobs.poll(indexing), () => null);
