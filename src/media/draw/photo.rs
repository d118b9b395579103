//! Photographs of screens.

use image::RgbImage;

use super::{
    Area, BLACK, Canvas, Colour, Corners, Perspective, blurred, bounds, colour, jpeg, noise, recolour, scaled,
};
use crate::base::seeded::Random;

/// Longest side of a photograph in pixels.
const MAX_SIDE: f32 = 1280.0;

/// How a screen is photographed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PhotoShot {
    /// The screen's width as a share of the photograph's, at least and at most.
    pub cover: [f32; 2],
    /// Largest shift of a corner as a share of the screen's sides (perspective).
    pub tilt: f32,
    /// Largest rotation in degrees.
    pub angle: f32,
    /// Strength of glare, moire, blur and noise: 1 for a bad photograph.
    pub harm: f32,
    /// Thickness of the screen's frame as a share of its width, at least and at most.
    pub bezel: [f32; 2],
}

/// A photograph of a room with a screen that shows `screen`, and the map from the unit square onto the shown
/// picture.
pub(crate) fn photograph(screen: &RgbImage, shot: &PhotoShot, random: &mut Random) -> (RgbImage, Perspective) {
    let aspect = screen.width() as f32 / screen.height() as f32;
    let lens = random.either(4.0 / 3.0, 16.0 / 9.0);
    let lens = if aspect < 0.9 { 1.0 / lens } else { lens };
    let long = (screen.width().max(screen.height()) as f32 * random.between(1.0, 1.6)).clamp(16.0, MAX_SIDE);
    let (width, height) = if lens > 1.0 { (long, long / lens) } else { (long * lens, long) };
    let area = Area::new(0.0, 0.0, width, height);
    let quad = screen_corners(area, aspect, shot, random);
    let onto = Perspective::onto(quad);
    let mut canvas = Canvas { image: room((width as u32, height as u32), random) };
    let bezel = random.between(shot.bezel[0], shot.bezel[1]);
    let (below, metal) = (bezel * random.between(1.0, 3.0), random.between(150.0, 220.0));
    let dark = colour(random, 5.0, 45.0);
    let edge = random.either(dark, [metal; 3]);
    let outer = Area { left: -bezel, top: -bezel * aspect, right: 1.0 + bezel, bottom: 1.0 + below * aspect };
    let outer = outer.corners().map(|corner| onto.map(corner));
    let (foot, sides) = (random.between(0.1, 0.5), random.between(0.05, 0.3));
    let [left, right] = [[0.5 - sides, 1.0 + below], [0.5 + sides, 1.0 + below]].map(|point| onto.map(point));
    canvas.polygon(&[left, right, [right[0], right[1] + foot * height], [left[0], left[1] + foot * height]], edge, 1.0);
    canvas.polygon(&outer, edge, 1.0);
    canvas.warp(screen, quad);
    let image = blurred(canvas.image, random.between(0.0, 1.6) * shot.harm * long / 640.0);
    (exposed(image, onto.inverse(), shot.harm, random), onto)
}

/// Corners of the screen in the photograph.
fn screen_corners(area: Area, aspect: f32, shot: &PhotoShot, random: &mut Random) -> Corners {
    let cover = random.between(shot.cover[0], shot.cover[1]);
    let inner = Area::new(0.0, 0.0, area.width() * cover, area.height() * (cover + 0.1).min(0.92));
    let flat = inner.largest(aspect, [0.0, 0.0]);
    let (w, h) = (flat.width(), flat.height());
    let (sin, cos) = (random.between(-shot.angle, shot.angle)).to_radians().sin_cos();
    let mut quad = flat.corners().map(|[x, y]| {
        let x = x - w / 2.0 + w * shot.tilt * random.between(-1.0, 1.0);
        let y = y - h / 2.0 + h * shot.tilt * random.between(-1.0, 1.0);
        [x * cos - y * sin, x * sin + y * cos]
    });
    // The screen is in the photograph, wherever its corners moved.
    let around = bounds(&quad);
    let scale = (area.width() * 0.98 / around.width()).min(area.height() * 0.98 / around.height()).min(1.0);
    let free = [area.width() - around.width() * scale, area.height() - around.height() * scale];
    let shift = free.map(|free| free * random.between(0.15, 0.85));
    for [x, y] in &mut quad {
        *x = (*x - around.left) * scale + shift[0];
        *y = (*y - around.top) * scale + shift[1];
    }
    quad
}

/// A room or a desk out of focus: a wall, a table, things on them, a lamp.
fn room((width, height): (u32, u32), random: &mut Random) -> RgbImage {
    // Drawn small, because it is blurred.
    let mut canvas = Canvas::new((width.div_ceil(3), height.div_ceil(3)), BLACK);
    let (area, light) = (canvas.area(), random.between(0.15, 1.0));
    let tone = |random: &mut Random, from: f32, to: f32| -> Colour {
        let grey = random.between(from, to);
        let tint = colour(random, -25.0, 25.0);
        tint.map(|tint| ((grey + tint) * light).clamp(0.0, 255.0))
    };
    let (from, to) = (tone(random, 60.0, 240.0), tone(random, 60.0, 240.0));
    canvas.gradient(area, from, to, random.between(0.0, 1.0));
    let table = random.between(0.5, 1.0);
    let (near, far) = (tone(random, 40.0, 200.0), tone(random, 40.0, 200.0));
    canvas.gradient(area.part([0.0, table, 1.0, 1.0]), far, near, 1.0);
    for _ in 0..5 + random.up_to(9) {
        let (w, h) = (random.between(0.03, 0.3), random.between(0.05, 0.5));
        let (x, y) = (random.between(-0.1, 1.0), random.between(-0.1, 1.0));
        let radius = random.between(0.0, 0.1) * area.width();
        let thing = tone(random, 10.0, 250.0);
        canvas.fill(area.part([x, y, x + w, y + h]), radius, thing, random.between(0.6, 1.0));
    }
    let lamp = [random.between(0.0, 1.0) * area.width(), random.between(0.0, 1.0) * area.height()];
    let reach = area.width() * random.between(0.1, 0.4);
    canvas.shade(area, |x, y| {
        let distance = (x - lamp[0]).hypot(y - lamp[1]) / reach;
        ([255.0, 240.0, 210.0], 0.5 * (-distance * distance).exp())
    });
    let image = blurred(canvas.image, area.width() * random.between(0.002, 0.02));
    scaled(&image, width, height)
}

/// Glare and moire on the screen, and what the camera adds: cast, lifted black, noise, dark edges and JPEG.
fn exposed(mut image: RgbImage, to_screen: Perspective, harm: f32, random: &mut Random) -> RgbImage {
    let (width, height) = (image.width() as f32, image.height() as f32);
    let cast: Colour = colour(random, 1.0 - 0.22 * harm, 1.0 + 0.12 * harm);
    let (gain, lift) = (random.between(0.85 - 0.15 * harm, 1.0), random.between(0.0, 22.0) * harm);
    let deviation = random.between(2.0, 9.0) * harm;
    let waves: [[f32; 4]; 2] = std::array::from_fn(|_| {
        let (turn, period) = (random.between(0.0, std::f32::consts::TAU), random.between(4.0, 30.0));
        let (sin, cos) = turn.sin_cos();
        [cos / period, sin / period, random.between(0.0, 6.0) * harm, random.between(0.0, 1e-3)]
    });
    let spots: [[f32; 4]; 2] = std::array::from_fn(|_| {
        let (x, y) = (random.between(0.0, 1.0), random.between(0.0, 1.0));
        [x, y, random.between(0.05, 0.3), random.between(0.0, 110.0) * harm]
    });
    let dark = random.between(0.0, 0.35) * harm;
    recolour(&mut image, |x, y, pixel| {
        let (x, y) = (x as f32 + 0.5, y as f32 + 0.5);
        let [u, v] = to_screen.map([x, y]);
        let on_screen = (0.0..1.0).contains(&u) && (0.0..1.0).contains(&v);
        let glow = |[sx, sy, reach, light]: [f32; 4]| {
            let (dx, dy) = ((u - sx) / reach, (v - sy) / reach);
            light * (-dx * dx - dy * dy).exp()
        };
        let glare: f32 = if on_screen { spots.map(glow).iter().sum() } else { 0.0 };
        let (rx, ry) = (x / width - 0.5, y / height - 0.5);
        let shade = 1.0 - dark * 2.0 * (rx * rx + ry * ry);
        let grain = noise(random) * deviation;
        std::array::from_fn(|i| {
            let wave = |[kx, ky, strength, bend]: [f32; 4]| {
                let phase = x * kx + y * ky + bend * x * y * 0.05 + i as f32 / 3.0;
                strength * (phase * std::f32::consts::TAU).sin()
            };
            let moire: f32 = if on_screen { waves.map(wave).iter().sum() } else { 0.0 };
            lift + (pixel[i] * cast[i] * gain + glare + moire) * shade + grain
        })
    });
    jpeg(&image, (85.0 - harm * random.between(10.0, 45.0)).clamp(25.0, 95.0) as u8)
}
