// An index that appears and grows while the page is open.

import { copyFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

import { answered, assert, pick, settings, test, titles, until } from './lib.mjs';

const place = dirname(settings.pictures.zoom);
const add = (clip) => copyFileSync(join(place, clip), join(place, 'videos', clip));
/** Starts a job without the page. */
const startElsewhere = () => fetch(`${settings.base}/v1/index`, { method: 'POST' });
const ended = () => until('the job has ended', async () => (await (await fetch(`${settings.base}/v1/jobs`)).json()).jobs.every((job) => job.state === 'done'));

test('every view uses a new index', { allow: ['503'] }, async (page, context) => {
  const [search, idle] = [await context.newPage(), await context.newPage()];
  await search.goto(settings.base);
  await pick(search, settings.pictures.zoom);
  await search.getByRole('heading', { name: 'No answer' }).waitFor();
  await search.getByRole('alert').getByText('There is no index to search yet').waitFor();
  await idle.goto(`${settings.base}/#/indexing`);
  await idle.getByRole('button', { name: 'Start indexing' }).waitFor();

  // Started in this view, which is left at once.
  await page.goto(`${settings.base}/#/indexing`);
  await Promise.all([page.waitForResponse((r) => r.url().endsWith('/v1/index')), page.getByRole('button', { name: 'Start indexing' }).click()]);
  await page.getByRole('link', { name: 'Library' }).click();
  await page.locator('.cards.small .card').first().waitFor({ timeout: 60_000 });
  await until('the number of videos is shown', async () => (await page.locator('#stock').textContent()) === '3 videos');
  await until('the end is announced', async () => (await page.locator('#say p').allTextContents()).some((words) => /^Indexing: done\. 3 indexed/.test(words)));
  assert.equal(await page.locator('.alert').count(), 0);

  await idle.locator('.job.done').waitFor();
  await until('the earlier search is answered', async () => (await titles(search))[0] === 'Into the set');
  assert.equal(await search.locator('.alert').count(), 0, 'the alert about the missing index is gone');
  await search.getByRole('combobox', { name: 'Filter' }).fill('frac');
  await search.getByRole('option', { name: /fractal/ }).waitFor();
});

test('finds videos that were indexed while the page is open', {}, async (page) => {
  const { weave, twice } = settings.pictures;
  await page.goto(settings.base);
  await pick(page, weave);
  await answered(page);
  assert.ok(!(await titles(page)).includes('weave'));
  add('weave.mp4');
  await page.getByRole('link', { name: 'Indexing' }).click();
  await page.getByRole('button', { name: 'Start indexing' }).click();
  await until('it is indexed', async () => (await page.locator('#stock').textContent()) === '4 videos');
  await page.goBack();
  await until('it is found', async () => (await titles(page))[0] === 'weave');

  // Started elsewhere, while this page shows the search view.
  await pick(page, twice);
  await until('the second is answered', async () => (await page.locator('.query-name').textContent()) === 'twice.jpg');
  await answered(page);
  assert.ok(!(await titles(page)).includes('twice'));
  await pick(page, weave);
  await until('the first again', async () => (await titles(page))[0] === 'weave');
  add('twice.mp4');
  await startElsewhere();
  await ended();
  await page.goBack();
  await until('Back finds what is new', async () => (await titles(page))[0] === 'twice');
});
