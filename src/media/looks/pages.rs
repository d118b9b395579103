//! Looks on paper and pages: margins, captions, collages, slides, web pages.

use image::imageops;

use super::{DESKTOPS, DrawnLook, LookScene, ink};
use crate::media::draw::{self, Area, BLACK, Canvas, TextScript, TextStyle, WHITE};

pub(super) fn margin(scene: &mut LookScene<'_>) -> DrawnLook {
    let frame = scene.resized();
    let (w, h) = (frame.width() as f32, frame.height() as f32);
    let [left, right] = [w, w].map(|side| side * scene.between(0.03, 0.09));
    let [above, below] = [h, h].map(|side| side * scene.between(0.03, 0.09));
    let (strip, ground) = (h * scene.between(0.06, 0.16), scene.ground());
    let size = ((w + left + right) as u32, (h + above + below + strip) as u32);
    let mut canvas = Canvas::new(size, ground);
    let first = scene.happens(0.3);
    let top = if first { above + strip } else { above };
    let corners = canvas.paste(&frame, Area::new(left, top, w, h));
    let text = Area::new(left, if first { above } else { above + h + 0.2 * strip }, w, 0.7 * strip);
    let style = TextStyle::new(strip * scene.random.either(0.3, 0.55), ink(ground));
    canvas.paragraph(text, style, scene.random);
    DrawnLook::new(canvas, corners)
}

pub(super) fn caption_box(scene: &mut LookScene<'_>) -> DrawnLook {
    let frame = scene.resized();
    let (w, h) = (frame.width() as f32, frame.height() as f32);
    let (above, ground) = (w * scene.between(0.12, 0.45), scene.ground());
    let mut canvas = Canvas::new((w as u32, (above + h) as u32), ground);
    let corners = canvas.paste(&frame, Area::new(0.0, above.floor(), w, h));
    let lines = 1.0 + scene.random.up_to(2) as f32;
    let size = above / (1.6 * lines + 0.6);
    let text = Area::new(0.05 * w, 0.5 * size, 0.9 * w, above - 0.8 * size);
    let weight = scene.between(0.4, 1.0);
    let script = if scene.happens(0.5) { TextScript::Latin } else { TextScript::any(scene.random) };
    canvas.paragraph(text, TextStyle { weight, script, ..TextStyle::new(size, ink(ground)) }, scene.random);
    DrawnLook::new(canvas, corners)
}

pub(super) fn blurred_fill(scene: &mut LookScene<'_>) -> DrawnLook {
    let size = match (scene.aspect() > 1.0, scene.random.up_to(2)) {
        (true, 0) => (540, 960),
        (true, 1) => (640, 800),
        (false, 0 | 1) => (960, 540),
        _ => (720, 720),
    };
    let mut canvas = Canvas::new(size, BLACK);
    let (area, shape) = (canvas.area(), size.0 as f32 / size.1 as f32);
    let frame = Area::new(0.0, 0.0, scene.frame.width() as f32, scene.frame.height() as f32);
    let zoom = scene.between(1.0, 1.4);
    let part = frame.largest(shape, [0.5, 0.5]).grown(0.0);
    let (w, h) = ((part.width() / zoom).max(1.0), (part.height() / zoom).max(1.0));
    let [x, y] = part.centre();
    let (x, y) = ((x - w / 2.0).max(0.0) as u32, (y - h / 2.0).max(0.0) as u32);
    let back = imageops::crop_imm(scene.frame, x, y, w as u32, h as u32).to_image();
    let back = draw::scaled(&back, size.0 / 4, size.1 / 4);
    canvas.paste(&draw::blurred(back, area.width() * scene.between(0.004, 0.014)), area);
    canvas.fill(area, 0.0, BLACK, scene.between(0.0, 0.5));
    let corners = canvas.paste(scene.frame, area.largest(scene.aspect(), [0.5, 0.5]));
    DrawnLook::new(canvas, corners)
}

/// Two equal cells. The pictures are cut to the cells' shape.
pub(super) fn collage(scene: &mut LookScene<'_>) -> DrawnLook {
    let beside = scene.happens(0.5);
    let cell = scene.aspect() * scene.between(0.8, 1.25);
    let (w, h) = if cell > 1.0 { (640.0, 640.0 / cell) } else { (640.0 * cell, 640.0) };
    let gap = if scene.happens(0.5) { scene.between(2.0, 16.0).round() } else { 0.0 };
    let (w, h) = (w.round().max(2.0), h.round().max(2.0));
    let size = if beside { (2.0 * w + gap, h) } else { (w, 2.0 * h + gap) };
    let mut canvas = Canvas::new((size.0 as u32, size.1 as u32), scene.ground());
    let first = Area::new(0.0, 0.0, w, h);
    let second = if beside { Area::new(w + gap, 0.0, w, h) } else { Area::new(0.0, h + gap, w, h) };
    let (own, foreign) = if scene.happens(0.5) { (first, second) } else { (second, first) };
    let cut = |image: &image::RgbImage| {
        let (width, height) = (image.width() as f32, image.height() as f32);
        let part = Area::new(0.0, 0.0, width, height).largest(cell, [0.5, 0.5]);
        let (x, y) = (part.left as u32, part.top as u32);
        let (w, h) = ((part.width() as u32).max(1), (part.height() as u32).max(1));
        let shown = [x as f32 / width, y as f32 / height, (x + w) as f32 / width, (y + h) as f32 / height];
        (imageops::crop_imm(image, x, y, w, h).to_image(), shown)
    };
    let (part, shown) = cut(scene.frame);
    canvas.paste(&cut(scene.other).0, foreign);
    let corners = canvas.paste(&part, own);
    DrawnLook { shown, ..DrawnLook::new(canvas, corners) }
}

pub(super) fn slide(scene: &mut LookScene<'_>) -> DrawnLook {
    let mut canvas = Canvas::new(scene.random.either((960, 540), (960, 720)), WHITE);
    let (area, ground) = (canvas.area(), scene.ground());
    let end = ground.map(|v| (v + scene.random.between(-40.0, 40.0)).clamp(0.0, 255.0));
    canvas.gradient(area, ground, end, 1.0);
    let ink = ink(ground);
    let (accent, bar) = (draw::colour(scene.random, 20.0, 220.0), scene.between(0.0, 0.04));
    canvas.fill(area.part([0.0, 0.0, 1.0, bar]), 0.0, accent, 1.0);
    let title = TextStyle { weight: 0.9, ..TextStyle::new(scene.between(34.0, 56.0), ink) };
    canvas.text([48.0, area.height() * 0.09], area.width() * scene.between(0.4, 0.9), title, scene.random);
    let width = scene.between(0.38, 0.62);
    let on_left = scene.happens(0.4);
    let [left, right] = if on_left { [0.05, 0.05 + width] } else { [0.95 - width, 0.95] };
    let space = area.part([left, 0.24, right, 0.9]);
    let align = [0.5, scene.between(0.2, 0.8)];
    let corners = canvas.paste(scene.frame, space.largest(scene.aspect(), align));
    let [from, to] = if on_left { [right + 0.04, 0.96] } else { [0.05, left - 0.04] };
    let (size, mut top) = (scene.between(16.0, 26.0), area.height() * 0.27);
    while top < area.height() * 0.82 {
        let point =
            Area::new(area.width() * from + 1.5 * size, top, area.width() * (to - from) - 1.5 * size, size * 2.5);
        canvas.disc([point.left - size, top + 0.5 * size], 0.22 * size, accent, 1.0);
        canvas.paragraph(point, TextStyle::new(size, ink), scene.random);
        top += size * scene.random.either(3.6, 5.0);
    }
    canvas.text([48.0, area.height() * 0.95], 200.0, TextStyle::new(11.0, ink), scene.random);
    DrawnLook::new(canvas, corners)
}

pub(super) fn web_page(scene: &mut LookScene<'_>) -> DrawnLook {
    let ground = if scene.happens(0.6) { [scene.between(240.0, 255.0); 3] } else { [scene.between(10.0, 35.0); 3] };
    let mut canvas = Canvas::new(scene.screen(DESKTOPS), ground);
    let (area, ink) = (canvas.area(), ink(ground));
    let unit = area.width() / 100.0;
    let frame_of_window = ground.map(|v| if v > 128.0 { v - 25.0 } else { v + 25.0 });
    canvas.fill(Area::new(0.0, 0.0, area.width(), 6.0 * unit), 0.0, frame_of_window, 1.0);
    canvas.fill(Area::new(12.0 * unit, 3.0 * unit, 60.0 * unit, 2.2 * unit), unit, ground, 1.0);
    canvas.text([14.0 * unit, 3.5 * unit], 30.0 * unit, TextStyle::new(1.2 * unit, ink), scene.random);
    for i in 0..2 + scene.random.up_to(4) {
        canvas.text(
            [(3 + 13 * i) as f32 * unit, 0.9 * unit],
            10.0 * unit,
            TextStyle::new(1.1 * unit, ink),
            scene.random,
        );
    }
    let logo = draw::colour(scene.random, 20.0, 230.0);
    canvas.fill(Area::new(3.0 * unit, 7.5 * unit, 8.0 * unit, 2.5 * unit), 0.5 * unit, logo, 1.0);
    let (left, width) = (scene.between(3.0, 18.0) * unit, scene.between(32.0, 62.0) * unit);
    let top = scene.between(11.0, 17.0) * unit;
    let space = Area::new(left, top, width, area.height() - top - 2.0 * unit);
    let corners = canvas.paste(scene.frame, space.largest(scene.aspect(), [0.0, 0.0]));
    if scene.happens(0.5) {
        let title = TextStyle::new(1.8 * unit, ink);
        canvas.text([left, top - 3.0 * unit], width * scene.between(0.4, 0.9), title, scene.random);
    }
    let below = corners[2][1] + 1.5 * unit;
    canvas.text([left, below], 0.8 * width, TextStyle { weight: 0.9, ..TextStyle::new(2.0 * unit, ink) }, scene.random);
    let text = Area { left, top: below + 4.0 * unit, right: left + width, bottom: area.bottom };
    canvas.paragraph(text, TextStyle::new(1.3 * unit, ink), scene.random);
    let (side, thumb) = (left + width + 3.0 * unit, scene.between(9.0, 16.0) * unit);
    let mut y = top;
    while y < area.bottom && side + thumb < area.right {
        let picture = draw::scene((thumb as u32, (thumb * 0.5625) as u32), scene.random);
        canvas.paste(&picture, Area::new(side, y, thumb, thumb * 0.5625));
        let text = Area::new(side + thumb + unit, y, (area.right - side - thumb - 2.0 * unit).max(0.0), 0.4 * thumb);
        canvas.paragraph(text, TextStyle::new(1.2 * unit, ink), scene.random);
        y += thumb * 0.66;
    }
    DrawnLook::new(canvas, corners)
}
