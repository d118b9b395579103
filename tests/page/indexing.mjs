// From no index to a first search, with the page only.

import { answered, assert, pick, settings, test, titles, until } from './lib.mjs';

test('indexes folders from the page and finds their videos', { allow: ['503'] }, async (page) => {
  await page.goto(settings.base);
  await page.getByRole('alert').getByText('There is no index to search yet').waitFor();
  await page.getByRole('button', { name: 'Go to indexing' }).click();
  await page.getByRole('heading', { level: 1, name: 'Indexing' }).waitFor();
  const folder = page.getByRole('checkbox', { name: 'videos', exact: true });
  await folder.uncheck();
  await page.getByRole('checkbox', { name: 'slow', exact: true }).uncheck();
  await page.getByRole('button', { name: 'Start indexing' }).click();
  await page.getByText('Choose at least one folder').waitFor();
  await folder.check();
  await page.getByRole('checkbox', { name: 'Remove missing videos' }).check();

  const [request] = await Promise.all([page.waitForRequest((r) => r.url().endsWith('/v1/index')), page.getByRole('button', { name: 'Start indexing' }).click()]);
  assert.deepEqual(request.postDataJSON(), { folders: ['videos'], prune: true, retry: false, keyframes: false });
  const done = page.locator('.job.done').first();
  await done.waitFor({ timeout: 60_000 });
  assert.match(await done.textContent(), /^Done.*3 indexed · 0 unchanged · 1 failed/);
  await done.locator('summary').click();
  assert.match(await done.locator('.failures li').textContent(), /^broken\.mp4 .{10}/, 'each file with its reason');
  await until('it is announced', async () => (await page.locator('#say p').allTextContents()).some((words) => /^Indexing: done\. 3 indexed/.test(words)));
  await until('the number of videos is shown', async () => (await page.locator('#stock').textContent()) === '3 videos');
  assert.ok(await page.getByRole('button', { name: 'Start indexing' }).isEnabled());

  await page.getByRole('link', { name: 'Search' }).click();
  await pick(page, settings.pictures.zoom);
  await answered(page);
  assert.equal((await titles(page))[0], 'Into the set');
});

test('counts more failures than it lists', {}, async (page) => {
  const failures = Array.from({ length: 100 }, (_, i) => ({ name: `${i}.mp4`, reason: 'no video' }));
  const job = { job: '1', state: 'done', started: '2024-01-01T00:00:00Z', seconds: 9, done_bytes: 9, total_bytes: 9, progress: 1, eta_seconds: null, indexed: 0, unchanged: 0, failed: 150, skipped: 0, removed: 0, rows: 0, failures, error: null };
  await page.route('**/v1/jobs', (route) => route.fulfill({ json: { jobs: [job] } }));
  await page.goto(`${settings.base}/#/indexing`);
  await page.locator('.job.done summary').click();
  assert.equal(await page.locator('.job.done summary').textContent(), '150 files could not be indexed');
  assert.ok(await page.getByText('The first 100 are listed.').isVisible());
  assert.equal(await page.locator('.failures li').count(), 100);
});

test('a job shows its progress and can be stopped', {}, async (page) => {
  const requests = [];
  page.on('request', (request) => request.url().includes('/v1/jobs') && requests.push(new URL(request.url()).pathname));
  await page.goto(`${settings.base}/#/indexing`);
  await page.getByRole('checkbox', { name: 'videos', exact: true }).uncheck();
  const [request] = await Promise.all([page.waitForRequest((r) => r.url().endsWith('/v1/index')), page.getByRole('button', { name: 'Start indexing' }).click()]);
  assert.deepEqual(request.postDataJSON().folders, ['slow']);
  const now = page.locator('.job-now');
  await now.waitFor();
  assert.ok(await now.getByRole('progressbar').isVisible());
  assert.ok(await page.getByRole('button', { name: 'Start indexing' }).isDisabled());
  await until('progress is shown', async () => /^\d+ %$/.test(await now.locator('b').first().textContent()));
  const lists = () => requests.filter((path) => path === '/v1/jobs').length;
  const before = lists();
  const polled = requests.length;
  await until('it is polled twice', () => requests.length >= polled + 2);
  assert.equal(lists(), before, 'only that job is polled');
  await now.getByRole('button', { name: 'Stop' }).click();
  await page.locator('.job.cancelled').waitFor({ timeout: 30_000 });
  assert.ok(await now.isHidden());
});
