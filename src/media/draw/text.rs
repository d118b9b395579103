//! Text of random letters. Nobody reads it, but its strokes, gaps and lines are those of text.

use super::{Area, Canvas, Colour};
use crate::base::seeded::Random;

/// Letters of 5 columns: bit 0 of a column is the highest of 8 rows.
const LATIN: [[u8; 5]; 56] = [
    [0x7e, 0x11, 0x11, 0x11, 0x7e],
    [0x7f, 0x49, 0x49, 0x49, 0x36],
    [0x3e, 0x41, 0x41, 0x41, 0x22],
    [0x7f, 0x41, 0x41, 0x22, 0x1c],
    [0x7f, 0x49, 0x49, 0x49, 0x41],
    [0x7f, 0x09, 0x09, 0x09, 0x01],
    [0x3e, 0x41, 0x49, 0x49, 0x7a],
    [0x7f, 0x08, 0x08, 0x08, 0x7f],
    [0x00, 0x41, 0x7f, 0x41, 0x00],
    [0x20, 0x40, 0x41, 0x3f, 0x01],
    [0x7f, 0x08, 0x14, 0x22, 0x41],
    [0x7f, 0x40, 0x40, 0x40, 0x40],
    [0x7f, 0x02, 0x0c, 0x02, 0x7f],
    [0x7f, 0x04, 0x08, 0x10, 0x7f],
    [0x3e, 0x41, 0x41, 0x41, 0x3e],
    [0x7f, 0x09, 0x09, 0x09, 0x06],
    [0x7f, 0x09, 0x19, 0x29, 0x46],
    [0x46, 0x49, 0x49, 0x49, 0x31],
    [0x01, 0x01, 0x7f, 0x01, 0x01],
    [0x3f, 0x40, 0x40, 0x40, 0x3f],
    [0x1f, 0x20, 0x40, 0x20, 0x1f],
    [0x3f, 0x40, 0x38, 0x40, 0x3f],
    [0x63, 0x14, 0x08, 0x14, 0x63],
    [0x07, 0x08, 0x70, 0x08, 0x07],
    [0x61, 0x51, 0x49, 0x45, 0x43],
    [0x3e, 0x51, 0x49, 0x45, 0x3e],
    [0x20, 0x54, 0x54, 0x54, 0x78],
    [0x7f, 0x48, 0x44, 0x44, 0x38],
    [0x38, 0x44, 0x44, 0x44, 0x20],
    [0x38, 0x44, 0x44, 0x48, 0x7f],
    [0x38, 0x54, 0x54, 0x54, 0x18],
    [0x38, 0x54, 0x54, 0x54, 0x18],
    [0x08, 0x7e, 0x09, 0x01, 0x02],
    [0x18, 0xa4, 0xa4, 0xa4, 0x7c],
    [0x7f, 0x08, 0x04, 0x04, 0x78],
    [0x00, 0x44, 0x7d, 0x40, 0x00],
    [0x00, 0x44, 0x7d, 0x40, 0x00],
    [0x7f, 0x10, 0x28, 0x44, 0x00],
    [0x00, 0x41, 0x7f, 0x40, 0x00],
    [0x7c, 0x04, 0x18, 0x04, 0x78],
    [0x7c, 0x08, 0x04, 0x04, 0x78],
    [0x7c, 0x08, 0x04, 0x04, 0x78],
    [0x38, 0x44, 0x44, 0x44, 0x38],
    [0x38, 0x44, 0x44, 0x44, 0x38],
    [0xfc, 0x24, 0x24, 0x24, 0x18],
    [0x7c, 0x08, 0x04, 0x04, 0x08],
    [0x7c, 0x08, 0x04, 0x04, 0x08],
    [0x48, 0x54, 0x54, 0x54, 0x20],
    [0x48, 0x54, 0x54, 0x54, 0x20],
    [0x04, 0x3f, 0x44, 0x40, 0x20],
    [0x04, 0x3f, 0x44, 0x40, 0x20],
    [0x3c, 0x40, 0x40, 0x20, 0x7c],
    [0x1c, 0x20, 0x40, 0x20, 0x1c],
    [0x3c, 0x40, 0x30, 0x40, 0x3c],
    [0x44, 0x28, 0x10, 0x28, 0x44],
    [0x1c, 0xa0, 0xa0, 0xa0, 0x7c],
];
/// Number of capital letters and digits at the start of [`LATIN`].
const CAPITALS: u32 = 26;

/// A script whose letters are imitated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextScript {
    Latin,
    /// Capital Latin letters.
    Capitals,
    /// Dense letters of straight strokes, without gaps between words, as in Chinese.
    Dense,
    /// Letters that a line joins, as in Hindi and Arabic.
    Joined,
}

impl TextScript {
    pub(crate) fn any(random: &mut Random) -> TextScript {
        let scripts = [TextScript::Latin, TextScript::Capitals, TextScript::Dense, TextScript::Joined];
        scripts[random.up_to(3) as usize]
    }

    fn letter(self, random: &mut Random) -> [u8; 5] {
        match self {
            // Most words begin with a small letter, so capital letters are rare.
            TextScript::Latin if random.up_to(9) > 0 => {
                LATIN[(CAPITALS + random.up_to(LATIN.len() as u32 - CAPITALS - 1)) as usize]
            }
            TextScript::Latin | TextScript::Capitals => LATIN[random.up_to(CAPITALS - 1) as usize],
            TextScript::Dense => {
                let mut columns = [0; 5];
                for _ in 0..2 + random.up_to(2) {
                    let row = 1 << random.up_to(7);
                    columns.iter_mut().for_each(|column| *column |= row);
                    columns[random.up_to(4) as usize] |= random.either(0xff, 0x3c);
                }
                columns
            }
            TextScript::Joined => {
                let bar = 1 << 2;
                std::array::from_fn(|_| {
                    let below = random.either(0, 0x78);
                    bar | (random.up_to(255) & below) as u8
                })
            }
        }
    }
}

/// How text looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TextStyle {
    pub script: TextScript,
    /// Height of a letter in pixels.
    pub size: f32,
    pub colour: Colour,
    /// Thickness of the strokes: 0 for thin, 1 for bold.
    pub weight: f32,
    /// Colour of an outline.
    pub outline: Option<Colour>,
}

impl TextStyle {
    pub(crate) fn new(size: f32, colour: Colour) -> TextStyle {
        TextStyle { script: TextScript::Latin, size: size.max(3.0), colour, weight: 0.5, outline: None }
    }
}

impl Canvas {
    /// One line of words from (x, y), its upper left corner, at most `width` wide. Returns its width.
    pub(crate) fn text(&mut self, [x, y]: [f32; 2], width: f32, style: TextStyle, random: &mut Random) -> f32 {
        let unit = style.size / 8.0;
        let advance = if style.script == TextScript::Joined { 5.0 } else { 6.0 } * unit;
        let mut at = 0.0;
        let mut left_in_word = 2 + random.up_to(7);
        while at + advance <= width {
            if left_in_word == 0 && style.script != TextScript::Dense {
                left_in_word = 1 + random.up_to(8);
                at += 3.0 * unit;
                continue;
            }
            left_in_word = left_in_word.saturating_sub(1);
            let letter = style.script.letter(random);
            if let Some(outline) = style.outline {
                self.letter([x + at, y], unit, &letter, outline, 0.08);
            }
            self.letter([x + at, y], unit, &letter, style.colour, 0.6 - 0.3 * style.weight);
            at += advance;
        }
        at
    }

    /// Lines of words that fill a rectangle from the top. The last line is shorter.
    pub(crate) fn paragraph(&mut self, area: Area, style: TextStyle, random: &mut Random) {
        let pitch = style.size * 1.5;
        let lines = ((area.height() + style.size * 0.5) / pitch) as u32;
        for line in 0..lines {
            let share = if line + 1 == lines { random.between(0.3, 0.9) } else { random.between(0.88, 1.0) };
            let at = [area.left, area.top + line as f32 * pitch];
            self.text(at, area.width() * share, style, random);
        }
    }

    /// Covers the points whose interpolated bit exceeds `level`.
    fn letter(&mut self, [x0, y0]: [f32; 2], unit: f32, letter: &[u8; 5], colour: Colour, level: f32) {
        let bit = |column: i32, row: i32| {
            let inside = (0..5).contains(&column) && (0..8).contains(&row);
            f32::from(u8::from(inside && letter[column as usize] >> row & 1 == 1))
        };
        self.shade(Area::new(x0, y0, 5.0 * unit, 8.0 * unit).grown(unit), |x, y| {
            let (u, v) = ((x - x0) / unit - 0.5, (y - y0) / unit - 0.5);
            let (column, row) = (u.floor(), v.floor());
            let (fx, fy) = (u - column, v - row);
            let (column, row) = (column as i32, row as i32);
            let value = (bit(column, row) * (1.0 - fx) + bit(column + 1, row) * fx) * (1.0 - fy)
                + (bit(column, row + 1) * (1.0 - fx) + bit(column + 1, row + 1) * fx) * fy;
            (colour, ((value - level) * unit + 0.5).clamp(0.0, 1.0) * if value > 0.0 { 1.0 } else { 0.0 })
        });
    }
}
