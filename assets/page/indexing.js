// The indexing view: start a job, watch it, stop it, and list earlier ones.

import * as api from './api.js';
import { roughDuration, bytes, code, count, h, number, announce, when } from './dom.js';
import * as jobs from './jobs.js';
import { STATES, totals } from './jobs.js';

/** Progress between two announcements to screen readers. */
const ANNOUNCE_STEP = 0.25;

const failures = (job) =>
  job.failures.length > 0 &&
  h(
    'details',
    { class: 'failures' },
    h('summary', {}, `${count(job.failed, 'file')} could not be indexed`),
    job.failures.length < job.failed && h('p', { class: 'hint' }, `The first ${number(job.failures.length)} are listed.`),
    h('ul', {}, job.failures.map(({ name, reason }) => h('li', {}, h('b', {}, name), ' ', reason))),
  );

export function indexingView() {
  let isOpen = false;
  let announced = -1;
  let watched = null;
  let pollAlert = null;

  const folders = h('fieldset', { class: 'field choices' });
  const option = (name, words, hint) =>
    h('label', {}, h('input', { type: 'checkbox', name, 'aria-labelledby': `${name}-words`, 'aria-describedby': `${name}-hint` }), h('span', {}, h('span', { id: `${name}-words` }, words), h('small', { id: `${name}-hint` }, hint)));
  const start = h('button', { type: 'submit', class: 'main' }, 'Start indexing');
  const form = h(
    'form',
    { class: 'start', onsubmit: (event) => (event.preventDefault(), begin()) },
    folders,
    h(
      'fieldset',
      { class: 'field choices' },
      h('legend', {}, 'Options'),
      option('prune', 'Remove missing videos', 'Removes videos from the index whose files are no longer in the folders.'),
      option('retry', 'Retry failed files', 'Otherwise they are skipped until they change.'),
      option('keyframes', 'Keyframes only', 'Faster, but moments are coarser.'),
    ),
    h('div', { class: 'row' }, start),
  );
  const noFolders = h(
    'div',
    { class: 'nothing', hidden: true },
    h('p', {}, 'This server was started without folders, so nothing can be indexed from here.'),
    h('p', {}, 'Start it with folders: ', code('reelseek serve ~/Videos')),
    h('p', {}, 'Or run ', code('reelseek index ~/Videos'), ' in a terminal. This page then shows the new videos by itself.'),
  );
  const bar = h('progress', { max: 1, 'aria-label': 'Progress of the run' });
  const share = h('b');
  const eta = h('span');
  const doneWords = h('p', { class: 'hint' });
  const jobFailures = h('div');
  const stop = h('button', { type: 'button', onclick: () => cancel() }, 'Stop');
  const current = h(
    'section',
    { class: 'job-now', 'aria-labelledby': 'job-now', hidden: true },
    h('div', { class: 'split' }, h('h2', { id: 'job-now', tabindex: '-1' }, 'Indexing'), stop),
    bar,
    h('p', { class: 'split' }, share, eta),
    doneWords,
    jobFailures,
  );
  const earlier = h('ol', { class: 'jobs' });
  const history = h('section', { 'aria-labelledby': 'earlier', hidden: true }, h('h2', { id: 'earlier', tabindex: '-1' }, 'Earlier runs'), earlier);
  const root = h(
    'div',
    { class: 'indexing' },
    h('div', { class: 'view-head' }, h('h1', { tabindex: '-1' }, 'Indexing')),
    h('p', { class: 'lead' }, 'Adds videos to the index. Unchanged files are not read again.'),
    noFolders,
    form,
    current,
    history,
  );

  async function begin() {
    const chosen = [...folders.querySelectorAll('input:checked')].map((input) => input.value);
    const all = folders.querySelectorAll('input').length;
    if (all > 0 && chosen.length === 0) {
      folders.querySelector('.wrong').textContent = 'Choose at least one folder.';
      return folders.querySelector('input').focus();
    }
    folders.querySelector('.wrong')?.replaceChildren();
    start.disabled = true;
    try {
      const isChecked = (name) => form.elements[name].checked;
      const { job } = await api.post('/v1/index', {
        ...(chosen.length < all && { folders: chosen }),
        prune: isChecked('prune'),
        retry: isChecked('retry'),
        keyframes: isChecked('keyframes'),
      });
      announce('Indexing has begun');
      announced = 0;
      await jobs.follow(job);
    } catch (error) {
      start.disabled = false;
      if (error.status !== 409) return api.showError(error);
      await jobs.poll(true);
    }
    if (isOpen) (current.hidden ? history : current).querySelector('h2').focus();
  }

  async function cancel() {
    stop.disabled = true;
    try {
      await api.cancelJob(watched);
      eta.textContent = 'Stopping. Finished files are kept.';
    } catch (error) {
      stop.disabled = false;
      api.showError(error);
    }
  }

  /** All jobs, the newest first. */
  function list(all) {
    const running = all.find((job) => job.state === 'running');
    const hadFocus = current.contains(document.activeElement);
    if (!running) watched = null;
    current.hidden = !running;
    start.disabled = Boolean(running);
    if (running) showRunning(running);
    showEarlier(all.filter((job) => job !== running));
    if (!running && hadFocus) history.querySelector('h2').focus();
  }

  function showRunning(job) {
    if (job.job !== watched) stop.disabled = false;
    watched = job.job;
    // The total is unknown while the job looks for files.
    const isLooking = job.total_bytes === 0;
    if (isLooking) bar.removeAttribute('value');
    else bar.value = job.progress;
    share.textContent = `${Math.floor(job.progress * 100)} %`;
    if (!stop.disabled) eta.textContent = job.eta_seconds === null ? 'Estimating the time left' : `About ${roughDuration(job.eta_seconds)} left`;
    doneWords.textContent = [...totals(job), !isLooking && `${bytes(job.done_bytes)} of ${bytes(job.total_bytes)}`, `${roughDuration(job.seconds)} so far`].filter(Boolean).join(' · ');
    const open = jobFailures.querySelector('details')?.open;
    jobFailures.replaceChildren(...[failures(job)].filter(Boolean));
    if (open) jobFailures.querySelector('details').open = true;
    if (job.progress - announced >= ANNOUNCE_STEP) {
      announced = job.progress;
      announce(`Indexing: ${share.textContent}. ${eta.textContent}`);
    }
  }

  function showEarlier(ended) {
    history.hidden = ended.length === 0;
    // A job that has ended does not change.
    const known = ended.map((job) => job.job).join();
    if (earlier.dataset.known === known) return;
    earlier.dataset.known = known;
    earlier.replaceChildren(
      ...ended.map((job) =>
        h(
          'li',
          { class: `job ${job.state}` },
          h('div', { class: 'split' }, h('b', {}, STATES[job.state] ?? job.state), h('span', { class: 'hint' }, `${when(job.started)}, ${roughDuration(job.seconds)}`)),
          h('p', {}, totals(job).join(' · ')),
          job.error && h('p', { class: 'wrong' }, job.error),
          failures(job),
        ),
      ),
    );
  }

  /** Shows one alert, even if the poll fails several times. */
  function onerror(error) {
    pollAlert ??= api.showError(error, () => ((pollAlert = null), jobs.poll(true)));
  }

  function onsuccess() {
    pollAlert?.remove();
    pollAlert = null;
  }

  return {
    title: 'Indexing',
    root,
    update() {},
    async enter() {
      isOpen = true;
      try {
        const info = await api.serverInfo(true);
        noFolders.hidden = info.indexing;
        form.hidden = !info.indexing;
        if (info.indexing) {
          const { folders: names } = await api.get('/v1/folders');
          folders.replaceChildren(
            h('legend', {}, 'Folders'),
            ...names.map((name) => h('label', {}, h('input', { type: 'checkbox', value: name, checked: true }), h('span', {}, name))),
            h('p', { class: 'wrong', role: 'alert' }),
          );
        }
      } catch (error) {
        return api.showError(error, () => this.enter());
      }
      if (isOpen) await jobs.enter({ show: showRunning, list, onerror, onsuccess });
    },
    leave() {
      isOpen = false;
      pollAlert = null;
      jobs.leave();
    },
  };
}
