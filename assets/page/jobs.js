// Indexing jobs. A running job is polled in every view. The indexing view also polls for jobs that other
// clients start.

import * as api from './api.js';
import { number, announce } from './dom.js';

/**
 * Interval between polls: of a running job with the indexing view open, of a running job in other views,
 * without a running job, and the longest one after failures.
 */
const OPEN_MS = 1000;
const BACKGROUND_MS = 3000;
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
/** Whether the server has folders to index, and no index yet. */
let needsIndex = false;
let timer = 0;
let polls = 0;
let failures = 0;

/** Polls the jobs as long as their state may change. With `all`, lists all jobs even if one is running. */
export async function poll(all = false) {
  clearTimeout(timer);
  polls += 1;
  const mine = polls;
  try {
    let list = all || (running === null && (view !== null || needsIndex));
    if (running !== null) {
      const job = await api.getQuietly(`/v1/jobs/${encodeURIComponent(running)}`);
      if (mine !== polls) return;
      if (job.state === 'running') {
        view?.show(job);
      } else {
        running = null;
        list = true;
        announce(`Indexing: ${STATES[job.state].toLowerCase()}. ${totals(job).join(', ')}`);
        await api.serverInfo(true, true);
      }
    }
    if (list) {
      const { jobs } = await api.getQuietly('/v1/jobs');
      if (mine !== polls) return;
      running = jobs.find((job) => job.state === 'running')?.job ?? null;
      view?.list(jobs);
    }
    // This sends a request only while there is no index.
    const { index, indexing } = await api.serverInfo(false, true);
    if (mine !== polls) return;
    needsIndex = !index && indexing;
    failures = 0;
    view?.onsuccess();
    if (running !== null) timer = setTimeout(poll, view ? OPEN_MS : BACKGROUND_MS);
    else if (view || !index) timer = setTimeout(poll, IDLE_MS);
  } catch (error) {
    if (mine !== polls) return;
    // A restarted server has no earlier jobs.
    if (error.status === 404) running = null;
    failures += 1;
    view?.onerror(error);
    if (error.status !== 401) timer = setTimeout(poll, Math.min(LONGEST_MS, IDLE_MS * failures), true);
  }
}

/** Watches a job that was just started. */
export function follow(job) {
  running = job;
  return poll(true);
}

/** Calls a view, `{show(job), list(jobs), onerror(error), onsuccess()}`, after each poll until `leave`. */
export function enter(opened) {
  view = opened;
  return poll(true);
}

export function leave() {
  view = null;
}
