//! Looks of screens in rooms, and of one look inside another.

use image::RgbImage;

use super::{DrawnLook, LookScene, pages, screens};
use crate::media::draw::{Area, BLACK, Canvas, Perspective, PhotoShot, photograph};

pub(super) fn screen_mild(scene: &mut LookScene<'_>) -> DrawnLook {
    let harm = scene.between(0.2, 0.5);
    shown(scene, &PhotoShot { cover: [0.75, 0.92], tilt: 0.03, angle: 2.0, harm, bezel: [0.005, 0.03] })
}

pub(super) fn screen_strong(scene: &mut LookScene<'_>) -> DrawnLook {
    let harm = scene.between(0.6, 1.0);
    shown(scene, &PhotoShot { cover: [0.5, 0.85], tilt: 0.1, angle: 12.0, harm, bezel: [0.01, 0.05] })
}

pub(super) fn television(scene: &mut LookScene<'_>) -> DrawnLook {
    let harm = scene.between(0.2, 0.7);
    shown(scene, &PhotoShot { cover: [0.25, 0.5], tilt: 0.05, angle: 3.0, harm, bezel: [0.01, 0.05] })
}

/// A photograph of a screen that shows the frame, with black bars if their shapes differ.
fn shown(scene: &mut LookScene<'_>, shot: &PhotoShot) -> DrawnLook {
    let shape = match scene.random.up_to(3) {
        0 => 16.0 / 9.0,
        1 => 1.6,
        _ => scene.aspect(),
    };
    let wide = 720.0_f32.min(720.0 * shape);
    let mut screen = Canvas::new((wide as u32, (wide / shape) as u32), BLACK);
    let corners = screen.paste(scene.frame, screen.area().largest(scene.aspect(), [0.5, 0.5]));
    let (image, onto) = photograph(&screen.image, shot, scene.random);
    let corners = within(&screen.image, onto, corners);
    DrawnLook::new(Canvas { image }, corners)
}

/// Where the photograph of `screen` shows these corners on the screen.
fn within(screen: &RgbImage, onto: Perspective, corners: [[f32; 2]; 4]) -> [[f32; 2]; 4] {
    corners.map(|[x, y]| onto.map([x / screen.width() as f32, y / screen.height() as f32]))
}

/// A look of a part of another look.
pub(super) fn nested(scene: &mut LookScene<'_>) -> DrawnLook {
    let inner = match scene.random.up_to(5) {
        0 => pages::margin(scene),
        1 => pages::caption_box(scene),
        2 => screens::phone_status(scene),
        3 => screens::dark_app(scene),
        4 => screens::light_app(scene),
        _ => pages::web_page(scene),
    };
    // A person cuts out the frame, and a strip of its surroundings remains.
    let area = Area::new(0.0, 0.0, inner.image.width() as f32, inner.image.height() as f32);
    let [from, _, to, _] = inner.corners;
    let rest = [from[0], from[1], area.right - to[0], area.bottom - to[1]];
    let [left, top, right, bottom] = rest.map(|rest| (rest * scene.between(0.0, 0.35)).floor());
    let (x, y) = ((from[0] - left) as u32, (from[1] - top) as u32);
    let (w, h) = ((to[0] + right) as u32 - x, (to[1] + bottom) as u32 - y);
    let part = image::imageops::crop_imm(&inner.image, x, y, w.max(1), h.max(1)).to_image();
    let mut second = LookScene { frame: &part, other: scene.other, random: scene.random };
    let outer = match second.random.up_to(5) {
        0 => pages::margin(&mut second),
        1 => pages::caption_box(&mut second),
        2 => screens::phone_status(&mut second),
        3 => screens::light_app(&mut second),
        4 => screen_mild(&mut second),
        _ => pages::slide(&mut second),
    };
    let onto = Perspective::onto(outer.corners);
    let moved = inner.corners.map(|[cx, cy]| [cx - x as f32, cy - y as f32]);
    DrawnLook { corners: within(&part, onto, moved), ..outer }
}
