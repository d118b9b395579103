// The library view, one video, and the frames of it.

import { answered, assert, loaded, settings, test, titles, until } from './lib.mjs';

const names = (page) => page.locator('.cards.small h2').allTextContents();

test('the library lists, finds and sorts the videos', {}, async (page) => {
  await page.goto(`${settings.base}/#/library`);
  await page.locator('.cards.small .card').first().waitFor();
  const all = await names(page);
  const files = await page.locator('.cards.small h2 a').evaluateAll((links) => links.map((link) => link.title));
  assert.deepEqual(files, [...files].sort(), 'by the name of the file');
  assert.ok(all.includes('Into the set') && all.includes('bars'), all.join());
  assert.equal(await page.locator('.total').textContent(), `${all.length} videos`);
  assert.equal(await loaded(page.locator('.cards.small img').first()), 320);

  await page.getByLabel('Sort by').selectOption('duration');
  await page.waitForURL(/sort=duration/);
  await until('the longest is first', async () => (await names(page))[0] === 'Twice');

  const box = page.getByRole('combobox', { name: 'Find videos' });
  await box.fill('cells');
  await page.keyboard.press('Enter');
  await page.waitForURL(/query=cells/);
  await until('words find', async () => (await names(page)).join() === 'Life of cells');
  await box.fill('nothing of the kind');
  await page.keyboard.press('Enter');
  await until('none is told', async () => (await page.locator('.total').textContent()) === 'No videos');
  await page.goBack();
  await until('Back', async () => (await names(page)).join() === 'Life of cells');
  await page.getByRole('list', { name: 'Labels' }).getByRole('link').first().click();
  await page.waitForURL(/query=label%3A/);
  await until('labels lead to their videos', async () => (await names(page)).join() === 'Life of cells');
});

test('a video plays from any of its frames, and each can be searched with', {}, async (page) => {
  await page.goto(`${settings.base}/#/library`);
  await page.getByRole('link', { name: 'Into the set' }).click();
  await page.getByRole('heading', { level: 1, name: 'Into the set' }).waitFor();
  assert.match(await page.title(), /^Into the set/);
  const frames = page.locator('.strip li');
  assert.ok((await frames.count()) >= 8, `${await frames.count()} frames`);
  assert.equal(await loaded(frames.first().locator('img')), 320);
  const details = await page.locator('dl').textContent();
  assert.ok(details.includes('0:12') && details.includes('zoom.mp4') && details.includes('set of Mandelbrot'), details);

  const far = frames.nth(6).getByRole('button', { name: /^Play from 0:/ });
  const [, seconds] = /0:(\d+)/.exec(await far.getAttribute('aria-label'));
  await far.click();
  const video = page.locator('.player video');
  await until('it plays from there', () => video.evaluate((v, from) => v.currentTime >= from && v.currentTime < from + 4 && !v.paused, Number(seconds)));

  await frames.nth(3).getByRole('button', { name: 'Search with the frame' }).click();
  await answered(page);
  assert.equal((await titles(page))[0], 'Into the set');
  await page.goBack();
  await page.getByRole('heading', { level: 1, name: 'Into the set' }).waitFor();
});

test('a damaged video says what is wrong with it', {}, async (page) => {
  await page.goto(`${settings.base}/#/library?query=torn`);
  await page.getByText('Read in part').waitFor();
  await page.getByRole('link', { name: 'torn' }).click();
  assert.ok((await page.locator('.warning.box').textContent()).length > 10);
});

test('a video that is not there is told', { allow: ['404', '400'] }, async (page) => {
  await page.goto(`${settings.base}/#/library/00000000000000000000000000000000`);
  await page.getByRole('heading', { name: 'No such video' }).waitFor();
  assert.ok(await page.getByRole('alert').first().textContent());
});
