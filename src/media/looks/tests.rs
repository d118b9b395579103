use proptest::prelude::*;

use super::*;
use crate::media::draw::{Perspective, interpolated};

/// A picture with large shapes, so that its parts differ.
fn frame(width: u32, height: u32, seed: u64) -> Picture {
    to_picture(draw::scene((width, height), &mut Random::new(seed, "frame")))
}

#[test]
fn equal_seeds_give_equal_pictures() {
    let (own, other) = (frame(320, 180, 1), frame(320, 180, 2));
    for look in Look::ALL {
        let first = look.draw(&own, &other, 7, "a.mp4");
        let second = look.draw(&own, &other, 7, "a.mp4");
        assert!(first.picture == second.picture && first.corners == second.corners, "{}", look.name());
    }
}

#[test]
fn names_are_unique() {
    let names: std::collections::BTreeSet<_> = Look::ALL.iter().map(|look| look.name()).collect();
    assert_eq!(names.len(), Look::ALL.len());
}

/// Correlation of the luma of the frame with that of the picture, at points of the reported part.
fn agreement(frame: &Picture, drawn: &LookPicture) -> f32 {
    let (own, picture) = (to_image(frame), to_image(&drawn.picture));
    let onto = Perspective::onto(drawn.corners);
    let [left, top, right, bottom] = drawn.shown;
    let mut pairs = Vec::new();
    for i in 0..400 {
        let (u, v) = ((i % 20) as f32 / 20.0 + 0.025, (i / 20) as f32 / 20.0 + 0.025);
        let (fu, fv) = match drawn.turn {
            0 => (u, v),
            90 => (v, 1.0 - u),
            180 => (1.0 - u, 1.0 - v),
            _ => (1.0 - v, u),
        };
        let (fx, fy) = (left + fu * (right - left), top + fv * (bottom - top));
        let [x, y] = onto.map([u, v]);
        let expected = interpolated(&own, fx * own.width() as f32, fy * own.height() as f32);
        pairs.push((draw::luma(expected), draw::luma(interpolated(&picture, x, y))));
    }
    let n = pairs.len() as f32;
    let mean = pairs.iter().fold([0.0; 2], |[a, b], (x, y)| [a + x / n, b + y / n]);
    let sums = pairs.iter().fold([0.0_f32; 3], |[xx, xy, yy], (x, y)| {
        let (x, y) = (x - mean[0], y - mean[1]);
        [xx + x * x, xy + x * y, yy + y * y]
    });
    sums[1] / (sums[0] * sums[2]).sqrt()
}

#[test]
fn the_frame_is_visible_between_the_reported_corners() {
    let (own, other) = (frame(320, 180, 10), frame(320, 180, 99));
    for look in Look::ALL {
        let drawn: Vec<LookPicture> = (0..3).map(|seed| look.draw(&own, &other, seed, "b")).collect();
        let agreements: Vec<f32> = drawn.iter().map(|drawn| agreement(&own, drawn)).collect();
        let mean = agreements.iter().sum::<f32>() / agreements.len() as f32;
        assert!(mean > 0.5, "{}: {agreements:?}", look.name());
        let differ = drawn.iter().any(|other| other.picture != drawn[0].picture);
        assert!(differ, "{} draws nothing at random", look.name());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pictures_of_any_shape_give_pictures_of_bounded_size(
        shape in prop_oneof![Just((1, 1)), Just((1, 200)), Just((200, 1)), (1_u32..90, 1_u32..90)],
        seed in any::<u64>(),
    ) {
        let (own, other) = (frame(shape.0, shape.1, seed), frame(3, 2, seed));
        for look in Look::ALL {
            let drawn = look.draw(&own, &other, seed, "c");
            let (width, height) = (drawn.picture.width, drawn.picture.height);
            prop_assert!((1..=1700).contains(&width) && (1..=1700).contains(&height), "{} {width} x {height}", look.name());
            prop_assert_eq!(drawn.picture.rgb.len(), (width * height * 3) as usize);
            for [x, y] in drawn.corners {
                let inside = (-2.0..=width as f32 + 2.0).contains(&x) && (-2.0..=height as f32 + 2.0).contains(&y);
                prop_assert!(inside, "{} {x} {y} in {width} x {height}", look.name());
            }
        }
    }
}
