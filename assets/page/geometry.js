// Rectangles in a picture. A box is `{left, top, right, bottom}` in shares of the picture: 0 to 1.

/** The handles of a box: the sides of the world that their edges or corners lie on. */
export const HANDLES = ['nw', 'n', 'ne', 'e', 'se', 's', 'sw', 'w'];
/** Smallest width and height of a box. */
export const MIN_SIDE = 0.02;
/** Smallest share of the searched area that counts as all of it, as in the table of `search`. */
const WHOLE = 0.9;

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** The box between two points `[x, y]`, limited to the picture. */
export function boxBetween([x1, y1], [x2, y2]) {
  const [a, b, c, d] = [x1, y1, x2, y2].map((side) => clamp(side, 0, 1));
  return { left: Math.min(a, c), top: Math.min(b, d), right: Math.max(a, c), bottom: Math.max(b, d) };
}

export const isTooSmall = ({ left, top, right, bottom }) => right - left < MIN_SIDE || bottom - top < MIN_SIDE;

/** The box of the same size, moved as far as the picture allows. */
export function moveBox({ left, top, right, bottom }, dx, dy) {
  const [x, y] = [clamp(dx, -left, 1 - right), clamp(dy, -top, 1 - bottom)];
  return { left: left + x, top: top + y, right: right + x, bottom: bottom + y };
}

/** The box after its handle was dragged. It stays in the picture, and opposite edges do not cross. */
export function resizeBox(box, handle, dx, dy) {
  const { left, top, right, bottom } = box;
  const next = { ...box };
  if (handle.includes('w')) next.left = clamp(left + dx, 0, right - MIN_SIDE);
  if (handle.includes('e')) next.right = clamp(right + dx, left + MIN_SIDE, 1);
  if (handle.includes('n')) next.top = clamp(top + dy, 0, bottom - MIN_SIDE);
  if (handle.includes('s')) next.bottom = clamp(bottom + dy, top + MIN_SIDE, 1);
  return next;
}

/** The box as the server reads it: `10%,20%,80%,50%`. Rounds the edges, so that none leaves the picture. */
export function cropText({ left, top, right, bottom }) {
  const [a, b, c, d] = [left, top, right, bottom].map((edge) => Math.round(edge * 10_000));
  return [a, b, c - a, d - b].map((side) => `${side / 100}%`).join();
}

/** The box of a crop in per cent; null if the text is none or the box has no area in the picture. */
export function boxOfText(text) {
  if (!/^(\d+(\.\d+)?%(,|$)){4}$/.test(text ?? '') || text.endsWith(',')) return null;
  const [left, top, width, height] = text.split(',').map((side) => parseFloat(side) / 100);
  const box = { left, top, right: left + width, bottom: top + height };
  const isInside = box.right < 1.00005 && box.bottom < 1.00005;
  return isInside && width > 0 && height > 0 ? boxBetween([left, top], [box.right, box.bottom]) : null;
}

/** The box around a region, whose corners are in pixels of a picture of this size. */
export function boxAround(region, [width, height]) {
  const [xs, ys] = [region.map(([x]) => x / width), region.map(([, y]) => y / height)];
  return boxBetween([Math.min(...xs), Math.min(...ys)], [Math.max(...xs), Math.max(...ys)]);
}

const areaOf = ({ left, top, right, bottom }) => (right - left) * (bottom - top);

/** Whether a box is clearly less than what was searched: the crop, or the picture if that is null. */
export const isPart = (box, crop) => areaOf(box) < WHOLE * (crop ? areaOf(crop) : 1);

/** The corners as the points of an SVG polygon. */
export const polygonPoints = (region) => region.map((corner) => corner.join()).join(' ');
