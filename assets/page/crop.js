// The query picture: a box that selects a part of it, and a mark around the part that shows a video.

import { h, shape } from './dom.js';
import { HANDLES, boxAround, boxBetween, boxOfText, cropText, isPart, isTooSmall, moveBox, polygonPoints, resizeBox } from './geometry.js';

/** Time from the last change of the box to the search. */
const CALM_MS = 400;
/** What one press of an arrow key moves. */
const STEP = 0.01;
/** The box at first, unless a result has a better one. */
const FIRST_BOX = { left: 0.1, top: 0.1, right: 0.9, bottom: 0.9 };
const ARROWS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };

const whole = (share) => `${Math.round(share * 100)} %`;
const boxWords = ({ left, top, right, bottom }) => `${whole(left)} from the left, ${whole(top)} from the top, ${whole(right - left)} wide, ${whole(bottom - top)} high`;

/**
 * The picture with its crop box. `onchange(text)` is called with the crop in per cent, or null for the whole
 * picture, shortly after the user has changed it.
 */
export function cropTool({ onchange }) {
  let box = null;
  /** The box that a new one begins with. */
  let proposed = null;
  let drag = null;
  let timer = 0;

  const hint = h('p', { class: 'hint', id: 'crop-hint' }, 'Drag the part, its edges or its corners. Arrow keys move it, Shift with arrow keys resizes it, Enter searches with it, Escape removes it.');
  const frame = h('div', { class: 'crop', tabindex: '0', role: 'application', 'aria-roledescription': 'crop box', 'aria-describedby': 'crop-hint' }, HANDLES.map((name) => h('span', { class: `handle at-${name}`, 'data-handle': name })));
  const shade = h('div', { class: 'shade' }, h('div'));
  const outline = shape('polygon');
  const marks = shape('svg', { class: 'marks', preserveAspectRatio: 'none', 'aria-hidden': 'true' }, shape('g', {}, outline, outline.cloneNode()));
  const stage = h('div', { class: 'stage' });
  const words = h('p', { class: 'hint', id: 'region-words' });
  const start = h('button', { type: 'button', class: 'quiet', onclick: () => begin() }, 'Select a part');
  const clear = h('button', { type: 'button', class: 'quiet', onclick: () => remove() }, 'Use the whole picture');
  const controls = h('div', { class: 'crop-controls', hidden: true }, start, clear, hint, words);
  const element = h('div', { class: 'cropper' }, stage, controls);

  function draw() {
    stage.classList.toggle('cropping', Boolean(box));
    // This changes the size of the picture, which would move it under the pointer.
    if (!drag) element.classList.toggle('enlarged', Boolean(box));
    frame.hidden = shade.hidden = clear.hidden = hint.hidden = !box;
    start.hidden = Boolean(box);
    if (!box) return;
    const { left, top, right, bottom } = box;
    for (const [name, share] of Object.entries({ left, top, width: right - left, height: bottom - top })) {
      stage.style.setProperty(`--crop-${name}`, `${share * 100}%`);
    }
    frame.setAttribute('aria-label', `Part of the picture: ${boxWords(box)}`);
  }

  const change = (next) => ((box = next), draw());

  function schedule() {
    clearTimeout(timer);
    timer = setTimeout(() => onchange(cropText(box)), CALM_MS);
  }

  /** Shows a box to change. It is not searched before it is changed. */
  function begin() {
    change(proposed ?? FIRST_BOX);
    frame.focus();
  }

  function remove() {
    clearTimeout(timer);
    const hadFocus = element.contains(document.activeElement);
    change(null);
    if (hadFocus) start.focus({ preventScroll: true });
    onchange(null);
  }

  // Dragging, with any pointer. A finger scrolls the page unless there is a box.

  const pointAt = ({ clientX, clientY }) => {
    const { left, top, width, height } = stage.getBoundingClientRect();
    return [(clientX - left) / width, (clientY - top) / height];
  };

  stage.addEventListener('pointerdown', (event) => {
    if (event.button !== 0 || drag || !stage.contains(frame)) return;
    const handle = event.target.dataset?.handle;
    const isMove = event.target === frame;
    if (!handle && !isMove && !box && event.pointerType === 'touch') return;
    event.preventDefault();
    stage.setPointerCapture(event.pointerId);
    drag = { pointer: event.pointerId, from: pointAt(event), before: box, handle, isMove };
    if (box) frame.focus({ preventScroll: true });
  });
  stage.addEventListener('pointermove', (event) => {
    if (drag?.pointer !== event.pointerId) return;
    const at = pointAt(event);
    const [dx, dy] = [at[0] - drag.from[0], at[1] - drag.from[1]];
    if (drag.handle) return change(resizeBox(drag.before, drag.handle, dx, dy));
    if (drag.isMove) return change(moveBox(drag.before, dx, dy));
    const drawn = boxBetween(drag.from, at);
    // A press that does not move far is no new box.
    return change(isTooSmall(drawn) ? drag.before : drawn);
  });
  const end = (event, isKept) => {
    if (drag?.pointer !== event.pointerId) return;
    const { before, isMove } = drag;
    drag = null;
    draw();
    if (!isKept) return change(before);
    // A press on the box searches with it.
    if (!box || (!isMove && before && cropText(before) === cropText(box))) return null;
    frame.focus({ preventScroll: true });
    return schedule();
  };
  stage.addEventListener('pointerup', (event) => end(event, true));
  stage.addEventListener('pointercancel', (event) => end(event, false));

  frame.addEventListener('keydown', (event) => {
    if (event.key === 'Escape' || event.key === 'Enter') {
      event.preventDefault();
      return event.key === 'Enter' ? schedule() : remove();
    }
    const [dx, dy] = ARROWS[event.key] ?? [];
    if (dx === undefined || event.ctrlKey || event.altKey || event.metaKey) return null;
    event.preventDefault();
    change(event.shiftKey ? resizeBox(box, 'se', dx, dy) : moveBox(box, dx, dy));
    return schedule();
  });

  /** Marks the part of the picture that shows a result; `null` removes the mark. `name` is for the words. */
  function mark(result, size, name) {
    const region = size && result?.region;
    const around = region && boxAround(region, size);
    const isMarked = Boolean(region) && isPart(around, box);
    proposed = isMarked && !isTooSmall(around) ? around : null;
    marks.toggleAttribute('hidden', !isMarked);
    if (isMarked) {
      marks.setAttribute('viewBox', `0 0 ${size.join(' ')}`);
      for (const polygon of marks.querySelectorAll('polygon')) polygon.setAttribute('points', polygonPoints(region));
    }
    const how = [result?.turn && `rotated by ${result.turn} degrees clockwise`, result?.mirrored && 'mirrored'].filter(Boolean).join(' and ');
    const text = isMarked ? `Marked: the part that shows ${name}` : how && `The picture shows ${name}`;
    words.textContent = text ? `${text}${how && `, ${how}`}.` : '';
  }

  draw();
  return {
    element,
    begin,
    /** Whether `begin` would show a box. */
    canBegin: () => !controls.hidden && !box,
    /** Leaves out the search that is due. */
    settle: () => clearTimeout(timer),
    mark,
    /** Shows another picture, or another element if there is none to crop. */
    setPicture(image) {
      clearTimeout(timer);
      drag = null;
      mark(null);
      change(null);
      controls.hidden = true;
      stage.style.removeProperty('--ratio');
      stage.replaceChildren(image);
      if (image.localName !== 'img') return;
      image.draggable = false;
      image.addEventListener('load', () => {
        stage.style.setProperty('--ratio', image.naturalWidth / image.naturalHeight);
        stage.append(shade, marks, frame);
        controls.hidden = false;
      });
    },
    /** Shows the crop of the address. */
    setCrop(text) {
      if (drag) return;
      clearTimeout(timer);
      change(boxOfText(text));
    },
  };
}
