// The arithmetic of the crop box. This file needs no browser.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

// Node takes a file `.js` for CommonJS, so the module is loaded from its text.
const source = readFileSync(new URL('../../assets/page/geometry.js', import.meta.url), 'utf8');
const { HANDLES, MIN_SIDE, boxAround, boxBetween, boxOfText, cropText, isPart, isTooSmall, moveBox, polygonPoints, resizeBox } = await import(`data:text/javascript,${encodeURIComponent(source)}`);

const BOX = { left: 0.25, top: 0.25, right: 0.75, bottom: 0.5 };

function near(found, expected) {
  for (const side of ['left', 'top', 'right', 'bottom']) assert.ok(Math.abs(found[side] - expected[side]) < 1e-9, `${side}: ${JSON.stringify(found)}`);
}

test('a drawn box has sorted edges inside of the picture', () => {
  near(boxBetween([0.9, 0.8], [0.2, 0.1]), { left: 0.2, top: 0.1, right: 0.9, bottom: 0.8 });
  near(boxBetween([-1, 0.5], [0.5, 7]), { left: 0, top: 0.5, right: 0.5, bottom: 1 });
  assert.ok(isTooSmall(boxBetween([0.5, 0.1], [0.5 + MIN_SIDE / 2, 0.9])));
  assert.ok(!isTooSmall(BOX));
});

test('a moved box keeps its size and stays in the picture', () => {
  near(moveBox(BOX, 0.1, -0.1), { left: 0.35, top: 0.15, right: 0.85, bottom: 0.4 });
  near(moveBox(BOX, 5, 5), { left: 0.5, top: 0.75, right: 1, bottom: 1 });
  near(moveBox(BOX, -5, -5), { left: 0, top: 0, right: 0.5, bottom: 0.25 });
});

test('each handle moves its own edges only', () => {
  const moved = { n: ['top'], s: ['bottom'], w: ['left'], e: ['right'] };
  assert.equal(HANDLES.length, 8);
  for (const handle of HANDLES) {
    const edges = [...handle].flatMap((letter) => moved[letter]);
    const next = resizeBox(BOX, handle, 0.1, 0.1);
    for (const edge of ['left', 'top', 'right', 'bottom']) {
      assert.ok(Math.abs(next[edge] - BOX[edge] - (edges.includes(edge) ? 0.1 : 0)) < 1e-9, `${handle} ${edge}`);
    }
  }
});

test('a resized box neither leaves the picture nor turns inside out', () => {
  for (const handle of HANDLES) {
    for (const by of [-9, 9]) {
      const { left, top, right, bottom } = resizeBox(BOX, handle, by, by);
      assert.ok(left >= 0 && top >= 0 && right <= 1 && bottom <= 1, handle);
      assert.ok(right - left > MIN_SIDE - 1e-9 && bottom - top > MIN_SIDE - 1e-9, handle);
    }
  }
  near(resizeBox(BOX, 'nw', 9, 9), { ...BOX, left: 0.75 - MIN_SIDE, top: 0.5 - MIN_SIDE });
});

test('a crop in per cent ends inside of the picture', () => {
  assert.equal(cropText(BOX), '25%,25%,50%,25%');
  assert.equal(cropText({ left: 1 / 3, top: 0, right: 1, bottom: 2 / 3 }), '33.33%,0%,66.67%,66.67%');
  for (let i = 0; i < 1000; i += 1) {
    // Edges at all positions modulo the rounding.
    const box = { left: i / 1777, top: i / 3331, right: 1 - i / 7919, bottom: 1 };
    const [x, y, width, height] = cropText(box).split(',').map((side) => Number(side.slice(0, -1)));
    assert.ok(Math.round((x + width) * 100) <= 10_000 && Math.round((y + height) * 100) <= 10_000, cropText(box));
    const again = boxOfText(cropText(box));
    for (const edge of ['left', 'top', 'right', 'bottom']) assert.ok(Math.abs(again[edge] - box[edge]) < 1e-4, cropText(box));
  }
});

test('other text is no crop', () => {
  near(boxOfText('10%,20%,80%,50%'), { left: 0.1, top: 0.2, right: 0.9, bottom: 0.7 });
  for (const text of [null, undefined, '', '1,2,3,4', '10%,20%,80%', '10%,20%,80%,50%,', '10%,20%,80%,50%,1%', '-1%,0%,5%,5%', '50%,0%,51%,5%', '0%,0%,0%,5%', 'a%,b%,c%,d%']) {
    assert.equal(boxOfText(text), null, text);
  }
});

test('a region is a part if it is clearly smaller than what was searched', () => {
  const region = [[120, 340], [960, 360], [950, 812], [110, 800]];
  const around = boxAround(region, [1080, 2400]);
  near(around, { left: 110 / 1080, top: 340 / 2400, right: 960 / 1080, bottom: 812 / 2400 });
  assert.ok(isPart(around, null));
  assert.ok(!isPart(around, around));
  assert.ok(!isPart({ left: 0, top: 0.02, right: 1, bottom: 1 }, null));
  assert.equal(polygonPoints(region), '120,340 960,360 950,812 110,800');
  // Corners outside of the picture, as of a photograph of a screen.
  near(boxAround([[-5, -5], [50, 0], [50, 120], [0, 100]], [100, 100]), { left: 0, top: 0, right: 0.5, bottom: 1 });
});
