//! Looks that cover, rotate or damage the frame.

use image::{RgbImage, imageops};

use super::{DrawnLook, LookScene};
use crate::media::draw::{self, Area, BLACK, Canvas, TextScript, TextStyle, WHITE, luma, noise, recolour};

pub(super) fn plain(scene: &mut LookScene<'_>) -> DrawnLook {
    DrawnLook::over(scene.frame.clone())
}

pub(super) fn turn_90(scene: &mut LookScene<'_>) -> DrawnLook {
    DrawnLook { turn: 90, ..DrawnLook::over(imageops::rotate90(scene.frame)) }
}

pub(super) fn turn_180(scene: &mut LookScene<'_>) -> DrawnLook {
    DrawnLook { turn: 180, ..DrawnLook::over(imageops::rotate180(scene.frame)) }
}

pub(super) fn turn_270(scene: &mut LookScene<'_>) -> DrawnLook {
    DrawnLook { turn: 270, ..DrawnLook::over(imageops::rotate270(scene.frame)) }
}

pub(super) fn meme(scene: &mut LookScene<'_>) -> DrawnLook {
    let mut canvas = Canvas { image: scene.resized() };
    let area = canvas.area();
    let size = area.width().min(area.height()) * scene.between(0.08, 0.17);
    let colour = if scene.happens(0.5) { WHITE } else { draw::colour(scene.random, 128.0, 255.0) };
    let style = TextStyle { script: TextScript::Capitals, size, colour, weight: 1.0, outline: Some(BLACK) };
    for top in [0.03 * area.height(), area.height() * 0.97 - size] {
        let width = area.width() * scene.between(0.5, 0.95);
        canvas.text([(area.width() - width) / 2.0, top], width, style, scene.random);
    }
    DrawnLook::over(canvas.image)
}

pub(super) fn subtitles(scene: &mut LookScene<'_>) -> DrawnLook {
    let mut canvas = Canvas { image: scene.resized() };
    let area = canvas.area();
    let lines = 1 + scene.random.up_to(1);
    let size = area.height() * scene.between(0.07, 0.12);
    let colour = scene.random.either(WHITE, [255.0, 235.0, 60.0]);
    let boxed = scene.happens(0.3);
    let outline = (!boxed).then_some(BLACK);
    let weight = scene.between(0.5, 1.0);
    let style = TextStyle { script: TextScript::any(scene.random), size, colour, weight, outline };
    let bottom = area.height() * scene.between(0.9, 0.97);
    for line in 0..lines {
        let width = area.width() * scene.between(0.45, 0.92);
        let at = [(area.width() - width) / 2.0, bottom - 1.4 * size * (lines - line) as f32];
        if boxed {
            canvas.fill(Area::new(at[0], at[1], width, size).grown(0.2 * size), 0.0, BLACK, 0.85);
        }
        canvas.text(at, width, style, scene.random);
    }
    DrawnLook::over(canvas.image)
}

pub(super) fn interlaced(scene: &mut LookScene<'_>) -> DrawnLook {
    let mut image = scene.resized();
    let source = image.clone();
    // The camera pans, and something in the middle moves on its own.
    let wide = image.width() as f32;
    let (pan, own) = (wide * scene.between(0.0, 0.02), wide * scene.between(0.01, 0.05));
    let (left, right) = (wide * scene.between(0.1, 0.4), wide * scene.between(0.6, 0.9));
    let reach = scene.random.either(1.0, -1.0);
    recolour(&mut image, |x, y, colour| {
        let x = x as f32;
        let moved = if (left..right).contains(&x) { pan + own } else { pan };
        if y % 2 == 0 { colour } else { draw::interpolated(&source, x + 0.5 + reach * moved, y as f32 + 0.5) }
    });
    DrawnLook::over(image)
}

pub(super) fn tape(scene: &mut LookScene<'_>) -> DrawnLook {
    let mut image = scene.resized();
    let source = draw::blurred(image.clone(), image.width() as f32 * scene.between(0.001, 0.003));
    let (wide, high) = (image.width() as f32, image.height() as f32);
    // Middle, half of the height and shift of each disturbed band. The last is where the heads change.
    let mut bands = vec![[high, 0.03 * high, scene.between(0.02, 0.1) * wide]];
    for _ in 0..1 + scene.random.up_to(3) {
        let (middle, half) = (scene.between(0.0, high), scene.between(0.01, 0.05) * high);
        bands.push([middle, half, scene.between(-0.06, 0.06) * wide]);
    }
    let (shift, fade) = (wide * scene.between(0.003, 0.012), scene.between(0.5, 0.95));
    let (grain, random) = (scene.between(3.0, 9.0), &mut *scene.random);
    let mut streak = 0;
    recolour(&mut image, |x, y, _| {
        let (x, y) = (x as f32 + 0.5, y as f32 + 0.5);
        let band = bands.iter().find(|[middle, half, _]| (y - middle).abs() < *half);
        let jitter = band.map_or(0.0, |[middle, half, shift]| shift * (1.0 - (y - middle).abs() / half));
        if band.is_some() && streak == 0 && random.up_to(60) == 0 {
            streak = 4 + random.up_to(24);
        }
        streak = if band.is_some() { streak.saturating_sub(1) } else { 0 };
        if streak > 0 {
            return WHITE;
        }
        let at = draw::interpolated(&source, x + jitter, y);
        let tint = draw::interpolated(&source, x + jitter - shift, y);
        let (light, grain) = (luma(at), noise(random) * grain);
        let grey = luma(tint);
        std::array::from_fn(|i| light + (tint[i] - grey) * fade + grain)
    });
    DrawnLook::over(image)
}

pub(super) fn black_white(scene: &mut LookScene<'_>) -> DrawnLook {
    let mut image = scene.resized();
    let weights = draw::colour(scene.random, 0.1, 1.0);
    let sum: f32 = weights.iter().sum();
    let (gamma, grain) = (scene.between(0.6, 1.6), scene.between(0.0, 12.0));
    let tone = scene.random.either([1.0; 3], [1.05, 0.97, 0.82]);
    let random = &mut *scene.random;
    recolour(&mut image, |_, _, colour| {
        let light: f32 = colour.iter().zip(weights).map(|(v, weight)| v * weight / sum).sum();
        let light = 255.0 * (light / 255.0).powf(gamma) + noise(random) * grain;
        tone.map(|tone| light * tone)
    });
    DrawnLook::over(image)
}

/// Either washed out, as HDR on a display that ignores its curve, or with crushed lights and strong colours.
pub(super) fn hdr(scene: &mut LookScene<'_>) -> DrawnLook {
    let mut image = scene.resized();
    let flat = scene.happens(0.5);
    let (power, colours) =
        if flat { (scene.between(0.45, 0.8), scene.between(0.4, 0.8)) } else { (scene.between(1.1, 1.7), 1.35) };
    let (gain, lift) = if flat { (scene.between(0.55, 0.8), 0.1) } else { (scene.between(1.1, 1.6), 0.0) };
    let knee = scene.between(0.6, 0.9);
    recolour(&mut image, |_, _, colour| {
        let grey = luma(colour);
        colour.map(|v| {
            let v = ((grey + (v - grey) * colours) / 255.0).max(0.0).powf(power) * gain + lift;
            255.0 * if v > knee { knee + (1.0 - knee) * (1.0 - (-(v - knee) / (1.0 - knee)).exp()) } else { v }
        })
    });
    DrawnLook::over(image)
}

/// Cyan, magenta, yellow and black dots on grids at four angles, and the paper around them.
pub(super) fn halftone(scene: &mut LookScene<'_>) -> DrawnLook {
    let frame = scene.resized();
    let (w, h) = (frame.width() as f32, frame.height() as f32);
    let paper = [scene.between(235.0, 252.0), scene.between(230.0, 245.0), scene.between(205.0, 238.0)];
    let edges: [f32; 4] = std::array::from_fn(|_| scene.between(0.0, 0.08));
    let size = ((w * (1.0 + edges[0] + edges[2])) as u32, (h * (1.0 + edges[1] + edges[3])) as u32);
    let mut canvas = Canvas::new(size, paper);
    let corners = canvas.paste(&printed(frame, paper, scene), Area::new(w * edges[0], h * edges[1], w, h));
    let text = Area::new(corners[3][0], corners[3][1] + 0.01 * h, w, h * edges[3]);
    canvas.paragraph(text, TextStyle::new(0.025 * h, [40.0; 3]), scene.random);
    let image = draw::blurred(canvas.image, scene.between(0.4, 1.0));
    DrawnLook::new(Canvas { image }, corners)
}

fn printed(mut image: RgbImage, paper: draw::Colour, scene: &mut LookScene<'_>) -> RgbImage {
    let (pitch, turn) = (scene.between(3.5, 7.0), scene.between(0.0, 90.0));
    let grids = [15.0_f32, 75.0, 0.0, 45.0].map(|angle| {
        let (sin, cos) = (angle + turn).to_radians().sin_cos();
        [cos, sin].map(|v| v * std::f32::consts::TAU / pitch)
    });
    let inks = [[0.0, 0.62, 0.9], [0.9, 0.05, 0.5], [1.0, 0.93, 0.05], [0.1, 0.1, 0.1]];
    let colourless = scene.happens(0.2);
    recolour(&mut image, |x, y, colour| {
        let colour = if colourless { [luma(colour); 3] } else { colour };
        let lack = colour.map(|v| 1.0 - v / 255.0);
        let black = lack.iter().copied().fold(1.0, f32::min) * 0.8;
        let amounts = [lack[0] - black, lack[1] - black, lack[2] - black, black];
        let mut out = paper;
        for ((amount, [kx, ky]), ink) in amounts.into_iter().zip(grids).zip(inks) {
            let (x, y) = (x as f32, y as f32);
            let level = 0.5 + 0.25 * ((x * kx + y * ky).cos() + (y * kx - x * ky).cos());
            let covered = ((amount - level) * 6.0 + 0.5).clamp(0.0, 1.0);
            out = std::array::from_fn(|i| out[i] * (1.0 - covered + covered * ink[i]));
        }
        out
    });
    image
}
