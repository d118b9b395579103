// Every view in light and dark, on a desktop and on a phone: layout, and the checks of axe-core.

import { join } from 'node:path';

import { answered, assert, loaded, overflow, pick, searched, settings, test, until, violations } from './lib.mjs';

const SIZES = { desk: { width: 1280, height: 860 }, phone: { width: 360, height: 740 } };

for (const colorScheme of ['light', 'dark']) {
  for (const [size, viewport] of Object.entries(SIZES)) {
    test(`${colorScheme} on a ${size}`, { colorScheme, viewport, hasTouch: size === 'phone', allow: ['415'] }, async (page) => {
      const look = async (name) => {
        // One by one, because a thumbnail loads when it is near the window.
        for (const image of await page.locator('img:visible').all()) {
          await image.scrollIntoViewIfNeeded();
          await loaded(image);
        }
        await page.evaluate(() => scrollTo(0, 0));
        if (settings.keep) await page.screenshot({ path: join(settings.keep, `${name}-${size}-${colorScheme}.png`) });
        assert.deepEqual(await violations(page), [], name);
        assert.equal(await overflow(page), null, name);
      };
      await page.goto(settings.base);
      await page.locator('#stock:not(:empty)').waitFor();
      const [red, green, blue] = await page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number));
      assert.equal(red + green + blue > 384, colorScheme === 'light');
      await look('start');

      await searched(page, settings.pictures.filmed);
      await look('found');
      if (size === 'phone') await page.getByText('Filter and confidence').click();
      await page.getByRole('combobox').fill('l');
      await page.getByRole('listbox').waitFor();
      await look('completions');
      await page.keyboard.press('Escape');
      await page.getByRole('combobox').fill('');
      await page.keyboard.press('Enter');
      await page.locator('.weak summary').click();
      await look('weak');
      await page.locator('.results .card .open').first().click();
      await until('it plays', () => page.locator('#player video').evaluate((v) => v.currentTime > 0));
      await look('player');
      await page.keyboard.press('Escape');

      await pick(page, settings.pictures.noise);
      await page.getByRole('heading', { name: 'No match found' }).waitFor();
      await answered(page);
      await look('nothing');
      await pick(page, settings.pictures.text);
      await page.locator('.alert').waitFor();
      await look('alert');

      await page.getByRole('link', { name: 'Library' }).click();
      await page.locator('.cards.small .card').first().waitFor();
      await look('library');
      await page.getByRole('link', { name: 'Into the set' }).click();
      await page.locator('.strip li').first().waitFor();
      await look('video');
      await page.getByRole('link', { name: 'Indexing' }).click();
      await page.getByRole('button', { name: 'Start indexing' }).waitFor();
      await look('indexing');
      await page.evaluate(() => document.getElementById('token').showModal());
      await look('token');
    });
  }
}
