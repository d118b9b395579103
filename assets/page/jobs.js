// Indexing jobs. One that runs is watched from everywhere in the page; while the indexing view is open, what others begin is seen too.

import * as api from './api.js';
import { number, say } from './dom.js';

/** How often is asked: for a job that is looked at, for one that is not, and whether anything has come. */
const NEAR_MS = 1000;
const FAR_MS = 3000;
const IDLE_MS = 5000;
const LONGEST_MS = 60_000;

export const STATES = { running: 'Running', done: 'Done', failed: 'Failed', cancelled: 'Stopped' };

export const totals = (job) =>
  [
    `${number(job.indexed)} indexed`,
    `${number(job.unchanged)} unchanged`,
    job.failed > 0 && `${number(job.failed)} failed`,
    job.skipped > 0 && `${number(job.skipped)} skipped`,
    job.removed > 0 && `${number(job.removed)} removed`,
  ].filter(Boolean);

let view = null;
let running = null;
let without = false;
let timer = 0;
let looks = 0;
let misses = 0;

/** Asks how it is, and goes on asking as long as something may come of itself. `all`: for all jobs, whether one is known to run or not. */
export async function look(all = false) {
  clearTimeout(timer);
  looks += 1;
  const mine = looks;
  try {
    let list = all || (running === null && (view !== null || without));
    if (running !== null) {
      const job = await api.quietly(`/v1/jobs/${encodeURIComponent(running)}`);
      if (mine !== looks) return;
      if (job.state === 'running') {
        view?.show(job);
      } else {
        running = null;
        list = true;
        say(`Indexing: ${STATES[job.state].toLowerCase()}. ${totals(job).join(', ')}`);
        await api.about(true, true);
      }
    }
    if (list) {
      const { jobs } = await api.quietly('/v1/jobs');
      if (mine !== looks) return;
      running = jobs.find((job) => job.state === 'running')?.job ?? null;
      view?.list(jobs);
    }
    // Asks only while there is no index.
    const { index, indexing } = await api.about(false, true);
    if (mine !== looks) return;
    // Whoever makes one may have more to do when the first of it is there.
    without = !index && indexing;
    misses = 0;
    view?.well();
    if (running !== null) timer = setTimeout(look, view ? NEAR_MS : FAR_MS);
    else if (view || !index) timer = setTimeout(look, IDLE_MS);
  } catch (error) {
    if (mine !== looks) return;
    // A server that was started anew knows no jobs of before.
    if (error.status === 404) running = null;
    misses += 1;
    view?.trouble(error);
    if (error.status !== 401) timer = setTimeout(look, Math.min(LONGEST_MS, IDLE_MS * misses), true);
  }
}

/** The job that was just begun. */
export function follow(job) {
  running = job;
  return look(true);
}

/** Tells a view, `{show(job), list(jobs), trouble(error), well()}`, how it is, until `leave`. */
export function enter(shown) {
  view = shown;
  return look(true);
}

export function leave() {
  view = null;
}
