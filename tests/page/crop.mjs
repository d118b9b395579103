// The crop box on the query picture, and the mark of the part that a result shows.

import { answered, assert, overflow, pick, searched, settings, test, titles, until, violations } from './lib.mjs';

// A picture of 360 x 800 with a frame of 320 x 180 at (20, 300).
const { zoom, screenshot, drawing } = settings.pictures;
const EXACT = [20 / 360, 300 / 800, 340 / 360, 480 / 800];

const box = (page) => page.getByRole('application', { name: /^Part of the picture/ });
const start = (page) => page.getByRole('button', { name: 'Select a part' });

/** Collects the value of `crop` of each search. */
function sentCrops(page) {
  const sent = [];
  page.on('request', (request) => {
    const url = new URL(request.url());
    if (url.pathname === '/v1/search') sent.push(url.searchParams.get('crop'));
  });
  return sent;
}

/** A crop as shares of the picture: left, top, right, bottom. */
function edges(crop) {
  const [x, y, width, height] = crop.split(',').map((side) => Number(side.slice(0, -1)) / 100);
  return [x, y, x + width, y + height];
}

const near = (found, expected, tolerance = 0.01) => assert.ok(found.every((edge, i) => Math.abs(edge - expected[i]) <= tolerance), `${found} is not near ${expected}`);

/** Opens the page with the picture and without an answer that depends on it. */
async function withScreenshot(page) {
  const sent = sentCrops(page);
  await searched(page, screenshot);
  await page.locator('.stage img').evaluate((image) => image.decode());
  return sent;
}

/** Drags the mouse between two points in shares of the picture. */
async function drag(page, from, to) {
  const { x, y, width, height } = await page.locator('.stage').boundingBox();
  await page.mouse.move(x + from[0] * width, y + from[1] * height);
  await page.mouse.down();
  await page.mouse.move(x + ((from[0] + to[0]) / 2) * width, y + ((from[1] + to[1]) / 2) * height);
  await page.mouse.move(x + to[0] * width, y + to[1] * height);
  await page.mouse.up();
}

const latest = (sent, length) => until('a search', () => sent.length === length && sent.at(-1));

test('a drawn box is searched, and Back returns to the whole picture', {}, async (page) => {
  const sent = await withScreenshot(page);
  assert.deepEqual(sent, [null]);
  await drag(page, EXACT.slice(0, 2), EXACT.slice(2));
  near(edges(await latest(sent, 2)), EXACT);
  await answered(page);
  assert.equal((await titles(page))[0], 'Into the set');
  assert.match(await page.locator('.sureness').first().textContent(), /99\.\d % strong/);
  assert.match(page.url(), /&crop=/);
  assert.ok(await start(page).isHidden());
  // A change of the crop is no further step of the history.
  await box(page).press('ArrowRight');
  await latest(sent, 3);
  await page.goBack();
  await box(page).waitFor({ state: 'hidden' });
  assert.doesNotMatch(page.url(), /crop/);
  await page.goForward();
  await box(page).waitFor();
  near(edges(new URL(page.url().replace('#/', '')).searchParams.get('crop')), [EXACT[0] + 0.01, EXACT[1], EXACT[2] + 0.01, EXACT[3]]);
});

test('handles resize the box, its inside moves it, and a press draws no box', {}, async (page) => {
  const sent = await withScreenshot(page);
  await drag(page, [0.3, 0.3], [0.6, 0.5]);
  near(edges(await latest(sent, 2)), [0.3, 0.3, 0.6, 0.5]);
  await drag(page, [0.45, 0.4], [0.55, 0.6]);
  near(edges(await latest(sent, 3)), [0.4, 0.5, 0.7, 0.7]);
  await drag(page, [0.4, 0.5], [0.1, 0.2]);
  near(edges(await latest(sent, 4)), [0.1, 0.2, 0.7, 0.7]);
  await drag(page, [0.7, 0.45], [0.9, 0.1]);
  near(edges(await latest(sent, 5)), [0.1, 0.2, 0.9, 0.7]);
  await drag(page, [0.5, 0.7], [0.5, 2]);
  near(edges(await latest(sent, 6)), [0.1, 0.2, 0.9, 1]);
  // Outside of the box a new one begins, unless the pointer stays where it is.
  await drag(page, [0.5, 0.1], [0.5, 0.1]);
  await page.waitForTimeout(600);
  assert.equal(sent.length, 6);
  await drag(page, [0.05, 0.05], [0.5, 0.15]);
  near(edges(await latest(sent, 7)), [0.05, 0.05, 0.5, 0.15]);
  await page.getByRole('button', { name: 'Use the whole picture' }).click();
  await box(page).waitFor({ state: 'hidden' });
  await answered(page);
  assert.doesNotMatch(page.url(), /crop/);
});

test('the keyboard selects, moves, resizes and removes a box', {}, async (page) => {
  const sent = await withScreenshot(page);
  await start(page).focus();
  await page.keyboard.press('Enter');
  assert.ok(await box(page).evaluate((element) => element === document.activeElement));
  assert.match(await box(page).getAttribute('aria-label'), /: \d+ % from the left, \d+ % from the top, \d+ % wide, \d+ % high$/);
  await page.waitForTimeout(600);
  assert.deepEqual(sent, [null], 'a box that was not changed is not searched');
  await page.keyboard.press('Enter');
  assert.ok(await latest(sent, 2), 'unless the user asks for it');
  const label = () => box(page).getAttribute('aria-label').then((text) => text.match(/\d+/g).map(Number));
  const before = await label();
  for (const key of ['ArrowLeft', 'ArrowUp', 'ArrowUp', 'Shift+ArrowLeft', 'Shift+ArrowUp']) await page.keyboard.press(key);
  const [left, top, width, height] = before;
  assert.deepEqual(await label(), [left - 1, top - 2, width - 1, height - 1]);
  const found = edges(await latest(sent, 3));
  near(found, [left - 1, top - 2, left + width - 2, top + height - 3].map((edge) => edge / 100), 0.011);
  await answered(page);
  await box(page).press('Escape');
  assert.ok(await start(page).evaluate((button) => button === document.activeElement), 'the focus is not lost');
  await until('the whole picture', () => !page.url().includes('crop'));
  // A box that was removed before its search is not searched.
  await start(page).press('Enter');
  await box(page).press('ArrowLeft');
  await box(page).press('Escape');
  await page.waitForTimeout(600);
  assert.equal(sent.length, 3, 'the first answer is kept');
});

test('marks the part that a result shows, with words for rotation and mirroring', {}, async (page) => {
  const regions = [
    { region: [[20, 300], [340, 310], [335, 480], [20, 470]], turn: 90, mirrored: true },
    { region: [[0, 0], [360, 0], [360, 800], [0, 800]], turn: 0, mirrored: false },
  ];
  await page.route('**/v1/search?**', async (route) => {
    const answer = await (await route.fetch()).json();
    answer.results.forEach((result, i) => Object.assign(result, regions[Math.min(i, 1)], { confidence: 0.99 }));
    return route.fulfill({ json: answer });
  });
  await withScreenshot(page);
  const polygon = page.locator('.marks polygon').last();
  assert.equal(await polygon.getAttribute('points'), '20,300 340,310 335,480 20,470');
  assert.equal(await page.locator('.marks').getAttribute('viewBox'), '0 0 360 800');
  const words = page.locator('#region-words');
  assert.match(await words.textContent(), /^Marked: the part that shows “.+” at 0:\d\d, rotated by 90 degrees clockwise and mirrored\.$/);
  // The region is drawn where it is in the picture.
  const corners = await polygon.evaluate((element) => {
    const { left, top, width, height } = element.closest('.stage').getBoundingClientRect();
    return [...element.points].map((point) => point.matrixTransform(element.getScreenCTM())).map(({ x, y }) => [(x - left) / width, (y - top) / height]);
  });
  near(corners[0], EXACT.slice(0, 2));
  near(corners[2], [335 / 360, EXACT[3]]);
  // A result that shows the whole picture has no mark; the first one has it again afterwards.
  const cards = page.locator('.results .card');
  await cards.nth(1).hover();
  assert.ok(await page.locator('.marks').isHidden());
  assert.equal(await words.textContent(), '');
  await page.mouse.move(2, 2);
  await page.locator('.marks').waitFor();
  await cards.nth(1).locator('.open').focus();
  assert.ok(await page.locator('.marks').isHidden());
  // The box begins at the part that was found.
  await start(page).press('Enter');
  assert.match(await box(page).getAttribute('aria-label'), /: 6 % from the left, 38 % from the top, 89 % wide, 2[23] % high/);
});

test('if nothing is found, offers to select a part', {}, async (page) => {
  await page.route('**/v1/search?**', async (route) => {
    const answer = await (await route.fetch()).json();
    return route.fulfill({ json: { ...answer, results: [] } });
  });
  await withScreenshot(page);
  await page.getByRole('button', { name: 'Select this part' }).click();
  assert.ok(await box(page).evaluate((element) => element === document.activeElement));
});

test('another picture, and a frame of a result, begin without a crop', {}, async (page) => {
  const sent = await withScreenshot(page);
  await drag(page, EXACT.slice(0, 2), EXACT.slice(2));
  await latest(sent, 2);
  await answered(page);
  await page.getByRole('button', { name: /^Search with this frame/ }).first().click();
  await page.waitForURL(/frame=/);
  await answered(page);
  assert.equal(await box(page).count(), 0);
  // The crop of a frame outlives the page, because both are in the address.
  await page.locator('.stage img').evaluate((image) => image.decode());
  await drag(page, [0.1, 0.2], [0.6, 0.8]);
  near(edges(await until('a search', () => sent.at(-1))), [0.1, 0.2, 0.6, 0.8]);
  await page.reload();
  await box(page).waitFor();
  near(edges(await until('a search', () => sent.at(-1))), [0.1, 0.2, 0.6, 0.8]);
  await answered(page);
  await pick(page, zoom);
  await until('a search', () => sent.at(-1) === null);
  await answered(page);
  assert.equal(await box(page).count(), 0);
  // A crop that cannot be read is the whole picture.
  await page.evaluate(() => (location.hash = `${location.hash}&crop=1,2,3`));
  await page.waitForTimeout(600);
  assert.ok(sent.every((crop) => crop !== '1,2,3'));
});

test('a box that leaves with its view is not searched', {}, async (page) => {
  const sent = await withScreenshot(page);
  await drag(page, [0.2, 0.2], [0.8, 0.8]);
  await page.getByRole('link', { name: 'Library' }).click();
  await page.waitForTimeout(700);
  assert.match(page.url(), /#\/library/);
  assert.deepEqual(sent, [null]);
});

test('a redrawn picture has the same crop', { allow: ['415', '422'] }, async (page) => {
  const sent = sentCrops(page);
  await searched(page, drawing);
  await page.locator('.stage img').evaluate((image) => image.decode());
  await drag(page, [0.1, 0.1], [0.7, 0.9]);
  await until('both searches', () => sent.filter((crop) => crop).length === 2);
  await answered(page);
  assert.equal(await page.locator('.alert').count(), 0);
});

test('fingers select a part on a phone', { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true }, async (page) => {
  const sent = await withScreenshot(page);
  const session = await page.context().newCDPSession(page);
  const touch = async (from, to) => {
    const { x, y, width, height } = await page.locator('.stage').boundingBox();
    const at = ([a, b]) => [{ x: x + a * width, y: y + b * height }];
    await session.send('Input.dispatchTouchEvent', { type: 'touchStart', touchPoints: at(from) });
    await session.send('Input.dispatchTouchEvent', { type: 'touchMove', touchPoints: at([(from[0] + to[0]) / 2, (from[1] + to[1]) / 2]) });
    await session.send('Input.dispatchTouchEvent', { type: 'touchMove', touchPoints: at(to) });
    await session.send('Input.dispatchTouchEvent', { type: 'touchEnd', touchPoints: [] });
  };
  // Without a box, a finger scrolls.
  await touch([0.5, 0.8], [0.5, 0.2]);
  await page.waitForTimeout(600);
  assert.deepEqual([sent.length, await box(page).count()], [1, 0]);
  await start(page).tap();
  await page.locator('.stage').scrollIntoViewIfNeeded();
  const [left, top, right, bottom] = (await box(page).getAttribute('aria-label')).match(/\d+/g).map((n) => n / 100).map((n, i, all) => (i < 2 ? n : n + all[i - 2]));
  await touch([left, top], [left + 0.2, top + 0.1]);
  near(edges(await latest(sent, 2)), [left + 0.2, top + 0.1, right, bottom], 0.02);
  await answered(page);
  assert.equal(await overflow(page), null);
  assert.deepEqual(await violations(page), []);
  const handle = await page.locator('.handle').first().evaluate((element) => parseFloat(getComputedStyle(element).width) - 2 * parseFloat(getComputedStyle(element, '::before').top));
  assert.ok(handle >= 36, `a handle is ${handle} px wide for a finger`);
});
