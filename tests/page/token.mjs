// A server with a token that fetches pictures and has no folders.

import { answered, assert, loaded, pick, settings, test, titles, until } from './lib.mjs';

test('asks for the token once, then everything works', { allow: ['401', '403'] }, async (page) => {
  await page.goto(settings.base);
  const dialog = page.getByRole('dialog', { name: 'This server needs a token' });
  await dialog.waitFor();
  await dialog.getByLabel('Token').fill('not the token at all');
  await page.keyboard.press('Enter');
  await dialog.getByText('That is not the token').waitFor();
  await dialog.getByLabel('Token').fill(settings.token);
  await page.keyboard.press('Enter');
  await dialog.waitFor({ state: 'hidden' });
  await pick(page, settings.pictures.zoom);
  await answered(page);
  assert.equal((await titles(page))[0], 'Into the set');
  const card = page.locator('.card').first();
  assert.equal(await loaded(card.locator('img')), 320, 'the cookie admits media');
  await card.getByRole('button', { name: 'Play the moment' }).click();
  await until('it plays', () => card.locator('video').evaluate((v) => v.currentTime > 0));
  assert.equal(await page.evaluate(() => document.cookie), '', 'scripts cannot read the cookie');

  await page.reload();
  await until('still signed in', async () => (await page.locator('#stock').textContent()) !== '');
  await page.getByRole('button', { name: 'Sign out' }).click();
  await dialog.waitFor();
  await page.keyboard.press('Escape');
  await dialog.waitFor({ state: 'hidden' });
  await page.getByRole('alert').getByText('This server needs a token').first().waitFor();
});

const signedIn = { extraHTTPHeaders: { Authorization: `Bearer ${settings.token}` } };

test('sends a web address to a server that fetches, and shows its error', { ...signedIn, allow: ['status of 4', 'status of 5'] }, async (page) => {
  await page.goto(settings.base);
  await page.getByLabel('Or its web address').fill(`${settings.base}/icon.svg`);
  await page.keyboard.press('Enter');
  await page.getByRole('alert').locator('.alert p').first().waitFor();
  assert.match(page.url(), /url=http/);
  await page.getByRole('heading', { name: 'No answer' }).waitFor();
});

test('without folders, the indexing view explains what to do', signedIn, async (page) => {
  await page.goto(`${settings.base}/#/indexing`);
  await page.getByText('started without folders').waitFor();
  assert.ok(await page.getByText('reelseek serve ~/Videos').isVisible());
  assert.ok(await page.getByRole('button', { name: 'Start indexing' }).isHidden());
});
