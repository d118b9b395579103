// The indexing view: start a run, watch it, stop it, and see what earlier ones met.

import * as api from './api.js';
import { about, bytes, code, count, h, number, say, when } from './dom.js';

const POLL_MS = 1000;
const STATES = { running: 'Running', done: 'Done', failed: 'Failed', cancelled: 'Stopped' };
const SPOKEN_STEP = 0.25;

const totals = (job) =>
  [
    `${number(job.indexed)} indexed`,
    `${number(job.unchanged)} unchanged`,
    job.failed > 0 && `${number(job.failed)} failed`,
    job.skipped > 0 && `${number(job.skipped)} skipped`,
    job.removed > 0 && `${number(job.removed)} removed`,
  ].filter(Boolean);

const failures = (job) =>
  job.failures.length > 0 &&
  h(
    'details',
    { class: 'failures' },
    h('summary', {}, `${count(job.failures.length, 'file')} could not be indexed`),
    h('ul', {}, job.failures.map(({ name, reason }) => h('li', {}, h('b', {}, name), ' ', reason))),
  );

export function indexingView() {
  let timer = 0;
  let alive = false;
  let spoken = -1;
  let watched = null;

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
      option('prune', 'Forget videos that are gone', 'Files that no longer lie in the folders leave the index.'),
      option('retry', 'Try failed files again', 'Else they are left alone until they change.'),
      option('keyframes', 'Keyframes only', 'Faster, with coarser moments. A later run without it refines them.'),
    ),
    h('div', { class: 'row' }, start),
  );
  const without = h(
    'div',
    { class: 'nothing', hidden: true },
    h('p', {}, 'This server was started without folders, so nothing can be indexed from here.'),
    h('p', {}, 'Start it with those that may be: ', code('reelseek serve ~/Videos')),
    h('p', {}, 'Or run ', code('reelseek index ~/Videos'), ' in a terminal. This page takes up what it adds by itself.'),
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
  const history = h('section', { 'aria-labelledby': 'earlier', hidden: true }, h('h2', { id: 'earlier' }, 'Earlier runs'), earlier);
  const root = h(
    'div',
    { class: 'indexing' },
    h('div', { class: 'view-head' }, h('h1', { tabindex: '-1' }, 'Indexing')),
    h('p', { class: 'lead' }, 'Makes videos findable. What is there already is not read again.'),
    without,
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
      const ticked = (name) => form.elements[name].checked;
      await api.post('/v1/index', {
        ...(chosen.length < all && { folders: chosen }),
        prune: ticked('prune'),
        retry: ticked('retry'),
        keyframes: ticked('keyframes'),
      });
      say('Indexing has begun');
      spoken = 0;
    } catch (error) {
      start.disabled = false;
      if (error.status !== 409) return api.report(error);
    }
    await poll();
    root.querySelector('#job-now').focus();
  }

  async function cancel() {
    stop.disabled = true;
    try {
      await api.cancelJob(watched);
      eta.textContent = 'Stopping; what is done stays.';
    } catch (error) {
      stop.disabled = false;
      api.report(error);
    }
  }

  async function poll() {
    clearTimeout(timer);
    let jobs;
    try {
      ({ jobs } = await api.get('/v1/jobs'));
    } catch (error) {
      if (alive) api.report(error, poll);
      return;
    }
    if (!alive) return;
    const running = jobs.find((job) => job.state === 'running');
    const ended = watched && !running && jobs.find((job) => job.job === watched);
    if (ended) {
      say(`Indexing: ${STATES[ended.state].toLowerCase()}. ${totals(ended).join(', ')}`);
      api.about(true).then(() => dispatchEvent(new Event('reelseek-indexed')), () => null);
      api.completions(true);
    }
    if (running && running.job !== watched) stop.disabled = false;
    const hadFocus = current.contains(document.activeElement);
    watched = running?.job ?? null;
    current.hidden = !running;
    start.disabled = Boolean(running);
    if (running) showRunning(running);
    showEarlier(jobs.filter((job) => job !== running));
    if (!running && hadFocus) history.querySelector('h2').focus();
    if (running) timer = setTimeout(poll, POLL_MS);
  }

  function showRunning(job) {
    bar.value = job.progress;
    share.textContent = `${Math.floor(job.progress * 100)} %`;
    if (!stop.disabled) eta.textContent = job.eta_seconds === null ? 'Estimating the time left' : `About ${about(job.eta_seconds)} left`;
    doneWords.textContent = [...totals(job), `${bytes(job.done_bytes)} of ${bytes(job.total_bytes)}`, `${about(job.seconds)} so far`].join(' · ');
    const open = jobFailures.querySelector('details')?.open;
    jobFailures.replaceChildren(...[failures(job)].filter(Boolean));
    if (open) jobFailures.querySelector('details').open = true;
    if (job.progress - spoken >= SPOKEN_STEP) {
      spoken = job.progress;
      say(`Indexing: ${share.textContent}. ${eta.textContent}`);
    }
  }

  function showEarlier(jobs) {
    history.hidden = jobs.length === 0;
    const known = JSON.stringify(jobs);
    if (earlier.dataset.known === known) return;
    earlier.dataset.known = known;
    earlier.replaceChildren(
      ...jobs.map((job) =>
        h(
          'li',
          { class: `job ${job.state}` },
          h('div', { class: 'split' }, h('b', {}, STATES[job.state] ?? job.state), h('span', { class: 'hint' }, `${when(job.started)}, ${about(job.seconds)}`)),
          h('p', {}, totals(job).join(' · ')),
          job.error && h('p', { class: 'wrong' }, job.error),
          failures(job),
        ),
      ),
    );
  }

  return {
    title: 'Indexing',
    root,
    update() {},
    async enter() {
      alive = true;
      try {
        const info = await api.about(true);
        without.hidden = info.indexing;
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
        return api.report(error, () => this.enter());
      }
      await poll();
    },
    leave() {
      alive = false;
      clearTimeout(timer);
    },
  };
}
