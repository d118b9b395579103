// The frame around the views: which one is shown, dragging and pasting anywhere, dialogs.

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

const MAKE = { search: searchView, library: libraryView, video: videoView, indexing: indexingView };
const views = new Map();
const main = byId('main');
let shown = null;

/** Views are made once and kept, with what was typed and found in them. */
function viewOf(name) {
  if (!views.has(name)) views.set(name, MAKE[name]());
  return views.get(name);
}

async function show(route) {
  let name = MAKE[route.view] ? route.view : 'search';
  if (name === 'library' && route.rest[0]) name = 'video';
  const view = viewOf(name);
  const changed = view !== shown;
  byId('player').close();
  if (changed) {
    shown?.leave();
    alerts.clear();
    const first = shown === null;
    shown = view;
    main.replaceChildren(view.root);
    for (const link of document.querySelectorAll('[data-view]')) {
      if (link.dataset.view === route.view || (name === 'search' && link.dataset.view === 'search')) link.setAttribute('aria-current', 'page');
      else link.removeAttribute('aria-current');
    }
    if (!first) scrollTo(0, 0);
    view.enter();
    await view.update(route);
    if (!first && shown === view) (view.root.querySelector('h1') ?? main).focus({ preventScroll: true });
  } else {
    await view.update(route);
  }
  if (shown === view) document.title = `${view.title} · reelseek`;
}

async function showStock() {
  const info = await api.about().catch(() => null);
  byId('stock').textContent = info?.index ? count(info.videos, 'video') : '';
}

/** A picture from anywhere goes to the search view. */
function takeIn(transfer) {
  const search = viewOf('search');
  if (shown !== search) go('search');
  search.takeIn(transfer);
}

// Dragging. `depth` counts the elements entered and not left: they come in pairs, out of order.

let depth = 0;
const curtain = (on) => (byId('drop').hidden = !on);
addEventListener('dragenter', (event) => {
  if (!mayBePicture(event.dataTransfer)) return;
  event.preventDefault();
  depth += 1;
  curtain(true);
});
addEventListener('dragleave', (event) => {
  if (mayBePicture(event.dataTransfer) && --depth <= 0) curtain(((depth = 0), false));
});
addEventListener('dragover', (event) => mayBePicture(event.dataTransfer) && event.preventDefault());
addEventListener('drop', (event) => {
  depth = 0;
  curtain(false);
  if (!mayBePicture(event.dataTransfer)) return;
  event.preventDefault();
  takeIn(event.dataTransfer);
});
addEventListener('paste', (event) => {
  const typing = event.target.closest?.('input, textarea');
  // Text that is pasted into a box is for the box.
  if (typing && event.clipboardData.files.length === 0) return;
  event.preventDefault();
  takeIn(event.clipboardData);
});

document.addEventListener('click', (event) => {
  if (event.target.closest?.('[data-close]')) event.target.closest('dialog').close();
  // Beside a dialog means: away with it.
  if (event.target === byId('player')) byId('player').close();
});
byId('skip').addEventListener('click', (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener('reelseek-indexed', showStock);

api.offerToLeave();
onroute(show);
show(parse()).then(() => api.completions());
showStock();
// What runs already, and whether an index comes.
api.about().then(({ indexing }) => jobs.look(indexing), () => null);
