//! Draws shapes, text and warped pictures, for [`Distortion`](super::distort::Distortion) and
//! [`Look`](super::looks::Look).

mod photo;
mod text;

use image::codecs::jpeg::JpegEncoder;
use image::imageops;
use image::{Rgb, RgbImage};

pub(super) use photo::{PhotoShot, photograph};
pub(super) use text::{TextScript, TextStyle};

use super::Picture;
use crate::base::seeded::Random;

/// Corners (x, y) of a four-sided part of a picture in pixels, clockwise.
pub(crate) type Corners = [[f32; 2]; 4];
/// Red, green and blue, 0 to 255.
pub(super) type Colour = [f32; 3];

pub(super) const BLACK: Colour = [0.0; 3];
pub(super) const WHITE: Colour = [255.0; 3];

/// An upright rectangle in pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Area {
    pub left: f32,
    pub top: f32,
    pub right: f32,
    pub bottom: f32,
}

impl Area {
    pub(super) fn new(left: f32, top: f32, width: f32, height: f32) -> Area {
        Area { left, top, right: left + width, bottom: top + height }
    }

    pub(super) fn width(self) -> f32 {
        self.right - self.left
    }

    pub(super) fn height(self) -> f32 {
        self.bottom - self.top
    }

    pub(super) fn centre(self) -> [f32; 2] {
        [(self.left + self.right) / 2.0, (self.top + self.bottom) / 2.0]
    }

    /// The part between these shares of the sides: left, top, right, bottom.
    pub(super) fn part(self, [left, top, right, bottom]: [f32; 4]) -> Area {
        let (w, h) = (self.width(), self.height());
        Area {
            left: self.left + left * w,
            top: self.top + top * h,
            right: self.left + right * w,
            bottom: self.top + bottom * h,
        }
    }

    /// The largest rectangle of this aspect ratio inside. `align` is the share of the free space to its left
    /// and above it.
    pub(super) fn largest(self, aspect: f32, align: [f32; 2]) -> Area {
        let width = self.width().min(self.height() * aspect).max(1.0);
        let height = (width / aspect).min(self.height()).max(1.0);
        let [x, y] = align;
        Area::new(
            self.left + x * (self.width() - width).max(0.0),
            self.top + y * (self.height() - height).max(0.0),
            width,
            height,
        )
    }

    pub(super) fn grown(self, by: f32) -> Area {
        Area { left: self.left - by, top: self.top - by, right: self.right + by, bottom: self.bottom + by }
    }

    pub(super) fn corners(self) -> Corners {
        [[self.left, self.top], [self.right, self.top], [self.right, self.bottom], [self.left, self.bottom]]
    }
}

/// A picture to draw on. Parts of shapes outside of it are left out.
#[derive(Debug, Clone)]
pub(super) struct Canvas {
    pub image: RgbImage,
}

impl Canvas {
    pub(super) fn new((width, height): (u32, u32), colour: Colour) -> Canvas {
        Canvas { image: RgbImage::from_pixel(width.max(1), height.max(1), Rgb(colour.map(|v| v as u8))) }
    }

    pub(super) fn area(&self) -> Area {
        Area::new(0.0, 0.0, self.image.width() as f32, self.image.height() as f32)
    }

    /// Mixes a colour into each pixel of `area`. `shade` gives the colour and its weight for a pixel's
    /// centre.
    pub(super) fn shade(&mut self, area: Area, mut shade: impl FnMut(f32, f32) -> (Colour, f32)) {
        let (width, height) = self.image.dimensions();
        let columns = area.left.floor().max(0.0) as u32..(area.right.ceil().max(0.0) as u32).min(width);
        for y in area.top.floor().max(0.0) as u32..(area.bottom.ceil().max(0.0) as u32).min(height) {
            for x in columns.clone() {
                let (colour, weight) = shade(x as f32 + 0.5, y as f32 + 0.5);
                if weight > 0.0 {
                    let Rgb(pixel) = self.image.get_pixel_mut(x, y);
                    for (value, colour) in pixel.iter_mut().zip(colour) {
                        let old = f32::from(*value);
                        *value = (old + (colour - old) * weight.min(1.0)).round().clamp(0.0, 255.0) as u8;
                    }
                }
            }
        }
    }

    /// A rectangle with round corners. A radius of half the side gives a disc.
    pub(super) fn fill(&mut self, area: Area, radius: f32, colour: Colour, alpha: f32) {
        let ([cx, cy], w, h) = (area.centre(), area.width() / 2.0, area.height() / 2.0);
        let radius = radius.min(w).min(h);
        self.shade(area, |x, y| {
            let (dx, dy) = ((x - cx).abs() - w + radius, (y - cy).abs() - h + radius);
            let distance = dx.max(0.0).hypot(dy.max(0.0)) + dx.max(dy).min(0.0) - radius;
            (colour, (0.5 - distance).clamp(0.0, 1.0) * alpha)
        });
    }

    pub(super) fn disc(&mut self, [x, y]: [f32; 2], radius: f32, colour: Colour, alpha: f32) {
        self.fill(Area::new(x - radius, y - radius, 2.0 * radius, 2.0 * radius), radius, colour, alpha);
    }

    /// A convex polygon, clockwise.
    pub(super) fn polygon(&mut self, points: &[[f32; 2]], colour: Colour, alpha: f32) {
        let area = bounds(points);
        self.shade(area.grown(1.0), |x, y| {
            let edges = points.iter().zip(points.iter().cycle().skip(1));
            let inside = edges.map(|([ax, ay], [bx, by])| {
                let (dx, dy) = (bx - ax, by - ay);
                ((x - ax) * -dy + (y - ay) * dx) / dx.hypot(dy).max(1e-6)
            });
            (colour, (inside.fold(f32::INFINITY, f32::min) + 0.5).clamp(0.0, 1.0) * alpha)
        });
    }

    /// Colours from `from` to `to`, along a direction from left (0) over diagonal to top (1).
    pub(super) fn gradient(&mut self, area: Area, from: Colour, to: Colour, direction: f32) {
        self.shade(area, |x, y| {
            let (u, v) = ((x - area.left) / area.width(), (y - area.top) / area.height());
            let share = u * (1.0 - direction) + v * direction;
            (std::array::from_fn(|i| from[i] + (to[i] - from[i]) * share), 1.0)
        });
    }

    /// Fills the rectangle, rounded to pixels, with the stretched picture. Returns the rounded corners.
    pub(super) fn paste(&mut self, source: &RgbImage, area: Area) -> Corners {
        let (left, top) = (area.left.round(), area.top.round());
        let width = (area.right.round() - left).max(1.0);
        let height = (area.bottom.round() - top).max(1.0);
        let scaled = scaled(source, width as u32, height as u32);
        imageops::replace(&mut self.image, &scaled, left as i64, top as i64);
        Area::new(left, top, width, height).corners()
    }

    /// Fills a convex quadrilateral with the picture in perspective.
    pub(super) fn warp(&mut self, source: &RgbImage, quad: Corners) {
        let side = |a: usize, b: usize| (quad[a][0] - quad[b][0]).hypot(quad[a][1] - quad[b][1]);
        // Shrunk first, because interpolation between neighbouring pixels alone makes an uneven picture.
        let width = (side(0, 1).max(side(3, 2)).ceil().max(1.0) as u32).min(source.width());
        let height = (side(0, 3).max(side(1, 2)).ceil().max(1.0) as u32).min(source.height());
        let small = scaled(source, width, height);
        let (width, height) = (width as f32, height as f32);
        let inverse = Perspective::onto(quad).inverse();
        self.shade(bounds(&quad), |x, y| {
            let [u, v] = inverse.map([x, y]);
            let (u, v) = (u * width, v * height);
            let inside = u.min(width - u).min(v).min(height - v);
            (interpolated(&small, u, v), (inside + 0.5).clamp(0.0, 1.0))
        });
    }
}

/// The smallest upright rectangle around points.
pub(super) fn bounds(points: &[[f32; 2]]) -> Area {
    let start = Area { left: f32::MAX, top: f32::MAX, right: f32::MIN, bottom: f32::MIN };
    points.iter().fold(start, |area, [x, y]| Area {
        left: area.left.min(*x),
        top: area.top.min(*y),
        right: area.right.max(*x),
        bottom: area.bottom.max(*y),
    })
}

/// The colour at a point in pixels, interpolated linearly between pixel centres.
pub(super) fn interpolated(source: &RgbImage, u: f32, v: f32) -> Colour {
    let (last_x, last_y) = (source.width() - 1, source.height() - 1);
    let (u, v) = ((u - 0.5).clamp(0.0, last_x as f32), (v - 0.5).clamp(0.0, last_y as f32));
    let (x0, y0) = (u as u32, v as u32);
    let (x1, y1) = ((x0 + 1).min(last_x), (y0 + 1).min(last_y));
    let (fx, fy) = (u - x0 as f32, v - y0 as f32);
    let at = |x, y| source.get_pixel(x, y).0.map(f32::from);
    let corners = [at(x0, y0), at(x1, y0), at(x0, y1), at(x1, y1)];
    std::array::from_fn(|i| {
        let [a, b, c, d] = corners.map(|colour| colour[i]);
        (a * (1.0 - fx) + b * fx) * (1.0 - fy) + (c * (1.0 - fx) + d * fx) * fy
    })
}

/// A projective map of the plane, as a matrix of 3 x 3.
#[derive(Debug, Clone, Copy)]
pub(super) struct Perspective([f32; 9]);

impl Perspective {
    /// The map from the unit square onto a quadrilateral, clockwise from the image of (0, 0) (Heckbert,
    /// 1989).
    pub(super) fn onto(quad: Corners) -> Perspective {
        let [[x0, y0], [x1, y1], [x2, y2], [x3, y3]] = quad;
        let (dx1, dx2, sx) = (x1 - x2, x3 - x2, x0 - x1 + x2 - x3);
        let (dy1, dy2, sy) = (y1 - y2, y3 - y2, y0 - y1 + y2 - y3);
        let det = dx1 * dy2 - dx2 * dy1;
        let (g, h) = ((sx * dy2 - dx2 * sy) / det, (dx1 * sy - sx * dy1) / det);
        let (a, b) = (x1 - x0 + g * x1, x3 - x0 + h * x3);
        let (d, e) = (y1 - y0 + g * y1, y3 - y0 + h * y3);
        Perspective([a, b, x0, d, e, y0, g, h, 1.0])
    }

    pub(super) fn inverse(self) -> Perspective {
        let Perspective([a, b, c, d, e, f, g, h, i]) = self;
        // The adjoint: a factor does not change a projective map.
        Perspective([
            e * i - f * h,
            c * h - b * i,
            b * f - c * e,
            f * g - d * i,
            a * i - c * g,
            c * d - a * f,
            d * h - e * g,
            b * g - a * h,
            a * e - b * d,
        ])
    }

    pub(super) fn map(self, [x, y]: [f32; 2]) -> [f32; 2] {
        let row = |i: usize| self.0[3 * i] * x + self.0[3 * i + 1] * y + self.0[3 * i + 2];
        [row(0) / row(2), row(1) / row(2)]
    }
}

pub(super) fn to_image(picture: &Picture) -> RgbImage {
    RgbImage::from_raw(picture.width, picture.height, picture.rgb.clone())
        .expect("a picture holds width x height pixels")
}

pub(super) fn to_picture(image: RgbImage) -> Picture {
    Picture { width: image.width(), height: image.height(), rgb: image.into_raw() }
}

/// See [`PictureView::resize`](super::PictureView::resize).
pub(super) fn scaled(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    if image.dimensions() == (width, height) {
        return image.clone();
    }
    to_image(&to_picture(image.clone()).resize(width, height))
}

/// Gaussian blur. Does nothing if `sigma` is less than a third of a pixel.
pub(super) fn blurred(image: RgbImage, sigma: f32) -> RgbImage {
    if sigma < 0.33 { image } else { imageops::fast_blur(&image, sigma) }
}

pub(super) fn jpeg(image: &RgbImage, quality: u8) -> RgbImage {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(image).expect("writing to memory cannot fail");
    image::load_from_memory(&bytes).expect("the encoder writes valid JPEG").into_rgb8()
}

/// Luma of a colour (Rec. 601).
pub(super) fn luma([r, g, b]: Colour) -> f32 {
    0.299 * r + 0.587 * g + 0.114 * b
}

/// Changes each pixel. `change` gets its position and colour.
pub(super) fn recolour(image: &mut RgbImage, mut change: impl FnMut(u32, u32, Colour) -> Colour) {
    for (x, y, Rgb(pixel)) in image.enumerate_pixels_mut() {
        *pixel = change(x, y, pixel.map(f32::from)).map(|v| v.round().clamp(0.0, 255.0) as u8);
    }
}

/// A random number of deviation 1: the sum of four uniform numbers approximates a normal distribution.
pub(super) fn noise(random: &mut Random) -> f32 {
    (0..4).map(|_| random.between(-0.5, 0.5)).sum::<f32>() * 1.732
}

pub(super) fn colour(random: &mut Random, from: f32, to: f32) -> Colour {
    std::array::from_fn(|_| random.between(from, to))
}

/// A made picture of some shapes on a gradient, for thumbnails and other pictures beside the frame.
pub(super) fn scene((width, height): (u32, u32), random: &mut Random) -> RgbImage {
    let mut canvas = Canvas::new((width, height), BLACK);
    let area = canvas.area();
    let (from, to) = (colour(random, 0.0, 255.0), colour(random, 0.0, 255.0));
    canvas.gradient(area, from, to, random.between(0.0, 1.0));
    for _ in 0..4 + random.up_to(8) {
        let (x, y) = (random.between(-0.1, 0.9), random.between(-0.1, 0.9));
        let (w, h) = (random.between(0.05, 0.5), random.between(0.05, 0.5));
        let radius = random.between(0.0, 0.3) * area.width();
        let (colour, alpha) = (colour(random, 0.0, 255.0), random.between(0.3, 1.0));
        canvas.fill(area.part([x, y, x + w, y + h]), radius, colour, alpha);
    }
    blurred(canvas.image, area.width() * random.between(0.0, 0.01))
}
