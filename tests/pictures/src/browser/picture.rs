//! A picture that a browser took.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;

use anyhow::{Context, Result};

type Colour = [u8; 3];

/// A picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    pixels: Vec<Colour>,
}

impl Picture {
    pub(super) fn read(file: &Path) -> Result<Self> {
        let open = File::open(file).with_context(|| format!("there is no picture {}", file.display()))?;
        let mut decoder = png::Decoder::new(BufReader::new(open));
        decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
        let mut reader = decoder.read_info()?;
        let mut bytes = vec![0; reader.output_buffer_size().context("a picture too large for memory")?];
        let info = reader.next_frame(&mut bytes)?;
        // A page is opaque: what comes after red, green and blue, if something does, is the same everywhere.
        let colour = |bytes: &[u8]| [bytes[0], bytes[1 % bytes.len()], bytes[2 % bytes.len()]];
        let pixels = bytes[..info.buffer_size()].chunks(info.color_type.samples()).map(colour).collect();
        Ok(Self { width: info.width, height: info.height, pixels })
    }

    /// How many colours it has. One with nothing on it has one.
    #[must_use]
    pub fn colours(&self) -> usize {
        self.counts().len()
    }

    /// Writes it with its 256 most frequent colours in place of all, which are those of the edges of letters: a third of the size.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn write_small(&self, file: &Path) -> Result<()> {
        let counts = self.counts();
        let mut frequent: Vec<(Colour, usize)> = counts.iter().map(|(colour, count)| (*colour, *count)).collect();
        frequent.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let palette: Vec<(u8, Colour)> = (0..=u8::MAX).zip(frequent.into_iter().map(|(colour, _)| colour)).collect();
        let nearest = |colour: &Colour| palette.iter().min_by_key(|(_, of)| distance(*of, *colour)).map_or(0, |(number, _)| *number);
        let numbers: BTreeMap<Colour, u8> = counts.keys().map(|colour| (*colour, nearest(colour))).collect();
        let bytes: Vec<u8> = self.pixels.iter().map(|pixel| numbers[pixel]).collect();

        let target = File::create(file).with_context(|| format!("cannot write {}", file.display()))?;
        let mut encoder = png::Encoder::new(BufWriter::new(target), self.width, self.height);
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_palette(palette.iter().flat_map(|(_, colour)| *colour).collect::<Vec<u8>>());
        encoder.set_compression(png::Compression::High);
        encoder.set_filter(png::Filter::NoFilter);
        encoder.write_header()?.write_image_data(&bytes)?;
        Ok(())
    }

    fn counts(&self) -> BTreeMap<Colour, usize> {
        self.pixels.iter().fold(BTreeMap::new(), |mut counts, pixel| {
            *counts.entry(*pixel).or_default() += 1;
            counts
        })
    }
}

fn distance(one: Colour, other: Colour) -> u32 {
    one.iter().zip(other).map(|(one, other)| u32::from(one.abs_diff(other)).pow(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_picture_is_the_same_picture() {
        let pixel = |n: u32| [n.to_le_bytes()[0], n.to_le_bytes()[1], 7];
        let pixels = (0..400).map(|n| if n % 2 == 0 { pixel(0) } else { pixel(n) }).collect();
        let picture = Picture { width: 20, height: 20, pixels };
        let file = std::env::temp_dir().join(format!("netloss-picture-{}.png", std::process::id()));
        picture.write_small(&file).unwrap();
        assert_eq!(Picture::read(&file).unwrap(), picture, "201 colours fit");
        let many = Picture { width: 20, height: 20, pixels: (0..400).map(pixel).collect() };
        many.write_small(&file).unwrap();
        let read = Picture::read(&file).unwrap();
        assert_eq!((many.colours(), read.colours(), read.width, read.height), (400, 256, 20, 20));
        std::fs::remove_file(file).unwrap();
    }
}
