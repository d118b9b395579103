// Shared by all tests of the page: a browser, checks of every page, and ways to insert a picture.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { after, test as declared } from 'node:test';

/** From tests/page.rs: `base` (address of the server), `pid`, `pictures` (files), `modules`, `browser`, `keep` (folder of screenshots, or null). */
export const settings = JSON.parse(process.env.REELSEEK_PAGE_TEST);

const require = createRequire(join(settings.modules, 'node_modules', 'here.js'));
const { chromium } = require('playwright-core');
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');

export const PATIENCE_MS = 20_000;

const browser = await chromium.launch({ executablePath: settings.browser, args: ['--no-sandbox', '--disable-gpu', '--autoplay-policy=no-user-gesture-required'] });
after(() => browser.close());

/** A test with its own page. Console messages fail the test unless they contain one of `allow`, such as an expected status. */
export function test(name, { allow = [], ...options }, run) {
  declared(name, { timeout: 90_000 }, async () => {
    const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, ...options });
    context.setDefaultTimeout(PATIENCE_MS);
    await context.addInitScript(() => {
      window.violations = [];
      document.addEventListener('securitypolicyviolation', (event) => window.violations.push(`${event.violatedDirective}: ${event.blockedURI}`));
    });
    const page = await context.newPage();
    const problems = [];
    page.on('pageerror', (error) => problems.push(`error: ${error.stack}`));
    page.on('console', (message) => {
      const expected = allow.some((status) => message.text().includes(status));
      if (['error', 'warning'].includes(message.type()) && !expected) problems.push(`console: ${message.text()} ${message.location().url}`);
    });
    page.on('request', (request) => {
      const { protocol, origin } = new URL(request.url());
      if (!['blob:', 'data:'].includes(protocol) && origin !== settings.base) problems.push(`request to ${request.url()}`);
    });
    try {
      await run(page, context);
      problems.push(...(await page.evaluate(() => window.violations)).map((v) => `violates the policy: ${v}`));
      assert.deepEqual(problems, []);
    } catch (error) {
      if (settings.keep) await page.screenshot({ path: join(settings.keep, `failed ${name.replace(/\W+/g, '-')}.png`) }).catch(() => null);
      if (problems.length) error.message += `\nThe page reported: ${problems.join('\n')}`;
      throw error;
    } finally {
      await context.close();
    }
  });
}

/** Waits until `probe()` returns a true value, and returns it. */
export async function until(what, probe, patience = PATIENCE_MS) {
  const end = Date.now() + patience;
  for (;;) {
    const value = await probe();
    if (value) return value;
    assert.ok(Date.now() < end, `timed out waiting for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Drags data from another window onto the page, through the browser's own drag and drop. */
export async function drop(page, data, at = { x: 640, y: 600 }) {
  const session = await page.context().newCDPSession(page);
  const full = { items: [], dragOperationsMask: 1, ...data };
  await session.send('Input.dispatchDragEvent', { type: 'dragEnter', ...at, data: full });
  await session.send('Input.dispatchDragEvent', { type: 'dragOver', ...at, data: full });
  assert.ok(await page.locator('#drop').isVisible(), 'the page shows where to drop');
  await session.send('Input.dispatchDragEvent', { type: 'drop', ...at, data: full });
  await session.detach();
  assert.ok(await page.locator('#drop').isHidden());
}

export const pick = (page, picture) => page.locator('input[type=file]').setInputFiles(picture);

/** Opens the search view and searches with a picture. */
export async function searched(page, picture) {
  await page.goto(settings.base);
  await pick(page, picture);
  await answered(page);
}

/** Waits for the results of the last search. */
export async function answered(page) {
  await page.locator('.results[aria-busy=false] .results-head .hint:not(:empty)').waitFor();
}

/** Titles of the visible cards. */
export const titles = (page) => page.locator('.results .card:visible h3').allTextContents();

/** Waits until an image has loaded, and returns its width. */
export const loaded = (image) => until('a picture', () => image.evaluate((img) => img.complete && img.naturalWidth));

/** The violations that axe-core finds in the page, as text. */
export async function violations(page) {
  await page.evaluate(axe);
  const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations', 'incomplete'] }));
  // axe cannot decide contrast on pictures. It reports it as `incomplete`, which is not counted.
  return found.violations.flatMap(({ id, help, nodes }) => nodes.map((node) => `${id}: ${help}: ${node.html.slice(0, 200)} ${node.failureSummary}`));
}

/** The elements that are wider than the window, or null. */
export const overflow = (page) =>
  page.evaluate(() => {
    const room = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= room) return null;
    const out = [...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > room + 0.5 && !e.closest('.unseen'));
    return `${document.documentElement.scrollWidth} px in ${room}: ${out.map((e) => `${e.tagName}.${e.className}`).join(' ')}`;
  });

export { assert };
