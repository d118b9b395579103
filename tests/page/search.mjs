// The search view, from a picture to its moment in the video.

import { answered, assert, drop, loaded, pick, searched, settings, test, titles, until } from './lib.mjs';

const { zoom, twice, noise, text, filmed } = settings.pictures;
const first = (page) => page.locator('.results .card').first();

test('a dropped picture finds its video and its moment', {}, async (page) => {
  await page.goto(settings.base);
  await drop(page, { files: [zoom] });
  await answered(page);
  assert.equal((await titles(page))[0], 'Into the set');
  const card = first(page);
  assert.match(await card.locator('.clock').textContent(), /^0:0[6-8]$/);
  assert.match(await card.locator('.sureness').textContent(), /Confidence 99\.\d % strong/);
  assert.match(await card.locator('.times').textContent(), /^0:0\d – 0:\d\d of 0:12$/);
  assert.equal(await card.locator('.labels').textContent(), 'fractal');
  assert.equal(await loaded(card.locator('img')), 320);
  assert.ok((await loaded(page.locator('.query img'))) > 0, 'the query is shown');
  assert.match(await page.locator('#say p').last().textContent(), /First: Into the set at 0:0\d/, 'it is announced to screen readers');
  assert.match(page.url(), /#\/search\?picture=\w+$/);
});

test('pastes a picture with Ctrl-V, and text into a text box', {}, async (page, context) => {
  await context.grantPermissions(['clipboard-read', 'clipboard-write']);
  await page.goto(settings.base);
  const copy = (type, data) => page.evaluate(async ([type, data]) => navigator.clipboard.write([new ClipboardItem({ [type]: new Blob([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], { type }) })]), [type, data]);
  await copy('text/plain', btoa('path:zoom'));
  await page.getByRole('combobox', { name: 'Filter' }).focus();
  await page.keyboard.press('Control+v');
  assert.equal(await page.getByRole('combobox', { name: 'Filter' }).inputValue(), 'path:zoom');
  await page.locator('body').click({ position: { x: 5, y: 400 } });
  const { readFileSync } = await import('node:fs');
  await copy('image/png', readFileSync(settings.pictures.zoomPng).toString('base64'));
  await page.keyboard.press('Control+v');
  await answered(page);
  assert.deepEqual(await titles(page), ['Into the set'], 'the typed filter applies');
});

test('accepts a picture dragged from a page, and its address only if the server fetches', {}, async (page) => {
  await page.goto(settings.base);
  await drop(page, { items: [{ mimeType: 'text/uri-list', data: 'https://pictures.example/a.jpg' }] });
  await page.getByRole('alert').getByText('This server does not fetch pictures').waitFor();
  assert.ok(await page.getByLabel('Or its web address').isHidden());
  const { readFileSync } = await import('node:fs');
  const data = `data:image/jpeg;base64,${readFileSync(zoom).toString('base64')}`;
  await drop(page, { items: [{ mimeType: 'text/html', data: `<p><img src="${data}"></p>` }] });
  await answered(page);
  assert.equal((await titles(page))[0], 'Into the set');
  assert.equal(await page.locator('#alerts').textContent(), '', 'the old alert is gone');
  await drop(page, { items: [{ mimeType: 'text/html', data: '<p>no picture</p>' }] });
  await page.getByRole('alert').getByText('That contains no picture').waitFor();
  // Malformed addresses and data.
  for (const src of ['http://[x', 'data:image/png;base64,no%', 'data:image/png;base64,!!']) {
    await page.getByRole('button', { name: 'Dismiss' }).click();
    await drop(page, { items: [{ mimeType: 'text/html', data: `<img src="${src}">` }] });
    await page.getByRole('alert').getByText('That contains no picture').waitFor();
  }
  // `=` and `+` may be percent-encoded in a data address.
  await drop(page, { items: [{ mimeType: 'text/html', data: `<img src="data:image/jpeg;base64,${encodeURIComponent(readFileSync(filmed).toString('base64'))}">` }] });
  await until('the other is asked for', () => page.locator('.query img').evaluate((img) => img.naturalWidth === 480));
  await answered(page);
  assert.equal((await titles(page))[0], 'Into the set');
});

test('plays the moment in place, muted and repeated', {}, async (page) => {
  await searched(page, zoom);
  const card = first(page);
  await card.getByRole('button', { name: 'Play the moment of Into the set' }).click();
  const video = card.locator('video');
  await until('it plays', () => video.evaluate((v) => v.readyState >= 2 && v.currentTime > 0.2));
  assert.deepEqual(await video.evaluate((v) => [v.muted, v.loop, v.controls]), [true, true, false]);
  await until('it begins again', () => video.evaluate((v) => ((v.currentTime = v.duration - 0.1), new Promise((done) => setTimeout(() => done(v.currentTime < 1), 400)))));
  await card.getByRole('button', { name: 'Stop the moment of Into the set' }).click();
  assert.equal(await video.count(), 0);
  // With a mouse, pointing at it is enough.
  await page.mouse.move(5, 5);
  await card.locator('.frame').hover();
  await until('it plays', () => video.count());
  await page.mouse.move(5, 5);
  await until('it ends', async () => (await video.count()) === 0);
});

test('with reduced motion, pointing at a card plays nothing', { reducedMotion: 'reduce' }, async (page) => {
  await searched(page, zoom);
  await first(page).locator('.frame').hover();
  await page.waitForTimeout(700);
  assert.equal(await first(page).locator('video').count(), 0);
  await first(page).getByRole('button', { name: 'Play the moment' }).click();
  assert.equal(await first(page).locator('video').count(), 1);
});

test('a result opens the video at its moment', {}, async (page) => {
  await searched(page, zoom);
  await first(page).getByRole('button', { name: /^Open Into the set at 0:0\d$/ }).click();
  const dialog = page.getByRole('dialog', { name: /Into the set, at 0:0\d/ });
  const video = dialog.locator('video');
  await until('it plays from there', () => video.evaluate((v) => v.readyState >= 2 && v.currentTime > 4 && v.currentTime < 12));
  assert.match(await video.getAttribute('src'), /^\/v1\/media\/[^?#/]+#t=\d+\.\d\d$/);
  await page.keyboard.press('Escape');
  assert.ok(await dialog.isHidden());
  assert.match(await page.evaluate(() => document.activeElement.getAttribute('aria-label')), /^Open Into the set/, 'the focus is back');
});

test('plays a preview of a file that the browser cannot play', {}, async (page) => {
  await searched(page, settings.pictures.bars);
  assert.equal((await titles(page))[0], 'bars');
  await first(page).getByRole('button', { name: /^Open/ }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByText('This browser cannot play the file').waitFor();
  const video = dialog.locator('video');
  const { from, at } = await cutOf(video);
  assert.ok(Math.abs(from - 3) < 1 && at >= from && at < from + 3, `cut from ${from}, plays at ${at}`);
  await page.keyboard.press('Escape');
  // Near the end of the video, the shortest preview begins before the moment.
  await page.route('**/v1/search**', async (route) => {
    const answer = await (await route.fetch()).json();
    answer.results[0].at = 19;
    return route.fulfill({ json: answer });
  });
  await pick(page, settings.pictures.bars);
  await first(page).getByRole('button', { name: 'Open bars at 0:19' }).click();
  const end = await cutOf(video);
  assert.ok(end.from === 18 && end.at >= 19, `cut from ${end.from}, plays at ${end.at}`);
});

/** Start and position of a playing preview, in seconds of the file. */
async function cutOf(video) {
  await until('the cut plays', () => video.evaluate((v) => v.readyState >= 2 && v.currentTime > 0 && v.src.includes('/v1/preview')));
  return video.evaluate((v) => {
    const from = Number(new URL(v.src).searchParams.get('from'));
    return { from, at: from + v.currentTime };
  });
}

for (const [hand, options] of Object.entries({ mouse: {}, finger: { hasTouch: true, isMobile: true, viewport: { width: 360, height: 740 } } })) {
  test(`a playing moment opens its video: by ${hand}`, options, async (page) => {
    await searched(page, zoom);
    const frame = first(page).locator('.frame');
    const toggle = frame.getByRole('button', { name: 'Play the moment' });
    await (hand === 'mouse' ? toggle.click() : toggle.tap());
    await until('it plays', () => frame.locator('video').evaluate((v) => v.currentTime > 0));
    const { x, y, width, height } = await frame.boundingBox();
    const [device, press] = hand === 'mouse' ? [page.mouse, 'click'] : [page.touchscreen, 'tap'];
    await device[press](x + width / 2, y + height / 2);
    await page.getByRole('dialog', { name: /Into the set, at/ }).waitFor();
    assert.equal(await frame.locator('video').count(), 0);
  });
}

test('retries thumbnails and previews while the server is busy', { allow: ['429'] }, async (page) => {
  const refused = new Map();
  await page.route(/\/v1\/(thumbnail|preview)/, (route) => {
    const url = route.request().url();
    const times = (refused.get(url) ?? 0) + 1;
    refused.set(url, times);
    return times <= 3 ? route.fulfill({ status: 429, headers: { 'Retry-After': '1' }, json: { error: 'busy' } }) : route.continue();
  });
  await searched(page, zoom);
  const card = first(page);
  assert.equal(await loaded(card.locator('img')), 320);
  await card.getByRole('button', { name: 'Play the moment' }).click();
  await until('it plays', () => card.locator('video').evaluate((v) => v.currentTime > 0));
  assert.ok([...refused.values()].every((times) => times > 3));
});

test('stops retrying only when the file is gone', { allow: ['410', '503'] }, async (page) => {
  let gone = false;
  await page.route('**/v1/thumbnail?**', (route) => route.fulfill({ status: gone ? 410 : 503, headers: { 'Retry-After': '5' }, json: { error: 'x' } }));
  await searched(page, zoom);
  await first(page).getByText('No picture yet').waitFor();
  gone = true;
  await first(page).getByText('No picture: the file is gone or cannot be read').waitFor();
});

test('searches with a frame of a result, and Back returns', {}, async (page) => {
  await searched(page, filmed);
  await page.getByRole('button', { name: 'Search with this frame of Into the set' }).first().click();
  await page.waitForURL(/frame=[^&]+%40\d/);
  await answered(page);
  assert.equal((await titles(page))[0], 'Into the set');
  assert.match(await page.locator('.query-name').textContent(), /^Frame at 0:/);
  assert.equal(await page.evaluate(() => document.activeElement.tagName), 'H2', 'the focus is at the results');
  await page.goBack();
  await until('the first picture is back', async () => (await page.locator('.query-name').textContent()) === 'filmed.jpg');
  await answered(page);
  await page.goForward();
  await page.reload();
  await answered(page);
  assert.equal((await titles(page))[0], 'Into the set', 'a frame is in the address, so it outlives the page');
});

test('completes the filter with the keyboard', {}, async (page) => {
  await searched(page, zoom);
  const box = page.getByRole('combobox', { name: 'Filter' });
  await box.focus();
  await page.keyboard.type('lab');
  const list = page.getByRole('listbox');
  await list.waitFor();
  assert.equal(await box.getAttribute('aria-expanded'), 'true');
  await page.keyboard.press('ArrowDown');
  const active = () => box.evaluate((e) => document.getElementById(e.getAttribute('aria-activedescendant'))?.textContent ?? '');
  assert.match(await active(), /^label:/);
  await page.keyboard.press('Enter');
  assert.equal(await box.inputValue(), 'label:');
  await page.keyboard.type('bio');
  await until('it is proposed', async () => (await list.locator('li').allTextContents()).join() === 'label:"biology of grids"1 video');
  await page.keyboard.press('ArrowUp');
  assert.match(await active(), /biology/);
  await page.keyboard.press('Enter');
  await page.waitForURL(/filter=label%3A%22biology\+of\+grids%22/);
  await page.getByRole('heading', { name: 'No match found' }).waitFor();
  await page.locator('.weak summary').click();
  assert.deepEqual(await titles(page), ['Life of cells']);
  // Folders are completed too. Escape closes the list and keeps the text.
  await box.fill('');
  await page.keyboard.type('holi');
  await until('the folder is proposed', async () => (await list.locator('li').allTextContents()).some((words) => words.startsWith('path:"holiday"')));
  await page.keyboard.press('Escape');
  assert.ok(await list.isHidden());
  assert.equal(await box.inputValue(), 'holi');
  await page.goBack();
  await until('Back takes the filter away', async () => (await box.inputValue()) === '');
});

test('says why there are no results at all', {}, async (page) => {
  await searched(page, zoom);
  await page.getByRole('combobox', { name: 'Filter' }).fill('label:nowhere');
  await page.keyboard.press('Enter');
  await page.locator('.nothing').getByText('No video matches the filter.').waitFor();
  assert.ok(await page.getByRole('button', { name: 'Select this part' }).isHidden(), 'another part would find nothing either');
});

test('a completion replaces the whole word at the caret', {}, async (page) => {
  await page.goto(settings.base);
  const box = page.getByRole('combobox', { name: 'Filter' });
  for (const [text, wanted, completed] of [
    ['lab|el', 'label:', 'label:'],
    ['lab|el:fractal x', 'label:', 'label:fractal x'],
    ['dur|ation:[1 TO 9]', 'duration:[', 'duration:[1 TO 9]'],
    ['NOT label:fra|gment AND x', 'label:"fractal"', 'NOT label:"fractal" AND x'],
    ['label:"bio|logy of grids" AND x', 'label:"biology of grids"', 'label:"biology of grids" AND x'],
    ['label:"bio|lo AND x', 'label:"biology of grids"', 'label:"biology of grids" AND x'],
  ]) {
    await box.fill(text.replace('|', ''));
    await box.evaluate((input, caret) => input.setSelectionRange(caret, caret), text.indexOf('|'));
    // The proposals for the caret at the end are replaced.
    await page.keyboard.press('Escape');
    await page.keyboard.press('ArrowDown');
    await page.getByRole('option', { name: wanted }).first().click();
    assert.equal((await box.inputValue()).trim(), completed, text);
  }
});

test('shows the error of a filter below it', { allow: ['400'] }, async (page) => {
  await searched(page, zoom);
  const box = page.getByRole('combobox', { name: 'Filter' });
  await box.fill('duration:[1 TO');
  await page.keyboard.press('Enter');
  await page.locator('.combobox .wrong:not(:empty)').waitFor();
  assert.equal(await box.getAttribute('aria-invalid'), 'true');
  await box.fill('duration:[1 TO 100]');
  await page.keyboard.press('Enter');
  await answered(page);
  assert.equal((await titles(page))[0], 'Into the set');
  assert.equal(await box.getAttribute('aria-invalid'), null);
});

test('the threshold divides results into found and weak', {}, async (page) => {
  await searched(page, zoom);
  const slider = page.getByRole('slider', { name: 'Minimum confidence' });
  assert.match(await slider.getAttribute('aria-valuetext'), /^95 %\. One in 20 pictures /);
  const sure = await page.locator('.results > .cards .card').count();
  const weak = await page.locator('.weak .card').count();
  assert.ok(sure >= 1 && weak >= 1, `${sure} found, ${weak} weak`);
  assert.ok(await page.locator('.weak .card').first().isHidden());
  await slider.focus();
  await page.keyboard.press('Home');
  await page.waitForURL(/min=0/);
  assert.match(await slider.getAttribute('aria-valuetext'), /^any\. All results/);
  assert.equal(await page.locator('.results > .cards .card').count(), sure + weak);
  assert.ok(await page.locator('.weak').isHidden());
  await page.keyboard.press('End');
  assert.match(await slider.getAttribute('aria-valuetext'), /One in 1,000 pictures /);
});

test('shows one result for each video, or all moments', {}, async (page) => {
  await searched(page, twice);
  const found = page.locator('.results > .cards .card');
  assert.equal(await found.count(), 1);
  await page.getByRole('radio', { name: 'All moments' }).check();
  await page.waitForURL(/group=moment/);
  await page.getByRole('heading', { name: /^\d+ moments$/ }).waitFor();
  const times = await found.locator('.clock').allTextContents();
  assert.deepEqual(times.slice(0, 2).sort(), ['0:02', '0:18'], 'the scene is there twice');
  assert.deepEqual([...new Set(await titles(page))], ['Twice']);
});

test('loads more results in pages', {}, async (page) => {
  // Pages of four, because the clips have too few moments for two full pages.
  await page.route('**/v1/search?**', (route) => {
    const url = new URL(route.request().url());
    url.searchParams.set('top', '4');
    return route.continue({ url: url.href });
  });
  await page.goto(`${settings.base}/#/search?group=moment&min=0`);
  await pick(page, zoom);
  await answered(page);
  const cards = page.locator('.results > .cards .card');
  assert.equal(await cards.count(), 4);
  await page.getByRole('heading', { name: '4 moments and more' }).waitFor();
  await page.getByRole('button', { name: 'Show more' }).click();
  await until('the next page', async () => (await cards.count()) > 4);
  const focused = () => page.evaluate(() => [...document.querySelectorAll('.card')].indexOf(document.activeElement.closest('.card')));
  await until('the focus is at its first', async () => (await focused()) === 4);
});

test('if a page has only weak results, focuses the list that contains them', {}, async (page) => {
  await page.route('**/v1/search?**', async (route) => {
    const url = new URL(route.request().url());
    const skip = Number(url.searchParams.get('skip') ?? 0);
    url.searchParams.set('top', '2');
    const answer = await (await route.fetch({ url: url.href })).json();
    for (const result of answer.results) result.confidence = skip === 0 ? 0.99 : 0.2;
    return route.fulfill({ json: { ...answer, more: skip === 0 } });
  });
  await page.goto(`${settings.base}/#/search?group=moment`);
  await pick(page, zoom);
  await answered(page);
  await page.getByRole('button', { name: 'Show more' }).focus();
  await page.keyboard.press('Enter');
  await until('they are there', async () => (await page.locator('.weak summary').textContent()) === '2 weaker moments');
  await until('the focus is there', () => page.evaluate(() => document.activeElement.matches('.weak summary')));
  assert.equal(await page.locator('#say p').last().textContent(), 'No more results with the minimum confidence. 2 weaker moments');
  await page.keyboard.press('Enter');
  assert.ok(await page.locator('.weak .card').first().isVisible());
});

test('shows the error message of the server', { allow: ['503'] }, async (page) => {
  await page.route('**/v1/search**', (route) => route.fulfill({ status: 503, json: { error: 'this took more than 30 seconds' } }));
  await page.goto(settings.base);
  await pick(page, zoom);
  const alert = page.locator('.alert');
  await alert.getByText('The server cannot do that now').waitFor();
  assert.ok(await alert.getByText('this took more than 30 seconds').isVisible());
  assert.ok(await alert.getByRole('button', { name: 'Try again' }).isVisible());
  assert.equal(await alert.getByRole('button', { name: 'Go to indexing' }).count(), 0, 'there is an index');
});

test('reports that nothing matches, and offers the nearest results', {}, async (page) => {
  await searched(page, noise);
  await page.getByRole('heading', { name: 'No match found' }).waitFor();
  assert.match(await page.locator('#say p').last().textContent(), /^No match found/);
  assert.deepEqual(await titles(page), []);
  const offer = page.locator('.weak summary');
  assert.match(await offer.textContent(), /^Show the \d+ nearest videos? anyway$/);
  await offer.click();
  assert.ok((await titles(page)).length >= 1);
});

test('reports a file that is no picture or too large', { allow: ['415', '413'] }, async (page) => {
  await page.goto(settings.base);
  await drop(page, { files: [text] });
  await page.getByRole('alert').getByText('This picture cannot be read').waitFor();
  await page.getByRole('heading', { name: 'No answer' }).waitFor();
  await pick(page, settings.pictures.heavy);
  await page.getByRole('alert').getByText('The limit is 25 MB').waitFor();
  await page.getByRole('button', { name: 'Dismiss' }).click();
  assert.equal(await page.locator('.alert').count(), 0);
});

test('redraws a picture that only the browser can read', { allow: ['415', '422'] }, async (page) => {
  await searched(page, settings.pictures.drawing);
  assert.ok(await page.locator('.results-head h2').textContent());
  assert.equal(await page.locator('.alert').count(), 0);
});

test('retries a search after the time that a busy server states', { allow: ['429'] }, async (page) => {
  let refused = 0;
  await page.route('**/v1/search**', (route) => {
    refused += 1;
    return refused === 1 ? route.fulfill({ status: 429, headers: { 'Retry-After': '1' }, json: { error: 'busy' } }) : route.continue();
  });
  await page.goto(settings.base);
  await pick(page, zoom);
  await page.getByRole('alert').getByText('trying again in 1 s').waitFor();
  await answered(page);
  assert.equal((await titles(page))[0], 'Into the set');
  assert.equal(await page.locator('.alert').count(), 0);
});

test('a whole search with the keyboard only', {}, async (page) => {
  // Registered before the page opens, because the browser takes some time to enable the event.
  const asked = page.waitForEvent('filechooser', { timeout: 60_000 });
  await page.goto(settings.base);
  const focused = () => page.evaluate(() => document.activeElement.textContent.trim() || document.activeElement.getAttribute('aria-label') || document.activeElement.id);
  const tabTo = async (words) => {
    for (let i = 0; i < 40; i += 1) {
      await page.keyboard.press('Tab');
      const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
      assert.notEqual(outline, 'none', `the focus is seen on ${await focused()}`);
      if (words.test(await focused())) return;
    }
    assert.fail(`Tab never comes to ${words}`);
  };
  await page.keyboard.press('Tab');
  assert.equal(await focused(), 'Skip to content');
  await page.keyboard.press('Enter');
  await tabTo(/^Choose a picture$/);
  await page.keyboard.press('Enter');
  await (await asked).setFiles(zoom);
  await answered(page);
  await tabTo(/^threshold$/);
  await page.keyboard.press('ArrowLeft');
  await tabTo(/^Open Into the set/);
  await page.keyboard.press('Tab');
  assert.match(await page.evaluate(() => document.activeElement.getAttribute('aria-label')), /^Play the moment of Into the set/);
  await page.keyboard.press('Space');
  await until('it plays', () => page.locator('.card video').count());
  await page.keyboard.press('Escape');
  assert.equal(await page.locator('.card video').count(), 0);
  await page.keyboard.press('Shift+Tab');
  await page.keyboard.press('Enter');
  await page.getByRole('dialog').waitFor();
  await page.keyboard.press('Escape');
  await tabTo(/^Into the set$/);
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { level: 1, name: 'Into the set' }).waitFor();
  await until('the focus is at the new view', () => page.evaluate(() => document.activeElement.tagName === 'H1'));
  // No focus trap: after the last element, Tab returns to the first.
  for (let i = 0, round = false; !round; i += 1) {
    assert.ok(i < 80, 'Tab comes round');
    await page.keyboard.press('Tab');
    round = (await focused()) === 'Skip to content';
  }
});

// This must be the last test: it ends the server.
test('reports that the server is not running', { allow: ['ERR_CONNECTION_REFUSED', 'Failed to load resource'] }, async (page) => {
  await searched(page, zoom);
  process.kill(settings.pid, 'SIGKILL');
  await pick(page, twice);
  await page.getByRole('alert').getByText('The server does not answer. Is reelseek serve still running?').waitFor();
  assert.ok(await page.getByRole('button', { name: 'Try again' }).isVisible());
});
