// The library view, and the view of one video.

import { answered, assert, loaded, settings, test, titles, until } from './lib.mjs';

const names = (page) => page.locator('.cards.small h2').allTextContents();

test('the library lists, finds and sorts videos', {}, async (page) => {
  await page.goto(`${settings.base}/#/library`);
  await page.locator('.cards.small .card').first().waitFor();
  const all = await names(page);
  const files = await page.locator('.cards.small h2 a').evaluateAll((links) => links.map((link) => link.title));
  assert.deepEqual(files, [...files].sort(), 'sorted by file name');
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
  await until('words match', async () => (await names(page)).join() === 'Life of cells');
  await box.fill('nothing of the kind');
  await page.keyboard.press('Enter');
  await page.locator('.nothing').getByText('No video matches “nothing of the kind”.').waitFor();
  assert.match(await page.locator('#say p').last().textContent(), /^No video matches/);
  // A malformed filter without words finds nothing.
  await box.fill('(');
  await page.keyboard.press('Enter');
  await page.locator('.nothing').getByText('No video matches “(”.').waitFor();
  assert.ok(await page.getByText('Quotes and brackets belong to the filter language').isVisible());
  await page.getByRole('button', { name: 'Show all videos' }).click();
  await until('all are back', async () => (await names(page)).length === all.length);
  assert.ok(await page.locator('.nothing').isHidden());
  assert.match(page.url(), /sort=duration/);
  assert.equal(await box.inputValue(), '');
  assert.ok(await box.evaluate((input) => input === document.activeElement), 'the focus is kept');
  for (let i = 0; i < 3; i += 1) await page.goBack();
  await until('Back', async () => (await names(page)).join() === 'Life of cells');
  await page.getByRole('list', { name: 'Labels' }).getByRole('link').first().click();
  await page.waitForURL(/query=label%3A/);
  await until('labels lead to their videos', async () => (await names(page)).join() === 'Life of cells');
});

test('an unknown view or order is the default one', {}, async (page) => {
  await page.goto(`${settings.base}/#/library?sort=constructor`);
  await page.locator('.cards.small .card').first().waitFor();
  assert.equal(await page.getByLabel('Sort by').inputValue(), 'name');
  await page.goto(`${settings.base}/#/constructor`);
  await page.getByRole('heading', { name: 'Which video is this from?' }).waitFor();
});

test('plays a video from each of its frames, and searches with them', {}, async (page) => {
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

test('plays previews of a file that the browser cannot play, up to its end', {}, async (page) => {
  const cuts = [];
  page.on('request', (request) => request.url().includes('/v1/preview') && cuts.push(request.url()));
  await page.goto(`${settings.base}/#/library?query=bars`);
  await page.getByRole('link', { name: 'bars' }).click();
  await page.locator('.player').getByText('This is a small copy of 0:00 – 0:15').waitFor();
  const video = page.locator('.player video');
  assert.deepEqual([await video.evaluate((v) => v.paused), cuts], [true, []], 'no preview is requested before playing');
  await video.focus();
  await page.keyboard.press('Space');
  await until('it plays', () => video.evaluate((v) => v.readyState >= 2 && v.currentTime > 0));
  const further = page.getByRole('button', { name: 'Continue at 0:15' });
  await video.evaluate((v) => (v.currentTime = v.duration - 0.2));
  await page.locator('.player button.main').waitFor();
  await further.focus();
  await page.keyboard.press('Enter');
  await page.locator('.player').getByText('a small copy of 0:15 – 0:20').waitFor();
  await until('it goes on', () => video.evaluate((v) => v.src.includes('from=15') && v.readyState >= 2 && v.currentTime > 0));
  assert.ok(await further.isHidden(), 'that was the end');
  assert.ok(await video.evaluate((v) => v === document.activeElement), 'the focus is kept');
  await page.getByRole('button', { name: 'Back to 0:00' }).click();
  await until('it is at the beginning', () => video.evaluate((v) => v.src.includes('from=0') && v.readyState >= 2));
});

test('shows what is wrong with a damaged video', {}, async (page) => {
  await page.goto(`${settings.base}/#/library?query=torn`);
  await page.getByText('Partly readable').waitFor();
  await page.getByRole('link', { name: 'torn' }).click();
  assert.ok((await page.locator('.warning.box').textContent()).length > 10);
});

test('reports a missing video', { allow: ['404', '400'] }, async (page) => {
  await page.goto(`${settings.base}/#/library/00000000000000000000000000000000`);
  await page.getByRole('heading', { name: 'No such video' }).waitFor();
  await page.getByRole('link', { name: 'Library' }).last().click();
  await page.getByRole('link', { name: 'Into the set' }).click();
  await until('its title', async () => (await page.title()) === 'Into the set · reelseek');
  await page.goto(`${settings.base}/#/library/nope`);
  await page.getByRole('heading', { name: 'No such video' }).waitFor();
  await until('the title changes', async () => (await page.title()) === 'No such video · reelseek');
  assert.ok(await page.getByRole('alert').first().textContent());
});
