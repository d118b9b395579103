//! Pictures as people have them: a frame of a video with the things that surround it on a phone, on a page or
//! in a room. Every position, size, colour and strength is drawn at random from a seed.

mod damage;
mod pages;
mod rooms;
mod screens;

use image::RgbImage;

use super::Picture;
use super::draw::{self, Canvas, Corners, jpeg, to_image, to_picture};
use crate::base::seeded::Random;

/// What surrounds a frame, covers it or damages it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    /// The frame alone.
    Plain,
    /// A margin of 3 to 9 % of each side, with a caption above or below.
    Margin,
    /// A meme: large outlined letters over the top and the bottom.
    Meme,
    /// A blurred copy of the frame fills a canvas of another shape.
    BlurredFill,
    /// A photograph of a screen, nearly straight.
    ScreenMild,
    /// A photograph of a screen from the side, with glare, moire, blur and noise.
    ScreenStrong,
    /// A phone with black bars above and below.
    PhoneBars,
    /// The same with clock and signs at the top.
    PhoneStatus,
    /// A dark application with titles, signs and a second post.
    DarkApp,
    /// A light application.
    LightApp,
    /// A player with title, buttons and a progress bar over the frame.
    Player,
    /// A part of 9:16, with buttons and text over it.
    VerticalCut,
    /// A box with text above the frame.
    CaptionBox,
    /// The frame beside, above or below a frame of another video.
    Collage,
    /// A slide of a presentation.
    Slide,
    /// A page in a browser, with other pictures beside the frame.
    WebPage,
    /// A television in a room.
    Television,
    /// Rotated clockwise by 90 degrees.
    Turn90,
    /// Rotated by 180 degrees.
    Turn180,
    /// Rotated clockwise by 270 degrees.
    Turn270,
    /// One look inside another: a screenshot of a meme, a photograph of an application.
    Nested,
    /// Large subtitles in one of four kinds of script.
    Subtitles,
    /// Two fields of a moving picture in alternate lines.
    Interlaced,
    /// Speed lines and colour errors of an analogue tape.
    Tape,
    /// A black-and-white copy with grain.
    BlackWhite,
    /// The curve of an HDR film on another display.
    Hdr,
    /// Printed in dots of four inks, on the paper of a magazine.
    Halftone,
}

impl Look {
    /// All looks, in the order of reports.
    pub const ALL: [Look; 27] = [
        Look::Plain,
        Look::Margin,
        Look::Meme,
        Look::BlurredFill,
        Look::ScreenMild,
        Look::ScreenStrong,
        Look::PhoneBars,
        Look::PhoneStatus,
        Look::DarkApp,
        Look::LightApp,
        Look::Player,
        Look::VerticalCut,
        Look::CaptionBox,
        Look::Collage,
        Look::Slide,
        Look::WebPage,
        Look::Television,
        Look::Turn90,
        Look::Turn180,
        Look::Turn270,
        Look::Nested,
        Look::Subtitles,
        Look::Interlaced,
        Look::Tape,
        Look::BlackWhite,
        Look::Hdr,
        Look::Halftone,
    ];

    /// The name in reports, and the way to draw the look.
    fn entry(self) -> (&'static str, fn(&mut LookScene<'_>) -> DrawnLook) {
        match self {
            Look::Plain => ("plain", damage::plain),
            Look::Margin => ("margin", pages::margin),
            Look::Meme => ("meme", damage::meme),
            Look::BlurredFill => ("blurred-fill", pages::blurred_fill),
            Look::ScreenMild => ("screen-mild", rooms::screen_mild),
            Look::ScreenStrong => ("screen-strong", rooms::screen_strong),
            Look::PhoneBars => ("phone-bars", screens::phone_bars),
            Look::PhoneStatus => ("phone-status", screens::phone_status),
            Look::DarkApp => ("dark-app", screens::dark_app),
            Look::LightApp => ("light-app", screens::light_app),
            Look::Player => ("player", screens::player),
            Look::VerticalCut => ("vertical-cut", screens::vertical_cut),
            Look::CaptionBox => ("caption-box", pages::caption_box),
            Look::Collage => ("collage", pages::collage),
            Look::Slide => ("slide", pages::slide),
            Look::WebPage => ("web-page", pages::web_page),
            Look::Television => ("television", rooms::television),
            Look::Turn90 => ("turn-90", damage::turn_90),
            Look::Turn180 => ("turn-180", damage::turn_180),
            Look::Turn270 => ("turn-270", damage::turn_270),
            Look::Nested => ("nested", rooms::nested),
            Look::Subtitles => ("subtitles", damage::subtitles),
            Look::Interlaced => ("interlaced", damage::interlaced),
            Look::Tape => ("tape", damage::tape),
            Look::BlackWhite => ("black-white", damage::black_white),
            Look::Hdr => ("hdr", damage::hdr),
            Look::Halftone => ("halftone", damage::halftone),
        }
    }

    /// The name in reports.
    pub fn name(self) -> &'static str {
        self.entry().0
    }

    /// Draws the look around `frame`. `other` is a frame of another video, for a collage. The seed and the
    /// name define the random numbers, so that a look does not depend on those drawn before it.
    pub fn draw(self, frame: &Picture, other: &Picture, seed: u64, name: &str) -> LookPicture {
        let mut random = Random::new(seed, &format!("{name} {}", self.name()));
        let (frame, other) = (to_image(frame), to_image(other));
        let drawn = self.entry().1(&mut LookScene { frame: &frame, other: &other, random: &mut random });
        // Half of the pictures passed through a chat or a web page, which compresses them.
        let quality = random.between(55.0, 92.0) as u8;
        let image = if random.either(true, false) { jpeg(&drawn.image, quality) } else { drawn.image };
        LookPicture { picture: to_picture(image), corners: drawn.corners, shown: drawn.shown, turn: drawn.turn }
    }
}

/// A picture with a look, and where it shows the frame.
#[derive(Debug, Clone)]
pub struct LookPicture {
    /// The picture.
    pub picture: Picture,
    /// Corners of the frame's visible part in pixels, clockwise from its upper left corner as the picture
    /// shows it.
    pub corners: [[f32; 2]; 4],
    /// The visible part of the frame in shares of its sides: left, top, right, bottom.
    pub shown: [f32; 4],
    /// Clockwise rotation of the frame in degrees.
    pub turn: u16,
}

/// The whole frame, as [`LookPicture::shown`].
const WHOLE: [f32; 4] = [0.0, 0.0, 1.0, 1.0];

/// What a look is drawn from.
struct LookScene<'a> {
    frame: &'a RgbImage,
    other: &'a RgbImage,
    random: &'a mut Random,
}

/// A drawn look before it is compressed. Its fields are those of [`LookPicture`].
struct DrawnLook {
    image: RgbImage,
    corners: Corners,
    shown: [f32; 4],
    turn: u16,
}

impl DrawnLook {
    fn new(canvas: Canvas, corners: Corners) -> DrawnLook {
        DrawnLook { image: canvas.image, corners, shown: WHOLE, turn: 0 }
    }

    /// A look that covers or damages the frame and adds nothing around it.
    fn over(image: RgbImage) -> DrawnLook {
        let canvas = Canvas { image };
        let corners = canvas.area().corners();
        DrawnLook::new(canvas, corners)
    }
}

/// Sizes of phones in pixels, held upright.
const PHONES: [(u32, u32); 7] =
    [(1080, 1920), (1080, 2160), (1080, 2340), (1080, 2400), (1170, 2532), (1290, 2796), (1440, 3200)];
/// Sizes of desktops in pixels.
const DESKTOPS: [(u32, u32); 7] =
    [(1366, 768), (1440, 900), (1536, 864), (1600, 900), (1920, 1080), (1920, 1200), (2560, 1440)];

impl LookScene<'_> {
    /// Width of the frame by height. A strip counts as a picture of 8:1.
    fn aspect(&self) -> f32 {
        (self.frame.width() as f32 / self.frame.height() as f32).clamp(0.125, 8.0)
    }

    fn between(&mut self, from: f32, to: f32) -> f32 {
        self.random.between(from, to)
    }

    /// True with this probability.
    fn happens(&mut self, probability: f32) -> bool {
        self.random.between(0.0, 1.0) < probability
    }

    /// One of the sizes, halved: screens are drawn at half of their size to save time.
    fn screen(&mut self, sizes: [(u32, u32); 7]) -> (u32, u32) {
        let (width, height) = sizes[self.random.up_to(6) as usize];
        (width / 2, height / 2)
    }

    /// The frame with a width of 480 to 960 pixels, or that height if it is upright.
    fn resized(&mut self) -> RgbImage {
        let long = self.between(480.0, 960.0);
        let (w, h) = if self.aspect() > 1.0 { (long, long / self.aspect()) } else { (long * self.aspect(), long) };
        draw::scaled(self.frame, (w as u32).max(1), (h as u32).max(1))
    }

    /// A colour of a background: nearly white, nearly black, or any.
    fn ground(&mut self) -> draw::Colour {
        match self.random.up_to(4) {
            0 | 1 => [self.between(235.0, 255.0); 3],
            2 | 3 => [self.between(0.0, 40.0); 3],
            _ => draw::colour(self.random, 0.0, 255.0),
        }
    }
}

/// Black or white, whichever differs more from `ground`.
fn ink(ground: draw::Colour) -> draw::Colour {
    if draw::luma(ground) > 128.0 { [20.0; 3] } else { [238.0; 3] }
}

#[cfg(test)]
mod tests;
