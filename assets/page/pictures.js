// Query pictures, which the user drops, pastes or chooses. They are kept while this page is open.

import { RequestError } from './api.js';

/** Pictures of this visit by their key in the page's URL, so that the Back button finds them. */
const kept = new Map();
const MAX_KEPT = 30;
/** Longer side of a redrawn picture in pixels. */
const REDRAWN_SIDE = 1600;

export function keep(blob, name) {
  const key = Math.random().toString(36).slice(2, 10);
  kept.set(key, { blob, name, preview: URL.createObjectURL(blob) });
  for (const [old, { preview }] of kept) {
    if (kept.size <= MAX_KEPT) break;
    URL.revokeObjectURL(preview);
    kept.delete(old);
  }
  return key;
}

export const recall = (key) => kept.get(key);

function fromDataAddress(address) {
  const parts = /^data:([^;,]*)([^,]*),(.*)$/s.exec(address);
  if (!parts) return null;
  const [, type, coding, data] = parts;
  try {
    const plain = decodeURIComponent(data);
    const bytes = coding.endsWith('base64') ? Uint8Array.from(atob(plain), (c) => c.charCodeAt(0)) : new TextEncoder().encode(plain);
    return new Blob([bytes], { type });
  } catch {
    // Malformed percent-encoding or base64.
    return null;
  }
}

const isAddress = (text) => /^https?:\/\/\S+$/i.test(text) && URL.canParse(text);

/** The picture that was dropped or pasted: `{blob, name}`, `{address}`, or null. */
export function pictureOf(transfer) {
  const file = [...transfer.files].find((f) => f.type.startsWith('image/')) ?? transfer.files[0];
  if (file) return { blob: file, name: file.name };
  const html = transfer.getData('text/html');
  const inPage = html && new DOMParser().parseFromString(html, 'text/html').querySelector('img')?.getAttribute('src');
  const list = transfer.getData('text/uri-list').split('\n').find((line) => line && !line.startsWith('#'));
  for (const address of [inPage, list, transfer.getData('text/plain')].map((a) => a?.trim()).filter(Boolean)) {
    const blob = address.startsWith('data:image/') && fromDataAddress(address);
    if (blob) return { blob, name: 'dragged picture' };
    if (isAddress(address)) return { address };
  }
  return null;
}

/** Whether dragged data may contain a picture. */
export const mayBePicture = (transfer) => ['Files', 'text/uri-list', 'text/html'].some((type) => transfer.types.includes(type));

/** The picture as a JPEG that the server can read; null if this browser cannot read it. */
export async function redraw(blob) {
  const image = new Image();
  image.src = URL.createObjectURL(blob);
  const isReadable = await image.decode().then(() => true, () => false);
  if (!isReadable) {
    URL.revokeObjectURL(image.src);
    return null;
  }
  const scale = Math.min(1, REDRAWN_SIDE / Math.max(image.naturalWidth, image.naturalHeight, 1));
  const canvas = document.createElement('canvas');
  canvas.width = Math.max(1, Math.round(image.naturalWidth * scale));
  canvas.height = Math.max(1, Math.round(image.naturalHeight * scale));
  const pen = canvas.getContext('2d');
  pen.fillStyle = '#fff';
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(image.src);
  return new Promise((resolve) => canvas.toBlob(resolve, 'image/jpeg', 0.92));
}

/**
 * Calls `run` with the picture. If the server refuses it (too large, AVIF, SVG), calls it with the redrawn
 * picture.
 */
export async function withRedraw(blob, run) {
  try {
    return await run(blob);
  } catch (error) {
    if (!(error instanceof RequestError) || ![413, 415, 422].includes(error.status)) throw error;
    const jpeg = await redraw(blob);
    if (!jpeg) throw error;
    return run(jpeg);
  }
}
