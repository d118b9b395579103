//! Looks on a screen: phones, applications, players.

use super::{DESKTOPS, DrawnLook, LookScene, PHONES, WHOLE};
use crate::media::draw::{self, Area, BLACK, Canvas, Colour, TextStyle, WHITE};

const GREY: Colour = [128.0; 3];

pub(super) fn phone_bars(scene: &mut LookScene<'_>) -> DrawnLook {
    let mut canvas = Canvas::new(scene.screen(PHONES), BLACK);
    let align = [0.5, if scene.happens(0.7) { 0.5 } else { scene.between(0.1, 0.9) }];
    let corners = canvas.paste(scene.frame, canvas.area().largest(scene.aspect(), align));
    DrawnLook::new(canvas, corners)
}

pub(super) fn phone_status(scene: &mut LookScene<'_>) -> DrawnLook {
    let mut drawn = phone_bars(scene);
    let mut canvas = Canvas { image: drawn.image };
    let ink = ink_over(&canvas);
    status_bar(&mut canvas, scene, ink);
    if scene.happens(0.5) {
        navigation(&mut canvas, scene, ink);
    }
    drawn.image = canvas.image;
    drawn
}

pub(super) fn dark_app(scene: &mut LookScene<'_>) -> DrawnLook {
    let ground = scene.between(0.0, 45.0);
    let blue = scene.between(0.0, 18.0);
    app(scene, [ground, ground, ground + blue])
}

pub(super) fn light_app(scene: &mut LookScene<'_>) -> DrawnLook {
    let ground = [scene.between(238.0, 255.0); 3];
    app(scene, ground)
}

/// An application that shows a list of posts. The frame belongs to the first or the second.
fn app(scene: &mut LookScene<'_>, ground: Colour) -> DrawnLook {
    let mut canvas = Canvas::new(scene.screen(PHONES), ground);
    let (area, ink) = (canvas.area(), super::ink(ground));
    let unit = area.width() / 100.0;
    status_bar(&mut canvas, scene, ink);
    let side = if scene.happens(0.5) { scene.between(1.0, 5.0) * unit } else { 0.0 };
    let mut top = scene.between(7.0, 14.0) * unit;
    let title = TextStyle { weight: 0.9, ..TextStyle::new(scene.between(4.0, 6.0) * unit, ink) };
    canvas.text([4.0 * unit, top], scene.between(25.0, 60.0) * unit, title, scene.random);
    top += scene.between(9.0, 20.0) * unit;
    if scene.happens(0.4) {
        // The end of an earlier post.
        let height = scene.between(10.0, 50.0) * unit;
        let earlier = draw::scene((area.width() as u32, height as u32), scene.random);
        canvas.paste(&earlier, Area::new(side, top, area.width() - 2.0 * side, height));
        top = post_foot(&mut canvas, scene, top + height, ink) + 3.0 * unit;
    }
    top = post_head(&mut canvas, scene, top, ink);
    let space = Area { left: side, top, right: area.width() - side, bottom: area.height() - 20.0 * unit };
    let corners = canvas.paste(scene.frame, space.largest(scene.aspect(), [0.5, 0.0]));
    let mut below = post_foot(&mut canvas, scene, corners[2][1], ink);
    while below < area.height() {
        below = post_head(&mut canvas, scene, below + 3.0 * unit, ink);
        let height = scene.between(30.0, 70.0) * unit;
        let next = draw::scene((area.width() as u32, height as u32), scene.random);
        canvas.paste(&next, Area::new(side, below, area.width() - 2.0 * side, height));
        below = post_foot(&mut canvas, scene, below + height, ink);
    }
    canvas.fill(area.part([0.0, 1.0 - 13.0 * unit / area.height(), 1.0, 1.0]), 0.0, ground, 1.0);
    navigation(&mut canvas, scene, ink);
    DrawnLook::new(canvas, corners)
}

/// Sender's picture and name. Returns the position below.
fn post_head(canvas: &mut Canvas, scene: &mut LookScene<'_>, top: f32, ink: Colour) -> f32 {
    let unit = canvas.area().width() / 100.0;
    let (radius, face) = (scene.between(3.5, 5.5) * unit, draw::colour(scene.random, 30.0, 230.0));
    canvas.disc([4.0 * unit + radius, top + radius], radius, face, 1.0);
    let name = TextStyle { weight: 0.8, ..TextStyle::new(3.6 * unit, ink) };
    let left = 7.0 * unit + 2.0 * radius;
    canvas.text([left, top + 0.5 * unit], scene.between(20.0, 50.0) * unit, name, scene.random);
    canvas.text([left, top + radius + unit], 25.0 * unit, TextStyle::new(2.8 * unit, GREY), scene.random);
    let mut below = top + 2.0 * radius + 2.0 * unit;
    let lines = scene.random.up_to(2) as f32;
    let style = TextStyle::new(3.8 * unit, ink);
    canvas.paragraph(Area::new(4.0 * unit, below, 90.0 * unit, lines * 5.7 * unit), style, scene.random);
    below += lines * 5.7 * unit + unit;
    below
}

/// Signs, counts and text below a picture. Returns the position below.
fn post_foot(canvas: &mut Canvas, scene: &mut LookScene<'_>, top: f32, ink: Colour) -> f32 {
    let unit = canvas.area().width() / 100.0;
    let (y, gap) = (top + 5.0 * unit, scene.between(10.0, 20.0) * unit);
    for i in 0..3 + scene.random.up_to(2) {
        let x = 7.0 * unit + gap * i as f32;
        canvas.disc([x, y], 2.6 * unit, ink, 0.8);
        canvas.text([x + 4.0 * unit, y - 1.5 * unit], 7.0 * unit, TextStyle::new(3.0 * unit, ink), scene.random);
    }
    let lines = 1.0 + scene.random.up_to(3) as f32;
    let text = Area::new(4.0 * unit, top + 10.0 * unit, 92.0 * unit, lines * 5.4 * unit);
    canvas.paragraph(text, TextStyle::new(3.6 * unit, ink), scene.random);
    top + (12.0 + lines * 5.4) * unit
}

/// Clock, battery and signal at the top of a phone.
fn status_bar(canvas: &mut Canvas, scene: &mut LookScene<'_>, ink: Colour) {
    let unit = canvas.area().width() / 100.0;
    let top = scene.between(1.0, 3.0) * unit;
    let style = TextStyle { weight: 0.8, ..TextStyle::new(scene.between(3.0, 4.0) * unit, ink) };
    let x = scene.between(4.0, 9.0) * unit;
    canvas.text([x, top], 14.0 * unit, style, scene.random);
    canvas.fill(Area::new(88.0 * unit, top, 6.5 * unit, 3.0 * unit), unit, ink, 0.9);
    for i in 0..4 {
        let height = 0.7 * (i + 1) as f32 * unit;
        canvas.fill(Area::new((76.0 + 1.4 * i as f32) * unit, top + 3.0 * unit - height, unit, height), 0.0, ink, 1.0);
    }
    canvas.text([82.0 * unit, top], 6.0 * unit, TextStyle::new(2.6 * unit, ink), scene.random);
}

/// Signs at the bottom of a phone.
fn navigation(canvas: &mut Canvas, scene: &mut LookScene<'_>, ink: Colour) {
    let (area, unit) = (canvas.area(), canvas.area().width() / 100.0);
    let (count, radius) = (3 + scene.random.up_to(2), scene.between(1.5, 3.0) * unit);
    for i in 0..count {
        let x = area.width() * (i as f32 + 0.5) / count as f32;
        let sign = Area::new(x, area.height() - 6.5 * unit, 0.0, 0.0).grown(radius);
        canvas.fill(sign, scene.random.either(radius, 0.3 * radius), ink, 0.75);
    }
}

fn ink_over(canvas: &Canvas) -> Colour {
    super::ink(canvas.image.get_pixel(0, 0).0.map(f32::from))
}

pub(super) fn player(scene: &mut LookScene<'_>) -> DrawnLook {
    let upright = scene.happens(0.5);
    let (w, h) = if scene.happens(0.7) { scene.screen(PHONES) } else { scene.screen(DESKTOPS.map(|(w, h)| (h, w))) };
    let mut canvas = Canvas::new(if upright { (w, h) } else { (h, w) }, BLACK);
    let align = [0.5, if upright && scene.happens(0.5) { 0.08 } else { 0.5 }];
    let corners = canvas.paste(scene.frame, canvas.area().largest(scene.aspect(), align));
    let (below, listed) = (corners[2][1], upright && align[1] < 0.5);
    let over = if listed || scene.happens(0.5) { draw::bounds(&corners) } else { canvas.area() };
    controls(&mut canvas, scene, over);
    if listed {
        let mut top = below + 0.03 * canvas.area().width();
        while top < canvas.area().height() {
            top = post_head(&mut canvas, scene, top, [230.0; 3]);
        }
    }
    DrawnLook::new(canvas, corners)
}

/// Shadow, title, buttons and progress bar of a player over a part of the picture.
fn controls(canvas: &mut Canvas, scene: &mut LookScene<'_>, shown: Area) {
    let unit = canvas.area().width().min(canvas.area().height()) / 100.0;
    let (dim, main) = (scene.between(0.0, 0.45), draw::colour(scene.random, 0.0, 255.0));
    canvas.fill(shown, 0.0, BLACK, dim);
    if scene.happens(0.7) {
        let at = [shown.left + 3.0 * unit, shown.top + 3.0 * unit];
        let style = TextStyle::new(scene.between(3.0, 5.0) * unit, WHITE);
        canvas.text(at, shown.width() * scene.between(0.3, 0.8), style, scene.random);
    }
    let ([x, y], r) = (shown.centre(), scene.between(4.0, 9.0) * unit);
    canvas.disc([x, y], 1.7 * r, BLACK, 0.4);
    if scene.happens(0.5) {
        canvas.polygon(&[[x - 0.7 * r, y - r], [x + r, y], [x - 0.7 * r, y + r]], WHITE, 0.95);
    } else {
        for side in [-0.75, 0.25] {
            canvas.fill(Area::new(x + side * r, y - 0.8 * r, 0.5 * r, 1.6 * r), 0.0, WHITE, 0.95);
        }
    }
    let bar = Area::new(shown.left + 3.0 * unit, shown.bottom - 6.0 * unit, shown.width() - 6.0 * unit, unit);
    let at = scene.between(0.05, 0.95);
    canvas.fill(bar, 0.5 * unit, [200.0; 3], 0.6);
    canvas.fill(bar.part([0.0, 0.0, at, 1.0]), 0.5 * unit, main, 1.0);
    canvas.disc([bar.left + bar.width() * at, bar.top + 0.5 * unit], 1.6 * unit, main, 1.0);
    let style = TextStyle::new(2.8 * unit, WHITE);
    canvas.text([bar.left, bar.top - 4.5 * unit], 18.0 * unit, style, scene.random);
    canvas.text([bar.right - 18.0 * unit, bar.top - 4.5 * unit], 18.0 * unit, style, scene.random);
}

pub(super) fn vertical_cut(scene: &mut LookScene<'_>) -> DrawnLook {
    let (width, height) = (scene.frame.width() as f32, scene.frame.height() as f32);
    let cut =
        Area::new(0.0, 0.0, width, height).largest(9.0 / 16.0, [scene.between(0.0, 1.0), scene.between(0.0, 1.0)]);
    let (left, top) = (cut.left as u32, cut.top as u32);
    let (w, h) = ((cut.width() as u32).max(1), (cut.height() as u32).max(1));
    let part = image::imageops::crop_imm(scene.frame, left, top, w, h).to_image();
    let mut canvas = Canvas::new((540, 960), BLACK);
    let corners = canvas.paste(&part, canvas.area());
    let (area, unit) = (canvas.area(), 5.4);
    let (first, gap) = (scene.between(45.0, 75.0) * unit, scene.between(13.0, 18.0) * unit);
    for i in 0..4 + scene.random.up_to(2) {
        let y = first + gap * i as f32;
        let sign = if scene.happens(0.5) { WHITE } else { draw::colour(scene.random, 0.0, 255.0) };
        canvas.disc([area.right - 8.0 * unit, y], 4.5 * unit, sign, 0.92);
        let at = [area.right - 12.0 * unit, y + 5.2 * unit];
        canvas.text(at, 9.0 * unit, TextStyle::new(2.4 * unit, WHITE), scene.random);
    }
    let tabs = [area.width() * 0.28, scene.between(5.0, 10.0) * unit];
    canvas.text(tabs, 45.0 * unit, TextStyle { weight: 0.8, ..TextStyle::new(4.0 * unit, WHITE) }, scene.random);
    let lines = 2.0 + scene.random.up_to(2) as f32;
    let text = Area::new(4.0 * unit, area.bottom - (12.0 + lines * 5.7) * unit, 72.0 * unit, lines * 5.7 * unit);
    canvas.paragraph(text, TextStyle::new(3.8 * unit, WHITE), scene.random);
    let shares = [left as f32 / width, top as f32 / height, (left + w) as f32 / width, (top + h) as f32 / height];
    DrawnLook { shown: if shares == WHOLE { WHOLE } else { shares }, ..DrawnLook::new(canvas, corners) }
}
